//! `macspoofchk` and `ipspoofchk` of `vlan-bridge`: nobody on the bridge is taken in by ARP, neighbour discovery or DHCP in
//! another's name, and a pod or a guest that has no address yet finds one.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use k8slan_tests::check;
use k8slan_tests::mac_of;
use k8slan_tests::ndp::{ALL_NODES, icmpv6, ipv6, link_layer, link_local, neighbor, with_checksum};
use k8slan_tests::vlan_ports::{PLUGIN, check, config};
use serde_json::{Value, json};
use testnet::{Daemon, Node, Outcome, PacketSocket, Ping, Pod, Stop, needs};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        what_a_port_may_say,
        no_neighbour_takes_a_forged_advertisement,
        a_network_is_allowed_besides,
        the_dhcp_plugin_gets_its_lease,
        a_guest_gets_its_lease_and_speaks_both_families,
    ]
}

/// Frames over a bridge of this machine are heard by then.
const HEARD: Duration = Duration::from_millis(100);
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];

/// A configuration with addresses of both families: the first pod has 10.9.0.2 and fd00::2.
fn guarded(fields: &Value) -> Value {
    let mut config = config(json!({
        "gateway": [], "ipam": {"type": "ipam-pool", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]]},
    }));
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn both() -> Value {
    guarded(&json!({"macspoofchk": true, "ipspoofchk": true}))
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A frame to everybody.
fn frame(source: [u8; 6], protocol: u16, packet: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &source, &protocol.to_be_bytes(), packet].concat()
}

fn v6(source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    frame(source, 0x86dd, packet)
}

/// An advertisement to all nodes, from `from`, that `target` is at `mac`.
fn advertised(source: [u8; 6], from: Ipv6Addr, target: &str, mac: [u8; 6]) -> Vec<u8> {
    v6(source, &icmpv6(from, ALL_NODES, &neighbor(136, ip6(target), &link_layer(2, mac))))
}

fn solicited(source: [u8; 6], from: Ipv6Addr, target: &str, options: &[u8]) -> Vec<u8> {
    v6(source, &icmpv6(from, ALL_NODES, &neighbor(135, ip6(target), options)))
}

fn arp(source: [u8; 6], operation: u8, sender: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let packet =
        [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender.0, &sender.1, &[0; 6], &target, &[0; 18]].concat();
    frame(source, 0x0806, &packet)
}

/// UDP over IPv4; `head` is the first byte and the fragment's offset.
fn udp(
    source: [u8; 6],
    head: (u8, u16),
    from: [u8; 4],
    to: [u8; 4],
    ports: (u16, u16),
    data: &[u8],
) -> Vec<u8> {
    let options = vec![1; usize::from(head.0 & 0xf) * 4 - 20];
    let length = |header: usize| u16::try_from(header + data.len()).unwrap().to_be_bytes();
    let total = length(28 + options.len());
    let [offset, low] = head.1.to_be_bytes();
    let mut packet = vec![head.0, 0, total[0], total[1], 0, 1, offset, low, 64, 17, 0, 0];
    packet.extend([from, to].concat());
    packet.extend(options);
    let mut sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(!sum & 0xffff).unwrap().to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes(), length(8), [0, 0]].concat());
    packet.extend(data);
    frame(source, 0x0800, &packet)
}

/// A client's DISCOVER about itself (RFC 2131).
fn discover(chaddr: [u8; 6]) -> Vec<u8> {
    let mut data = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    data.extend([0; 16]);
    data.extend(chaddr);
    data.resize(236, 0);
    data.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    data
}

/// A packet of two fragments that carries an ICMPv6 message, which begins in the second one behind options for the
/// destination.
fn in_fragments(from: Ipv6Addr, message: &[u8]) -> [Vec<u8>; 2] {
    // Options of 8 bytes: padding. The next header is ICMPv6.
    let fragment =
        |offset: u16, rest: &[u8]| [&[60, 0][..], &offset.to_be_bytes(), &[0, 0, 0, 9], rest].concat();
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    [
        ipv6(from, ALL_NODES, 44, &fragment(1, &options)),
        ipv6(from, ALL_NODES, 44, &fragment(8, &with_checksum(from, ALL_NODES, message))),
    ]
}

