//! Names of pools, nodes and owners, and of the objects by which a part of a pool is claimed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use net_types::{Addr, Family};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Prefix;
use crate::hash::hash;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|name| Self(name.into()))
            }
        }

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a `LANPool`.
    PoolName
}

name! {
    /// The name of a `Node`.
    NodeName
}

name! {
    /// Who has a floating address, over restarts and on every node: a virtual machine, or what a reservation names.
    Owner
}

impl Owner {
    /// A number that depends on the name alone, the same on every node and in every version.
    #[must_use]
    pub fn choice(&self) -> u64 {
        hash(self.0.bytes())
    }
}

/// What of a pool an object claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// A block, for the pods of one node: a `LANBlock`.
    Block(Prefix),
    /// One address, for one owner on every node: a `LANAddress`.
    Address(Addr),
}

/// An object by which a part of a pool is claimed. Two claims of one thing have one name, so that the API server lets only
/// the first be created.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Key {
    /// The pool.
    pub pool: PoolName,
    /// The part of it.
    #[serde(flatten)]
    pub place: Place,
}

impl Key {
    /// The key of a block.
    #[must_use]
    pub fn block(pool: &PoolName, prefix: Prefix) -> Self {
        Self { pool: pool.clone(), place: Place::Block(prefix) }
    }

    /// The key of a floating address.
    #[must_use]
    pub fn address(pool: &PoolName, address: Addr) -> Self {
        Self { pool: pool.clone(), place: Place::Address(address) }
    }

    /// Parses an object's name: of a `LANBlock`, whose length is the pool's, where `length` says it.
    #[must_use]
    pub fn parse_block(name: &str, length: impl Fn(&str, Family) -> Option<u8>) -> Option<Self> {
        let (pool, hex) = name.rsplit_once('.')?;
        let family = match hex.len() {
            8 => Family::V4,
            32 => Family::V6,
            _ => return None,
        };
        if pool.is_empty() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let first = Addr::new(family, u128::from_str_radix(hex, 16).ok()?)?;
        let prefix = Prefix::new(first, length(pool, family)?)?;
        Some(Self::block(&pool.into(), prefix))
    }

    /// Parses the name of a `LANAddress`.
    #[must_use]
    pub fn parse_address(name: &str) -> Option<Self> {
        let cut = |labels: usize| {
            let at = name.rmatch_indices('.').nth(labels - 1)?.0;
            Some((name.get(..at)?, name.get(at + 1..)?)).filter(|(pool, _)| !pool.is_empty())
        };
        let six = cut(8).and_then(|(pool, text)| {
            let full =
                text.len() == 39 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'.'));
            let address: Ipv6Addr = text.replace('.', ":").parse().ok().filter(|_| full)?;
            let number = Addr::new(Family::V6, address.to_bits())?;
            Some((pool, number))
        });
        let (pool, address) = match six {
            Some(found) => found,
            None => {
                let (pool, text) = cut(4)?;
                let address: std::net::Ipv4Addr = text.parse().ok()?;
                (pool, Addr::from(IpAddr::from(address)))
            }
        };
        Some(Self::address(&pool.into(), address))
    }
}

impl fmt::Display for Key {
    /// The object's name: `<pool>.<first address in hex>` or `<pool>.<address>`. Neither depends on the pool's ranges or
    /// their order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = &self.pool;
        match self.place {
            Place::Block(prefix) => {
                let digits = usize::from(prefix.first().family().bits() / 4);
                write!(f, "{pool}.{:0digits$x}", prefix.first().number())
            }
            Place::Address(address) => match address.ip() {
                IpAddr::V4(ip) => write!(f, "{pool}.{ip}"),
                IpAddr::V6(ip) => {
                    write!(f, "{pool}")?;
                    ip.segments().iter().try_for_each(|group| write!(f, ".{group:04x}"))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_issue() {
        let pool = PoolName::from("office");
        let at = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let block = Key::block(&pool, Prefix::new(at("192.168.1.16"), 28).unwrap());
        assert_eq!(block.to_string(), "office.c0a80110");
        assert_eq!(Key::address(&pool, at("192.168.1.50")).to_string(), "office.192.168.1.50");
        let six = Key::address(&pool, at("fd00::5"));
        assert_eq!(six.to_string(), "office.fd00.0000.0000.0000.0000.0000.0000.0005");
    }

    proptest! {
        #[test]
        fn names_read_back(ip: IpAddr, pool in "[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", length in 0u8..=32) {
            let (address, pool) = (Addr::from(ip), PoolName::from(pool.as_str()));
            let key = Key::address(&pool, address);
            prop_assert_eq!(Key::parse_address(&key.to_string()), Some(key));
            let prefix = Prefix::containing(address, length);
            let key = Key::block(&pool, prefix);
            prop_assert_eq!(Key::parse_block(&key.to_string(), |_, _| Some(length)), Some(key));
        }

        #[test]
        fn other_texts_are_no_names(text in "[a-z0-9.]{0,44}") {
            for key in [Key::parse_address(&text), Key::parse_block(&text, |_, _| Some(32))].into_iter().flatten() {
                prop_assert_eq!(key.to_string(), text.clone());
            }
        }
    }
}
