//! What nodes and owners have of a pool, as its objects say. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lan::pool::LanPoolSpec;
use net_types::{AddrRange, AddrSet, Family};
use pool_blocks::{BlockLengths, NodeName, Object, Place};

use crate::aggregate_status::join_some;

/// What is held of a pool.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The range of each block and floating address, and the nodes that have it.
    parts: Vec<(AddrRange, Vec<NodeName>)>,
    lengths: BTreeMap<Family, BTreeSet<u8>>,
}

/// Blocks of a pool of this name that was deleted are of another length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OtherLength {
    pub(super) nodes: String,
}

impl Held {
    /// Of the pool of this name.
    pub(super) fn of(pool: &str, objects: &[Object]) -> Self {
        let mut own = Self::default();
        for object in objects.iter().filter(|object| object.key.pool.as_str() == pool) {
            let range = match object.key.place {
                Place::Block(prefix) => {
                    own.lengths.entry(prefix.first().family()).or_default().insert(prefix.length());
                    prefix.range()
                }
                Place::Address(address) => AddrRange::single(address),
            };
            let nodes = object.spec.holders.iter().map(|holder| holder.node.clone());
            own.parts.push((range, nodes.collect()));
        }
        own
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All addresses of it.
    pub(super) fn addresses(&self) -> AddrSet {
        AddrSet::union(self.parts.iter().map(|(range, _)| *range))
    }

    pub(super) fn nodes(&self) -> BTreeSet<&NodeName> {
        self.parts.iter().flat_map(|(_, nodes)| nodes).collect()
    }

    /// How many parts each node has of which nothing is in `all`.
    pub(super) fn outside(&self, all: &AddrSet) -> BTreeMap<&NodeName, usize> {
        let mut outside = BTreeMap::new();
        let is_outside = |range: &AddrRange| AddrSet::union([*range]).shared_with(all).is_none();
        for node in self.parts.iter().filter(|(range, _)| is_outside(range)).flat_map(|(_, nodes)| nodes) {
            *outside.entry(node).or_default() += 1;
        }
        outside
    }

    /// The lengths of a new pool's blocks: those that are there from an earlier one of its name, whose blocks have the same names.
    ///
    /// # Errors
    /// They are not of the length that the pool asks for, or of several.
    pub(super) fn block_lengths(
        &self,
        spec: &LanPoolSpec,
        handed_out: &AddrSet,
    ) -> Result<BlockLengths, OtherLength> {
        let wanted = wanted_lengths(spec, handed_out);
        let of = |family: Family| {
            let there: Vec<u8> = self.lengths.get(&family).into_iter().flatten().copied().collect();
            match there[..] {
                [] => Ok(wanted.of(family)),
                [one] if spec.block_size.is_none() || one == wanted.of(family) => Ok(one),
                _ => Err(OtherLength { nodes: self.node_names() }),
            }
        };
        Ok(BlockLengths { v4: of(Family::V4)?, v6: of(Family::V6)? })
    }

    /// What is to be said when the pool is deleted; `None`: nobody has anything of it.
    pub(super) fn when_deleted(&self) -> Option<String> {
        let blocks = match self.parts.len() {
            0 => return None,
            1 => "one block".to_owned(),
            count => format!("{count} blocks"),
        };
        let nodes = self.node_names();
        Some(format!(
            "{blocks} of it are held by {nodes}: pods keep the addresses that they have until they end, and nothing new is handed \
             out; a pool of this name has these blocks again"
        ))
    }

    fn node_names(&self) -> String {
        let names: Vec<String> = self.nodes().into_iter().map(ToString::to_string).collect();
        join_some(&names)
    }
}

fn wanted_lengths(spec: &LanPoolSpec, handed_out: &AddrSet) -> BlockLengths {
    let count = |family| {
        let ranges = handed_out.iter().filter(|range| range.family() == family);
        ranges.fold(0_u128, |sum, range| sum.saturating_add(range.len()))
    };
    match spec.block_size.and_then(|size| u32::try_from(size).ok()).and_then(u32::checked_ilog2) {
        Some(bits) => {
            let bits = u8::try_from(bits).unwrap_or(0);
            BlockLengths { v4: 32_u8.saturating_sub(bits), v6: 128 - bits }
        }
        None => BlockLengths::for_pool(count(Family::V4), count(Family::V6)),
    }
}

#[cfg(test)]
mod tests {
    use pool_blocks::{Holder, Key, Prefix, ResourceVersion, Spec, Uid};

    use super::*;

    fn block(prefix: &str, node: &str) -> Object {
        let prefix: Prefix = prefix.parse().unwrap();
        let holder = Holder { node: node.into(), uid: Uid::from_number(1), term: 0, fenced: false };
        Object {
            key: Key::block(&"office".into(), prefix),
            uid: Uid::from_number(2),
            version: ResourceVersion(1),
            spec: Spec { holders: vec![holder], ..Spec::default() },
        }
    }

    fn set(text: &str) -> AddrSet {
        AddrSet::union([text.parse().unwrap()])
    }

    #[test]
    fn blocks_that_are_there_give_the_length() {
        let large = set("10.0.0.0-10.0.255.255");
        let lengths = |objects: &[Object], block_size| {
            let spec = LanPoolSpec { block_size, ..LanPoolSpec::default() };
            Held::of("office", objects).block_lengths(&spec, &large).map(|lengths| lengths.v4)
        };
        assert_eq!(lengths(&[], None), Ok(27));
        assert_eq!(lengths(&[], Some(4)), Ok(30));
        let old = [block("10.9.0.4/32", "a"), block("10.9.0.5/32", "b")];
        assert_eq!(lengths(&old, None), Ok(32));
        assert_eq!(lengths(&old, Some(1)), Ok(32));
        assert_eq!(lengths(&old, Some(4)), Err(OtherLength { nodes: "a; b".to_owned() }));
        let mixed = [block("10.9.0.4/32", "a"), block("10.9.0.0/30", "b")];
        assert!(lengths(&mixed, None).is_err());
        assert_eq!(Held::of("other", &old).addresses(), AddrSet::default());
    }

    #[test]
    fn what_is_outside_is_counted_by_node() {
        let objects = [
            block("10.0.0.0/30", "a"),
            block("10.0.1.0/30", "a"),
            block("10.0.1.4/30", "a"),
            block("10.0.2.0/30", "b"),
        ];
        let held = Held::of("office", &objects);
        let outside: Vec<(String, usize)> = held
            .outside(&set("10.0.0.2-10.0.0.9"))
            .into_iter()
            .map(|(node, count)| (node.to_string(), count))
            .collect();
        assert_eq!(outside, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }
}
