//! Files of nodes beside a pool of their name: it is accepted when none of them hands out any more. Pure.

use std::collections::BTreeMap;

use lan::pool::LanPoolSpec;
use net_types::{Addr, AddrSet, Family};
use pool_blocks::BlockLengths;

use super::conditions::NodeNotes;
use super::for_node::REPLACING;
use crate::aggregate_status::join_some;

/// Why a pool is not accepted: nodes hand out by files that differ from it, or from one another.
pub(super) const FILES: &str = "FilesOnNodes";

/// One range of a node's file.
type Part<'a> = (Addr, Addr, &'a str);

/// Why a pool that could be accepted waits: a reason, and a sentence. `None`: no file is in the way.
pub(super) fn why_it_waits(notes: &NodeNotes, is_replacing: bool) -> Option<(&'static str, String)> {
    let nodes: Vec<String> =
        notes.iter().filter(|(_, note)| note.file_ranges.is_some()).map(|(node, _)| node.clone()).collect();
    if nodes.is_empty() {
        return None;
    }
    let replaces = || {
        let text = format!(
            "it takes the place of the files of its name, and waits for {}: what pods have by them is claimed first",
            join_some(&nodes)
        );
        Some((REPLACING, text))
    };
    if is_replacing {
        return replaces();
    }
    let differ: Vec<String> = notes
        .iter()
        .filter(|(_, note)| note.file_ranges.is_some() && !note.file_fits)
        .map(|(node, _)| node.clone())
        .collect();
    if !differ.is_empty() {
        let text = format!(
            "{} hand out by a file of its name that does not say the same, and all nodes with files go on with them: change the file or \
             the pool, or remove the file; FileOnNodes says what differs",
            join_some(&differ)
        );
        return Some((FILES, text));
    }
    let parts = parts(notes);
    let both = parts.windows(2).find_map(|pair| match pair {
        [(_, last, a), (first, _, b)] if first <= last && a != b => Some((first, a, b)),
        _ => None,
    });
    match both {
        Some((address, a, b)) => {
            let text = format!(
                "{a} and {b} both hand out {address} by files of its name, or pods there have it, and all nodes with files go on with \
                 them: no address of a pool of the cluster is on two nodes"
            );
            Some((FILES, text))
        }
        None => replaces(),
    }
}

/// Why a pool that could be accepted waits for a file of another name, which hands out addresses of it: a sentence.
pub(super) fn other_file(
    name: &str,
    spec: &LanPoolSpec,
    addresses: &AddrSet,
    notes: &BTreeMap<String, NodeNotes>,
) -> Option<String> {
    if spec.inventory {
        return None;
    }
    let domain = spec.routing_domain.as_deref().unwrap_or_default();
    let others = notes.iter().filter(|(other, _)| *other != name);
    let mut others =
        others.flat_map(|(other, notes)| notes.iter().map(move |(node, note)| (other, node, note)));
    others.find_map(|(other, node, note)| {
        let is_apart = note.file_domain.as_deref().is_some_and(|of_file| of_file != domain);
        let shared = note.file_ranges.as_ref().filter(|_| !is_apart)?.shared_with(addresses)?;
        Some(format!(
            "{node} hands out {shared} by its file {other}, or pods there have it: remove the file, or give it another routingDomain; it \
             is waited for until no pod has an address by it"
        ))
    })
}

/// The lengths of blocks that no two files have parts of: a node claims what its file handed out, and nothing of another's.
pub(super) fn uncut(lengths: BlockLengths, spec: &LanPoolSpec, notes: &NodeNotes) -> BlockLengths {
    if spec.block_size.is_some() {
        return lengths;
    }
    let parts = parts(notes);
    let of = |family: Family| {
        let own: Vec<_> = parts.iter().filter(|(first, ..)| first.family() == family).collect();
        let needed = own.windows(2).filter_map(|pair| match pair {
            [(_, last, a), (first, _, b)] if a != b => Some(shared_bits(*last, *first) + 1),
            _ => None,
        });
        needed.max().unwrap_or(0).max(lengths.of(family)).min(family.bits())
    };
    BlockLengths { v4: of(Family::V4), v6: of(Family::V6) }
}

