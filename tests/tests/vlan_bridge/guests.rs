//! `vlan-bridge` for the guests of VMs: who has an address on the VLAN is found, and nobody there sees the guest's MAC
//! address before the guest itself speaks.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use k8slan_tests::check;
use serde_json::{Value, json};
use testnet::{Node, Outcome, PacketSocket, Ping, Pod, Stop, vlan_kernel};

const PLUGIN: &str = "vlan-bridge";
/// As KubeVirt calls the interface of a guest.
const IFNAME: &str = "pod16477688c0e";
/// What follows the addresses of a frame on the wire.
const ARP: [u8; 6] = [0x81, 0, 0, 10, 0x08, 0x06];
const IPV6: [u8; 6] = [0x81, 0, 0, 10, 0x86, 0xdd];

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![
        whoever_has_an_address_is_found,
        a_pod_that_has_an_address_is_found,
        without_a_probe_a_guests_link_is_silent_too,
        a_guard_that_a_kill_left_open_is_seen,
    ])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn config(probe: Value, fields: &Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0", "vlan": 10,
        "uplinks": [{"name": "eth1", "follow": true}],
        "ipam": {
            "type": "ipam-pool", "probe": probe, "scope": "host",
            "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "10.8.0.0/16", "gw": "10.9.0.1"}, {"dst": "fd01::/64", "gw": "fd00::1"}],
        },
    });
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Puts 10.9.0.`last` and fd00::`last` on a link.
fn have(pod: &Pod<'_>, link: &str, last: u8) -> Outcome {
    for address in [format!("10.9.0.{last}/24"), format!("fd00::{last}/64")] {
        pod.ip(&format!("addr add {address} dev {link} nodad"))?;
    }
    Ok(())
}

/// Another machine at the other end of the node's eth1, with an address of each family in VLAN 10.
fn other_machine(node: &Node, last: u8) -> Result<Pod<'_>, Stop> {
    let other = node.pod("other")?;
    node.ip(&format!("link add eth1 type veth peer name wire netns {}", other.path()))?;
    node.ip("link set dev eth1 up")?;
    for command in
        ["link set dev wire up", "link add link wire name v10 type vlan id 10", "link set dev v10 up"]
    {
        other.ip(command)?;
    }
    have(&other, "v10", last)?;
    Ok(other)
}

fn ips(result: &Value) -> Vec<&str> {
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect()
}

