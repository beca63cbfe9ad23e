//! What a LAN does not carry, and who is not on it.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined};
use testnet::{Outcome, PacketSocket, Ping, Stop, Switch};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        another_lan_sees_nothing,
        the_node_answers_no_arp,
        the_node_takes_in_no_broadcast,
        the_lans_namespace_has_no_addresses,
        no_firewall_sees_bridged_frames,
        no_pod_fills_the_nodes_tables,
    ]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn one_worker(lan: &LanFile) -> Result<(Switch, Worker), Stop> {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(lan)?;
    Ok((switch, worker))
}

fn another_lan_sees_nothing() -> Outcome {
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    let (red, blue) =
        (LanFile::new("red", 1, &["red1", "red2"]), LanFile::new("blue", 2, &["blue1", "blue2"]));
    for worker in [&one, &two] {
        worker.put(&red)?;
        worker.put(&blue)?;
    }
    // Both LANs use the same addresses; 10.0.0.9 exists on blue only.
    let red1 = joined(&one, "red1", "10.0.0.1/24")?;
    let red2 = joined(&two, "red2", "10.0.0.2/24")?;
    let blue1 = joined(&one, "blue1", "10.0.0.1/24")?;
    let blue2 = joined(&two, "blue2", "10.0.0.9/24")?;
    let ears = [PacketSocket::open(&blue1, "net1")?, PacketSocket::open(&blue2, "net1")?];
    let mac = |pod: &testnet::Pod<'_>| pod.link("net1").map(|l| l.unwrap()["address"].clone());
    assert_ne!(mac(&red1)?, mac(&blue1)?, "two spokes, one address");

    Ping::new(ip("10.0.0.2")).run(&red1)?.perfect().map_err(Stop::Failed)?;
    let stray = Ping::new(ip("10.0.0.9")).timeout(Duration::from_millis(300)).run(&red1)?;
    assert_eq!(stray.replies.len(), 0, "{stray}");
    let mut sent = vec![0xff; 6];
    sent.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    sent.extend_from_slice(&[0x42; 60]);
    PacketSocket::open(&red1, "net1")?.send(&sent)?;
    assert!(PacketSocket::open(&red2, "net1").is_ok());
    let red1_mac: Vec<u8> =
        mac(&red1)?.as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    for ear in ears {
        let leak = ear.find(Duration::from_millis(300), |f| f.bytes == sent || f.bytes[6..12] == red1_mac)?;
        assert_eq!(leak, None);
    }
    // And blue works, so that silence means something.
    Ping::new(ip("10.0.0.9")).run(&blue1)?.perfect().map_err(Stop::Failed)
}

fn the_node_answers_no_arp() -> Outcome {
    let (_switch, worker) = one_worker(&LanFile::new("lan1", 1, &["a", "b"]))?;
    worker.ip("addr add 10.0.0.50/24 dev eth1")?;
    worker.ip("addr add 10.0.0.51/32 dev lo")?;
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    let b = joined(&worker, "b", "10.0.0.2/24")?;
    for address in ["10.0.0.50", "10.0.0.51"] {
        let answer = Ping::new(ip(address)).timeout(Duration::from_millis(400)).run(&a)?;
        assert_eq!(answer.replies.len(), 0, "{address}: {answer}");
        let neighbour = a.ip_json(&format!("neigh show to {address}"))?;
        assert!(neighbour.iter().all(|n| n["lladdr"].is_null()), "{address} answered ARP: {neighbour:?}");
    }
    Ping::new(ip("10.0.0.2")).run(&a)?.perfect().map_err(Stop::Failed)?;
    drop(b);
    Ok(())
}

fn the_node_takes_in_no_broadcast() -> Outcome {
    let (_switch, worker) = one_worker(&LanFile::new("lan1", 1, &["a", "b"]))?;
    worker.ip("addr add 10.0.0.50/24 dev eth1")?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    // A DHCP server and anything else on the node, and one on the LAN to compare with.
    let listen = |port: u16| move || UdpSocket::bind(("0.0.0.0", port));
    let on_node = [worker.run(listen(67))?, worker.run(listen(9999))?];
    let on_lan = [b.run(listen(67))?, b.run(listen(9999))?];
    let send = |port: u16| {
        a.run(|| -> std::io::Result<usize> {
            let socket = UdpSocket::bind(("0.0.0.0", if port == 67 { 68 } else { 0 }))?;
            socket.set_broadcast(true)?;
            socket.send_to(b"discover", ("255.255.255.255", port))
        })
    };
    a.ip("route add 255.255.255.255/32 dev net1")?;
    send(67)?;
    send(9999)?;
    for socket in on_lan {
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.recv_from(&mut [0; 64])?;
    }
    for socket in on_node {
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let heard = socket.recv_from(&mut [0; 64]);
        assert!(heard.is_err(), "the node heard {heard:?}");
    }
    Ok(())
}