/// What files hand out, in order.
fn parts(notes: &NodeNotes) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = notes
        .iter()
        .flat_map(|(node, note)| {
            let ranges = note.file_ranges.iter().flat_map(|all| all.iter());
            ranges.map(move |range| (range.first(), range.last(), node.as_str()))
        })
        .collect();
    parts.sort_unstable();
    parts
}

/// How many leading bits two addresses of one family have in common.
fn shared_bits(a: Addr, b: Addr) -> u8 {
    let different = u128::BITS - (a.number() ^ b.number()).leading_zeros();
    a.family().bits() - u8::try_from(different).unwrap_or(u8::MAX).min(a.family().bits())
}

#[cfg(test)]
mod tests {
    use proto::published::PoolNote;

    use super::*;

    fn notes(files: &[(&str, &str, bool)]) -> NodeNotes {
        let note = |ranges: &str, file_fits| PoolNote {
            file_ranges: Some(AddrSet::union(ranges.split(' ').map(|range| range.parse().unwrap()))),
            file_fits,
            ..PoolNote::default()
        };
        files.iter().map(|(node, ranges, fits)| ((*node).to_owned(), note(ranges, *fits))).collect()
    }

    fn reason(files: &[(&str, &str, bool)]) -> (&'static str, String) {
        why_it_waits(&notes(files), false).unwrap()
    }

    #[test]
    fn files_that_differ_or_overlap_stay() {
        let mut none = NodeNotes::new();
        none.insert("a".to_owned(), PoolNote::default());
        assert_eq!(why_it_waits(&none, false), None);
        let (why, text) = reason(&[("a", "10.0.0.2-10.0.0.9", true), ("b", "10.0.0.10-10.0.0.19", true)]);
        assert!(why == REPLACING && text.contains("waits for a; b"), "{why} {text}");
        let (why, text) = reason(&[("a", "10.0.0.2-10.0.0.9", false), ("b", "10.0.0.10-10.0.0.19", true)]);
        assert!(why == FILES && text.starts_with("a hand out by a file"), "{text}");
        let (why, text) =
            reason(&[("a", "10.0.0.2-10.0.0.9 10.0.0.30", true), ("b", "10.0.0.25-10.0.0.40", true)]);
        assert!(why == FILES && text.starts_with("b and a both hand out 10.0.0.30"), "{text}");
        let apart = notes(&[("a", "10.0.0.2", false)]);
        assert_eq!(why_it_waits(&apart, true).unwrap().0, REPLACING, "what has begun ends");
    }

    #[test]
    fn blocks_cut_through_no_two_files() {
        let lengths = |files: &[(&str, &str, bool)], block_size| {
            let spec = LanPoolSpec { block_size, ..LanPoolSpec::default() };
            let found = uncut(BlockLengths { v4: 27, v6: 120 }, &spec, &notes(files));
            (found.v4, found.v6)
        };
        assert_eq!(
            lengths(&[("a", "10.0.0.2-10.0.0.63", true), ("b", "10.0.0.64-10.0.0.90", true)], None),
            (27, 120)
        );
        assert_eq!(
            lengths(&[("a", "10.0.0.2-10.0.0.99", true), ("b", "10.0.0.100-10.0.0.110", true)], None),
            (30, 120)
        );
        assert_eq!(
            lengths(&[("a", "10.0.0.2-10.0.0.100", true), ("b", "10.0.0.101-10.0.0.110", true)], None),
            (32, 120)
        );
        assert_eq!(lengths(&[("a", "10.0.0.2-10.0.0.3 10.0.0.5", true)], None), (27, 120), "one node's");
        assert_eq!(
            lengths(&[("a", "fd00::2-fd00::7", true), ("b", "fd00::8-fd00::f", true)], None),
            (27, 125)
        );
        assert_eq!(
            lengths(&[("a", "10.0.0.2", true), ("b", "10.0.0.3", true)], Some(32)),
            (27, 120),
            "as it was asked for"
        );
    }
}
