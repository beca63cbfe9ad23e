//! The parts of a pool that its file gives to the nodes (`nodes`).

use std::collections::BTreeMap;

use lan::pool::{PartError, RangeError, parse_part};

use crate::{AddrRange, AddrSet, PoolFileError, Range};

/// Parses the nodes' parts: inside the pool's ranges, and not overlapping.
pub(crate) fn parse_node_parts(
    pool: &str,
    ranges: &[Range],
    nodes: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, AddrSet>, PoolFileError> {
    let all = AddrSet::union(ranges.iter().map(Range::addresses));
    let mut taken: Vec<(String, AddrRange)> = Vec::new();
    let mut parts = BTreeMap::new();
    for (node, texts) in nodes {
        let bad = |part: &str, what: String| PoolFileError::Part {
            pool: pool.to_owned(),
            node: node.clone(),
            part: part.to_owned(),
            what,
        };
        let mut node_part = Vec::with_capacity(texts.len());
        for text in &texts {
            let addresses = match parse_part(text) {
                Ok(addresses) => addresses,
                Err(PartError::Range(_, error)) if !matches!(error, RangeError::Subnet(_)) => {
                    return Err(bad(text, format!("is invalid: {error}")));
                }
                Err(_) => return Err(bad(text, "is not an address, a range or a subnet".to_owned())),
            };
            // A part may contain the network and broadcast addresses, which are never handed out.
            let inside = all.intersection(&AddrSet::union([addresses]));
            let in_subnet = ranges.iter().any(|range| range.subnet().covers(addresses));
            if inside.is_empty() || !in_subnet {
                return Err(bad(text, "is outside the pool's ranges".to_owned()));
            }
            if let Some((other, _)) =
                taken.iter().find(|(other, used)| *other != node && used.overlaps(addresses))
            {
                return Err(bad(text, format!("overlaps with a part of node {other}")));
            }
            taken.push((node.clone(), addresses));
            node_part.extend(inside.iter());
        }
        parts.insert(node, AddrSet::union(node_part));
    }
    Ok(parts)
}
