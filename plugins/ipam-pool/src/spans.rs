use std::fmt;

use crate::{Addr, Family};

/// Neighbouring addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    first: Addr,
    last: Addr,
}

impl Span {
    /// The addresses from `first` to `last`; `None` where they are reversed or of two families.
    #[must_use]
    pub fn new(first: Addr, last: Addr) -> Option<Self> {
        (first.family() == last.family() && first <= last).then_some(Self { first, last })
    }

    /// One address.
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

    /// Its family.
    #[must_use]
    pub fn family(self) -> Family {
        self.first.family()
    }

    /// Whether the address is one of these.
    #[must_use]
    pub fn contains(self, address: Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of `other` lies within.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many addresses these are; the whole of IPv6 counts as one less than it has.
    #[must_use]
    pub fn len(self) -> u128 {
        (self.last.number() - self.first.number()).saturating_add(1)
    }

    /// Never: a span has at least one address.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A set of addresses as sorted spans that neither overlap nor touch: a /64 costs what a /30 does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// The set of all addresses in `spans`, which may overlap.
    #[must_use]
    pub fn union(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut sorted: Vec<Span> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match merged.last_mut() {
                Some(before) if before.contains(span.first) || before.last.next() == Some(span.first) => {
                    before.last = before.last.max(span.last);
                }
                _ => merged.push(span),
            }
        }
        Self(merged)
    }

    /// These addresses without those in `holes`.
    #[must_use]
    pub fn without(&self, holes: &Self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len() + holes.0.len());
        let mut holes = holes.0.iter().peekable();
        for span in &self.0 {
            let mut first = Some(span.first);
            // A hole that ends before this span ends before all later ones.
            while holes.next_if(|hole| hole.last < span.first).is_some() {}
            while let Some(from) = first {
                match holes.peek() {
                    Some(hole) if hole.overlaps(Span { first: from, last: span.last }) => {
                        if let Some(last) = hole.first.prev().filter(|last| from <= *last) {
                            rest.push(Span { first: from, last });
                        }
                        first = hole.last.next().filter(|next| *next <= span.last);
                        // The hole may reach into the next span, so it stays unless it ends here.
                        if first.is_some() {
                            holes.next();
                        }
                    }
                    _ => {
                        rest.push(Span { first: from, last: span.last });
                        first = None;
                    }
                }
            }
        }
        Self(rest)
    }

    /// The addresses in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if let Some(shared) = Span::new(x.first.max(y.first), x.last.min(y.last)) {
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
        let after = self.0.partition_point(|span| span.first <= address);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|span| span.contains(address))
    }

    /// Whether all of the span is in the set.
    #[must_use]
    pub fn covers(&self, span: Span) -> bool {
        self.0.iter().any(|own| own.covers(span))
    }

    /// An address that both sets have.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Option<Addr> {
        self.intersection(other).0.first().map(|span| span.first)
    }

    /// How many addresses these are; `u128::MAX` stands for that many or more.
    #[must_use]
    pub fn len(&self) -> u128 {
        self.0.iter().fold(0, |sum, span| sum.saturating_add(span.len()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The spans in order.
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, span) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            span.fmt(f)?;
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

    fn spans(pairs: &[(u8, u8)], family: Family) -> Spans {
        Spans::union(pairs.iter().map(|(first, len)| {
            let at = |n: u8| Addr::new(family, n.into()).unwrap();
            Span::new(at(*first), at(first + len)).unwrap()
        }))
    }

    fn plain(spans: &Spans) -> BTreeSet<Addr> {
        let mut all = BTreeSet::new();
        for span in spans.iter() {
            let mut at = Some(span.first());
            while let Some(address) = at.filter(|a| span.contains(*a)) {
                assert!(all.insert(address), "spans overlap");
                at = address.next();
            }
        }
        all
    }

    proptest! {
        #[test]
        fn sets_behave_as_plain_sets(a in small(), b in small()) {
            let (a, b) = (spans(&a, Family::V4), spans(&b, Family::V4));
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
            let (a, b) = (spans(&a, Family::V4), spans(&b, Family::V6));
            prop_assert!(a.intersection(&b).is_empty());
            prop_assert_eq!(&a.without(&b), &a);
            prop_assert_eq!(b.without(&a), b);
        }
    }

    #[test]
    fn all_of_ipv6_is_one_span() {
        let (first, last) = (Addr::new(Family::V6, 0).unwrap(), Addr::new(Family::V6, u128::MAX).unwrap());
        let all = Spans::union([Span::new(first, last).unwrap()]);
        assert_eq!(all.len(), u128::MAX);
        assert_eq!(all.without(&all).len(), 0);
    }
}
