use std::fmt;

use net_types::{Addr, AddrRange};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An aligned prefix: the addresses of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    first: Addr,
    length: u8,
}

impl Prefix {
    /// The prefix that begins with `first`; `None` where none of this length does.
    #[must_use]
    pub fn new(first: Addr, length: u8) -> Option<Self> {
        let bits = first.family().bits();
        (length <= bits && Self::containing(first, length).first == first).then_some(Self { first, length })
    }

    /// The prefix of this length that contains an address. A length that is too large is the family's largest.
    #[must_use]
    pub fn containing(address: Addr, length: u8) -> Self {
        let length = length.min(address.family().bits());
        let first = Addr::new(address.family(), address.number() & !host_mask(address, length));
        Self { first: first.unwrap_or(address), length }
    }

    /// Its lowest address.
    #[must_use]
    pub fn first(self) -> Addr {
        self.first
    }

    /// The number of its leading bits.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Its addresses.
    #[must_use]
    pub fn range(self) -> AddrRange {
        let last = Addr::new(self.first.family(), self.first.number() | host_mask(self.first, self.length));
        last.and_then(|last| AddrRange::new(self.first, last)).unwrap_or(AddrRange::single(self.first))
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(self, address: Addr) -> bool {
        self.range().contains(address)
    }
}

fn host_mask(address: Addr, length: u8) -> u128 {
    let host_bits = u32::from(address.family().bits() - length);
    1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

/// The text is no aligned prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an aligned prefix, such as 10.0.0.16/28")]
pub struct PrefixError(String);

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix = text
            .split_once('/')
            .and_then(|(first, length)| Self::new(first.parse().ok()?, length.parse().ok()?))
            .filter(|prefix| prefix.to_string() == text);
        prefix.ok_or_else(|| PrefixError(text.to_owned()))
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
