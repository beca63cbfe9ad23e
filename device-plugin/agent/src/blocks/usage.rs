//! What the leases of this node use of the cluster's pools.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use net_types::AddrSet;
use pool_blocks::{Geometry, Key, Leases, Owner, Place, PoolName};
use serde::Deserialize;

/// The addresses that are held, resting or quarantined, by pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage(BTreeMap<PoolName, AddrSet>);

impl Usage {
    /// Parses what `ipam-pool blocks usage` prints.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Printed {
            pools: BTreeMap<String, OfPool>,
        }
        #[derive(Deserialize)]
        struct OfPool {
            used: AddrSet,
        }
        let printed: Printed = serde_json::from_slice(text).context("what ipam-pool blocks usage says")?;
        let pools = printed.pools.into_iter().filter(|(_, of)| !of.used.is_empty());
        Ok(Self(pools.map(|(name, of)| (name.as_str().into(), of.used)).collect()))
    }

    /// The pools of which something is used.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.0.keys()
    }

    /// These addresses are used, too.
    pub(crate) fn add(&mut self, pool: &PoolName, used: &AddrSet) {
        let own = self.0.entry(pool.clone()).or_default();
        *own = AddrSet::union(own.iter().chain(used.iter()));
    }

    /// As the protocol asks for it.
    pub(crate) fn leases<'a>(&'a self, geometries: &'a BTreeMap<PoolName, Geometry>) -> impl Leases + 'a {
        UsageOf { usage: self, geometries }
    }

    /// The addresses of a block, or the floating address, that are used.
    pub(crate) fn of(&self, key: &Key) -> AddrSet {
        let range = match key.place {
            Place::Block(prefix) => prefix.range(),
            Place::Address(address) => net_types::AddrRange::single(address),
        };
        let used = self.0.get(&key.pool);
        used.map(|used| used.intersection(&AddrSet::union([range]))).unwrap_or_default()
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
        for (pool, used) in &self.usage.0 {
            let blocks = self.geometries.get(pool).map(|geometry| geometry.blocks_around(used));
            keys.extend(blocks.into_iter().flatten().map(|block| (Key::block(pool, block), None)));
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
    }
}