/// Which configuration lets a frame pass: with both checks, with `ipspoofchk` alone, with `macspoofchk` alone.
type Passes = [bool; 3];
const ALL: Passes = [true; 3];
const NONE: Passes = [false; 3];
/// What claims another's address.
const MAC_CHECK_ALONE: Passes = [false, false, true];
/// What claims another's MAC address.
const IP_CHECK_ALONE: Passes = [false, true, false];

fn frames(own: [u8; 6]) -> Vec<(Passes, &'static str, Vec<u8>)> {
    let (local, mine) = (link_local(own), ip6("fd00::2"));
    let nobody = Ipv6Addr::UNSPECIFIED;
    let (any, everybody) = ([0; 4], [255; 4]);
    let source = link_layer(1, own);
    let forged = neighbor(136, ip6("fd00::1"), &link_layer(2, own));
    let forged = |from| with_checksum(from, ALL_NODES, &forged);
    let router_alert = |next: u8| [next, 0, 5, 2, 0, 0, 1, 0];
    let report = [&[143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0][..], &ALL_NODES.octets()].concat();
    let advertisement =
        [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &link_layer(1, own)].concat();
    let solicitation = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &source].concat();
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &local.octets(), &mine.octets()].concat();
    let echo = [128, 0, 0, 0, 0, 1, 0, 1, 7, 7, 7, 7, 7, 7, 7, 7];
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let dhcp = |mac, chaddr| udp(mac, (0x45, 0), any, everybody, (68, 67), &discover(chaddr));
    let dhcpv6 = |mac, from| v6(mac, &ipv6(from, ALL_NODES, 17, &[2, 34, 2, 35, 0, 12, 0, 0, 1, 0, 0, 1]));
    let headers = |next: u8, rest: Vec<u8>| v6(own, &ipv6(mine, ALL_NODES, next, &rest));
    let [first, second] = in_fragments(mine, &neighbor(136, ip6("fd00::1"), &link_layer(2, own)));
    let snap = |protocol: u16, packet: &[u8]| {
        let rest = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &protocol.to_be_bytes(), packet].concat();
        frame(own, u16::try_from(rest.len()).unwrap(), &rest)
    };
    let claim = arp(own, 2, (own, [10, 9, 0, 1]), [10, 9, 0, 1]);
    vec![
        // Its own.
        (ALL, "an advertisement of its own", advertised(own, mine, "fd00::2", own)),
        (ALL, "one of its link-local address", advertised(own, local, &local.to_string(), own)),
        (ALL, "one of its own from its link-local address", advertised(own, local, "fd00::2", own)),
        (ALL, "a solicitation", solicited(own, mine, "fd00::1", &source)),
        (ALL, "a link-local solicitation", solicited(own, local, "fe80::1", &source)),
        (ALL, "a solicitation without option", solicited(own, mine, "fd00::1", &[])),
        (ALL, "address detection", solicited(own, nobody, "fd00::2", &[])),
        (ALL, "address detection with a nonce", solicited(own, nobody, "fd00::2", &nonce)),
        (ALL, "link-local address detection", solicited(own, nobody, &local.to_string(), &nonce)),
        (ALL, "a router solicitation", v6(own, &icmpv6(local, ALL_NODES, &solicitation))),
        (ALL, "a router solicitation of nobody", v6(own, &icmpv6(nobody, ALL_NODES, &solicitation[..8]))),
        (ALL, "DHCPv6", dhcpv6(own, local)),
        (ALL, "DHCP", dhcp(own, own)),
        (
            ALL,
            "a report of groups",
            v6(
                own,
                &ipv6(
                    local,
                    ALL_NODES,
                    0,
                    &[&router_alert(58)[..], &with_checksum(local, ALL_NODES, &report)].concat(),
                ),
            ),
        ),
        (
            ALL,
            "one of nobody",
            v6(
                own,
                &ipv6(
                    nobody,
                    ALL_NODES,
                    0,
                    &[&router_alert(58)[..], &with_checksum(nobody, ALL_NODES, &report)].concat(),
                ),
            ),
        ),
        (ALL, "an echo", v6(own, &icmpv6(mine, ALL_NODES, &echo))),
        (ALL, "an echo's first fragment", headers(44, [&[58, 0, 0, 1, 0, 0, 0, 9][..], &echo].concat())),
        (
            ALL,
            "an echo's second fragment",
            headers(44, [&[58, 0, 0, 16, 0, 0, 0, 9][..], &[136; 16]].concat()),
        ),
        (ALL, "UDP in fragments", headers(44, [&[17, 0, 0, 1, 0, 0, 0, 9][..], &[5; 16]].concat())),
        (
            ALL,
            "UDP behind options",
            headers(60, [&[17, 0, 1, 4, 0, 0, 0, 0][..], &[0, 9, 0, 9, 0, 8, 0, 0]].concat()),
        ),
        (ALL, "ARP", arp(own, 1, (own, [10, 9, 0, 2]), [10, 9, 0, 1])),
        (ALL, "gratuitous ARP", arp(own, 2, (own, [10, 9, 0, 2]), [10, 9, 0, 2])),
        (ALL, "an ARP probe", arp(own, 1, (own, any), [10, 9, 0, 2])),
        // In another's name.
        (
            MAC_CHECK_ALONE,
            "the gateway advertised from its own address",
            advertised(own, mine, "fd00::1", own),
        ),
        (MAC_CHECK_ALONE, "from its link-local one", advertised(own, local, "fd00::1", own)),
        (MAC_CHECK_ALONE, "from another link-local one", advertised(own, ip6("fe80::1"), "fd00::1", own)),
        (MAC_CHECK_ALONE, "from the gateway's", advertised(own, ip6("fd00::1"), "fd00::1", own)),
        (MAC_CHECK_ALONE, "from nobody's", advertised(own, nobody, "fd00::1", own)),
        (MAC_CHECK_ALONE, "a link-local gateway advertised", advertised(own, ip6("fe80::1"), "fe80::1", own)),
        (MAC_CHECK_ALONE, "the same from its own", advertised(own, local, "fe80::1", own)),
        (
            MAC_CHECK_ALONE,
            "a gateway advertised without option",
            v6(own, &icmpv6(mine, ALL_NODES, &neighbor(136, ip6("fd00::1"), &[]))),
        ),
        (
            MAC_CHECK_ALONE,
            "a solicitation as the gateway",
            solicited(own, ip6("fd00::1"), "fd00::9", &source),
        ),
        (
            MAC_CHECK_ALONE,
            "one as the link-local gateway",
            solicited(own, ip6("fe80::1"), "fd00::9", &source),
        ),
        (MAC_CHECK_ALONE, "detection of another's address", solicited(own, nobody, "fd00::1", &nonce)),
        (MAC_CHECK_ALONE, "a router advertisement", v6(own, &icmpv6(local, ALL_NODES, &advertisement))),
        (
            MAC_CHECK_ALONE,
            "a router advertisement as the router",
            v6(own, &icmpv6(ip6("fe80::1"), ALL_NODES, &advertisement)),
        ),
        (MAC_CHECK_ALONE, "a redirect", v6(own, &icmpv6(local, ALL_NODES, &redirect))),
        (
            MAC_CHECK_ALONE,
            "UDP from nobody",
            v6(own, &ipv6(nobody, ALL_NODES, 17, &[2, 34, 2, 35, 0, 8, 0, 0])),
        ),
        (MAC_CHECK_ALONE, "DHCPv6 as another", dhcpv6(own, ip6("fe80::1"))),
        (MAC_CHECK_ALONE, "DHCP for another client", dhcp(own, OTHER)),
        (
            MAC_CHECK_ALONE,
            "DHCP to another port",
            udp(own, (0x45, 0), any, everybody, (68, 69), &discover(own)),
        ),
        (
            MAC_CHECK_ALONE,
            "a server's DHCP of nobody",
            udp(own, (0x45, 0), any, everybody, (67, 68), &discover(own)),
        ),
        (
            MAC_CHECK_ALONE,
            "DHCP of nobody to one host",
            udp(own, (0x45, 0), any, [10, 9, 0, 1], (68, 67), &discover(own)),
        ),
        (
            MAC_CHECK_ALONE,
            "DHCP of nobody in fragments",
            udp(own, (0x45, 0x2000), any, everybody, (68, 67), &discover(own)),
        ),
        (
            MAC_CHECK_ALONE,
            "DHCP behind options",
            udp(own, (0x46, 0), any, everybody, (68, 67), &discover(own)),
        ),
        (MAC_CHECK_ALONE, "the gateway in ARP", claim.clone()),
        (MAC_CHECK_ALONE, "an ARP probe for another's", arp(own, 1, (own, any), [10, 9, 0, 1])),
        // From another MAC address.
        (NONE, "address detection from another MAC", solicited(OTHER, nobody, "fd00::2", &nonce)),
        (NONE, "link-local from another MAC", advertised(OTHER, local, &local.to_string(), own)),
        (NONE, "DHCP from another MAC", dhcp(OTHER, own)),
        (NONE, "DHCPv6 from another MAC", dhcpv6(OTHER, local)),
        (NONE, "DHCPv6 from another MAC's link-local address", dhcpv6(OTHER, link_local(OTHER))),
        (NONE, "an ARP probe from another MAC", arp(OTHER, 1, (own, any), [10, 9, 0, 2])),
        (IP_CHECK_ALONE, "its own address at another MAC", advertised(own, mine, "fd00::2", OTHER)),
        (
            IP_CHECK_ALONE,
            "the same in a solicitation",
            solicited(own, mine, "fd00::1", &link_layer(1, OTHER)),
        ),
        (
            IP_CHECK_ALONE,
            "the same behind another option",
            solicited(own, mine, "fd00::1", &[&nonce[..], &link_layer(1, OTHER)].concat()),
        ),
        (IP_CHECK_ALONE, "the same behind its own", advertised_twice(own, mine)),
        (
            IP_CHECK_ALONE,
            "a router solicitation of another MAC",
            v6(own, &icmpv6(local, ALL_NODES, &[&solicitation[..8], &link_layer(1, OTHER)[..]].concat())),
        ),
        // Discovery that hides.
        (NONE, "behind hop-by-hop options", headers(0, [&router_alert(58)[..], &forged(mine)].concat())),
        (
            NONE,
            "behind options for the destination",
            headers(60, [&[58, 0, 1, 4, 0, 0, 0, 0][..], &forged(mine)].concat()),
        ),
        (
            NONE,
            "behind a routing header",
            headers(43, [&[58, 0, 4, 0, 0, 0, 0, 0][..], &forged(mine)].concat()),
        ),
        (
            NONE,
            "behind two headers",
            headers(0, [&[60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0][..], &forged(mine)].concat()),
        ),
        (NONE, "in one fragment", headers(44, [&[58, 0, 0, 0, 0, 0, 0, 9][..], &forged(mine)].concat())),
        (NONE, "in a first fragment", headers(44, [&[58, 0, 0, 1, 0, 0, 0, 9][..], &forged(mine)].concat())),
        (
            NONE,
            "behind authentication",
            headers(51, [&[58, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &forged(mine)].concat()),
        ),
        (
            NONE,
            "behind authentication and options",
            headers(
                51,
                [&[60, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 58, 0, 1, 4, 0, 0, 0, 0][..], &forged(mine)].concat(),
            ),
        ),
        (
            ALL,
            "UDP behind authentication",
            headers(51, [&[17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0, 9, 0, 9, 0, 8, 0, 0]].concat()),
        ),
        (NONE, "the first of fragments without the message", v6(own, &first)),
        (NONE, "the second of these", v6(own, &second)),
        (NONE, "ARP behind two tags of no VLAN", tagged(&claim, &[0x8100, 0x8100])),
        (NONE, "ARP behind two tags of two kinds", tagged(&claim, &[0x88a8, 0x8100])),
        (NONE, "ARP behind three tags", tagged(&claim, &[0x8100, 0x8100, 0x8100])),
        (
            NONE,
            "discovery behind two tags",
            tagged(&advertised(own, mine, "fd00::1", own), &[0x8100, 0x8100]),
        ),
        (NONE, "ARP in SNAP", snap(0x0806, &claim[14..])),
        (NONE, "IPv6 in SNAP", snap(0x86dd, &icmpv6(mine, ALL_NODES, &forged(mine)))),
        (
            NONE,
            "ARP of another form",
            frame(
                own,
                0x0806,
                &[
                    &[0, 1, 8, 0, 8, 4, 0, 2][..],
                    &own,
                    &[0, 0, 10, 9, 0, 2],
                    &own,
                    &[0, 0, 10, 9, 0, 1],
                    &[0; 14],
                ]
                .concat(),
            ),
        ),
    ]
}

