//! The incoming packets that a LAN needs.

/// A packet that arrives on an underlay, the first of its kind that a firewall sees.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    /// The device that it arrives on.
    pub(super) device: &'a str,
    pub(super) v6: bool,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// UDP to this port: the LAN's frames.
    Udp(u16),
    Icmpv6(u8),
    Igmp,
}

/// A query for multicast listeners (RFC 2710): a snooping switch sends no multicast to a host that does not answer.
pub(super) const MLD_QUERY: u8 = 130;
/// A request for a neighbour's Ethernet address (RFC 4861).
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
/// The answer to a solicitation.
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// The names of ICMPv6 types in nft and in iptables.
const ICMPV6_NAMES: [(&str, u8); 12] = [
    ("mld-listener-query", MLD_QUERY),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", NEIGHBOUR_SOLICITATION),
    ("nd-neighbor-advert", NEIGHBOUR_ADVERTISEMENT),
    ("neighbour-solicitation", NEIGHBOUR_SOLICITATION),
    ("neighbor-solicitation", NEIGHBOUR_SOLICITATION),
    ("neighbour-advertisement", NEIGHBOUR_ADVERTISEMENT),
    ("neighbor-advertisement", NEIGHBOUR_ADVERTISEMENT),
    ("echo-request", 128),
];

/// Whether a match of a rule holds for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tri {
    Yes,
    No,
    /// It depends on what is not known here.
    Unknown,
}

impl Tri {
    pub(super) fn from_bool(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    pub(super) fn negated(self, negated: bool) -> Self {
        match (self, negated) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (same, _) => same,
        }
    }

    /// Both hold.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }

    /// At least one holds.
    pub(super) fn any(all: impl IntoIterator<Item = Self>) -> Self {
        let mut any = Self::No;
        for one in all {
            match one {
                Self::Yes => return Self::Yes,
                Self::Unknown => any = Self::Unknown,
                Self::No => {}
            }
        }
        any
    }
}

impl Packet<'_> {
    /// Whether it has this protocol, by name or number.
    pub(super) fn has_protocol(&self, protocol: &str) -> Tri {
        let names: &[&str] = match self.what {
            What::Udp(_) => &["udp", "17"],
            What::Icmpv6(_) => &["icmpv6", "ipv6-icmp", "58"],
            What::Igmp => &["igmp", "2"],
        };
        match protocol {
            "all" | "0" => Tri::Yes,
            protocol => Tri::from_bool(names.contains(&protocol)),
        }
    }

    /// Whether its destination is one of these UDP ports.
    pub(super) fn has_port(&self, from: u16, to: u16) -> Tri {
        match self.what {
            What::Udp(port) => Tri::from_bool((from..=to).contains(&port)),
            _ => Tri::No,
        }
    }

    /// Whether it has this ICMPv6 type, by name or number.
    pub(super) fn has_icmpv6(&self, name: &str) -> Tri {
        let What::Icmpv6(own) = self.what else { return Tri::No };
        let known = ICMPV6_NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        match known.or_else(|| name.parse().ok()) {
            Some(number) => Tri::from_bool(number == own),
            None => Tri::Unknown,
        }
    }

    /// Whether conntrack has it in this state. For UDP it is the first packet; the kernel does not track MLD and
    /// neighbour discovery (`nf_conntrack_icmpv6`).
    pub(super) fn has_state(&self, state: &str) -> Tri {
        let own = match self.what {
            What::Icmpv6(_) => "untracked",
            _ => "new",
        };
        Tri::from_bool(state.eq_ignore_ascii_case(own))
    }

    /// Whether it arrives on this device; `eth+` and `eth*` match all names that begin so.
    pub(super) fn comes_by(&self, device: &str) -> Tri {
        match device.strip_suffix(['+', '*']) {
            Some(start) => Tri::from_bool(self.device.starts_with(start)),
            None => Tri::from_bool(self.device == device),
        }
    }
}

impl std::fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.what {
            What::Udp(port) => write!(f, "UDP {port} over {}", if self.v6 { "IPv6" } else { "IPv4" }),
            What::Icmpv6(MLD_QUERY) => f.write_str("MLD queries (ICMPv6 130)"),
            What::Icmpv6(NEIGHBOUR_SOLICITATION) => f.write_str("neighbour solicitations (ICMPv6 135)"),
            What::Icmpv6(NEIGHBOUR_ADVERTISEMENT) => f.write_str("neighbour advertisements (ICMPv6 136)"),
            What::Icmpv6(number) => write!(f, "ICMPv6 {number}"),
            What::Igmp => f.write_str("IGMP"),
        }
    }
}
