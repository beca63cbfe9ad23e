//! The conditions of a pool besides whether it is accepted. Pure.

use std::collections::BTreeMap;

use lan::{Condition, ConditionStatus};
use net_types::{AddrSet, Family};
use proto::published::PoolNote;

use super::for_node::{EXHAUSTED, NO_BLOCK, NO_IPV4_BLOCK, NO_IPV6_BLOCK};
use super::held::Held;
use crate::aggregate_status::join_some;

/// Nine of ten addresses are in somebody's block.
pub(super) const NEARLY_FULL: &str = "NearlyFull";
/// Pods wait for an address.
pub(super) const PODS_WAITING: &str = "PodsWaiting";
/// Nodes hand addresses out by a file of the pool's name.
pub(super) const FILE_ON_NODES: &str = "FileOnNodes";
/// Pods of several nodes have an address.
pub(super) const CONTESTED: &str = "Contested";
/// Nodes have what the pool does not hand out any more.
pub(super) const DRAINING: &str = "Draining";

/// A node or a Service's load balancer has an address of it.
pub(super) const USED_BY_CLUSTER: &str = "UsedByCluster";

/// What nodes say of one pool, by their names.
pub(super) type NodeNotes = BTreeMap<String, PoolNote>;

/// Whether a condition of this kind is a problem when it is true; of all others, when it is false.
pub(super) fn is_bad_when_true(kind: &str) -> bool {
    [EXHAUSTED, NEARLY_FULL, PODS_WAITING, FILE_ON_NODES, CONTESTED, DRAINING, USED_BY_CLUSTER]
        .contains(&kind)
}

/// Which nodes a condition is about, by its kind.
pub(super) fn nodes_of(kind: &str, notes: &NodeNotes) -> Vec<String> {
    let of = |has: fn(&PoolNote) -> bool| {
        notes.iter().filter(|(_, note)| has(note)).map(|(node, _)| node.clone()).collect()
    };
    match kind {
        PODS_WAITING => of(|note| note.waiting.is_some()),
        FILE_ON_NODES => of(|note| note.file.is_some()),
        CONTESTED => of(|note| !note.conflicts.is_empty()),
        _ => Vec::new(),
    }
}

/// What nodes have to say.
pub(super) fn of_nodes(notes: &NodeNotes) -> impl Iterator<Item = Condition> {
    let waiting = sentences(notes, |note| note.waiting.iter().collect());
    let file = sentences(notes, |note| note.file.iter().collect());
    let conflicts = sentences(notes, |note| note.conflicts.iter().collect());
    let all = [
        (PODS_WAITING, "NoAddress", waiting),
        (FILE_ON_NODES, "FileOnNode", file),
        (CONTESTED, "TwoHolders", conflicts),
    ];
    all.into_iter()
        .filter(|(.., told)| !told.is_empty())
        .map(|(kind, reason, told)| Condition::new(kind, true, reason, join_some(&told)))
}

fn sentences(notes: &NodeNotes, of: fn(&PoolNote) -> Vec<&String>) -> Vec<String> {
    let told =
        notes.iter().flat_map(|(node, note)| of(note).into_iter().map(move |text| format!("{node}: {text}")));
    told.collect()
}

/// What nodes have that the pool does not hand out any more.
pub(super) fn draining(held: &Held, handed_out: &AddrSet, notes: &NodeNotes) -> Option<Condition> {
    let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (node, count) in held.outside(handed_out) {
        let blocks = if count == 1 { "one block".to_owned() } else { format!("{count} blocks") };
        by_node.entry(node.to_string()).or_default().push(blocks);
    }
    for (node, note) in notes.iter().filter(|(_, note)| note.outside > 0) {
        let count = note.outside;
        let used =
            if count == 1 { "one address in use".to_owned() } else { format!("{count} addresses in use") };
        by_node.entry(node.clone()).or_default().push(used);
    }
    let told: Vec<String> =
        by_node.into_iter().map(|(node, what)| format!("{node} has {}", what.join(", "))).collect();
    let message = format!(
        "{}, of which the pool hands nothing out any more: pods keep what they have, and a block goes back when it is empty",
        join_some(&told)
    );
    (!told.is_empty()).then(|| Condition::new(DRAINING, true, "OutsideRanges", message))
}

