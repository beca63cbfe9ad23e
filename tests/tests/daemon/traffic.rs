//! What a LAN carries, between pods on one node and between nodes.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined};
use testnet::{Namespaces, Outcome, PacketSocket, Ping, Stop, Switch, Tap, eventually};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        pods_on_one_node_talk,
        pods_on_two_nodes_talk,
        multicast_reaches_every_node,
        frames_up_to_the_lans_mtu_pass_and_no_larger_ones,
        an_ipv4_group_leaves_more_room,
        tagged_frames_arrive_bit_for_bit,
        frames_for_switches_pass_but_not_pause,
        a_guest_may_use_any_address,
        veth_spokes_talk_too,
    ]
}

/// Two nodes with one LAN of the spokes `a`, `b` and `c`.
fn two_workers(underlay_mtu: u32, lan: &LanFile) -> Result<(Switch, Worker, Worker), Stop> {
    let switch = Switch::new()?;
    let workers =
        (Worker::new("worker1", &switch, underlay_mtu)?, Worker::new("worker2", &switch, underlay_mtu)?);
    workers.0.put(lan)?;
    workers.1.put(lan)?;
    Ok((switch, workers.0, workers.1))
}

fn lan() -> LanFile {
    LanFile::new("lan1", 101, &["a", "b", "c"])
}

fn perfect(from: &Namespaces, ping: &Ping) -> Outcome {
    ping.run(from)?.perfect().map_err(Stop::Failed)
}

fn ten(ping: Ping) -> Ping {
    ping.repeated(10, Duration::from_millis(2))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address that the kernel gave the pod's link by itself, once it may be used.
fn link_local(pod: &Namespaces) -> IpAddr {
    let address = eventually(Duration::from_secs(5), || {
        let links = pod.ip_json("-6 addr show dev net1 scope link -tentative").map_err(|e| e.to_string())?;
        let address = links.iter().find_map(|link| link["addr_info"][0]["local"].as_str().map(ip));
        address.ok_or_else(|| format!("net1 has a link-local address: {links:?}"))
    });
    address.unwrap()
}

fn talk(one: &Namespaces, two: &Namespaces) -> Outcome {
    one.ip("addr add fd00::1/64 dev net1 nodad")?;
    two.ip("addr add fd00::2/64 dev net1 nodad")?;
    perfect(one, &ten(Ping::new(ip("10.0.0.2"))))?;
    perfect(two, &ten(Ping::new(ip("10.0.0.1"))))?;
    perfect(one, &ten(Ping::new(ip("fd00::2"))))?;
    perfect(two, &ten(Ping::new(ip("fd00::1"))))
}

fn pods_on_one_node_talk() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&lan())?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    talk(&a, &b)
}

fn pods_on_two_nodes_talk() -> Outcome {
    let (_switch, one, two) = two_workers(1500, &lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    talk(&a, &b)
}

fn veth_spokes_talk_too() -> Outcome {
    let (_switch, one, two) = two_workers(1500, &lan().with("attach: veth"))?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    let kind = |pod: &Namespaces| pod.link("net1").map(|l| l.unwrap()["linkinfo"]["info_kind"].clone());
    assert_eq!(kind(&a)?, "veth");
    assert!(!one.list("/dev").iter().any(|name| name.starts_with("tap")), "a veth spoke has no tap");
    talk(&a, &b)
}

fn multicast_reaches_every_node() -> Outcome {
    let (_switch, one, two) = two_workers(1500, &lan())?;
    let a = joined(&one, "a", "10.0.0.1/24")?;
    let (b, c) = (joined(&one, "b", "10.0.0.2/24")?, joined(&two, "c", "10.0.0.3/24")?);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let listening = |pod: &Namespaces| {
        pod.run(|| {
            let socket = UdpSocket::bind((group, 5000))?;
            socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).map(|()| socket)
        })
    };
    for pod in [&a, &b, &c] {
        pod.ip("route add 239.0.0.0/8 dev net1")?;
    }
    let sockets = [listening(&b)?, listening(&c)?];
    a.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"to the group", (group, 5000)))?;
    for socket in sockets {
        let mut buffer = [0; 64];
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!((&buffer[..length], from.ip()), (&b"to the group"[..], ip("10.0.0.1")));
    }
    let wanted = [link_local(&b), link_local(&c)];
    link_local(&a);
    let everyone = Ping::new(ip("ff02::1")).on("net1").timeout(Duration::from_millis(500)).run(&a)?;
    let others: std::collections::BTreeSet<_> = everyone.replies.iter().map(|(_, from, _)| *from).collect();
    assert!(
        wanted.iter().all(|pod| others.contains(pod)),
        "ff02::1 is answered by {others:?}, not {wanted:?}"
    );
    Ok(())
}

