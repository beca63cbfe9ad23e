//! How a pool is cut into blocks, and in which order a node claims them.

use net_types::{Addr, AddrSet, Family};

use crate::hash::{hash, mix};
use crate::{BlockLengths, Key, NodeName, PoolName, Prefix};

/// A pool cut into blocks: aligned prefixes of one length per family, cut down to the addresses that may be handed out.
///
/// A block's name says its first address and nothing else, so neither a changed range nor another order of ranges moves a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    pool: PoolName,
    lengths: BlockLengths,
    addresses: AddrSet,
    runs: Vec<Run>,
}

/// Blocks without a gap between them, by their numbers: the leading bits of their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    family: Family,
    first: u128,
    last: u128,
}

impl Geometry {
    /// The blocks of `addresses`: the pool's ranges without what is excluded.
    #[must_use]
    pub fn new(pool: PoolName, lengths: BlockLengths, addresses: AddrSet) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for range in addresses.iter() {
            let number = |address: Addr| shift(address, lengths.of(range.family()));
            let run =
                Run { family: range.family(), first: number(range.first()), last: number(range.last()) };
            match runs.last_mut() {
                Some(before) if before.family == run.family && run.first <= before.last.saturating_add(1) => {
                    before.last = run.last;
                }
                _ => runs.push(run),
            }
        }
        Self { pool, lengths, addresses, runs }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// How long its blocks are.
    #[must_use]
    pub fn lengths(&self) -> BlockLengths {
        self.lengths
    }

    /// The addresses that may be handed out.
    #[must_use]
    pub fn addresses(&self) -> &AddrSet {
        &self.addresses
    }

    /// The block that an address is in, or would be in if it were in the pool.
    #[must_use]
    pub fn block_of(&self, address: Addr) -> Key {
        Key::block(&self.pool, Prefix::containing(address, self.lengths.of(address.family())))
    }

    /// The addresses of a block that may be handed out.
    #[must_use]
    pub fn addresses_in(&self, block: Prefix) -> AddrSet {
        self.addresses.intersection(&AddrSet::union([block.range()]))
    }

    /// The blocks that addresses are in, in the pool's lengths, ascending.
    #[must_use]
    pub fn blocks_around(&self, addresses: &AddrSet) -> Vec<Prefix> {
        let mut blocks: Vec<Prefix> = Vec::new();
        for range in addresses.iter() {
            let length = self.lengths.of(range.family());
            let mut next = Some(range.first());
            while let Some(address) = next.filter(|address| range.contains(*address)) {
                let block = Prefix::containing(address, length);
                if blocks.last() != Some(&block) {
                    blocks.push(block);
                }
                next = block.range().last().next();
            }
        }
        blocks
    }

    /// Whether this is a block of the pool.
    #[must_use]
    pub fn has_block(&self, block: Prefix) -> bool {
        block.length() == self.lengths.of(block.first().family()) && !self.addresses_in(block).is_empty()
    }

    /// The number of blocks of a family.
    #[must_use]
    pub fn block_count(&self, family: Family) -> u128 {
        self.runs_of(family)
            .fold(0u128, |sum, run| sum.saturating_add((run.last - run.first).saturating_add(1)))
    }

    /// The blocks of a family, ascending.
    pub fn blocks(&self, family: Family) -> impl Iterator<Item = Prefix> + '_ {
        self.runs_of(family)
            .flat_map(|run| run.first..=run.last)
            .filter_map(move |number| self.block(family, number))
    }

    /// The blocks of a family in the order in which this node claims them: every block once, and nodes that start at the
    /// same moment begin at different places and go on in different steps.
    pub fn claim_order(&self, family: Family, node: &NodeName) -> impl Iterator<Item = Prefix> + use<'_> {
        let count = self.block_count(family);
        let seed = hash(node.as_str().bytes().chain([0]).chain(self.pool.as_str().bytes()));
        let start = if count == 0 { 0 } else { u128::from(seed) % count };
        let step = step_through(count, u128::from(mix(seed)));
        let mut position = start;
        std::iter::from_fn(move || {
            let here = position;
            // Without overflow, whatever the count.
            position = if count - here > step { here + step } else { step - (count - here) };
            Some(here)
        })
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .filter_map(move |index| self.nth_block(family, index))
    }

    fn runs_of(&self, family: Family) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.family == family)
    }

    fn nth_block(&self, family: Family, mut index: u128) -> Option<Prefix> {
        for run in self.runs_of(family) {
            let count = (run.last - run.first).saturating_add(1);
            if index < count {
                return self.block(family, run.first + index);
            }
            index -= count;
        }
        None
    }

    fn block(&self, family: Family, number: u128) -> Option<Prefix> {
        let length = self.lengths.of(family);
        let host_bits = u32::from(family.bits() - length);
        Prefix::new(Addr::new(family, number.checked_shl(host_bits).unwrap_or(0))?, length)
    }
}

/// The leading bits of an address as a number.
fn shift(address: Addr, length: u8) -> u128 {
    let host_bits = u32::from(address.family().bits() - length);
    address.number().checked_shr(host_bits).unwrap_or(0)
}

