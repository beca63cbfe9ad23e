//! The addresses of a pool's specification, by the rules of `ipam-pool`. Pure.

use std::str::FromStr;

use lan::pool::{LanPoolSpec, PoolRange};
use net_types::{Addr, AddrRange, AddrSet, Family};
use pool_blocks::Prefix;

/// What a pool has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolAddresses {
    /// The addresses of its ranges.
    pub(super) ranges: AddrSet,
    /// Those among them that are neither gateways nor excluded.
    pub(super) handed_out: AddrSet,
}

/// What is wrong with a specification that the definition lets through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangesError {
    #[error("{0:?} is no subnet: write one without host bits, such as 10.0.20.0/24 or fd00:20::/64")]
    Subnet(String),
    #[error("{field} {text:?} is no address of the subnet {subnet}")]
    Address { field: &'static str, text: String, subnet: String },
    #[error("the range {first}-{last} is reversed: rangeStart must not be above rangeEnd")]
    Reversed { first: Addr, last: Addr },
    #[error("exclude {0:?} is neither an address nor a range such as 10.0.0.5-10.0.0.9 nor a subnet")]
    Exclude(String),
    #[error("exclude {0:?} is outside all subnets of the pool")]
    Outside(String),
    #[error("two ranges overlap at {0}")]
    Overlap(Addr),
    #[error("no address is left to hand out: all are excluded, or gateways")]
    Empty,
}

impl PoolAddresses {
    pub(super) fn parse(spec: &LanPoolSpec) -> Result<Self, RangesError> {
        let subnets =
            spec.subnets.iter().map(|subnet| PoolRange { subnet: subnet.clone(), ..PoolRange::default() });
        let (mut all, mut without, mut inside) = (Vec::new(), Vec::new(), Vec::new());
        for range in subnets.chain(spec.ranges.iter().cloned()) {
            let parsed = Range::parse(&range)?;
            if let Some(at) =
                AddrSet::union(all.iter().copied()).shared_with(&AddrSet::union([parsed.addresses]))
            {
                return Err(RangesError::Overlap(at));
            }
            all.push(parsed.addresses);
            inside.push(parsed.subnet);
            without.extend(parsed.gateway.map(AddrRange::single));
        }
        for text in &spec.exclude {
            let excluded = exclude(text)?;
            if !inside.iter().any(|subnet| subnet.overlaps(excluded)) {
                return Err(RangesError::Outside(text.clone()));
            }
            without.push(excluded);
        }
        let ranges = AddrSet::union(all);
        let handed_out = ranges.without(&AddrSet::union(without));
        if handed_out.is_empty() && !spec.inventory {
            return Err(RangesError::Empty);
        }
        Ok(Self { ranges, handed_out })
    }
}

struct Range {
    subnet: AddrRange,
    addresses: AddrRange,
    gateway: Option<Addr>,
}

impl Range {
    fn parse(range: &PoolRange) -> Result<Self, RangesError> {
        let subnet = subnet(&range.subnet).ok_or_else(|| RangesError::Subnet(range.subnet.clone()))?;
        let usable = usable(subnet);
        let inside = |field, text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => {
                Addr::from_str(text).ok().filter(|found| subnet.contains(*found)).ok_or_else(|| {
                    RangesError::Address { field, text: text.clone(), subnet: range.subnet.clone() }
                })
            }
        };
        let first = inside("rangeStart", &range.range_start, usable.first())?;
        let last = inside("rangeEnd", &range.range_end, usable.last())?;
        let addresses = AddrRange::new(first.max(usable.first()), last.min(usable.last()));
        let addresses = addresses.ok_or(RangesError::Reversed { first, last })?;
        let gateway = match range.gateway.as_deref() {
            Some("none") => None,
            // It may be outside the subnet.
            Some(text) => Some(Addr::from_str(text).map_err(|_| RangesError::Address {
                field: "gateway",
                text: text.to_owned(),
                subnet: range.subnet.clone(),
            })?),
            None => (subnet.len() > 2).then(|| usable.first()),
        };
        Ok(Self { subnet, addresses, gateway })
    }
}

/// Without the network's and the broadcast address; an IPv6 subnet's first is all its routers'.
fn usable(subnet: AddrRange) -> AddrRange {
    if subnet.len() <= 2 {
        return subnet;
    }
    let last = match subnet.family() {
        Family::V4 => subnet.last().prev(),
        Family::V6 => Some(subnet.last()),
    };
    subnet.first().next().zip(last).and_then(|(first, last)| AddrRange::new(first, last)).unwrap_or(subnet)
}

/// In whatever form the addresses are written.
fn subnet(text: &str) -> Option<AddrRange> {
    let (first, length) = text.split_once('/')?;
    let first: Addr = first.parse().ok()?;
    let length = length.parse().ok().filter(|length| *length <= first.family().bits())?;
    Prefix::new(first, length).map(Prefix::range)
}

fn exclude(text: &str) -> Result<AddrRange, RangesError> {
    subnet(text).or_else(|| text.parse().ok()).ok_or_else(|| RangesError::Exclude(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(spec: Value) -> Result<PoolAddresses, String> {
        PoolAddresses::parse(&serde_json::from_value(spec).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_subnet_is_a_pool() {
        let pool =
            parse(json!({ "subnets": ["192.168.1.0/24"], "exclude": ["192.168.1.100-192.168.1.199"] }))
                .unwrap();
        assert_eq!(pool.ranges.to_string(), "192.168.1.1-192.168.1.254");
        assert_eq!(pool.handed_out.to_string(), "192.168.1.2-192.168.1.99, 192.168.1.200-192.168.1.254");
        let pool = parse(
            json!({ "ranges": [{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "gateway": "none" }] }),
        );
        assert_eq!(pool.unwrap().handed_out.to_string(), "10.0.0.9-10.0.0.254");
        assert_eq!(
            parse(json!({ "subnets": ["fd00::/126"] })).unwrap().handed_out.to_string(),
            "fd00::2-fd00::3"
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (spec, message) in [
            (json!({ "subnets": ["10.0.0.1/24"] }), "without host bits"),
            (json!({ "subnets": ["10.0.0.0/24", "10.0.0.0/16"] }), "overlap at 10.0.0.1"),
            (json!({ "subnets": ["10.0.0.0/24"], "exclude": ["10.0.1.0"] }), "outside all subnets"),
            (json!({ "subnets": ["10.0.0.0/24"], "exclude": ["10.0.0.9-10.0.0.1"] }), "neither an address"),
            (json!({ "subnets": ["10.0.0.0/24"], "exclude": ["10.0.0.0/24"] }), "no address is left"),
            (
                json!({ "ranges": [{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8" }] }),
                "reversed",
            ),
            (
                json!({ "ranges": [{ "subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.8" }] }),
                "no address of the subnet",
            ),
        ] {
            let error = parse(spec.clone()).unwrap_err();
            assert!(error.contains(message), "{spec}: {error}");
        }
    }
}
