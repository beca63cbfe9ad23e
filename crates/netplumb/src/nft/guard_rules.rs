//! The rules of a guarded port's chain, in their order.
//!
//! A frame passes if no rule drops it. Every field that a rule reads is at a fixed offset: a frame in a form that
//! would move it (IP options before DHCP, headers of IPv6 before neighbour discovery, ARP of other lengths, SNAP) is
//! dropped.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use net_types::MacAddr;

use super::message::{self as nft, Element, Field, KeyType};
use super::port_guard::PortGuard;

const ARP: &[u8] = &[0x08, 0x06];
const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];
/// `ETH_P_802_2`: the kernel's own number for frames that have a length in place of a protocol.
const LLC: &[u8] = &[0x00, 0x04];

const SOURCE_MAC: Field = Field::Link { offset: 6, length: 6 };
/// ARP for Ethernet and IPv4 (RFC 826): the protocol, and the lengths of both kinds of addresses.
const ARP_FORM: [(&str, Field, &[u8]); 3] = [
    ("ARP protocol", Field::Network { offset: 2, length: 2 }, IPV4),
    ("ARP length of MAC", Field::Network { offset: 4, length: 1 }, &[6]),
    ("ARP length of address", Field::Network { offset: 5, length: 1 }, &[4]),
];
const ARP_SENDER_MAC: Field = Field::Network { offset: 8, length: 6 };
const ARP_SENDER: Field = Field::Network { offset: 14, length: 4 };
const ARP_TARGET: Field = Field::Network { offset: 24, length: 4 };
const IPV4_SOURCE: Field = Field::Network { offset: 12, length: 4 };
const IPV6_SOURCE: Field = Field::Network { offset: 8, length: 16 };
/// The length of everything behind the IPv6 header.
const IPV6_LENGTH: Field = Field::Network { offset: 4, length: 2 };
/// The type of the header that follows the IPv6 header.
const NEXT: Field = Field::Network { offset: 6, length: 1 };
const ICMPV6: u8 = 58;
const ICMPV6_TYPE: Field = Field::Network { offset: 40, length: 1 };
/// The target of a neighbour solicitation or advertisement, and the first option (RFC 4861, sections 4.3 and 4.4).
const TARGET: Field = Field::Network { offset: 48, length: 16 };
const NEIGHBOR_OPTION: Field = Field::Network { offset: 64, length: 2 };
const NEIGHBOR_OPTION_MAC: Field = Field::Network { offset: 66, length: 6 };
/// The first option of a router solicitation (section 4.1).
const ROUTER_OPTION: Field = Field::Network { offset: 48, length: 2 };
const ROUTER_OPTION_MAC: Field = Field::Network { offset: 50, length: 6 };
/// Options: their type, and their length in units of eight bytes.
const SOURCE_LINK_LAYER: &[u8] = &[1, 1];
const TARGET_LINK_LAYER: &[u8] = &[2, 1];
/// The nonce by which a host recognises its own duplicate address detection (RFC 7527).
const NONCE: &[u8] = &[14, 1];

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const ROUTER_RENUMBERING: u8 = 138;
const INVERSE_SOLICITATION: u8 = 141;
const INVERSE_ADVERTISEMENT: u8 = 142;

/// A rule: what it does to frames that match all its tests.
pub(super) struct Rule {
    pub(super) what: &'static str,
    pub(super) tests: Vec<Test>,
    pub(super) then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Drop,
    /// Accepts the frame: later rules do not see it.
    Pass,
}

/// A test of a frame; it fails if the frame has no such field.
#[derive(Clone)]
pub(super) enum Test {
    Is(Field, Vec<u8>),
    IsNot(Field, Vec<u8>),
    /// All bits of the mask are zero in the field.
    Clear(Field, Vec<u8>),
    /// At least one bit of the mask is set in the field.
    Set(Field, Vec<u8>),
    In(Field, Keys),
    NotIn(Field, Keys),
}

/// Values that a field is compared with.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) kind: KeyType,
    pub(super) elements: Vec<Element>,
    /// Whether the elements are the bounds of intervals.
    pub(super) intervals: bool,
}

impl Keys {
    fn exactly<T: AsRef<[u8]>>(kind: KeyType, values: impl IntoIterator<Item = T>) -> Self {
        let elements = values.into_iter().map(|value| Element::Key(value.as_ref().to_vec())).collect();
        Self { kind, elements, intervals: false }
    }

    fn macs(macs: &[MacAddr]) -> Self {
        Self::exactly(nft::ETHER_ADDR, macs.iter().map(|mac| mac.octets()))
    }

    fn types(types: &[u8]) -> Self {
        Self::exactly(nft::ICMPV6_TYPE, types.iter().map(|one| [*one]))
    }