/// A frame behind tags of VLAN 0, which carry a priority alone: the next host takes them off.
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|protocol| [protocol.to_be_bytes(), [0, 0]].concat());
    [&frame[..12], &tags.collect::<Vec<u8>>(), &frame[12..]].concat()
}

fn advertised_twice(own: [u8; 6], from: Ipv6Addr) -> Vec<u8> {
    let options = [link_layer(2, own), link_layer(2, OTHER)].concat();
    v6(own, &icmpv6(from, ALL_NODES, &neighbor(136, from, &options)))
}

fn what_a_port_may_say() -> Outcome {
    let node = Node::new("one")?;
    let listener = node.pod("listener")?;
    listener.add(PLUGIN, "net1", &config(json!({})))?;
    let far = PacketSocket::open(&listener, "net1")?;
    let mut wrong = Vec::new();
    for (at, fields) in [
        json!({"macspoofchk": true, "ipspoofchk": true}),
        json!({"ipspoofchk": true}),
        json!({"macspoofchk": true}),
    ]
    .into_iter()
    .enumerate()
    {
        // A network of its own has a pool of its own.
        let mut config = guarded(&fields);
        config["name"] = json!(format!("net{at}"));
        let pod = node.pod(&format!("pod{at}"))?;
        let result = pod.add(PLUGIN, "net1", &config)?;
        check(result["ips"][1]["address"] == "fd00::2/64", result.to_string())?;
        node.cni(PLUGIN, "CHECK", &pod.call("net1", &config).with("prevResult", result.clone()))?;
        let own = mac_of(&pod, "net1")?;
        // An administrator can look at it.
        check(
            node.exec(&["nft", "list", "ruleset"])?.contains("source MAC") == (at != 1),
            "the guard is not listed",
        )?;
        let near = PacketSocket::open(&pod, "net1")?;
        for (passes, what, bytes) in frames(own) {
            near.send(&bytes)?;
            let passes = passes[at];
            let timeout = Duration::from_millis(if passes { 1000 } else { 20 });
            if far.find(timeout, |f| f.bytes == bytes)?.is_some() != passes {
                wrong.push(format!("{fields}: {what} passes: {}", !passes));
            }
        }
        pod.del(PLUGIN, "net1", &config)?;
    }
    check(wrong.is_empty(), wrong.join("\n"))?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")
}