/// Whether all of a family is in somebody's block.
pub(super) fn exhausted(all: &AddrSet, free: &AddrSet) -> Condition {
    let of_pool = Family::BOTH.into_iter().filter(|family| count(all, *family) > 0);
    let (left, full): (Vec<Family>, Vec<Family>) = of_pool.partition(|family| count(free, *family) > 0);
    let (reason, families) = match (&full[..], &left[..]) {
        ([], _) => return Condition::new(EXHAUSTED, ConditionStatus::False, "BlocksLeft", ""),
        ([Family::V4], [_, ..]) => (NO_IPV4_BLOCK, "IPv4 "),
        ([Family::V6], [_, ..]) => (NO_IPV6_BLOCK, "IPv6 "),
        (_, _) => (NO_BLOCK, ""),
    };
    let message = format!(
        "all {families}addresses are in blocks of nodes or follow an owner; nodes give back what they do not use. Make the pool \
         larger if pods wait"
    );
    Condition::new(EXHAUSTED, ConditionStatus::True, reason, message)
}

/// Nine of ten addresses of a family are in somebody's block; it is over when two of ten are free again.
pub(super) fn nearly_full(all: &AddrSet, free: &AddrSet, was: bool) -> Option<Condition> {
    let is_low = |family| {
        let (size, left) = (count(all, family), count(free, family));
        size > 0 && left <= if was { size.saturating_sub(1) / 5 } else { size / 10 }
    };
    let (family, name) = FAMILIES.iter().find(|(family, _)| is_low(*family))?;
    let message = format!(
        "{} of {} {name} addresses are in nobody's block and follow nobody: add ranges before pods wait",
        count(free, *family),
        count(all, *family)
    );
    Some(Condition::new(NEARLY_FULL, true, "MostIsClaimed", message))
}

const FAMILIES: [(Family, &str); 2] = [(Family::V4, "IPv4"), (Family::V6, "IPv6")];

fn count(addresses: &AddrSet, family: Family) -> u128 {
    let ranges = addresses.iter().filter(|range| range.family() == family);
    ranges.fold(0, |sum, range| sum.saturating_add(range.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> AddrSet {
        AddrSet::union(text.split(' ').filter(|one| !one.is_empty()).map(|one| one.parse().unwrap()))
    }

    #[test]
    fn a_pool_that_is_nearly_full_stays_so_until_there_is_room() {
        let all = set("10.0.0.0-10.0.0.99 fd00::-fd00::ffff");
        let free = |left: u8| set(&format!("10.0.0.0-10.0.0.{} fd00::-fd00::fff0", left - 1));
        for (left, was, is) in [(11, false, false), (10, false, true), (19, true, true), (20, true, false)] {
            assert_eq!(nearly_full(&all, &free(left), was).is_some(), is, "{left} {was}");
        }
        let told = nearly_full(&all, &free(4), false).unwrap().message;
        assert!(told.starts_with("4 of 100 IPv4 addresses"), "{told}");
        // Of five addresses, four are not nine of ten.
        let (small, one) = (set("10.0.0.1-10.0.0.5"), set("10.0.0.1"));
        assert!(nearly_full(&small, &one, false).is_none() && nearly_full(&small, &set(""), false).is_some());
        assert!(exhausted(&small, &set("")).is_true() && !exhausted(&small, &one).is_true());
    }

    #[test]
    fn what_nodes_say_is_summed_up() {
        let note = |waiting: Option<&str>, outside| PoolNote {
            waiting: waiting.map(str::to_owned),
            outside,
            ..PoolNote::default()
        };
        let notes: NodeNotes =
            [("a".to_owned(), note(Some("none is left"), 0)), ("b".to_owned(), note(None, 2))].into();
        let told: Vec<Condition> = of_nodes(&notes).collect();
        let [waiting] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&*waiting.kind, &*waiting.message), (PODS_WAITING, "a: none is left"));
        assert_eq!(nodes_of(PODS_WAITING, &notes), ["a"]);
        let draining = draining(&Held::default(), &set("10.0.0.1"), &notes).unwrap();
        assert!(draining.message.starts_with("b has 2 addresses in use, of which"), "{}", draining.message);
    }
}
