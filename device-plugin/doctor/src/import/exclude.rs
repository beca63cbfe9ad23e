//! The entries of a pool's `exclude`.

use net_types::{AddrRange, AddrSet};

/// As many entries as a `LANPool` takes.
pub(super) const MOST: usize = 1_024;

/// Addresses as entries, each in one of the subnets; what is outside of all is left out. Where there would be more than
/// `most`, the smallest gaps between them are excluded, too; `None` where that does not suffice.
pub(super) fn entries(addresses: &AddrSet, subnets: &[AddrRange], most: usize) -> Option<Vec<AddrRange>> {
    let inside = |subnet: &AddrRange| addresses.intersection(&AddrSet::union([*subnet]));
    let mut entries: Vec<AddrRange> =
        subnets.iter().flat_map(|subnet| inside(subnet).iter().collect::<Vec<_>>()).collect();
    entries.sort_unstable();
    entries.dedup();
    let Some(too_many) = entries.len().checked_sub(most).filter(|count| *count > 0) else {
        return Some(entries);
    };
    let mut gaps: Vec<(u128, usize)> = Vec::new();
    for (index, pair) in entries.windows(2).enumerate() {
        if let [before, after] = pair
            && let Some(joined) = AddrRange::new(before.first(), after.last())
            && subnets.iter().any(|subnet| subnet.covers(joined))
        {
            gaps.push((after.first().number().saturating_sub(before.last().number()), index));
        }
    }
    gaps.sort_unstable();
    let closed: Vec<usize> = gaps.get(..too_many)?.iter().map(|(_, index)| *index).collect();
    let mut joined: Vec<AddrRange> = Vec::with_capacity(most);
    for (index, entry) in entries.iter().enumerate() {
        let joins = index.checked_sub(1).is_some_and(|before| closed.contains(&before));
        match joined.last_mut().filter(|_| joins) {
            Some(last) => *last = AddrRange::new(last.first(), entry.last()).unwrap_or(*last),
            None => joined.push(*entry),
        }
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    use net_types::{Addr, Family};
    use proptest::prelude::*;

    use super::*;

    fn set(text: &[&str]) -> AddrSet {
        AddrSet::union(text.iter().map(|range| range.parse().unwrap()))
    }

    fn texts(entries: Option<Vec<AddrRange>>) -> Vec<String> {
        entries.unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn neighbours_are_ranges_and_subnets_stay_apart() {
        let subnets: Vec<AddrRange> = ["10.0.0.0-10.0.0.255", "10.0.1.0-10.0.1.255", "fd00::-fd00::ffff"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        let given =
            set(&["10.0.0.5", "10.0.0.6", "10.0.0.9", "10.0.0.255", "10.0.1.0", "fd00::7", "10.9.9.9"]);
        let all = ["10.0.0.5-10.0.0.6", "10.0.0.9", "10.0.0.255", "10.0.1.0", "fd00::7"];
        assert_eq!(texts(entries(&given, &subnets, 5)), all);
        assert_eq!(
            texts(entries(&given, &subnets, 4)),
            ["10.0.0.5-10.0.0.9", "10.0.0.255", "10.0.1.0", "fd00::7"]
        );
        assert_eq!(texts(entries(&given, &subnets, 3)), ["10.0.0.5-10.0.0.255", "10.0.1.0", "fd00::7"]);
        assert_eq!(entries(&given, &subnets, 2), None);
    }

    proptest! {
        #[test]
        fn what_is_given_is_excluded(numbers in proptest::collection::btree_set(0u128..400, 0..60), most in 1usize..40) {
            let at = |number: u128| Addr::new(Family::V4, number).unwrap();
            let given = AddrSet::union(numbers.iter().map(|number| AddrRange::single(at(*number))));
            let subnet = AddrRange::new(at(0), at(511)).unwrap();
            let found = entries(&given, &[subnet], most).unwrap();
            prop_assert!(found.len() <= most);
            prop_assert!(given.without(&AddrSet::union(found)).is_empty());
        }
    }
}