/// What the pods of a bridge have of the gateway, before and after another pod says that it is the gateway.
fn no_neighbour_takes_a_forged_advertisement() -> Outcome {
    let node = Node::new("one")?;
    let [gateway, victim, attacker] = [node.pod("gateway")?, node.pod("victim")?, node.pod("attacker")?];
    for pod in [&gateway, &victim] {
        pod.add(PLUGIN, "net1", &config(json!({})))?;
    }
    for (pod, last) in [(&gateway, 1), (&victim, 9)] {
        pod.ip(&format!("addr add fd00::{last}/64 dev net1 nodad"))?;
        pod.ip(&format!("addr add 10.9.0.{last}/24 dev net1"))?;
    }
    let entry = || -> Result<String, Stop> {
        Ok(victim.ip("neigh show to fd00::1 dev net1")? + &victim.ip("neigh show to 10.9.0.1 dev net1")?)
    };
    let ask = |from: &Pod<'_>, to: &str| -> Outcome {
        let replies = Ping::new(to.parse::<IpAddr>().unwrap()).timeout(Duration::from_secs(3)).run(from)?;
        check(!replies.replies.is_empty(), format!("{to} does not answer"))
    };
    // Without a guard the victim is taken in, so that this test sees what it is about.
    for (guard, taken_in) in
        [(json!({"name": "open"}), true), (json!({"macspoofchk": true, "ipspoofchk": true}), false)]
    {
        let config = guarded(&guard);
        attacker.add(PLUGIN, "net1", &config)?;
        let own = mac_of(&attacker, "net1")?;
        victim.ip("neigh flush dev net1")?;
        ask(&victim, "fd00::1")?;
        ask(&victim, "10.9.0.1")?;
        let before = entry()?;
        let forge = PacketSocket::open(&attacker, "net1")?;
        for from in [ip6("fd00::2"), link_local(own), ip6("fe80::1"), ip6("fd00::1")] {
            forge.send(&advertised(own, from, "fd00::1", own))?;
        }
        std::thread::sleep(HEARD);
        let text = own.map(|byte| format!("{byte:02x}")).join(":");
        let after = entry()?;
        check(after.contains(&text) == taken_in, format!("{guard}: before {before}, after {after}"))?;
        // The guarded pod itself talks in both families, with addresses that nobody else has.
        if !taken_in {
            ask(&attacker, "10.9.0.9")?;
            ask(&attacker, "fd00::9")?;
            ask(&victim, "fd00::2")?;
        }
        attacker.del(PLUGIN, "net1", &config)?;
    }
    Ok(())
}

