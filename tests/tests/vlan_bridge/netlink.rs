//! What netplumb says about VLANs and guards, against what iproute2 sees and what frames do. Runs in the kernel
//! that can filter VLANs.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::Duration;

use k8slan_tests::check;
use k8slan_tests::ndp;
use net_types::{IfName, MacAddr, VlanId, VlanSet};
use netplumb::{
    Bridge, BridgeMember, BridgeVlans, LinkKind, Netlink, Netns, NewLink, Nftables, PortGuard, RuleState,
    VlanFiltering, VlanLink, VlanProtocol,
};
use testnet::{Node, Outcome, PacketSocket, Stop, vlan_kernel};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![
        vlans_are_set_and_read_as_ranges,
        a_bridge_and_a_vlan_device_are_made,
        a_guard_lets_only_its_addresses_pass,
        guards_come_and_go_whole,
    ])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn vid(id: u64) -> VlanId {
    id.try_into().unwrap()
}

fn set(text: &str) -> VlanSet {
    text.parse().unwrap()
}

fn index(netlink: &Netlink, link: &str) -> u32 {
    netlink.link_by_name(&name(link)).unwrap().unwrap().index
}

/// A node with a filtering bridge br0 and a port p whose other end is e; both up.
fn bridged(default_pvid: Option<VlanId>) -> Result<(Node, Netlink, u32), Stop> {
    let node = Node::new("one")?;
    let netlink = node.run(Netlink::open_current)?;
    let mut bridge = Bridge::new(name("br0"));
    bridge.link.up = true;
    bridge.vlan_filtering = Some(VlanFiltering { protocol: VlanProtocol::Dot1q, default_pvid });
    let bridge = netlink.create_bridge(&bridge)?;
    node.ip("link add p type veth peer name e")?;
    node.ip("link set dev p master br0 up")?;
    node.ip("link set dev e up")?;
    Ok((node, netlink, bridge))
}

fn vlans_are_set_and_read_as_ranges() -> Outcome {
    let (node, netlink, bridge) = bridged(None)?;
    let port = index(&netlink, "p");
    check(netlink.bridge_vlans(port)?.is_empty(), "a new port carries something")?;
    let all = BridgeVlans::trunk(&VlanSet::all(), Some(vid(7)));
    netlink.add_bridge_vlans(BridgeMember::Port(port), &all)?;
    check!(netlink.bridge_vlans(port)? == all, "{}", netlink.bridge_vlans(port)?)?;
    let seen = node.exec(&["bridge", "-compressvlans", "vlan", "show", "dev", "p"])?;
    for line in ["1-6", "7 PVID Egress Untagged", "8-4094"] {
        check(seen.contains(line), format!("no {line:?} in {seen}"))?;
    }
    netlink.remove_bridge_vlans(BridgeMember::Port(port), &set("5-4000"))?;
    netlink.remove_bridge_vlans(BridgeMember::Port(port), &set("5-4000"))?;
    let rest = BridgeVlans::trunk(&set("1-4,4001-4094"), None);
    check!(netlink.bridge_vlans(port)? == rest, "{}", netlink.bridge_vlans(port)?)?;
    netlink.add_bridge_vlans(BridgeMember::Bridge(bridge), &BridgeVlans::trunk(&set("10-12"), None))?;
    let members = netlink.all_bridge_vlans()?;
    check(members[&port] == rest && members[&bridge].tagged == set("10-12"), format!("{members:?}"))
}

