//! A pool's specification as blocks.

use lan::pool::{LanPoolSpec, PoolRange};
use net_types::{Addr, AddrRange, AddrSet, Family};
use node::ClusterPool;
use pool_blocks::{BlockLengths, Geometry, Prefix};

/// Why blocks of a pool cannot be claimed, a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("the pool {0} is not accepted yet: nodes claim nothing of it before")]
    NotAccepted(String),
    #[error("the pool {0} cannot be read: {1}")]
    Spec(String, String),
    #[error("the blocks of the pool {0} cannot have the lengths /{1} and /{2}")]
    Lengths(String, u8, u8),
}

/// The pool cut into blocks.
///
/// # Errors
/// It is not accepted yet, or its specification cannot be read.
pub(crate) fn geometry(pool: &ClusterPool) -> Result<Geometry, PoolError> {
    let Some(blocks) = pool.blocks else { return Err(PoolError::NotAccepted(pool.name.clone())) };
    if blocks.v4 > Family::V4.bits() || blocks.v6 > Family::V6.bits() {
        return Err(PoolError::Lengths(pool.name.clone(), blocks.v4, blocks.v6));
    }
    let wrong = |text: String| PoolError::Spec(pool.name.clone(), text);
    let spec = serde_json::from_value(pool.spec.clone()).map_err(|error| wrong(error.to_string()))?;
    let lengths = BlockLengths { v4: blocks.v4, v6: blocks.v6 };
    Ok(Geometry::new(pool.name.as_str().into(), lengths, handed_out(&spec).map_err(wrong)?))
}

/// The addresses that a pool hands out.
fn handed_out(spec: &LanPoolSpec) -> Result<AddrSet, String> {
    let whole =
        spec.subnets.iter().map(|subnet| PoolRange { subnet: subnet.clone(), ..PoolRange::default() });
    let (mut ranges, mut holes) = (Vec::new(), Vec::new());
    for range in whole.chain(spec.ranges.iter().cloned()) {
        let subnet = prefix(&range.subnet)?;
        let (first, last) = usable(subnet);
        let at = |text: Option<&str>, default: Addr| text.map_or(Ok(default), address);
        let gateway = at(range.gateway.as_deref().filter(|text| !text.is_empty() && *text != "none"), first)?;
        let from = at(range.range_start.as_deref(), first)?;
        let to = at(range.range_end.as_deref(), last)?;
        let own = AddrRange::new(from, to)
            .filter(|own| subnet.range().covers(*own))
            .ok_or_else(|| format!("{from} to {to} is no range in {}", range.subnet))?;
        ranges.push(own);
        if range.gateway.as_deref() != Some("none") {
            holes.push(AddrRange::single(gateway));
        }
    }
    for text in &spec.exclude {
        holes.push(match text.contains('/') {
            true => prefix(text)?.range(),
            false => text.parse().map_err(|error: net_types::AddrRangeError| error.to_string())?,
        });
    }
    Ok(AddrSet::union(ranges).without(&AddrSet::union(holes)))
}

fn address(text: &str) -> Result<Addr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address"))
}

fn prefix(text: &str) -> Result<Prefix, String> {
    let parsed = text.split_once('/').and_then(|(first, length)| {
        let (first, length) = (first.parse().ok()?, length.parse().ok()?);
        Prefix::new(first, length)
    });
    parsed.ok_or_else(|| format!("{text:?} is not a subnet, such as 10.0.0.0/24"))
}

/// The first and the last address that hosts of a subnet may have: neither its own nor the broadcast address.
fn usable(subnet: Prefix) -> (Addr, Addr) {
    let range = subnet.range();
    let (first, last) = (range.first(), range.last());
    match first.family() {
        _ if range.len() <= 2 => (first, last),
        Family::V4 => (first.next().unwrap_or(first), last.prev().unwrap_or(last)),
        Family::V6 => (first.next().unwrap_or(first), last),
    }
}

#[cfg(test)]
mod tests {
    use node::BlockLength;
    use serde_json::json;

    use super::*;

    fn pool(spec: serde_json::Value, blocks: Option<(u8, u8)>) -> ClusterPool {
        let blocks = blocks.map(|(v4, v6)| BlockLength { v4, v6 });
        ClusterPool { name: "office".into(), spec, generation: None, blocks, refusal: None, exhausted: false }
    }

    #[test]
    fn what_is_handed_out() {
        let spec = json!({ "subnets": ["10.0.0.0/29"], "exclude": ["10.0.0.4"],
            "ranges": [{ "subnet": "fd00::/64", "rangeStart": "fd00::10", "rangeEnd": "fd00::1f" }] });
        let pool = geometry(&pool(spec, Some((32, 124)))).unwrap();
        assert_eq!(pool.addresses().to_string(), "10.0.0.2-10.0.0.3, 10.0.0.5-10.0.0.6, fd00::10-fd00::1f");
        assert_eq!((pool.block_count(Family::V4), pool.block_count(Family::V6)), (4, 1));
    }

    #[test]
    fn what_is_no_pool_is_said() {
        let good = json!({ "subnets": ["10.0.0.0/29"] });
        for (spec, blocks) in [
            (good.clone(), None),
            (good, Some((33, 64))),
            (json!({ "subnets": ["10.0.0.1/29"] }), Some((32, 128))),
            (json!({ "subnets": 7 }), Some((32, 128))),
            (json!(null), Some((32, 128))),
            (json!({ "ranges": [{ "subnet": "10.0.0.0/29", "rangeEnd": "10.0.1.0" }] }), Some((32, 128))),
        ] {
            let error = geometry(&pool(spec, blocks)).unwrap_err().to_string();
            assert!(error.contains("office"), "{error}");
        }
    }
}