/// A guest whose link-local address does not follow from its MAC address.
fn a_network_is_allowed_besides() -> Outcome {
    let node = Node::new("one")?;
    let (pod, listener) = (node.pod("pod")?, node.pod("listener")?);
    listener.add(PLUGIN, "net1", &config(json!({})))?;
    let mut config = both();
    config["allowedAddresses"] = json!(["fe80::/64", "10.9.0.64/30", "10.9.0.68/31", "10.9.0.70", "fd00::7"]);
    let result = pod.add(PLUGIN, "net1", &config)?;
    node.cni(PLUGIN, "CHECK", &pod.call("net1", &config).with("prevResult", result))?;
    let own = mac_of(&pod, "net1")?;
    let (near, far) = (PacketSocket::open(&pod, "net1")?, PacketSocket::open(&listener, "net1")?);
    let v4 = |last| arp(own, 2, (own, [10, 9, 0, last]), [10, 9, 0, last]);
    for (passes, what, bytes) in [
        (true, "a link-local address", advertised(own, ip6("fe80::77"), "fe80::77", own)),
        (false, "one of another network", advertised(own, ip6("fe80:1::77"), "fe80:1::77", own)),
        (true, "its own", advertised(own, ip6("fd00::2"), "fd00::2", own)),
        (true, "one more", advertised(own, ip6("fd00::7"), "fd00::7", own)),
        (false, "the one before", advertised(own, ip6("fd00::6"), "fd00::6", own)),
        (false, "the one behind", advertised(own, ip6("fd00::8"), "fd00::8", own)),
        (true, "10.9.0.2", v4(2)),
        (false, "10.9.0.63", v4(63)),
        (true, "10.9.0.64", v4(64)),
        (true, "10.9.0.69", v4(69)),
        (true, "10.9.0.70", v4(70)),
        (false, "10.9.0.71", v4(71)),
    ] {
        near.send(&bytes)?;
        let timeout = Duration::from_millis(if passes { 1000 } else { 20 });
        let seen = far.find(timeout, |f| f.bytes == bytes)?.is_some();
        check!(seen == passes, "{what}: passed {seen}\n{}", node.exec(&["nft", "list", "ruleset"])?)?;
    }
    Ok(())
}

