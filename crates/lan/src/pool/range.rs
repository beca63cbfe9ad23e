use std::net::IpAddr;

use net_types::{Addr, AddrRange, Family};

use super::PoolRange;

/// A valid range, with what a container needs to know of its subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: AddrRange,
    prefix: u8,
    addresses: AddrRange,
    gateway: Option<Addr>,
}

/// An error in a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum RangeError {
    #[error("{0:?} is not a subnet in CIDR notation, such as 10.0.20.0/24 or fd00:20::/64")]
    Subnet(String),
    #[error("subnet {given:?} has host bits set: write {meant}, or {begins} if the subnet begins there")]
    HostBits {
        given: String,
        /// The subnet that contains this address.
        meant: String,
        /// The largest subnet that begins with this address.
        begins: String,
    },
    #[error("{field} {given:?} is not an IP address")]
    Address { field: &'static str, given: String },
    #[error("{field} {given} is outside the subnet {subnet}")]
    Outside { field: &'static str, given: Addr, subnet: String },
    #[error("the range {first}-{last} is reversed: rangeStart must not be above rangeEnd")]
    Reversed {
        /// `rangeStart`
        first: Addr,
        /// `rangeEnd`
        last: Addr,
    },
    #[error(
        "the range {first}-{last} has no usable address: the network and broadcast addresses of {subnet} \
         are not handed out"
    )]
    Empty {
        /// `rangeStart`
        first: Addr,
        /// `rangeEnd`
        last: Addr,
        subnet: String,
    },
    /// No host can have an address of the subnet.
    #[error("the subnet {subnet} has no usable address: {what}")]
    NoHosts {
        subnet: String,
        /// What its addresses are.
        what: &'static str,
    },
    /// The gateway is the network or broadcast address, a multicast address, or of the other family.
    #[error(
        "gateway {gateway} cannot be the address of a router of the subnet {subnet}: use a usable address \
         of the subnet, or the address of another host on the link"
    )]
    Gateway { gateway: Addr, subnet: String },
}

/// Parses a subnet in CIDR notation without host bits: its addresses, and the number of leading bits.
///
/// # Errors
/// It is no subnet, or has host bits.
pub fn parse_subnet(text: &str) -> Result<(AddrRange, u8), RangeError> {
    let no_subnet = || RangeError::Subnet(text.to_owned());
    let (address, prefix) = text.split_once('/').ok_or_else(no_subnet)?;
    let address = Addr::from(address.parse::<IpAddr>().map_err(|_| no_subnet())?);
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let bits = address.family().bits();
    let prefix: u8 = prefix.parse().ok().filter(|p| digits && *p <= bits).ok_or_else(no_subnet)?;
    let host = 1u128.checked_shl(u32::from(bits - prefix)).map_or(u128::MAX, |size| size - 1);
    let ends = Addr::new(address.family(), address.number() & !host)
        .zip(Addr::new(address.family(), address.number() | host));
    let subnet = ends.and_then(|(first, last)| AddrRange::new(first, last)).ok_or_else(no_subnet)?;
    if subnet.first() != address {
        return Err(RangeError::HostBits {
            given: text.to_owned(),
            meant: format!("{}/{prefix}", subnet.first()),
            begins: format!(
                "{address}/{}",
                u32::from(bits).saturating_sub(address.number().trailing_zeros())
            ),
        });
    }
    Ok((subnet, prefix))
}