fn a_bridge_and_a_vlan_device_are_made() -> Outcome {
    let node = Node::new("one")?;
    let netlink = node.run(Netlink::open_current)?;
    let mut bridge = Bridge::new(name("br0"));
    bridge.vlan_filtering =
        Some(VlanFiltering { protocol: VlanProtocol::Dot1ad, default_pvid: Some(vid(5)) });
    bridge.group_fwd_mask = Some(0x4000);
    bridge.ageing_time = Some(1000);
    bridge.link.group = 7;
    let index = netlink.create_bridge(&bridge)?;
    let LinkKind::Bridge(info) = netlink.link_by_index(index)?.unwrap().kind else { panic!("no bridge") };
    check(info.vlan_filtering && info.vlan_protocol == VlanProtocol::Dot1ad, format!("{info:?}"))?;
    check(info.vlan_default_pvid == Some(vid(5)) && info.group_fwd_mask == 0x4000, format!("{info:?}"))?;
    check(info.ageing_time == 1000, format!("{info:?}"))?;
    let seen = node.link("br0")?.unwrap();
    check(seen["linkinfo"]["info_data"]["vlan_protocol"] == "802.1ad", seen.to_string())?;
    let vlan = VlanLink {
        link: NewLink { group: 7, ..NewLink::new(name("br0.30")) },
        lower: index,
        id: vid(30),
        protocol: VlanProtocol::Dot1ad,
    };
    let made = netlink.create_vlan(&vlan)?;
    let link = netlink.link_by_index(made)?.unwrap();
    check(link.lower == Some(index) && link.group == 7, format!("{link:?}"))?;
    let LinkKind::Vlan(info) = link.kind else { panic!("no VLAN device") };
    check(info.id == 30 && info.protocol == VlanProtocol::Dot1ad, format!("{info:?}"))?;
    check(netlink.create_vlan(&vlan).unwrap_err().is_exists(), "made twice")
}

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn frame(source: [u8; 6], tags: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &source, tags, rest].concat();
    frame.resize(frame.len().max(80), 0x55);
    frame
}

fn arp(sender: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    arp_for(sender, ip, [10, 0, 0, 9])
}

fn arp_for(sender: [u8; 6], ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &sender, &ip, &[0; 6], &target].concat()
}

fn ipv4(source: [u8; 4]) -> Vec<u8> {
    [&[8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 253, 0, 0][..], &source, &[10, 0, 0, 9]].concat()
}

fn ipv6(source: &str) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 59, 64][..], &source.octets(), &[0xff; 16]].concat()
}

/// An advertisement of a neighbour from fd00::1.
fn advertised(target: &str, mac: [u8; 6]) -> Vec<u8> {
    let message = ndp::neighbor(136, target.parse().unwrap(), &ndp::link_layer(2, mac));
    [&[0x86, 0xdd][..], &ndp::icmpv6("fd00::1".parse().unwrap(), ndp::ALL_NODES, &message)].concat()
}