/// A DHCP server on the bridge, at 10.9.0.1.
fn dhcp_server(pod: &Pod<'_>, lease: &str) -> Result<Daemon, Stop> {
    needs("dnsmasq")?;
    pod.add(PLUGIN, "net1", &config(json!({})))?;
    pod.ip("addr add 10.9.0.1/24 dev net1")?;
    pod.ip("addr add fd00::1/64 dev net1 nodad")?;
    let arguments = format!(
        "nsenter --net={} dnsmasq --no-daemon --port=0 --conf-file=/dev/null --user=root --leasefile-ro --no-ping --interface=net1 \
         --bind-interfaces --dhcp-range={lease},{lease},1h --pid-file=/run/dnsmasq.pid",
        pod.path()
    );
    let words: Vec<&str> = arguments.split_whitespace().collect();
    Ok(pod.node().spawn_daemon(&words)?)
}

fn the_dhcp_plugin_gets_its_lease() -> Outcome {
    const DHCP: &str = "/usr/lib/cni/dhcp";
    needs(DHCP)?;
    let node = Node::new("one")?;
    let (server, pod) = (node.pod("server")?, node.pod("pod")?);
    let _server = dhcp_server(&server, "10.9.0.77")?;
    let _client = node.spawn_daemon(&[DHCP, "daemon"])?;
    testnet::eventually(Duration::from_secs(10), || match node.list("/run/cni").is_empty() {
        true => Err("the DHCP plugin's daemon has no socket".to_owned()),
        false => Ok(()),
    })?;
    for fields in [json!({"ipspoofchk": true}), json!({"macspoofchk": true, "ipspoofchk": true})] {
        let mut config = config(fields);
        // Debian's knows no 1.1.0.
        config["cniVersion"] = json!("1.0.0");
        config["ipam"] = json!({"type": "dhcp"});
        let result = pod.add(PLUGIN, "net1", &config)?;
        check(result["ips"][0]["address"] == "10.9.0.77/24", result.to_string())?;
        let there: IpAddr = [10, 9, 0, 1].into();
        check(
            !Ping::new(there).timeout(Duration::from_secs(3)).run(&pod)?.replies.is_empty(),
            "it cannot talk",
        )?;
        pod.del(PLUGIN, "net1", &config)?;
    }
    Ok(())
}