fn the_lans_namespace_has_no_addresses() -> Outcome {
    let lan = LanFile::new("lan1", 1, &["a"]);
    let (_switch, worker) = one_worker(&lan)?;
    let _a = joined(&worker, "a", "10.0.0.1/24")?;
    let inside = worker.netns(&lan.netns())?;
    let links = inside.ip_json("addr show")?;
    let with_addresses: Vec<_> =
        links.iter().filter(|l| l["ifname"] != "lo" && l["addr_info"] != serde_json::json!([])).collect();
    assert!(with_addresses.is_empty(), "{with_addresses:?}");
    let read = |path: &str| inside.run(|| std::fs::read_to_string(path)).map(|t| t.trim().to_owned());
    assert_eq!(read("/proc/sys/net/ipv4/ip_forward")?, "0");
    assert_eq!(read("/proc/sys/net/ipv6/conf/all/disable_ipv6")?, "1");
    assert_eq!(inside.ip("-6 route show")?, "");
    Ok(())
}

fn no_firewall_sees_bridged_frames() -> Outcome {
    let lan = LanFile::new("lan1", 1, &["a", "b"]);
    let (_switch, worker) = one_worker(&lan)?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    // A new namespace starts with these on, and with the policy of whatever rules are loaded in it later.
    let inside = worker.netns(&lan.netns())?;
    for family in ["iptables", "ip6tables", "arptables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        if let Ok(value) = inside.run(|| std::fs::read_to_string(&path)) {
            assert_eq!(value.trim(), "0", "{path}");
        }
    }
    Ping::new(ip("10.0.0.2")).run(&a)?.perfect().map_err(Stop::Failed)?;
    drop(b);
    Ok(())
}

/// The kernel limits the table of a bridge from Linux 6.7 on, and that of a VXLAN device always.
fn bridges_have_a_limit() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

fn no_pod_fills_the_nodes_tables() -> Outcome {
    const SENDERS: u32 = 20_000;
    const LIMIT: usize = 16_384;
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    let lan = LanFile::new("lan1", 1, &["a", "b", "c"]);
    one.put(&lan)?;
    two.put(&lan)?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&one, "b", "10.0.0.2/24")?);
    let c = joined(&two, "c", "10.0.0.3/24")?;
    Ping::new(ip("10.0.0.3")).run(&b)?.perfect().map_err(Stop::Failed)?;
    let socket = PacketSocket::open(&a, "net1")?;
    for sender in 0..SENDERS {
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&[2, 0x99]);
        frame.extend_from_slice(&sender.to_be_bytes());
        frame.extend_from_slice(&[0x88, 0xb5]);
        frame.extend_from_slice(&[0x42; 46]);
        socket.send(&frame)?;
    }
    let learned = |worker: &Worker, flags: &str| -> Result<usize, Stop> {
        let table = worker.netns(&lan.netns())?.tool("bridge", "fdb show")?;
        Ok(table.lines().filter(|line| line.starts_with("02:99:") && line.contains(flags)).count())
    };
    let by_bridge = learned(&one, "master")?;
    let limit = if bridges_have_a_limit() { LIMIT } else { SENDERS as usize };
    assert!((16_000..=limit).contains(&by_bridge), "{by_bridge} addresses on the bridge");
    // The other node's VXLAN device has them with the first node's address.
    let by_vxlan = learned(&two, "dst")?;
    assert!((1000..=LIMIT).contains(&by_vxlan), "{by_vxlan} addresses on the VXLAN device");
    // Who is not in a table is reached all the same.
    Ping::new(ip("10.0.0.3")).run(&b)?.perfect().map_err(Stop::Failed)?;
    Ping::new(ip("10.0.0.1")).run(&c)?.perfect().map_err(Stop::Failed)
}