    /// The addresses of all networks; as intervals only if there are more than single addresses, which cost less.
    fn networks(kind: KeyType, networks: impl Iterator<Item = IpNetwork>) -> Self {
        let mut spans: Vec<(u128, u128, usize)> = networks.map(span).collect();
        let single = spans.iter().all(|(first, last, _)| first == last);
        spans.sort_unstable();
        // The kernel refuses overlapping intervals.
        let mut apart: Vec<(u128, u128, usize)> = Vec::new();
        for span in spans {
            match apart.last_mut() {
                Some(before) if span.0 <= before.1.saturating_add(u128::from(!single)) => {
                    before.1 = before.1.max(span.1);
                }
                _ => apart.push(span),
            }
        }
        let bytes = |value: u128, length: usize| value.to_be_bytes()[16 - length..].to_vec();
        let mut elements = Vec::new();
        for (first, last, length) in apart {
            elements.push(Element::Key(bytes(first, length)));
            let behind = last.checked_add(1).filter(|behind| length == 16 || *behind <= u128::from(u32::MAX));
            if let Some(behind) = behind.filter(|_| !single) {
                elements.push(Element::End(bytes(behind, length)));
            }
        }
        Self { kind, elements, intervals: !single }
    }
}

/// The first and the last address of a network, and the length of an address in bytes.
fn span(network: IpNetwork) -> (u128, u128, usize) {
    match network {
        IpNetwork::V4(v4) => (v4.network().to_bits().into(), v4.broadcast().to_bits().into(), 4),
        IpNetwork::V6(v6) => (v6.network().to_bits(), v6.broadcast().to_bits(), 16),
    }
}

struct Rules(Vec<Rule>);

impl Rules {
    fn push(&mut self, then: Then, what: &'static str, tests: impl Into<Vec<Test>>) {
        self.0.push(Rule { what, tests: tests.into(), then });
    }

    fn drop(&mut self, what: &'static str, tests: impl Into<Vec<Test>>) {
        self.push(Then::Drop, what, tests);
    }

    fn pass(&mut self, what: &'static str, tests: impl Into<Vec<Test>>) {
        self.push(Then::Pass, what, tests);
    }
}

fn is(field: Field, value: &[u8]) -> Test {
    Test::Is(field, value.to_vec())
}

fn protocol(protocol: &[u8]) -> Test {
    is(Field::Protocol, protocol)
}

/// The rules of a guard, in their order.
pub(super) fn rules(guard: &PortGuard) -> Vec<Rule> {
    let mut rules = Rules(Vec::new());
    if !guard.check_macs && guard.addresses.is_none() {
        return rules.0;
    }
    let own = Keys::macs(&guard.own);
    if guard.check_macs {
        rules.drop("source MAC", [Test::NotIn(SOURCE_MAC, own.clone())]);
    }
    // RFC 1042 and IEEE 802.1H: other hosts may look for ARP and IP there. One rule for each, since nft 1.0.6 cannot
    // list a rule that looks both up in a set.
    for snap in [[0xaa, 0xaa, 3, 0, 0, 0], [0xaa, 0xaa, 3, 0, 0, 0xf8]] {
        rules.drop("no SNAP", [protocol(LLC), is(Field::Network { offset: 0, length: 6 }, &snap)]);
    }
    for (what, field, value) in ARP_FORM {
        rules.drop(what, [protocol(ARP), Test::IsNot(field, value.to_vec())]);
    }
    if guard.check_macs {
        rules.drop("ARP sender MAC", [protocol(ARP), Test::NotIn(ARP_SENDER_MAC, own.clone())]);
    }
    // The kernel has taken the first tag off. The next host takes off the others, if they are for VLAN 0, and finds what
    // no rule here saw.
    let tags = Keys::exactly(nft::ETHER_TYPE, [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]]);
    rules.drop("no second tag", [Test::In(Field::Protocol, tags)]);
    let addresses = guard.addresses.as_deref().map(|addresses| Addresses::from_guard(guard, addresses));
    if let Some(addresses) = &addresses {
        addresses.ipv4(guard, &own, &mut rules);
        addresses.ipv6_source(guard, &own, &mut rules);
    }
    // Everything below is about IPv6.
    rules.pass("not IPv6", [Test::IsNot(Field::Protocol, IPV6.to_vec())]);
    if let Some(addresses) = &addresses {
        addresses.unspecified(guard, &mut rules);
    }
    discovery_in_sight(&mut rules);
    if let Some(addresses) = &addresses {
        addresses.discovery(&mut rules);
    }
    if guard.check_macs {
        link_layer_options(&own, &mut rules);
    }
    rules.0
}

