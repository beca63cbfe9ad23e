//! How pools stand: which are accepted, and what is left of each. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lan::pool::{LanPoolSpec, LanPoolStatus, ParsedPool};
use lan::{ACCEPTED, Condition, ConditionStatus, READY, find_condition, set_transition_times};
use net_types::{AddrRange, AddrSet, Family};
use pool_blocks::{BlockLengths, Object, Place, PoolClaim, PoolStage, PoolStep, decide_pools};

use super::for_node::{EXHAUSTED, StoredPool, has_parts, name, status};

const PROPOSED: &str = "Proposed";
pub(super) const OVERLAPS: &str = "Overlaps";

/// What is left of a pool.
struct Use {
    /// What is in blocks, and what follows owners.
    claimed: AddrSet,
    nodes: usize,
    in_use: bool,
}

/// The statuses that differ from those that pools have, by the pools' names. `pools` is a consistent list of all; `objects` are
/// their blocks and floating addresses, and may be behind.
pub(super) fn changed_statuses(
    pools: &[StoredPool],
    objects: &[Object],
    now: &str,
) -> BTreeMap<String, LanPoolStatus> {
    let parsed: BTreeMap<String, Result<(LanPoolSpec, ParsedPool), String>> =
        pools.iter().map(|pool| (name(pool), parse(pool))).collect();
    let uses: BTreeMap<String, Use> =
        pools.iter().map(|pool| (name(pool), used(&name(pool), objects))).collect();
    let claims: Vec<PoolClaim> = pools
        .iter()
        .filter_map(|pool| {
            let (spec, addresses) = parsed.get(&name(pool))?.as_ref().ok()?;
            Some(claim(pool, spec, addresses, uses.get(&name(pool))?))
        })
        .collect();
    let steps: BTreeMap<String, PoolStep> =
        decide_pools(&claims).into_iter().map(|step| (step_name(&step).to_owned(), step)).collect();
    let next = pools.iter().filter_map(|pool| {
        let name = name(pool);
        let next = next_status(pool, parsed.get(&name)?, uses.get(&name)?, steps.get(&name), now);
        (status(pool) != Some(&next)).then_some((name, next))
    });
    next.collect()
}

fn parse(pool: &StoredPool) -> Result<(LanPoolSpec, ParsedPool), String> {
    let spec: LanPoolSpec = serde_json::from_value(pool.spec.clone()).map_err(|error| error.to_string())?;
    let addresses = ParsedPool::parse(&spec).map_err(|error| error.to_string())?;
    Ok((spec, addresses))
}

fn used(pool: &str, objects: &[Object]) -> Use {
    let of_pool = || objects.iter().filter(|object| object.key.pool.as_str() == pool);
    let claimed = of_pool().map(|object| match object.key.place {
        Place::Block(prefix) => prefix.range(),
        Place::Address(address) => AddrRange::single(address),
    });
    let holders = of_pool().flat_map(|object| &object.spec.holders);
    let nodes: BTreeSet<_> = holders.map(|holder| &holder.node).collect();
    Use { claimed: AddrSet::union(claimed), nodes: nodes.len(), in_use: of_pool().next().is_some() }
}

fn claim(pool: &StoredPool, spec: &LanPoolSpec, addresses: &ParsedPool, used: &Use) -> PoolClaim {
    // What is claimed outside of the ranges, as they are now, is the pool's all the same.
    let outside = used
        .claimed
        .iter()
        .filter(|range| AddrSet::union([*range]).shared_with(addresses.ranges()).is_none());
    PoolClaim {
        name: name(pool).as_str().into(),
        addresses: AddrSet::union(addresses.ranges().iter().chain(outside)),
        routing_domain: spec.routing_domain.clone().unwrap_or_default(),
        inventory: spec.inventory,
        stage: stage(pool),
        in_use: used.in_use,
        created: pool.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
    }
}

/// Of the specification as it is now: an edit is accepted like a new pool, since it may overlap.
fn stage(pool: &StoredPool) -> PoolStage {
    let accepted = status(pool).and_then(|status| find_condition(&status.conditions, ACCEPTED));
    match accepted.filter(|found| found.observed_generation == pool.metadata.generation) {
        Some(found) if found.is_true() => PoolStage::Accepted,
        Some(found) if found.reason == PROPOSED => PoolStage::Proposed,
        _ => PoolStage::New,
    }
}

fn step_name(step: &PoolStep) -> &str {
    match step {
        PoolStep::Propose(name) | PoolStep::Accept(name) | PoolStep::Refuse(name, _) => name.as_str(),
    }
}

