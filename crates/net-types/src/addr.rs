use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The family of an IP address; `v4` or `v6` as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order of addresses.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The length of an address in bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// 4 or 6, as in [`Addr::key`].
    #[must_use]
    pub const fn tag(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as a number in its family, so that "the next one" is an addition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    family: Family,
    number: u128,
}

impl Addr {
    /// The length of [`Addr::key`] in bytes.
    pub const KEY_LEN: usize = 17;

    /// The address with this number; `None` where the family has none.
    #[must_use]
    pub fn new(family: Family, number: u128) -> Option<Self> {
        (number <= max(family)).then_some(Self { family, number })
    }

    /// Its family.
    #[must_use]
    pub fn family(self) -> Family {
        self.family
    }

    /// Its number in its family, 0 for the first.
    #[must_use]
    pub fn number(self) -> u128 {
        self.number
    }

    /// The next address, `None` after the family's last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::new(self.family, self.number.checked_add(1)?)
    }

    /// The address before, `None` before the family's first.
    #[must_use]
    pub fn prev(self) -> Option<Self> {
        Self::new(self.family, self.number.checked_sub(1)?)
    }

    /// The address as bytes that sort as the addresses do: the family's tag, then 16 bytes big endian.
    #[must_use]
    pub fn key(self) -> [u8; Self::KEY_LEN] {
        let mut key = [0; Self::KEY_LEN];
        key[0] = self.family.tag();
        key[1..].copy_from_slice(&self.number.to_be_bytes());
        key
    }

    /// The inverse of [`Addr::key`].
    #[must_use]
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let (&tag, number) = key.split_first()?;
        let number = u128::from_be_bytes(number.try_into().ok()?);
        let family = Family::BOTH.into_iter().find(|family| family.tag() == tag)?;
        Self::new(family, number)
    }

    /// The address as the standard library has it.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        match (self.family, u32::try_from(self.number)) {
            (Family::V4, Ok(number)) => Ipv4Addr::from_bits(number).into(),
            _ => Ipv6Addr::from_bits(self.number).into(),
        }
    }
}

fn max(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        // `::ffff:10.0.0.1` is 10.0.0.1 (RFC 4291, section 2.5.5.2), and no address that a host has on a link.
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self { family: Family::V4, number: ip.to_bits().into() },
            IpAddr::V6(ip) => Self { family: Family::V6, number: ip.to_bits() },
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl std::str::FromStr for Addr {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

crate::serde_as_text!(Addr);

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_have_no_neighbours() {
        for last in ["255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let last: Addr = last.parse::<IpAddr>().unwrap().into();
            assert_eq!(last.next(), None);
        }
        let first: Addr = "0.0.0.0".parse::<IpAddr>().unwrap().into();
        assert_eq!(first.prev(), None);
    }

    proptest! {
        #[test]
        fn keys_read_back_and_sort_as_addresses(a: IpAddr, b: IpAddr) {
            let (a, b) = (Addr::from(a), Addr::from(b));
            prop_assert_eq!(Addr::from_key(&a.key()), Some(a));
            prop_assert_eq!(a.key().cmp(&b.key()), a.cmp(&b));
            prop_assert_eq!(Addr::from(a.ip()), a);
        }
    }
}