/// Puts a guest behind a launcher pod's link as KubeVirt's `bridge: {}` does: a bridge in the pod, the link's MAC address
/// at the guest.
fn plug(pod: &Pod<'_>, guest: &Pod<'_>, ifname: &str, mac: &str) -> Outcome {
    for command in [
        "link add k6t type bridge".to_owned(),
        format!("link set dev {ifname} down"),
        format!("addr flush dev {ifname}"),
        format!("link set dev {ifname} address 02:00:00:00:0a:0a master k6t"),
        format!("link set dev {ifname} up"),
        format!("link add tap0 master k6t type veth peer name eth0 address {mac} netns {}", guest.path()),
        "link set dev tap0 up".to_owned(),
        "link set dev k6t up".to_owned(),
    ] {
        pod.ip(&command)?;
    }
    guest.ip("link set dev eth0 up").map(drop)?;
    Ok(())
}

fn a_guest_gets_its_lease_and_speaks_both_families() -> Outcome {
    /// As KubeVirt calls the interface of a guest.
    const IFNAME: &str = "pod16477688c0e";
    needs("busybox")?;
    let node = Node::new("one")?;
    let (server, pod, guest) = (node.pod("server")?, node.pod("virt-launcher-vm-abcde")?, node.pod("guest")?);
    let _server = dhcp_server(&server, "10.9.0.2")?;
    let mut config = both();
    config["args"] = json!({"cni": {"vm": "vm"}});
    let result = pod.add(PLUGIN, IFNAME, &config)?;
    let mac = result["interfaces"][2]["mac"].as_str().unwrap().to_owned();
    check(result["ips"][0]["address"] == "10.9.0.2/24", result.to_string())?;
    plug(&pod, &guest, IFNAME, &mac)?;
    node.write("/run/udhcpc", "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add $ip/24 dev $interface\n")?;
    node.exec(&["chmod", "755", "/run/udhcpc"])?;
    // -a: it looks whether anybody has the address (RFC 2131, section 4.4.1).
    let lease = guest.exec(&[
        "busybox",
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-a",
        "-t",
        "5",
        "-T",
        "1",
        "-i",
        "eth0",
        "-s",
        "/run/udhcpc",
    ]);
    lease.map_err(|error| {
        Stop::Failed(format!("{error}\n{}", node.exec(&["nft", "list", "ruleset"]).unwrap()))
    })?;
    let shown = guest.ip("addr show dev eth0")?;
    check(shown.contains("10.9.0.2/24"), &*shown)?;
    // The kernel of the guest looks for duplicates by itself.
    guest.ip("addr add fd00::2/64 dev eth0")?;
    testnet::eventually(Duration::from_secs(10), || match guest.ip("-6 addr show dev eth0 tentative") {
        Ok(shown) if shown.is_empty() => Ok(()),
        shown => Err(format!("{shown:?}")),
    })?;
    let local = link_local(mac_of(&server, "net1")?);
    for to in ["10.9.0.1", "fd00::1"] {
        let replies = Ping::new(to.parse::<IpAddr>().unwrap()).timeout(Duration::from_secs(3)).run(&guest)?;
        check(!replies.replies.is_empty(), format!("{to} does not answer the guest"))?;
    }
    let replies = Ping::new(IpAddr::from(local)).on("eth0").timeout(Duration::from_secs(3)).run(&guest)?;
    check(!replies.replies.is_empty(), format!("{local} does not answer the guest"))?;
    // What the guest has no right to reaches nobody.
    let (near, far) = (PacketSocket::open(&guest, "eth0")?, PacketSocket::open(&server, "net1")?);
    let own = mac_of(&guest, "eth0")?;
    let forged = advertised(own, link_local(own), "fd00::1", own);
    near.send(&forged)?;
    let seen = far.find(Duration::from_millis(100), |f| f.bytes == forged)?;
    check(seen.is_none(), "the guest says that it is fd00::1")?;
    pod.del(PLUGIN, IFNAME, &config)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")
}