fn next_status(
    pool: &StoredPool,
    parsed: &Result<(LanPoolSpec, ParsedPool), String>,
    used: &Use,
    step: Option<&PoolStep>,
    now: &str,
) -> LanPoolStatus {
    let before = status(pool).cloned().unwrap_or_default();
    let mut next = LanPoolStatus { observed_generation: pool.metadata.generation, ..before.clone() };
    let (accepted, reason, message) = acceptance(pool, parsed, step);
    let mut conditions = vec![
        Condition::new(ACCEPTED, accepted, reason, message.clone()),
        Condition::new(READY, accepted, reason, message),
    ];
    if let Ok((spec, addresses)) = parsed {
        if accepted && !spec.inventory && !has_parts(&pool.spec) {
            let lengths = block_lengths(spec, addresses.handed_out());
            next.block_length_v4.get_or_insert(lengths.v4.into());
            next.block_length_v6.get_or_insert(lengths.v6.into());
        }
        let free = addresses.handed_out().without(&used.claimed);
        let size = addresses.handed_out().len();
        next.size = Some(size.to_string());
        next.free = Some(free.len().to_string());
        next.used = Some(size.saturating_sub(free.len()).to_string());
        next.nodes = i64::try_from(used.nodes).ok();
        if accepted && !spec.inventory {
            conditions.push(exhausted(addresses.handed_out(), &free));
        }
    }
    conditions = conditions.into_iter().map(|found| found.observing(pool.metadata.generation)).collect();
    set_transition_times(&mut conditions, &before.conditions, now);
    next.conditions = conditions;
    next
}

/// Whether it is accepted, with the reason and the message.
fn acceptance(
    pool: &StoredPool,
    parsed: &Result<(LanPoolSpec, ParsedPool), String>,
    step: Option<&PoolStep>,
) -> (bool, &'static str, String) {
    let proposed = || {
        (false, PROPOSED, "it is accepted as soon as no other pool that overlaps it is proposed".to_owned())
    };
    match (parsed, step) {
        (Err(error), _) => (false, "Invalid", error.clone()),
        (_, Some(PoolStep::Refuse(_, other))) => (
            false,
            OVERLAPS,
            format!(
                "it has addresses of pool {other}: change or delete one of them, or give them two values of routingDomain"
            ),
        ),
        (_, Some(PoolStep::Accept(_))) => (true, "Accepted", String::new()),
        (_, Some(PoolStep::Propose(_))) => proposed(),
        (_, None) if stage(pool) == PoolStage::Accepted => (true, "Accepted", String::new()),
        (_, None) => proposed(),
    }
}

fn exhausted(all: &AddrSet, free: &AddrSet) -> Condition {
    let has = |set: &AddrSet, family| set.iter().any(|range| range.family() == family);
    let full = [(Family::V4, "IPv4"), (Family::V6, "IPv6")];
    let full = full.iter().find(|(family, _)| has(all, *family) && !has(free, *family));
    match full {
        Some((_, family)) => Condition::new(
            EXHAUSTED,
            ConditionStatus::True,
            "NoBlockLeft",
            format!(
                "all {family} addresses are in blocks of nodes or follow an owner: nodes give back what they do not use"
            ),
        ),
        None => Condition::new(EXHAUSTED, ConditionStatus::False, "BlocksLeft", ""),
    }
}

fn block_lengths(spec: &LanPoolSpec, handed_out: &AddrSet) -> BlockLengths {
    let count = |family| {
        let ranges = handed_out.iter().filter(|range| range.family() == family);
        ranges.fold(0_u128, |sum, range| sum.saturating_add(range.len()))
    };
    match spec.block_size.and_then(|size| u32::try_from(size).ok()).and_then(u32::checked_ilog2) {
        Some(bits) => {
            let bits = u8::try_from(bits).unwrap_or(0);
            BlockLengths { v4: 32_u8.saturating_sub(bits), v6: 128 - bits }
        }
        None => BlockLengths::for_pool(count(Family::V4), count(Family::V6)),
    }
}

#[cfg(test)]
mod tests {
    use pool_blocks::{Holder, Key, Prefix, ResourceVersion, Spec, Uid};
    use serde_json::{Value, json};

    use super::*;
    use crate::guarded::Guarded;