fn frames_up_to_the_lans_mtu_pass_and_no_larger_ones() -> Outcome {
    let (_switch, one, two) = two_workers(9000, &lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    let mtu = |pod: &Namespaces| pod.link("net1").map(|l| l.unwrap()["mtu"].as_u64().unwrap());
    assert_eq!((mtu(&a)?, mtu(&b)?), (8926, 8926), "underlay 9000 less 74");
    perfect(&a, &ten(Ping::new(ip("10.0.0.2")).filling(8926)))?;
    let larger = Ping::new(ip("10.0.0.2")).filling(8927).timeout(Duration::from_millis(200)).run(&a)?;
    assert!(larger.lost() == 1 && larger.refused.is_some(), "{larger}");
    Ok(())
}

fn an_ipv4_group_leaves_more_room() -> Outcome {
    let lan = lan().with("vxlanGrp: 239.9.9.9");
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    one.ip("addr add 192.0.2.1/24 dev eth1")?;
    two.ip("addr add 192.0.2.2/24 dev eth1")?;
    one.put(&lan)?;
    two.put(&lan)?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    assert_eq!(a.link("net1")?.unwrap()["mtu"], 1446, "underlay 1500 less 54");
    perfect(&a, &ten(Ping::new(ip("10.0.0.2")).filling(1446)))?;
    perfect(&b, &ten(Ping::new(ip("10.0.0.1"))))
}

/// A frame for `to` with the bytes `head` after the addresses and `payload` bytes after that.
fn frame(to: [u8; 6], head: &[u8], payload: usize) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend_from_slice(&[0x02, 0, 0, 0, 0, 0x77]);
    frame.extend_from_slice(head);
    frame.extend((0..payload).map(|at| at as u8));
    frame
}

const EVERYONE: [u8; 6] = [0xff; 6];
/// An Ethernet type for experiments (IEEE Std 802, local experimental EtherType 1).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

fn tagged_frames_arrive_bit_for_bit() -> Outcome {
    let (_switch, one, two) = two_workers(1500, &lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    let c = joined(&one, "c", "10.0.0.3/24")?;
    let sender = PacketSocket::open(&a, "net1")?;
    let receivers = [PacketSocket::open(&b, "net1")?, PacketSocket::open(&c, "net1")?];
    let heads: [&[u8]; 5] = [
        &[],
        // VLAN 10; VLAN 4094 with priority 7 and the drop bit; the priority tag.
        &[0x81, 0x00, 0x00, 0x0a],
        &[0x81, 0x00, 0xff, 0xfe],
        &[0x81, 0x00, 0xa0, 0x00],
        // A service tag around a customer tag.
        &[0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x00, 0x0a],
    ];
    for head in heads {
        let head = [head, &EXPERIMENT].concat();
        // One customer tag is on top of the MTU; further ones, and service tags, are payload (packet(7) holds
        // to the same).
        let largest = 14 + 1426 + if head.starts_with(&[0x81]) { 4 } else { 0 };
        for payload in [46, largest - 12 - head.len()] {
            let sent = frame(EVERYONE, &head, payload);
            sender.send(&sent)?;
            for (receiver, place) in receivers.iter().zip(["another node", "the same node"]) {
                let seen = receiver.find(Duration::from_secs(1), |seen| seen.bytes == sent)?;
                assert!(seen.is_some(), "{head:02x?} with {payload} bytes did not reach {place} unchanged");
            }
        }
    }
    Ok(())
}

fn frames_for_switches_pass_but_not_pause() -> Outcome {
    let (_switch, one, two) = two_workers(1500, &lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    let c = joined(&one, "c", "10.0.0.3/24")?;
    let sender = PacketSocket::open(&a, "net1")?;
    let receivers = [PacketSocket::open(&b, "net1")?, PacketSocket::open(&c, "net1")?];
    // Spanning tree, LACP, 802.1X and LLDP; 01 is PAUSE, which no bridge may forward (802.1D, table 7-10).
    for (last, passes) in [(0x00, true), (0x02, true), (0x03, true), (0x0e, true), (0x01, false)] {
        let sent = frame([0x01, 0x80, 0xc2, 0x00, 0x00, last], &EXPERIMENT, 46);
        sender.send(&sent)?;
        for receiver in &receivers {
            let timeout = Duration::from_millis(if passes { 1000 } else { 200 });
            let seen = receiver.find(timeout, |seen| seen.bytes == sent)?;
            assert_eq!(seen.is_some(), passes, "01:80:c2:00:00:{last:02x}");
        }
    }
    Ok(())
}

fn a_guest_may_use_any_address() -> Outcome {
    let (_switch, one, two) = two_workers(1500, &lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    let tap = |worker: &Worker, spoke| {
        Tap::open(worker, &format!("/dev/tap{}", worker.record(spoke).unwrap()["tapIndex"]))
    };
    let (guest_a, guest_b) = (tap(&one, "a")?, tap(&two, "b")?);
    assert_eq!((guest_a.link()?, guest_b.link()?), ("net1".to_owned(), "net1".to_owned()));
    // A nested bridge, a VRRP router: neither end knows these addresses.
    for (to, last) in [([0x00, 0x00, 0x5e, 0x00, 0x01, 0x07], 1), ([0x02, 0, 0, 0, 0, 9], 2), (EVERYONE, 3)] {
        for head in [&[][..], &[0x81, 0x00, 0x60, 0x2c]] {
            let mut sent = frame(to, &[head, &EXPERIMENT].concat(), 60);
            sent[11] = last;
            for (from, at) in [(&guest_a, &guest_b), (&guest_b, &guest_a)] {
                from.send(&sent)?;
                let seen = at.find(Duration::from_secs(1), |seen| seen == sent)?;
                assert!(seen.is_some(), "a frame for {to:02x?}, tag {head:02x?}, did not arrive unchanged");
            }
        }
    }
    drop((a, b));
    Ok(())
}
