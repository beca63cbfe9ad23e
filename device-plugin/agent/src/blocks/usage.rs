//! What the leases of this node use of the cluster's pools.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use net_types::{Addr, AddrRange, AddrSet};
use pool_blocks::{Geometry, Key, Leases, Owner, Place, PoolName};
use serde::Deserialize;

/// The longest routing domain that is told, in bytes.
const MAX_DOMAIN: usize = 253;

/// What is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pools: BTreeMap<PoolName, OfPool>,
    /// The pools whose leases cannot be read, and why: all of them may be used.
    unreadable: BTreeMap<PoolName, String>,
    /// Files of this node whose names a pool of the cluster can have.
    files: BTreeMap<PoolName, FileBeside>,
}

/// A pool's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct FileBeside {
    /// What this node hands out by it, or pods have of it.
    pub(crate) addresses: AddrSet,
    /// Its routing domain; `None`: it is not known.
    #[serde(default)]
    pub(crate) domain: Option<String>,
    /// Why the pool of the cluster of its name does not say the same; `None` as well where there is none.
    #[serde(default)]
    pub(crate) differs: Option<String>,
}

impl FileBeside {
    /// The routing domain, if it can be told.
    pub(crate) fn known_domain(&self) -> Option<String> {
        self.domain.clone().filter(|domain| domain.len() <= MAX_DOMAIN)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct OfPool {
    /// The addresses that are held, resting or quarantined.
    used: AddrSet,
    /// Those of them that follow an owner over nodes, and whose they are.
    #[serde(default)]
    floating: BTreeMap<Addr, Owner>,
}

impl Usage {
    /// Parses what `ipam-pool blocks usage` prints.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Printed {
            pools: BTreeMap<String, OfPool>,
            #[serde(default)]
            unreadable: BTreeMap<String, String>,
            #[serde(default)]
            files: BTreeMap<String, FileBeside>,
        }
        let printed: Printed = serde_json::from_slice(text).context("what ipam-pool blocks usage says")?;
        let pools = printed.pools.into_iter().filter(|(_, of)| !of.used.is_empty());
        let unreadable = printed.unreadable.into_iter().map(|(name, why)| (name.as_str().into(), why));
        Ok(Self {
            pools: pools.map(|(name, of)| (name.as_str().into(), of)).collect(),
            unreadable: unreadable.collect(),
            files: printed.files.into_iter().map(|(name, file)| (name.as_str().into(), file)).collect(),
        })
    }

    /// The pools of which something is used, as far as is known.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.pools.keys().chain(self.unreadable.keys())
    }

    /// Why the leases of pools cannot be read.
    pub(crate) const fn unreadable(&self) -> &BTreeMap<PoolName, String> {
        &self.unreadable
    }

    /// The pool files of this node.
    pub(crate) const fn files(&self) -> &BTreeMap<PoolName, FileBeside> {
        &self.files
    }

    /// Whether it is known what is used of a pool.
    pub(crate) fn is_readable(&self, pool: &PoolName) -> bool {
        !self.unreadable.contains_key(pool)
    }

    /// Whether an address is used.
    pub(crate) fn has(&self, pool: &PoolName, address: Addr) -> bool {
        !self.is_readable(pool) || self.pools.get(pool).is_some_and(|of| of.used.contains(address))
    }

    /// The addresses of a pool that are used.
    pub(crate) fn used(&self, pool: &PoolName) -> AddrSet {
        self.pools.get(pool).map(|of| of.used.clone()).unwrap_or_default()
    }

    /// These addresses are used, too.
    pub(crate) fn add(&mut self, pool: &PoolName, used: &AddrSet) {
        let own = &mut self.pools.entry(pool.clone()).or_default().used;
        *own = AddrSet::union(own.iter().chain(used.iter()));
    }

    /// An address is not used as one of a block any more, but as its owner's.
    pub(crate) fn hand_over(&mut self, pool: &PoolName, address: Addr) {
        if let Some(own) = self.pools.get_mut(pool) {
            own.used = own.used.without(&AddrSet::union([AddrRange::single(address)]));
        }
    }

    /// As the protocol asks for it.
    pub(crate) fn leases<'a>(&'a self, geometries: &'a BTreeMap<PoolName, Geometry>) -> impl Leases + 'a {
        UsageOf { usage: self, geometries }
    }

    /// The addresses of a block, or the floating address, that are used. One that follows its owner is none of the block around it.
    pub(crate) fn of(&self, key: &Key) -> AddrSet {
        if !self.is_readable(&key.pool) {
            return AddrSet::union([match key.place {
                Place::Block(prefix) => prefix.range(),
                Place::Address(address) => AddrRange::single(address),
            }]);
        }
        let Some(OfPool { used, floating }) = self.pools.get(&key.pool) else { return AddrSet::default() };
        match key.place {
            Place::Block(prefix) => {
                let floating = AddrSet::union(floating.keys().copied().map(AddrRange::single));
                used.intersection(&AddrSet::union([prefix.range()])).without(&floating)
            }
            Place::Address(address) => used.intersection(&AddrSet::union([AddrRange::single(address)])),
        }
    }
}

struct UsageOf<'a> {
    usage: &'a Usage,
    geometries: &'a BTreeMap<PoolName, Geometry>,
}

impl Leases for UsageOf<'_> {
    fn used(&self, key: &Key) -> AddrSet {
        self.usage.of(key)
    }

    fn keys(&self) -> Vec<(Key, Option<Owner>)> {
        let mut keys = Vec::new();
        for (pool, OfPool { used, floating }) in &self.usage.pools {
            let of_blocks = used.without(&AddrSet::union(floating.keys().copied().map(AddrRange::single)));
            let blocks = self.geometries.get(pool).map(|geometry| geometry.blocks_around(&of_blocks));
            keys.extend(blocks.into_iter().flatten().map(|block| (Key::block(pool, block), None)));
            let owners = floating.iter();
            keys.extend(owners.map(|(address, owner)| (Key::address(pool, *address), Some(owner.clone()))));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_as_ipam_pool_prints_it() {
        let text = br#"{"pools":{"office":{"used":["10.0.0.5","10.0.0.7-10.0.0.9"]},"idle":{"used":[]}}}"#;
        let usage = Usage::parse(text).unwrap();
        assert_eq!(usage.pools().map(PoolName::as_str).collect::<Vec<_>>(), ["office"]);
        let key = Key::parse_block("office.0a000008", |_, _| Some(29)).unwrap();
        assert_eq!(usage.of(&key).to_string(), "10.0.0.8-10.0.0.9");
        assert!(Usage::parse(b"[]").is_err());
        let text = br#"{"pools":{"office":{"used":["10.0.0.8-10.0.0.9"],"floating":{"10.0.0.8":"vm:a/b"}}}}"#;
        let mut usage = Usage::parse(text).unwrap();
        let floating = Key::parse_address("office.10.0.0.8").unwrap();
        assert_eq!(
            [usage.of(&key), usage.of(&floating)].map(|set| set.to_string()),
            ["10.0.0.9", "10.0.0.8"]
        );
        usage.hand_over(&"office".into(), "10.0.0.9".parse().unwrap());
        assert!(usage.of(&key).is_empty());
    }
}