/// The addresses that a port may send from.
struct Addresses {
    v4: Keys,
    /// The addresses that the guard allows.
    given: Keys,
    /// These, and the link-local ones that are derived from its MAC addresses.
    v6: Keys,
}

impl Addresses {
    fn from_guard(guard: &PortGuard, addresses: &[IpNetwork]) -> Self {
        let all = addresses.iter().copied();
        let link_local = guard.own.iter().map(|mac| IpNetwork::from(IpAddr::from(mac.link_local())));
        Self {
            v4: Keys::networks(nft::IPV4_ADDR, all.clone().filter(IpNetwork::is_ipv4)),
            given: Keys::networks(nft::IPV6_ADDR, all.clone().filter(IpNetwork::is_ipv6)),
            v6: Keys::networks(nft::IPV6_ADDR, all.filter(IpNetwork::is_ipv6).chain(link_local)),
        }
    }

    fn ipv4(&self, guard: &PortGuard, own: &Keys, rules: &mut Rules) {
        let any = [0; 4];
        let stranger = Test::NotIn(ARP_SENDER, self.v4.clone());
        rules.drop("ARP sender", [protocol(ARP), stranger, Test::IsNot(ARP_SENDER, any.to_vec())]);
        // An ARP probe (RFC 5227): a host that probes for the same address at that time gives it up.
        let question = || vec![protocol(ARP), is(ARP_SENDER, &any)];
        if !guard.check_macs {
            let other = Test::NotIn(SOURCE_MAC, own.clone());
            rules.drop("ARP probe of its own", [question(), vec![other]].concat());
        }
        if !guard.asking {
            let other = Test::NotIn(ARP_TARGET, self.v4.clone());
            rules.drop("ARP probe for its own", [question(), vec![other]].concat());
        }
        // A DHCP client without an address (RFC 2131, section 4.1): broadcast, from port 68 to 67, about itself.
        let mut dhcp = vec![
            protocol(IPV4),
            is(Field::Network { offset: 12, length: 8 }, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
            is(Field::Network { offset: 0, length: 1 }, &[0x45]),
            Test::Clear(Field::Network { offset: 6, length: 2 }, vec![0x3f, 0xff]),
            is(Field::Network { offset: 9, length: 1 }, &[17]),
            is(Field::Network { offset: 20, length: 4 }, &[0, 68, 0, 67]),
            is(Field::Network { offset: 28, length: 3 }, &[1, 1, 6]),
            Test::In(Field::Network { offset: 56, length: 6 }, own.clone()),
        ];
        if !guard.check_macs {
            dhcp.push(Test::In(SOURCE_MAC, own.clone()));
        }
        rules.pass("its own DHCP", dhcp);
        rules.drop("IPv4 source", [protocol(IPV4), Test::NotIn(IPV4_SOURCE, self.v4.clone())]);
    }

    fn ipv6_source(&self, guard: &PortGuard, own: &Keys, rules: &mut Rules) {
        let stranger = Test::NotIn(IPV6_SOURCE, self.v6.clone());
        rules.drop("IPv6 source", [protocol(IPV6), stranger, Test::IsNot(IPV6_SOURCE, vec![0; 16])]);
        if !guard.check_macs {
            let of_the_link = Test::NotIn(IPV6_SOURCE, self.given.clone());
            let other = Test::NotIn(SOURCE_MAC, own.clone());
            rules.drop("IPv6 link-local of its own", [protocol(IPV6), of_the_link, other]);
        }
    }

    /// Frames from the unspecified address: only those that a host without an address sends.
    fn unspecified(&self, guard: &PortGuard, rules: &mut Rules) {
        let from_nobody = is(IPV6_SOURCE, &[0; 16]);
        let message = |kind| vec![from_nobody.clone(), is(NEXT, &[ICMPV6]), is(ICMPV6_TYPE, &[kind])];
        let length = |length| is(IPV6_LENGTH, &[0, length]);
        let mut detection = message(NEIGHBOR_SOLICITATION);
        if !guard.asking {
            detection.push(Test::In(TARGET, self.v6.clone()));
        }
        rules.pass("address detection", [detection.clone(), vec![length(24)]].concat());
        rules.pass(
            "address detection with a nonce",
            [detection, vec![length(32), is(NEIGHBOR_OPTION, NONCE)]].concat(),
        );
        rules.pass("router solicitation", [message(ROUTER_SOLICITATION), vec![length(8)]].concat());
        // Multicast reports follow a router alert option (RFC 3810, section 5).
        let reports = Keys::types(&[131, 132, 143]);
        rules.pass(
            "group reports",
            [
                from_nobody.clone(),
                is(NEXT, &[0]),
                is(Field::Network { offset: 40, length: 2 }, &[ICMPV6, 0]),
                Test::In(Field::Network { offset: 48, length: 1 }, reports),
            ],
        );
        rules.drop("IPv6 from nobody", [from_nobody]);
    }

    /// Neighbour discovery: only what a host says about itself.
    fn discovery(&self, rules: &mut Rules) {
        let of_routers = Keys::types(&[
            ROUTER_ADVERTISEMENT,
            REDIRECT,
            ROUTER_RENUMBERING,
            INVERSE_SOLICITATION,
            INVERSE_ADVERTISEMENT,
        ]);
        rules.drop("no router", [Test::In(ICMPV6_TYPE, of_routers)]);
        let other = Test::NotIn(TARGET, self.v6.clone());
        rules.drop("neighbour advertised", [is(ICMPV6_TYPE, &[NEIGHBOR_ADVERTISEMENT]), other]);
    }
}

/// Accepts what is not neighbour discovery, and drops what could hide it: behind other headers, or in fragments (RFC
/// 6980, RFC 7112). The frames that remain have the type directly behind the IPv6 header.
fn discovery_in_sight(rules: &mut Rules) {
    // Hop-by-hop options, routing, fragment, authentication, destination options.
    const BEFORE: [u8; 5] = [0, 43, 44, 51, 60];
    let towards = Keys::exactly(nft::INET_PROTO, BEFORE.iter().chain(&[ICMPV6]).map(|next| [*next]));
    rules.pass("not ICMPv6", [Test::NotIn(NEXT, towards.clone())]);
    // The kernel does not look behind an authentication header, which begins with the type of the next header.
    rules.drop(
        "authentication before ICMPv6",
        [is(Field::Carried, &[51]), Test::In(Field::Transport { offset: 0, length: 1 }, towards)],
    );
    let discovery = Keys::types(&[
        ROUTER_SOLICITATION,
        ROUTER_ADVERTISEMENT,
        NEIGHBOR_SOLICITATION,
        NEIGHBOR_ADVERTISEMENT,
        REDIRECT,
        ROUTER_RENUMBERING,
        INVERSE_SOLICITATION,
        INVERSE_ADVERTISEMENT,
    ]);
    rules.pass("not ICMPv6 behind headers", [Test::IsNot(Field::Carried, vec![ICMPV6])]);
    // Only the first fragment of a packet has the type.
    rules.pass(
        "rest of ICMPv6",
        [
            is(NEXT, &[44]),
            is(Field::Network { offset: 40, length: 1 }, &[ICMPV6]),
            Test::Set(Field::Network { offset: 42, length: 2 }, vec![0xff, 0xf8]),
        ],
    );
    rules.pass(
        "no discovery",
        [is(Field::Carried, &[ICMPV6]), Test::NotIn(Field::Transport { offset: 0, length: 1 }, discovery)],
    );
    rules.drop("discovery behind headers", [Test::IsNot(NEXT, vec![ICMPV6])]);
}

/// In solicitations and neighbour advertisements, a link-layer address option must have one of the port's own
/// addresses. In a router advertisement, whose options are in any order, it is not checked.
fn link_layer_options(own: &Keys, rules: &mut Rules) {
    let solicitation = || is(ICMPV6_TYPE, &[NEIGHBOR_SOLICITATION]);
    let advertisement = || is(ICMPV6_TYPE, &[NEIGHBOR_ADVERTISEMENT]);
    let to_routers = || is(ICMPV6_TYPE, &[ROUTER_SOLICITATION]);
    let length = |length| is(IPV6_LENGTH, &[0, length]);
    let neighbor_mac = || Test::In(NEIGHBOR_OPTION_MAC, own.clone());
    rules.pass("solicitation without option", [solicitation(), length(24)]);
    rules.pass(
        "solicitation",
        [solicitation(), length(32), is(NEIGHBOR_OPTION, SOURCE_LINK_LAYER), neighbor_mac()],
    );
    rules.pass("solicitation with a nonce", [solicitation(), length(32), is(NEIGHBOR_OPTION, NONCE)]);
    rules.pass("advertisement without option", [advertisement(), length(24)]);
    rules.pass(
        "advertisement",
        [advertisement(), length(32), is(NEIGHBOR_OPTION, TARGET_LINK_LAYER), neighbor_mac()],
    );
    rules.pass("router solicitation without option", [to_routers(), length(8)]);
    rules.pass(
        "router solicitation with its own",
        [
            to_routers(),
            length(16),
            is(ROUTER_OPTION, SOURCE_LINK_LAYER),
            Test::In(ROUTER_OPTION_MAC, own.clone()),
        ],
    );
    let of_hosts = Keys::types(&[ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT]);
    rules.drop("link-layer address", [Test::In(ICMPV6_TYPE, of_hosts)]);
}