fn mac(result: &Value) -> [u8; 6] {
    let text = result["interfaces"][2]["mac"].as_str().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// What came to a socket until nothing more comes.
fn arrived(at: &PacketSocket) -> Result<Vec<Vec<u8>>, Stop> {
    let mut frames = Vec::new();
    while let Some(frame) = at.receive(Duration::from_millis(150))? {
        if !frame.outgoing {
            frames.push(frame.bytes);
        }
    }
    Ok(frames)
}

/// The one sender of frames of a protocol.
fn sender(frames: &[Vec<u8>], protocol: [u8; 6]) -> Result<[u8; 6], Stop> {
    let mut senders: Vec<&[u8]> =
        frames.iter().filter(|f| f[12..].starts_with(&protocol)).map(|f| &f[6..12]).collect();
    senders.sort_unstable();
    senders.dedup();
    match senders[..] {
        [one] => Ok(one.try_into().unwrap()),
        _ => Err(Stop::Failed(format!("{protocol:x?} is from {senders:x?}"))),
    }
}

fn whoever_has_an_address_is_found() -> Outcome {
    let node = Node::new("one")?;
    let other = other_machine(&node, 2)?;
    // Each network has a pool of its own, so that what is taken must be found anew.
    for fields in [
        json!({"name": "none"}),
        json!({"name": "mac", "macspoofchk": true}),
        json!({"name": "ip", "ipspoofchk": true}),
        json!({"name": "both", "macspoofchk": true, "ipspoofchk": true}),
    ] {
        is_found(&node, &other, &fields).map_err(|stop| Stop::Failed(format!("{fields}: {stop:?}")))?;
    }
    check!(node.link_names()? == ["eth1"], "left: {:?}", node.link_names()?)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")
}

fn is_found(node: &Node, other: &Pod<'_>, fields: &Value) -> Outcome {
    let pod = node.pod("virt-launcher-vm-abcde")?;
    node.write(&format!("/run/k8slan/owners/uid-{}.json", pod.container()), r#"{"vm":"vm"}"#)?;
    let config = config(json!({"count": 2, "interval": "60ms", "wait": "200ms"}), fields);
    let wire = PacketSocket::open(other, "wire")?;
    let result = pod.add(PLUGIN, IFNAME, &config)?;
    check(ips(&result) == ["10.9.0.3/24", "fd00::3/64"], result.to_string())?;
    let frames = arrived(&wire)?;
    let own = mac(&result);
    check(frames.iter().all(|frame| frame[6..12] != own), "the guest's MAC address was seen")?;
    let asker = sender(&frames, ARP)?;
    check(asker == sender(&frames, IPV6)?, "another one asked by IPv6")?;
    // KubeVirt finds the guest's IPv4 address on the link; nothing there speaks or answers.
    let link = pod.ip(&format!("addr show dev {IFNAME}"))?;
    check(link.contains("10.9.0.3/24") && link.contains("NOARP") && !link.contains("inet6"), &*link)?;
    check(pod.ip("route")?.contains("10.8.0.0/16 via 10.9.0.1"), "the route is not there")?;
    node.cni(PLUGIN, "CHECK", &pod.call(IFNAME, &config).with("prevResult", result.clone()))?;
    // The guest may send, and the one who asked for it no more.
    let guest = PacketSocket::open(&pod, IFNAME)?;
    let checked = fields["macspoofchk"] == true;
    for (source, passes) in [(own, true), (asker, !checked)] {
        let frame = |tag: &[u8]| [&[0xff; 6][..], &source, tag, &[0x88, 0xb5], &[0x55; 64]].concat();
        guest.send(&frame(&[]))?;
        let timeout = Duration::from_millis(if passes { 2000 } else { 100 });
        let seen = wire.find(timeout, |f| f.bytes == frame(&ARP[..4]))?.is_some();
        check(seen == passes, format!("{source:x?}: seen {seen}"))?;
    }
    pod.del(PLUGIN, IFNAME, &config)?;
    Ok(pod.remove()?)
}

fn a_pod_that_has_an_address_is_found() -> Outcome {
    let node = Node::new("one")?;
    let fields = json!({"uplinks": [], "macspoofchk": true});
    let (squatter, pod) = (node.pod("squatter")?, node.pod("launcher")?);
    let mut plain = config(json!(false), &fields);
    plain.as_object_mut().unwrap().remove("ipam");
    squatter.add(PLUGIN, "net1", &plain)?;
    have(&squatter, "net1", 2)?;
    let result = pod.add(PLUGIN, IFNAME, &config(json!(true), &fields))?;
    check(ips(&result) == ["10.9.0.3/24", "fd00::3/64"], result.to_string())
}

fn without_a_probe_a_guests_link_is_silent_too() -> Outcome {
    let node = Node::new("one")?;
    let other = other_machine(&node, 9)?;
    let pod = node.pod("launcher")?;
    let wire = PacketSocket::open(&other, "wire")?;
    let config = config(json!(false), &json!({"macspoofchk": true}));
    let result = pod.add(PLUGIN, IFNAME, &config)?;
    check(ips(&result) == ["10.9.0.2/24", "fd00::2/64"], result.to_string())?;
    // Who asks for its addresses gets no answer from the launcher pod.
    let ping = Ping::new([10, 9, 0, 2]).timeout(Duration::from_millis(300)).run(&other)?;
    check(ping.replies.is_empty(), "the launcher pod answers for its guest")?;
    let own = mac(&result);
    let frames = arrived(&wire)?;
    check(frames.iter().all(|frame| frame[6..12] != own), "the guest's MAC address was seen")?;
    node.cni(PLUGIN, "CHECK", &pod.call(IFNAME, &config).with("prevResult", result)).map(drop)?;
    Ok(())
}

/// While the wire is asked, the guard lets the asker through; a kill leaves it so, and CHECK tells.
fn a_guard_that_a_kill_left_open_is_seen() -> Outcome {
    let node = Node::new("one")?;
    let other = other_machine(&node, 9)?;
    let pod = node.pod("launcher")?;
    let wire = PacketSocket::open(&other, "wire")?;
    let config = config(json!({"count": 1, "wait": "20s"}), &json!({"macspoofchk": true}));
    let call = pod.call(IFNAME, &config);
    let mut command = node.command(testnet::program(PLUGIN));
    command
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_ARGS", &call.args)
        .env("CNI_NETNS", call.netns.as_deref().unwrap_or_default())
        .env("CNI_PATH", testnet::program("ipam-pool").parent().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(call.config.as_bytes())?;
    let asked = wire.find(Duration::from_secs(10), |f| f.bytes[12..].starts_with(&ARP));
    child.kill()?;
    child.wait()?;
    check(asked?.is_some(), "nobody asked")?;
    let promised = json!({"cniVersion": "1.1.0", "interfaces": [{"name": IFNAME, "sandbox": call.netns}]});
    match node.cni(PLUGIN, "CHECK", &call.clone().with("prevResult", promised)) {
        Err(error) if error.code == 110 && error.text().contains("spoof check") => {}
        other => return Err(Stop::Failed(format!("CHECK says {other:?}"))),
    }
    node.cni(PLUGIN, "DEL", &call)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "the guard is left")
}
