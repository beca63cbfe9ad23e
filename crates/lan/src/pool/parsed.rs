use net_types::{Addr, AddrRange, AddrSet};

use super::{LanPoolSpec, PartError, PoolRange, Range, RangeError, parse_part};

/// The addresses of a pool, as its specification says them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedPool {
    parts: Vec<Range>,
    ranges: AddrSet,
    handed_out: AddrSet,
}

/// An error in the specification of a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum PoolSpecError {
    #[error("the pool has no addresses: write subnets or ranges")]
    Empty,
    #[error("the pool has subnets and ranges: write one of them")]
    SubnetsAndRanges,
    #[error(transparent)]
    Range(Box<RangeError>),
    #[error("the ranges {first} and {second} overlap at {at}")]
    Overlap { first: Box<AddrRange>, second: Box<AddrRange>, at: Box<Addr> },
    #[error("exclude: {0}")]
    Exclude(Box<PartError>),
    #[error("exclude: {0:?} is outside all subnets of the pool")]
    ExcludeOutside(String),
    #[error("nothing is left to hand out: exclude and the gateways take all addresses")]
    NothingLeft,
}

impl ParsedPool {
    /// Parses the addresses of a pool: `subnets` with host-local's defaults (the first usable address is the gateway's), or
    /// `ranges`, and `exclude`.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(spec: &LanPoolSpec) -> Result<Self, PoolSpecError> {
        if !spec.subnets.is_empty() && !spec.ranges.is_empty() {
            return Err(PoolSpecError::SubnetsAndRanges);
        }
        let of_subnets =
            spec.subnets.iter().map(|subnet| PoolRange { subnet: subnet.clone(), ..PoolRange::default() });
        let parts = of_subnets
            .chain(spec.ranges.iter().cloned())
            .map(|range| Range::parse(&range).map_err(|error| PoolSpecError::Range(error.into())))
            .collect::<Result<Vec<_>, _>>()?;
        check_overlap(&parts)?;
        let mut taken: Vec<AddrRange> =
            parts.iter().filter_map(Range::gateway).map(AddrRange::single).collect();
        for text in &spec.exclude {
            let part = parse_part(text).map_err(|error| PoolSpecError::Exclude(error.into()))?;
            if !parts.iter().any(|range| range.subnet().covers(part)) {
                return Err(PoolSpecError::ExcludeOutside(text.clone()));
            }
            taken.push(part);
        }
        let ranges = AddrSet::union(parts.iter().map(Range::addresses));
        if ranges.is_empty() {
            return Err(PoolSpecError::Empty);
        }
        let handed_out = ranges.without(&AddrSet::union(taken));
        // An inventory hands out nothing anyhow.
        if handed_out.is_empty() && !spec.inventory {
            return Err(PoolSpecError::NothingLeft);
        }
        Ok(Self { parts, ranges, handed_out })
    }

    /// Its ranges, in the order in which they are written.
    #[must_use]
    pub fn parts(&self) -> &[Range] {
        &self.parts
    }

    /// The addresses of its ranges.
    #[must_use]
    pub fn ranges(&self) -> &AddrSet {
        &self.ranges
    }

    /// The same without gateways and what is excluded.
    #[must_use]
    pub fn handed_out(&self) -> &AddrSet {
        &self.handed_out
    }
}

fn check_overlap(parts: &[Range]) -> Result<(), PoolSpecError> {
    for (index, range) in parts.iter().enumerate() {
        let second = range.addresses();
        let before = parts.iter().take(index).map(Range::addresses);
        if let Some(first) = before.into_iter().find(|first| first.overlaps(second)) {
            let at = Box::new(first.first().max(second.first()));
            return Err(PoolSpecError::Overlap { first: first.into(), second: second.into(), at });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(subnets: &[&str], exclude: &[&str]) -> Result<ParsedPool, PoolSpecError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ParsedPool::parse(&LanPoolSpec {
            subnets: owned(subnets),
            exclude: owned(exclude),
            ..LanPoolSpec::default()
        })
    }

    #[test]
    fn a_subnet_is_a_pool() {
        let pool = parsed(&["192.168.1.0/24", "fd00:1::/64"], &["192.168.1.100-192.168.1.199"]).unwrap();
        let handed_out = pool.handed_out().to_string();
        assert!(
            handed_out.starts_with("192.168.1.2-192.168.1.99, 192.168.1.200-192.168.1.254, fd00:1::2-"),
            "{handed_out}"
        );
        assert!(pool.ranges().to_string().starts_with("192.168.1.1-192.168.1.254"));
        assert_eq!(pool.parts().len(), 2);
    }

    #[test]
    fn every_mistake_has_its_own_words() {
        for (subnets, exclude, words) in [
            (&[] as &[&str], &[] as &[&str], "no addresses"),
            (&["192.168.1.5/24"], &[], "host bits"),
            (&["192.168.1.0/24", "192.168.1.128/25"], &[], "overlap at 192.168.1.129"),
            (&["192.168.1.0/24"], &["192.168.2.1"], "outside all subnets"),
            (&["192.168.1.0/24"], &["192.168.1.9-192.168.1.1"], "reversed"),
            (&["192.168.1.0/24"], &["router"], "neither an address"),
            (&["192.168.1.0/30"], &["192.168.1.2"], "nothing is left"),
        ] {
            let error = parsed(subnets, exclude).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