    fn pool(name: &str, spec: Value) -> StoredPool {
        serde_json::from_value(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool",
            "metadata": { "name": name, "generation": 1, "creationTimestamp": "2026-11-29T12:00:00Z" }, "spec": spec,
        }))
        .unwrap()
    }

    fn block(pool: &str, prefix: &str, node: &str) -> Object {
        let prefix: Prefix = prefix.parse().unwrap();
        let holder = Holder { node: node.into(), uid: Uid::from_number(1), term: 0, fenced: false };
        let spec = Spec { holders: vec![holder], ..Spec::default() };
        Object {
            key: Key::block(&pool.into(), prefix),
            uid: Uid::from_number(2),
            version: ResourceVersion(1),
            spec,
        }
    }

    /// Writes what there is to write, until there is nothing more. Returns how often that was.
    fn settle(pools: &mut [StoredPool], objects: &[Object]) -> usize {
        for round in 0..10 {
            let changed = changed_statuses(pools, objects, "2026-11-29T12:00:00Z");
            if changed.is_empty() {
                return round;
            }
            for pool in &mut *pools {
                if let Some(status) = changed.get(&name(pool)) {
                    pool.status = Some(Guarded::Valid(status.clone()));
                }
            }
        }
        panic!("it does not settle")
    }

    fn reason(pool: &StoredPool, kind: &str) -> String {
        find_condition(&status(pool).unwrap().conditions, kind).unwrap().reason.clone()
    }

    #[test]
    fn a_pool_is_proposed_and_then_accepted() {
        let mut pools = [pool("office", json!({ "subnets": ["10.0.0.0/24"] }))];
        let first = changed_statuses(&pools, &[], "2026-11-29T12:00:00Z");
        assert_eq!(first["office"].conditions[0].reason, "Proposed");
        assert_eq!(first["office"].block_length_v4, None);
        assert_eq!(settle(&mut pools, &[]), 2);
        let found = status(&pools[0]).unwrap();
        assert_eq!((reason(&pools[0], ACCEPTED), found.block_length_v4), ("Accepted".to_owned(), Some(32)));
        assert_eq!((found.size.as_deref(), found.used.as_deref()), (Some("253"), Some("0")));
        let blocks = [block("office", "10.0.0.8/32", "a"), block("office", "10.0.0.9/32", "b")];
        settle(&mut pools, &blocks);
        let found = status(&pools[0]).unwrap();
        assert_eq!((found.free.as_deref(), found.nodes), (Some("251"), Some(2)));
        assert_eq!(reason(&pools[0], EXHAUSTED), "BlocksLeft");
        // An edit is looked at anew; the lengths stay.
        pools[0].metadata.generation = Some(2);
        pools[0].spec = json!({ "subnets": ["10.0.0.0/16"] });
        assert_eq!(settle(&mut pools, &blocks), 2);
        assert_eq!(status(&pools[0]).unwrap().block_length_v4, Some(32));
    }

    #[test]
    fn of_two_that_overlap_one_is_accepted() {
        let spec = |subnet: &str| json!({ "subnets": [subnet] });
        let mut pools = [pool("b", spec("10.0.0.0/24")), pool("a", spec("10.0.0.0/16"))];
        settle(&mut pools, &[]);
        assert_eq!([reason(&pools[0], ACCEPTED), reason(&pools[1], ACCEPTED)], ["Overlaps", "Accepted"]);
        let message = &status(&pools[0]).unwrap().conditions[0].message;
        assert!(message.contains("addresses of pool a"), "{message}");
        // One that grows into another's is refused, although it was accepted.
        let mut pools = [pool("a", spec("10.0.0.0/24")), pool("b", spec("10.0.1.0/24"))];
        settle(&mut pools, &[block("b", "10.0.1.4/32", "w")]);
        pools[0].metadata.generation = Some(2);
        pools[0].spec = spec("10.0.0.0/23");
        settle(&mut pools, &[block("b", "10.0.1.4/32", "w")]);
        assert_eq!([reason(&pools[0], ACCEPTED), reason(&pools[1], ACCEPTED)], ["Overlaps", "Accepted"]);
        // What a pool has shrunk away from stays its own as long as a node has it.
        let mut pools = [pool("a", spec("10.0.0.0/24")), pool("b", spec("10.0.1.0/24"))];
        settle(&mut pools, &[block("a", "10.0.1.4/32", "w")]);
        assert_eq!([reason(&pools[0], ACCEPTED), reason(&pools[1], ACCEPTED)], ["Accepted", "Overlaps"]);
    }

    #[test]
    fn what_is_wrong_and_what_is_full_are_told() {
        let mut pools = [pool("wrong", json!({ "subnets": ["10.0.0.1/24"] }))];
        settle(&mut pools, &[]);
        assert_eq!(reason(&pools[0], ACCEPTED), "Invalid");
        assert!(status(&pools[0]).unwrap().conditions[0].message.contains("host bits"));
        let mut pools = [pool("small", json!({ "subnets": ["10.0.0.0/30"] }))];
        settle(&mut pools, &[block("small", "10.0.0.2/32", "a")]);
        assert_eq!(reason(&pools[0], EXHAUSTED), "NoBlockLeft");
    }

    #[test]
    fn a_size_that_is_asked_for_gives_the_lengths() {
        let mut pools = [pool("office", json!({ "subnets": ["10.0.0.0/16"], "blockSize": 16 }))];
        settle(&mut pools, &[]);
        let found = status(&pools[0]).unwrap();
        assert_eq!((found.block_length_v4, found.block_length_v6), (Some(28), Some(124)));
    }
}