impl Range {
    /// Parses a range.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(spec: &PoolRange) -> Result<Self, RangeError> {
        let (subnet, prefix) = parse_subnet(&spec.subnet)?;
        if let Some(what) = not_of_hosts(subnet) {
            return Err(RangeError::NoHosts { subnet: spec.subnet.clone(), what });
        }
        let usable = usable(subnet);
        let inside = |field, text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => {
                let given = parse_address(field, text)?;
                if subnet.contains(given) {
                    Ok(given)
                } else {
                    Err(RangeError::Outside { field, given, subnet: spec.subnet.clone() })
                }
            }
        };
        let first = inside("rangeStart", &spec.range_start, usable.first())?;
        let last = inside("rangeEnd", &spec.range_end, usable.last())?;
        if first > last {
            return Err(RangeError::Reversed { first, last });
        }
        let addresses = AddrRange::new(first.max(usable.first()), last.min(usable.last()))
            .ok_or_else(|| RangeError::Empty { first, last, subnet: spec.subnet.clone() })?;
        let gateway = match spec.gateway.as_deref() {
            Some("none") => None,
            Some(text) => {
                let gateway = parse_address("gateway", text)?;
                if !can_be_a_router(gateway, subnet) {
                    return Err(RangeError::Gateway { gateway, subnet: spec.subnet.clone() });
                }
                Some(gateway)
            }
            None => (subnet.len() > 2).then(|| usable.first()),
        };
        Ok(Self { subnet, prefix, addresses, gateway })
    }

    /// The number of the subnet's leading bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// All addresses of the subnet.
    #[must_use]
    pub fn subnet(&self) -> AddrRange {
        self.subnet
    }

    /// The addresses from `rangeStart` to `rangeEnd`, without the network and broadcast address.
    #[must_use]
    pub fn addresses(&self) -> AddrRange {
        self.addresses
    }

    /// The router's address, which is never handed out.
    #[must_use]
    pub fn gateway(&self) -> Option<Addr> {
        self.gateway
    }
}

/// An error in an address, a range of addresses or a subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum PartError {
    #[error("{0:?} is neither an address, a range of addresses nor a subnet")]
    Form(String),
    #[error("{0:?}: {1}")]
    Range(String, RangeError),
}

/// Parses an address, a range of addresses (`10.0.0.5-10.0.0.9`) or a subnet.
///
/// # Errors
/// It is none of these, or a range that is reversed.
pub fn parse_part(text: &str) -> Result<AddrRange, PartError> {
    let bad = || PartError::Form(text.to_owned());
    let address = |text: &str| text.trim().parse::<Addr>().map_err(|_| bad());
    if text.contains('/') {
        let subnet = parse_subnet(text).map_err(|error| PartError::Range(text.to_owned(), error))?;
        return Ok(subnet.0);
    }
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (address(first)?, address(last)?);
            let reversed = || PartError::Range(text.to_owned(), RangeError::Reversed { first, last });
            AddrRange::new(first, last).ok_or_else(reversed)
        }
        None => address(text).map(AddrRange::single),
    }
}

fn parse_address(field: &'static str, text: &str) -> Result<Addr, RangeError> {
    text.parse::<IpAddr>().map(Addr::from).map_err(|_| RangeError::Address { field, given: text.to_owned() })
}

/// Whether a router on the link of the subnet can have the address, in the subnet or outside.
fn can_be_a_router(gateway: Addr, subnet: AddrRange) -> bool {
    let is_a_hosts = match gateway.ip() {
        IpAddr::V4(ip) => {
            !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast() && !ip.is_loopback()
        }
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback(),
    };
    // Every router of an IPv6 subnet has its first address, which is never handed out (RFC 4291, 2.6.1).
    let is_anycast = subnet.family() == Family::V6 && gateway == subnet.first();
    gateway.family() == subnet.family()
        && is_a_hosts
        && (!subnet.contains(gateway) || usable(subnet).contains(gateway) || is_anycast)
}

/// What the addresses of a subnet are, if no host can have any of them.
fn not_of_hosts(subnet: AddrRange) -> Option<&'static str> {
    type Test = fn(IpAddr) -> bool;
    let all = |test: Test| test(subnet.first().ip()) && test(subnet.last().ip());
    let named: [(Test, _); 4] = [
        (
            |ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 0),
            "0.0.0.0/8 means \"this network\" (RFC 791)",
        ),
        (|ip| ip.is_loopback(), "they are loopback addresses"),
        (|ip| ip.is_multicast(), "they are multicast groups"),
        (
            |ip| ip.is_unspecified() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast()),
            "it is no address of a host",
        ),
    ];
    named.into_iter().find(|(test, _)| all(*test)).map(|(_, what)| what)
}