fn a_guard_lets_only_its_addresses_pass() -> Outcome {
    let (node, netlink, _) = bridged(None)?;
    node.ip("link add q type veth peer name f")?;
    node.ip("link set dev q master br0 up")?;
    node.ip("link set dev f up")?;
    for port in ["p", "q"] {
        let vlans = BridgeVlans::trunk(&set("10,20"), Some(vid(30)));
        netlink.add_bridge_vlans(BridgeMember::Port(index(&netlink, port)), &vlans)?;
    }
    let nft = node.run(Nftables::open_current)?;
    let macs = vec![MacAddr::try_from(OWN).unwrap()];
    let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    nft.guard(&PortGuard {
        port: name("p"),
        own: macs,
        check_macs: true,
        addresses: Some(addresses),
        asking: false,
    })?;
    let (end, far) = (PacketSocket::open(&node, "e")?, PacketSocket::open(&node, "f")?);
    let tag = [0x81, 0, 0, 10];
    let two = [0x81, 0, 0, 10, 0x81, 0, 0, 20];
    for (passes, what, bytes) in [
        (true, "its own MAC and address", frame(OWN, &[], &ipv4([10, 0, 0, 1]))),
        (true, "the same, tagged", frame(OWN, &tag, &ipv4([10, 0, 0, 1]))),
        (true, "another protocol", frame(OWN, &tag, &[0x88, 0xb5])),
        (true, "its own ARP", frame(OWN, &[], &arp(OWN, [10, 0, 0, 1]))),
        (true, "an ARP probe for its own", frame(OWN, &tag, &arp_for(OWN, [0; 4], [10, 0, 0, 1]))),
        (false, "an ARP probe for another", frame(OWN, &tag, &arp(OWN, [0; 4]))),
        (true, "IPv6", frame(OWN, &[], &ipv6("fd00::1"))),
        (true, "its own IPv6 link-local", frame(OWN, &tag, &ipv6("fe80::ff:fe00:1"))),
        (false, "another IPv6 link-local", frame(OWN, &tag, &ipv6("fe80::1"))),
        (false, "IPv6 from nobody", frame(OWN, &[], &ipv6("::"))),
        (false, "another MAC", frame(OTHER, &[], &ipv4([10, 0, 0, 1]))),
        (false, "another MAC, tagged", frame(OTHER, &tag, &[0x88, 0xb5])),
        (false, "another address", frame(OWN, &[], &ipv4([10, 0, 0, 2]))),
        (false, "another address, tagged", frame(OWN, &tag, &ipv4([10, 0, 0, 2]))),
        (false, "ARP for another MAC", frame(OWN, &[], &arp(OTHER, [10, 0, 0, 1]))),
        (false, "ARP for another address", frame(OWN, &tag, &arp(OWN, [10, 0, 0, 2]))),
        (true, "its own advertisement", frame(OWN, &tag, &advertised("fd00::1", OWN))),
        (false, "another's", frame(OWN, &tag, &advertised("fd00::9", OWN))),
        (false, "its own of another MAC", frame(OWN, &tag, &advertised("fd00::1", OTHER))),
        (false, "another's behind a second tag", frame(OWN, &two, &advertised("fd00::9", OWN))),
        (false, "another IPv6 address", frame(OWN, &tag, &ipv6("fd00::2"))),
        (false, "another address behind a second tag", frame(OWN, &two, &ipv4([10, 0, 0, 2]))),
    ] {
        end.send(&bytes)?;
        let timeout = Duration::from_millis(if passes { 1000 } else { 50 });
        let seen = far.find(timeout, |f| f.bytes == bytes)?.is_some();
        check!(seen == passes, "{what}: passed {seen}\n{}", node.exec(&["nft", "list", "ruleset"])?)?;
    }
    // The other direction, and other ports, are nobody's business.
    far.send(&frame(OTHER, &[], &[0x88, 0xb6]))?;
    check(end.find(Duration::from_secs(1), |f| f.bytes[12..14] == [0x88, 0xb6])?.is_some(), "inwards")
}

fn guards_come_and_go_whole() -> Outcome {
    let node = Node::new("one")?;
    let nft = Nftables::open(&node.run(Netns::current)?)?;
    let guard = |port: &str, last: u8| PortGuard {
        port: name(port),
        own: vec![MacAddr::try_from([2, 0, 0, 0, 0, last]).unwrap()],
        check_macs: true,
        addresses: (last > 1).then(|| vec!["10.0.0.1".parse().unwrap()]),
        asking: false,
    };
    nft.unguard(&name("p1"))?;
    let state = |guard: &PortGuard| nft.guard_state(&guard.port, Some(&guard.rules_hash()));
    check(state(&guard("p1", 1))? == RuleState::Absent, "a guard is there at first")?;
    nft.guard(&guard("p1", 1))?;
    nft.guard(&guard("p2", 2))?;
    check(state(&guard("p1", 1))? == RuleState::InPlace, "p1 is not guarded")?;
    check(state(&guard("p2", 2))? == RuleState::InPlace, "p2 is not guarded")?;
    check(state(&guard("p2", 3))? == RuleState::Different, "another guard is taken for it")?;
    nft.guard(&guard("p1", 5))?;
    check(state(&guard("p1", 5))? == RuleState::InPlace, "p1 is not replaced")?;
    check!(nft.guarded()?.unwrap().len() == 2, "{:?}", nft.guarded()?)?;
    node.exec(&["nft", "add rule bridge k8slan p1 counter"])?;
    check(state(&guard("p1", 5))? == RuleState::Different, "a rule too many is not seen")?;
    nft.unguard(&name("p1"))?;
    nft.unguard(&name("p1"))?;
    check!(nft.guarded()? == Some(vec![name("p2")]), "{:?}", nft.guarded()?)?;
    nft.unguard(&name("p2"))?;
    check(nft.guarded()?.is_none(), "the table is left")?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "rules are left")
}