/// A step that comes to every one of `count` places before it comes to one again.
fn step_through(count: u128, seed: u128) -> u128 {
    if count <= 1 {
        return 1;
    }
    let first = seed % count;
    (0..count)
        .map(|more| (first + more) % count)
        .find(|step| *step > 0 && gcd(*step, count) == 1)
        .unwrap_or(1)
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Parses `10.0.0.5-10.0.0.9`, for tests.
#[cfg(test)]
pub(crate) fn addresses(texts: &[&str]) -> AddrSet {
    use net_types::AddrRange;
    let at = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().unwrap());
    AddrSet::union(texts.iter().map(|text| match text.split_once('-') {
        Some((first, last)) => AddrRange::new(at(first), at(last)).unwrap(),
        None => AddrRange::single(at(text)),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn geometry(lengths: BlockLengths, texts: &[&str]) -> Geometry {
        Geometry::new("office".into(), lengths, addresses(texts))
    }

    #[test]
    fn sizes_of_pools() {
        use crate::block_length;
        assert_eq!(block_length(Family::V4, 14), 32, "a /28");
        assert_eq!(block_length(Family::V4, 254), 32, "a /24");
        assert_eq!(block_length(Family::V4, 1_022), 28, "a /22");
        assert_eq!(block_length(Family::V4, 16_382), 27);
        assert_eq!(block_length(Family::V6, 1 << 64), 122);
    }

    #[test]
    fn blocks_are_aligned_whatever_the_ranges() {
        let pool =
            geometry(BlockLengths { v4: 28, v6: 124 }, &["10.0.0.10-10.0.0.40", "10.0.0.60", "fd00::9"]);
        let names: Vec<_> =
            pool.blocks(Family::V4).map(|block| Key::block(pool.pool(), block).to_string()).collect();
        assert_eq!(names, ["office.0a000000", "office.0a000010", "office.0a000020", "office.0a000030"]);
        let first = pool.blocks(Family::V4).next().unwrap();
        assert_eq!(pool.addresses_in(first).to_string(), "10.0.0.10-10.0.0.15");
        assert_eq!(pool.block_count(Family::V6), 1);
        let around = pool.blocks_around(&addresses(&["10.0.0.10-10.0.0.17", "10.0.0.20", "fd00::1"]));
        let around: Vec<_> = around.into_iter().map(|b| Key::block(pool.pool(), b).to_string()).collect();
        assert_eq!(around[..2], ["office.0a000000", "office.0a000010"]);
        assert_eq!(around.len(), 3);
    }

    #[test]
    fn all_of_ipv6_has_an_order() {
        let pool =
            geometry(BlockLengths { v4: 32, v6: 122 }, &["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        let some: BTreeSet<_> = pool.claim_order(Family::V6, &"worker1".into()).take(1_000).collect();
        assert_eq!(some.len(), 1_000);
    }

    fn texts() -> impl Strategy<Value = Vec<String>> {
        let one = (0u8..250, 0u8..40)
            .prop_map(|(first, more)| format!("10.0.0.{first}-10.0.0.{}", first.saturating_add(more)));
        prop::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn every_address_is_in_one_block(texts in texts(), length in 24u8..=32) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let pool = geometry(BlockLengths { v4: length, v6: 128 }, &texts);
            let blocks: Vec<_> = pool.blocks(Family::V4).collect();
            prop_assert_eq!(blocks.len() as u128, pool.block_count(Family::V4));
            prop_assert!(blocks.is_sorted() && blocks.iter().all(|block| pool.has_block(*block)));
            let all = AddrSet::union(blocks.iter().flat_map(|block| pool.addresses_in(*block).iter().collect::<Vec<_>>()));
            prop_assert_eq!(&all, pool.addresses());
            let sum: u128 = blocks.iter().map(|block| pool.addresses_in(*block).len()).sum();
            prop_assert_eq!(sum, all.len());
        }

        #[test]
        fn a_claim_order_has_every_block_once(texts in texts(), length in 24u8..=32, node in "[a-z]{1,8}") {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let pool = geometry(BlockLengths { v4: length, v6: 128 }, &texts);
            let mut order: Vec<_> = pool.claim_order(Family::V4, &node.as_str().into()).collect();
            order.sort_unstable();
            prop_assert_eq!(order, pool.blocks(Family::V4).collect::<Vec<_>>());
        }

        /// Shrink, regrow, exclude, reorder: an address that both pools have is in a block of the same name.
        #[test]
        fn no_edit_changes_a_name(before in texts(), after in texts(), length in 24u8..=32) {
            let of = |texts: &[String]| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                geometry(BlockLengths { v4: length, v6: 128 }, &texts)
            };
            let reversed: Vec<String> = before.iter().rev().cloned().collect();
            prop_assert_eq!(of(&before), of(&reversed));
            let (before, after) = (of(&before), of(&after));
            for range in before.addresses().intersection(after.addresses()).iter() {
                prop_assert_eq!(before.block_of(range.first()).to_string(), after.block_of(range.first()).to_string());
            }
        }
    }
}