/// A subnet without the network address and, for IPv4, the broadcast address.
///
/// Both addresses of a point-to-point link are usable (RFC 3021, RFC 6164); the first address of a larger IPv6 subnet
/// is the subnet-router anycast address (RFC 4291, 2.6.1), the last one is an ordinary one.
fn usable(subnet: AddrRange) -> AddrRange {
    if subnet.len() <= 2 {
        return subnet;
    }
    let last = match subnet.family() {
        Family::V4 => subnet.last().prev(),
        Family::V6 => Some(subnet.last()),
    };
    subnet.first().next().zip(last).and_then(|(first, last)| AddrRange::new(first, last)).unwrap_or(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subnet: &str, start: &str, end: &str, gateway: &str) -> PoolRange {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PoolRange {
            subnet: subnet.to_owned(),
            range_start: given(start),
            range_end: given(end),
            gateway: given(gateway),
        }
    }

    fn shown(spec: &PoolRange) -> String {
        match Range::parse(spec) {
            Ok(range) => format!(
                "{}/{} via {}",
                range.addresses(),
                range.prefix(),
                range.gateway().map_or("none".to_owned(), |gateway| gateway.to_string())
            ),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn defaults_are_host_locals() {
        for (subnet, expected) in [
            ("10.0.20.0/24", "10.0.20.1-10.0.20.254/24 via 10.0.20.1"),
            ("100.65.0.0/16", "100.65.0.1-100.65.255.254/16 via 100.65.0.1"),
            ("fd00:20::/64", "fd00:20::1-fd00:20::ffff:ffff:ffff:ffff/64 via fd00:20::1"),
            ("10.0.0.0/30", "10.0.0.1-10.0.0.2/30 via 10.0.0.1"),
            ("10.0.0.0/31", "10.0.0.0-10.0.0.1/31 via none"),
            ("10.0.0.7/32", "10.0.0.7/32 via none"),
            ("fd00::2/127", "fd00::2-fd00::3/127 via none"),
            ("fd00::9/128", "fd00::9/128 via none"),
            ("::/0", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/0 via ::1"),
        ] {
            assert_eq!(shown(&spec(subnet, "", "", "")), expected);
        }
    }

    #[test]
    fn a_gateway_may_be_outside() {
        for (subnet, gateway, expected) in [
            ("2001:db8:5:333::/64", "fe80::1", "/64 via fe80::1"),
            ("2001:db8::5/128", "2001:db8::1", "/128 via 2001:db8::1"),
            ("fd00::/64", "fd01::1", "/64 via fd01::1"),
            ("10.0.0.0/24", "192.0.2.1", "/24 via 192.0.2.1"),
            ("10.0.0.5/32", "10.0.0.1", "/32 via 10.0.0.1"),
            ("10.0.0.0/24", "169.254.1.1", "/24 via 169.254.1.1"),
        ] {
            let range = shown(&spec(subnet, "", "", gateway));
            assert!(range.ends_with(expected), "{range}");
        }
    }

    #[test]
    fn the_subnet_router_anycast_address_may_be_the_gateway() {
        for (range, expected) in [
            (spec("fd00::/64", "", "", "fd00::"), "fd00::1-fd00::ffff:ffff:ffff:ffff/64 via fd00::"),
            (spec("fd00::/64", "fd00::", "fd00::9", "fd00::"), "fd00::1-fd00::9/64 via fd00::"),
            (spec("fd00:5::/48", "", "fd00:5::9", "fd00:5::"), "fd00:5::1-fd00:5::9/48 via fd00:5::"),
            (spec("fd00::4/126", "", "", "fd00::4"), "fd00::5-fd00::7/126 via fd00::4"),
        ] {
            assert_eq!(shown(&range), expected);
        }
    }

    #[test]
    fn network_and_broadcast_are_cut_off() {
        let all = spec("10.0.0.0/24", "10.0.0.0", "10.0.0.255", "none");
        assert_eq!(shown(&all), "10.0.0.1-10.0.0.254/24 via none");
    }

    #[test]
    fn every_mistake_has_its_own_words() {
        for (range, part) in [
            (spec("10.0.0.0", "", "", ""), "is not a subnet"),
            (spec("10.0.0.0/33", "", "", ""), "is not a subnet"),
            (spec("10.0.0.0/+8", "", "", ""), "is not a subnet"),
            (spec("10.0.0.5/24", "", "", ""), "host bits set: write 10.0.0.0/24, or 10.0.0.5/32"),
            (spec("192.168.5.0/20", "", "", ""), "write 192.168.0.0/20, or 192.168.5.0/24"),
            (spec("fd00:5::/20", "", "", ""), "write fd00::/20, or fd00:5::/32"),
            (spec("10.0.0.0/24", "10.0.1.0", "", ""), "rangeStart 10.0.1.0 is outside"),
            (spec("10.0.0.0/24", "", "fd00::1", ""), "rangeEnd fd00::1 is outside"),
            (spec("10.0.0.0/24", "10.0.0.9", "10.0.0.8", ""), "is reversed"),
            (spec("10.0.0.0/24", "10.0.0.255", "10.0.0.255", ""), "no usable address"),
            (spec("10.0.0.0/24", "", "", "10.0.0.0"), "gateway 10.0.0.0 cannot be the address of a router"),
            (
                spec("10.0.0.0/24", "", "", "10.0.0.255"),
                "gateway 10.0.0.255 cannot be the address of a router",
            ),
            (spec("10.0.0.0/24", "", "", "fe80::1"), "gateway fe80::1 cannot be the address of a router"),
            (spec("10.0.0.0/24", "", "", "224.0.0.1"), "gateway 224.0.0.1 cannot be the address of a router"),
            (spec("10.0.0.0/24", "", "", "255.255.255.255"), "cannot be the address of a router"),
            (spec("10.0.0.0/24", "", "", "0.0.0.0"), "gateway 0.0.0.0 cannot be the address of a router"),
            (spec("10.0.0.0/24", "", "", "127.0.0.1"), "gateway 127.0.0.1 cannot be the address of a router"),
            (spec("::/0", "", "", "::"), "gateway :: cannot be the address of a router"),
            (spec("fd00::/64", "fd00::", "fd00::", "fd00::"), "no usable address"),
            (spec("fd00::/64", "", "", "ff02::1"), "gateway ff02::1 cannot be the address of a router"),
            (spec("fd00::/64", "", "", "::"), "gateway :: cannot be the address of a router"),
            (spec("fd00::/64", "", "", "10.0.0.1"), "gateway 10.0.0.1 cannot be the address of a router"),
            (spec("224.0.0.0/24", "", "", "224.0.0.18"), "no usable address: they are multicast groups"),
            (spec("ff05::/64", "", "", ""), "no usable address: they are multicast groups"),
            (spec("0.0.0.0/8", "", "", ""), "no usable address: 0.0.0.0/8 means"),
            (spec("127.0.0.0/8", "", "", ""), "no usable address: they are loopback addresses"),
            (spec("255.255.255.255/32", "", "", ""), "no usable address: it is no address of a host"),
            (spec("::/128", "", "", ""), "no usable address: it is no address of a host"),
            (spec("10.0.0.0/24", "", "", "router"), "gateway \"router\" is not an IP address"),
        ] {
            assert!(shown(&range).contains(part), "{range:?}: {}", shown(&range));
        }
    }
}
