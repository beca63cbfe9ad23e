//! A pool's specification as blocks.

use lan::pool::{LanPoolSpec, ParsedPool};
use net_types::{AddrSet, Family};
use node::ClusterPool;
use pool_blocks::{BlockLengths, Geometry};

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
    let lengths = BlockLengths { v4: blocks.v4, v6: blocks.v6 };
    let all = handed_out(pool)?;
    let addresses = match &pool.in_place_of {
        _ if pool.is_accepted() => all,
        // What other nodes hand out by their files may not be in blocks yet.
        Some(part) => all.intersection(part),
        None => return Err(PoolError::NotAccepted(pool.name.clone())),
    };
    Ok(Geometry::new(pool.name.as_str().into(), lengths, addresses))
}

/// What a pool hands out.
///
/// # Errors
/// Its specification cannot be read.
pub(crate) fn handed_out(pool: &ClusterPool) -> Result<AddrSet, PoolError> {
    let wrong = |text: String| PoolError::Spec(pool.name.clone(), text);
    let spec: LanPoolSpec =
        serde_json::from_value(pool.spec.clone()).map_err(|error| wrong(error.to_string()))?;
    let parsed = ParsedPool::parse(&spec).map_err(|error| wrong(error.to_string()))?;
    Ok(parsed.handed_out().clone())
}

#[cfg(test)]
mod tests {
    use node::BlockLength;
    use serde_json::json;

    use super::*;

    fn pool(spec: serde_json::Value, blocks: Option<(u8, u8)>) -> ClusterPool {
        let blocks = blocks.map(|(v4, v6)| BlockLength { v4, v6 });
        ClusterPool { name: "office".into(), spec, blocks, ..ClusterPool::default() }
    }

    #[test]
    fn what_is_handed_out() {
        let spec = json!({ "exclude": ["10.0.0.4"],
            "ranges": [{ "subnet": "10.0.0.0/29" }, { "subnet": "fd00::/64", "rangeStart": "fd00::10", "rangeEnd": "fd00::1f" }] });
        let pool = geometry(&pool(spec, Some((32, 124)))).unwrap();
        assert_eq!(pool.addresses().to_string(), "10.0.0.2-10.0.0.3, 10.0.0.5-10.0.0.6, fd00::10-fd00::1f");
        assert_eq!((pool.block_count(Family::V4), pool.block_count(Family::V6)), (4, 1));
    }

    #[test]
    fn until_it_is_accepted_a_pool_is_what_the_file_was() {
        let mut pool = pool(json!({ "subnets": ["10.0.0.0/24"] }), Some((30, 128)));
        pool.replacing = true;
        assert!(matches!(geometry(&pool), Err(PoolError::NotAccepted(_))));
        pool.in_place_of =
            Some(AddrSet::union(["10.0.0.8-10.0.0.40".parse().unwrap(), "10.9.0.1".parse().unwrap()]));
        assert_eq!(geometry(&pool).unwrap().addresses().to_string(), "10.0.0.8-10.0.0.40");
        (pool.accepted, pool.replacing) = (true, false);
        assert_eq!(geometry(&pool).unwrap().addresses().to_string(), "10.0.0.2-10.0.0.254");
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
