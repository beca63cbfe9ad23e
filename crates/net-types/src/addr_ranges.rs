use std::fmt;

use crate::{Addr, Family};

/// A range of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddrRange {
    first: Addr,
    last: Addr,
}

impl AddrRange {
    /// The addresses from `first` to `last`; `None` where they are reversed or of two families.
    #[must_use]
    pub fn new(first: Addr, last: Addr) -> Option<Self> {
        (first.family() == last.family() && first <= last).then_some(Self { first, last })
    }

    /// The range of one address.
    #[must_use]
    pub fn single(address: Addr) -> Self {
        Self { first: address, last: address }
    }

    /// The lowest address.
    #[must_use]
    pub fn first(self) -> Addr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub fn last(self) -> Addr {
        self.last
    }

    /// The family of both ends.
    #[must_use]
    pub fn family(self) -> Family {
        self.first.family()
    }

    /// Whether the address is in the range.
    #[must_use]
    pub fn contains(self, address: Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of the other range is in this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// Whether an address is in both ranges.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The number of addresses; for all of IPv6 one less than there are.
    #[must_use]
    pub fn len(self) -> u128 {
        (self.last.number() - self.first.number()).saturating_add(1)
    }

    /// Always false: a range has at least one address.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// The text is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a range of addresses, such as 10.0.0.5 and 10.0.0.5-10.0.0.9")]
pub struct AddrRangeError(String);

impl std::str::FromStr for AddrRange {
    type Err = AddrRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = |text: &str| text.parse::<Addr>().ok();
        let range = match text.split_once('-') {
            Some((first, last)) => {
                address(first).zip(address(last)).and_then(|(first, last)| Self::new(first, last))
            }
            None => address(text).map(Self::single),
        };
        range.ok_or_else(|| AddrRangeError(text.to_owned()))
    }
}

crate::serde_as_text!(AddrRange);

/// A set of addresses, stored as sorted ranges that neither overlap nor touch: a /64 costs what a /30 does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddrSet(Vec<AddrRange>);

impl AddrSet {
    /// The set of all addresses in `ranges`, which may overlap.
    #[must_use]
    pub fn union(ranges: impl IntoIterator<Item = AddrRange>) -> Self {
        let mut sorted: Vec<AddrRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<AddrRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(before) if before.contains(range.first) || before.last.next() == Some(range.first) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// These addresses without those in `holes`.
    #[must_use]
    pub fn without(&self, holes: &Self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len() + holes.0.len());
        let mut holes = holes.0.iter().peekable();
        for range in &self.0 {
            let mut first = Some(range.first);
            // A hole that ends before this range ends before all later ones.
            while holes.next_if(|hole| hole.last < range.first).is_some() {}
            while let Some(from) = first {
                match holes.peek() {
                    Some(hole) if hole.overlaps(AddrRange { first: from, last: range.last }) => {
                        if let Some(last) = hole.first.prev().filter(|last| from <= *last) {
                            rest.push(AddrRange { first: from, last });
                        }
                        first = hole.last.next().filter(|next| *next <= range.last);
                        // The hole may reach into the next range, so it stays unless it ends here.
                        if first.is_some() {
                            holes.next();
                        }
                    }
                    _ => {
                        rest.push(AddrRange { first: from, last: range.last });
                        first = None;
                    }
                }
            }
        }
        Self(rest)
    }

    /// The addresses that both sets have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if let Some(shared) = AddrRange::new(x.first.max(y.first), x.last.min(y.last)) {
                both.push(shared);
            }
            if x.last < y.last {
                a.next()
            } else {
                b.next()
            };
        }
        Self(both)
    }

    /// Whether the address is in the set.
    #[must_use]
    pub fn contains(&self, address: Addr) -> bool {
        let after = self.0.partition_point(|range| range.first <= address);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|range| range.contains(address))
    }

    /// Whether all of the range is in the set.
    #[must_use]
    pub fn covers(&self, range: AddrRange) -> bool {
        self.0.iter().any(|own| own.covers(range))
    }

    /// The lowest address that both sets have.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Option<Addr> {
        self.intersection(other).0.first().map(|range| range.first)
    }

    /// The number of addresses; `u128::MAX` stands for that many or more.
    #[must_use]
    pub fn len(&self) -> u128 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.len()))
    }

    /// Whether it has no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its ranges, ascending; they neither overlap nor touch.
    pub fn iter(&self) -> impl Iterator<Item = AddrRange> + '_ {
        self.0.iter().copied()
    }
}

impl serde::Serialize for AddrSet {
    /// A list of ranges.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for AddrSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::union)
    }
}

impl fmt::Display for AddrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn small() -> impl Strategy<Value = Vec<(u8, u8)>> {
        proptest::collection::vec((0u8..60, 0u8..8), 0..12)
    }

    fn ranges(pairs: &[(u8, u8)], family: Family) -> AddrSet {
        AddrSet::union(pairs.iter().map(|(first, len)| {
            let at = |n: u8| Addr::new(family, n.into()).unwrap();
            AddrRange::new(at(*first), at(first + len)).unwrap()
        }))
    }

    fn plain(ranges: &AddrSet) -> BTreeSet<Addr> {
        let mut all = BTreeSet::new();
        for range in ranges.iter() {
            let mut at = Some(range.first());
            while let Some(address) = at.filter(|a| range.contains(*a)) {
                assert!(all.insert(address), "spans overlap");
                at = address.next();
            }
        }
        all
    }

    proptest! {
        #[test]
        fn sets_behave_as_plain_sets(a in small(), b in small()) {
            let (a, b) = (ranges(&a, Family::V4), ranges(&b, Family::V4));
            let (x, y) = (plain(&a), plain(&b));
            prop_assert_eq!(plain(&a.without(&b)), x.difference(&y).copied().collect());
            prop_assert_eq!(plain(&a.intersection(&b)), x.intersection(&y).copied().collect());
            prop_assert_eq!(a.len(), x.len() as u128);
            prop_assert_eq!(a.shared_with(&b), x.intersection(&y).next().copied());
            for n in 0..80 {
                let address = Addr::new(Family::V4, n).unwrap();
                prop_assert_eq!(a.contains(address), x.contains(&address));
            }
        }

        #[test]
        fn families_do_not_mix(a in small(), b in small()) {
            let (a, b) = (ranges(&a, Family::V4), ranges(&b, Family::V6));
            prop_assert!(a.intersection(&b).is_empty());
            prop_assert_eq!(&a.without(&b), &a);
            prop_assert_eq!(b.without(&a), b);
        }
    }

    #[test]
    fn json_is_a_list_of_ranges_and_is_checked() {
        let set: AddrSet =
            serde_json::from_str(r#"["fd00::9", "10.0.0.7-10.0.0.9", "10.0.0.5-10.0.0.6"]"#).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["10.0.0.5-10.0.0.9","fd00::9"]"#);
        for bad in ["10.0.0.9-10.0.0.5", "10.0.0.1-fd00::1", "10.0.0", ""] {
            assert!(serde_json::from_value::<AddrSet>(serde_json::json!([bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_of_ipv6_is_one_span() {
        let (first, last) = (Addr::new(Family::V6, 0).unwrap(), Addr::new(Family::V6, u128::MAX).unwrap());
        let all = AddrSet::union([AddrRange::new(first, last).unwrap()]);
        assert_eq!(all.len(), u128::MAX);
        assert_eq!(all.without(&all).len(), 0);
    }
}
