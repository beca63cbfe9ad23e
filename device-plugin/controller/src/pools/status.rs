//! How pools stand: which are accepted, and what is left of each. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lan::pool::{LanPoolSpec, LanPoolStatus, ParsedPool};
use lan::{ACCEPTED, Condition, READY, find_condition, set_transition_times};
use net_types::AddrSet;
use pool_blocks::{Object, PoolClaim, PoolStage, PoolStep, decide_pools};

use super::acceptance::{Acceptance, PROPOSED, Parsed, acceptance, stage};
use super::conditions::{NEARLY_FULL, NodeNotes, draining, exhausted, nearly_full, of_nodes};
use super::files;
use super::for_node::{REPLACING, StoredPool, has_blocks, is_replacing, name, status};
use super::foreign::{Foreign, used_by_cluster};
use super::held::Held;

/// The statuses that differ from those that pools have, by the pools' names. `pools` is a consistent list of all; `objects` are
/// their blocks and floating addresses, and may be behind; `notes` is what nodes say of each; `foreign` who has addresses beside
/// pods.
pub(super) fn changed_statuses(
    pools: &[StoredPool],
    objects: &[Object],
    notes: &BTreeMap<String, NodeNotes>,
    foreign: &Foreign,
    now: &str,
) -> BTreeMap<String, LanPoolStatus> {
    let parsed: Parsed = pools.iter().map(|pool| (name(pool), parse(pool))).collect();
    let names = pools.iter().map(name).chain(objects.iter().map(|object| object.key.pool.to_string()));
    let names: BTreeSet<String> = names.collect();
    let held: BTreeMap<String, Held> = names
        .into_iter()
        .map(|name| {
            let held = Held::of(&name, objects);
            (name, held)
        })
        .collect();
    let claims = claims(pools, &parsed, &held);
    let steps: BTreeMap<String, PoolStep> =
        decide_pools(&claims).into_iter().map(|step| (step_name(&step).to_owned(), step)).collect();
    let nothing = NodeNotes::new();
    let next = pools.iter().filter_map(|pool| {
        let name = name(pool);
        let own = notes.get(&name).unwrap_or(&nothing);
        let next = next_status(pool, &parsed, held.get(&name)?, steps.get(&name), (own, notes, foreign), now);
        (status(pool) != Some(&next)).then_some((name, next))
    });
    next.collect()
}

fn parse(pool: &StoredPool) -> Result<(LanPoolSpec, ParsedPool), String> {
    let spec: LanPoolSpec = serde_json::from_value(pool.spec.clone()).map_err(|error| error.to_string())?;
    let addresses = ParsedPool::parse(&spec).map_err(|error| error.to_string())?;
    Ok((spec, addresses))
}

/// What each pool claims. Those that are gone or invalid, too: pods have addresses of what is held of them.
fn claims(pools: &[StoredPool], parsed: &Parsed, held: &BTreeMap<String, Held>) -> Vec<PoolClaim> {
    let existing: BTreeMap<String, &StoredPool> = pools.iter().map(|pool| (name(pool), pool)).collect();
    let valid = |name: &str| Some((*existing.get(name)?, parsed.get(name)?.as_ref().ok()?));
    let claim = |(name, held): (&String, &Held)| match valid(name) {
        Some((pool, (spec, addresses))) => {
            let others = existing.keys().filter(|other| *other != name).filter_map(|other| valid(other));
            let others = others.filter(|(other, (of, _))| {
                stage(other) == PoolStage::Accepted && !of.inventory && domain(of) == domain(spec)
            });
            let taken = AddrSet::union(others.flat_map(|(_, (_, addresses))| addresses.ranges().iter()));
            Some(claim(pool, spec, addresses, held, &taken))
        }
        None if held.is_empty() => None,
        None => Some(PoolClaim {
            name: name.as_str().into(),
            addresses: held.addresses(),
            routing_domain: existing
                .get(name)
                .map(|pool| pool.spec["routingDomain"].as_str().unwrap_or_default().to_owned()),
            inventory: false,
            stage: PoolStage::Accepted,
            in_use: true,
            created: String::new(),
        }),
    };
    held.iter().filter_map(claim).collect()
}

fn domain(spec: &LanPoolSpec) -> &str {
    spec.routing_domain.as_deref().unwrap_or_default()
}

/// `taken`: the ranges of other pools that are accepted.
fn claim(
    pool: &StoredPool,
    spec: &LanPoolSpec,
    addresses: &ParsedPool,
    held: &Held,
    taken: &AddrSet,
) -> PoolClaim {
    // What is claimed outside of the ranges, as they are now, is the pool's all the same: pods may have it.
    let outside = held.addresses().without(taken);
    PoolClaim {
        name: name(pool).as_str().into(),
        addresses: AddrSet::union(addresses.ranges().iter().chain(outside.iter())),
        routing_domain: Some(domain(spec).to_owned()),
        inventory: spec.inventory,
        stage: stage(pool),
        in_use: !held.is_empty(),
        created: pool.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
    }
}

fn step_name(step: &PoolStep) -> &str {
    match step {
        PoolStep::Propose(name) | PoolStep::Accept(name) | PoolStep::Refuse(name, _) => name.as_str(),
    }
}

fn next_status(
    pool: &StoredPool,
    all: &Parsed,
    held: &Held,
    step: Option<&PoolStep>,
    (notes, all_notes, foreign): (&NodeNotes, &BTreeMap<String, NodeNotes>, &Foreign),
    now: &str,
) -> LanPoolStatus {
    let before = status(pool).cloned().unwrap_or_default();
    let mut next = LanPoolStatus { observed_generation: pool.metadata.generation, ..before.clone() };
    let parsed = all.get(&name(pool));
    let mut acceptance = acceptance(pool, all, step);
    if acceptance.holds
        && !was_accepted(pool)
        && let Some((reason, message)) = files::why_it_waits(notes, is_replacing(pool))
    {
        acceptance = Acceptance::no(reason, message);
    }
    if acceptance.holds
        && before.accepted_generation != pool.metadata.generation
        && let Some(Ok((spec, addresses))) = parsed
        && let Some(message) = files::other_file(&name(pool), spec, addresses.handed_out(), all_notes)
    {
        acceptance = Acceptance::no(files::FILES, message);
    }
    if let Some(Ok((spec, addresses))) = parsed
        && needs_lengths(pool)
        && (acceptance.holds || [PROPOSED, REPLACING].contains(&acceptance.reason))
    {
        match held.block_lengths(spec, addresses.handed_out()) {
            Ok(lengths) if acceptance.holds || acceptance.reason == REPLACING => {
                let lengths = files::uncut(lengths, spec, notes);
                next.block_length_v4.get_or_insert(lengths.v4.into());
                next.block_length_v6.get_or_insert(lengths.v6.into());
            }
            Ok(_) => {}
            Err(other) => acceptance = Acceptance::of_old_blocks(&other),
        }
    }
    let Acceptance { holds, reason, message } = acceptance;
    if holds {
        next.accepted_generation = pool.metadata.generation;
    }
    let mut conditions = vec![
        Condition::new(ACCEPTED, holds, reason, message.clone()),
        Condition::new(READY, holds, reason, message),
    ];
    if let Some(Ok((spec, addresses))) = parsed {
        let free = addresses.handed_out().without(&held.addresses());
        let size = addresses.handed_out().len();
        next.size = Some(size.to_string());
        next.free = Some(free.len().to_string());
        next.used = Some(size.saturating_sub(free.len()).to_string());
        next.nodes = i64::try_from(held.nodes().len()).ok();
        if holds && !spec.inventory {
            conditions.extend(used_by_cluster(spec, addresses.handed_out(), foreign));
        }
        if holds && has_blocks(&pool.spec) {
            let was = find_condition(&before.conditions, NEARLY_FULL).is_some();
            conditions.push(exhausted(addresses.handed_out(), &free));
            conditions.extend(nearly_full(addresses.handed_out(), &free, was));
        }
        conditions.extend(draining(held, addresses.handed_out(), notes));
    }
    conditions.extend(of_nodes(notes));
    conditions = conditions.into_iter().map(|found| found.observing(pool.metadata.generation)).collect();
    set_transition_times(&mut conditions, &before.conditions, now);
    next.conditions = conditions;
    next
}

/// Whether it was accepted, in this form or an earlier one: no file of its name hands out any more.
fn was_accepted(pool: &StoredPool) -> bool {
    status(pool).is_some_and(|status| status.accepted_generation.is_some())
}

/// Whether the lengths of its blocks are to be chosen when it is accepted.
fn needs_lengths(pool: &StoredPool) -> bool {
    let chosen = status(pool).is_some_and(|status| status.block_length_v4.is_some());
    !chosen && has_blocks(&pool.spec)
}

/// Whether a pool is about to be accepted: which blocks are there, and which files, is to be read before.
pub(super) fn is_about_to_be_accepted(pool: &StoredPool) -> bool {
    stage(pool) == PoolStage::Proposed || is_replacing(pool)
}

#[cfg(test)]
mod tests {
    use pool_blocks::{Holder, Key, Prefix, ResourceVersion, Spec, Uid};
    use proto::published::PoolNote;
    use serde_json::{Value, json};

    use super::super::acceptance::OVERLAPS;
    use super::super::conditions::DRAINING;
    use super::super::for_node::EXHAUSTED;
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
            let changed =
                changed_statuses(pools, objects, &BTreeMap::new(), &Foreign::new(), "2026-11-29T12:00:00Z");
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
        let first = changed_statuses(&pools, &[], &BTreeMap::new(), &Foreign::new(), "2026-11-29T12:00:00Z");
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
    fn a_pool_waits_for_the_files_of_its_name() {
        let note = |ranges: &str, file_fits| PoolNote {
            file_ranges: Some(AddrSet::union([ranges.parse().unwrap()])),
            file_fits,
            ..PoolNote::default()
        };
        let mut pools = [pool("office", json!({ "subnets": ["10.0.0.0/16"] }))];
        let settle = |pools: &mut [StoredPool], notes: &[(&str, PoolNote)]| {
            let notes: NodeNotes =
                notes.iter().map(|(node, note)| ((*node).to_owned(), note.clone())).collect();
            let notes = [("office".to_owned(), notes)].into();
            for _ in 0..4 {
                if let Some(next) =
                    changed_statuses(pools, &[], &notes, &Foreign::default(), "2026-11-29T12:00:00Z")
                        .remove("office")
                {
                    pools[0].status = Some(Guarded::Valid(next));
                }
            }
            let found = status(&pools[0]).unwrap();
            (reason(&pools[0], ACCEPTED), found.block_length_v4)
        };
        let differs = [("a", note("10.0.0.2-10.0.0.99", false)), ("b", note("10.0.0.100-10.0.0.199", true))];
        assert_eq!(settle(&mut pools, &differs), ("FilesOnNodes".to_owned(), None));
        let fits = [("a", note("10.0.0.2-10.0.0.99", true)), differs[1].clone()];
        assert_eq!(settle(&mut pools, &fits), ("ReplacingFiles".to_owned(), Some(30)));
        assert!(is_replacing(&pools[0]) && is_about_to_be_accepted(&pools[0]));
        // What has begun goes on, whatever a file says by now, and is nobody else's.
        assert_eq!(settle(&mut pools, &differs), ("ReplacingFiles".to_owned(), Some(30)));
        assert_eq!(stage(&pools[0]), PoolStage::Accepted);
        assert_eq!(settle(&mut pools, &fits[1..]).0, "ReplacingFiles");
        // An edit meanwhile does not take it past the files.
        pools[0].metadata.generation = Some(7);
        assert_eq!(settle(&mut pools, &fits[1..]).0, "ReplacingFiles");
        assert_eq!(settle(&mut pools, &[("a", PoolNote::default())]), ("Accepted".to_owned(), Some(30)));
        // Later files are not asked.
        assert_eq!(settle(&mut pools, &fits).0, "Accepted");
        pools[0].metadata.generation = Some(8);
        assert_eq!(settle(&mut pools, &fits).0, "Accepted");
    }

    #[test]
    fn a_pool_waits_for_files_of_other_names_that_hand_out_the_same() {
        let note = |domain: Option<&str>| PoolNote {
            file_ranges: Some(AddrSet::union(["10.0.0.2-10.0.0.9".parse().unwrap()])),
            file_domain: domain.map(str::to_owned),
            ..PoolNote::default()
        };
        let settle = |pools: &mut [StoredPool], note: PoolNote| {
            let notes = [("plant".to_owned(), [("worker1".to_owned(), note)].into())].into();
            for _ in 0..4 {
                let changed =
                    changed_statuses(pools, &[], &notes, &Foreign::default(), "2026-11-30T12:00:00Z");
                if let Some(next) = changed.into_values().next() {
                    pools[0].status = Some(Guarded::Valid(next));
                }
            }
            let found = status(&pools[0]).unwrap();
            let accepted = find_condition(&found.conditions, ACCEPTED).unwrap();
            (accepted.reason.clone(), accepted.message.clone())
        };
        let new = || [pool("office", json!({ "subnets": ["10.0.0.0/24"] }))];
        for domain in [Some(""), None] {
            let (reason, message) = settle(&mut new(), note(domain));
            assert_eq!(reason, "FilesOnNodes");
            assert!(message.starts_with("worker1 hands out 10.0.0.2 by its file plant"), "{message}");
        }
        assert_eq!(settle(&mut new(), note(Some("lab"))).0, "Accepted");
        // What was accepted stays, and an edit waits.
        let mut pools = new();
        assert_eq!(settle(&mut pools, PoolNote::default()).0, "Accepted");
        assert_eq!(settle(&mut pools, note(Some(""))).0, "Accepted");
        pools[0].metadata.generation = Some(2);
        assert_eq!(settle(&mut pools, note(Some(""))).0, "FilesOnNodes");
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
        let mut pools = [pool("dual", json!({ "subnets": ["10.0.0.0/30", "fd00::/64"] }))];
        settle(&mut pools, &[block("dual", "10.0.0.2/32", "a")]);
        assert_eq!(reason(&pools[0], EXHAUSTED), "NoIPv4BlockLeft");
    }

    #[test]
    fn a_size_that_is_asked_for_gives_the_lengths() {
        let mut pools = [pool("office", json!({ "subnets": ["10.0.0.0/16"], "blockSize": 16 }))];
        settle(&mut pools, &[]);
        let found = status(&pools[0]).unwrap();
        assert_eq!((found.block_length_v4, found.block_length_v6), (Some(28), Some(124)));
    }

    #[test]
    fn who_has_what_a_pool_has_shrunk_away_from_is_told() {
        let mut pools = [pool("office", json!({ "subnets": ["10.0.0.0/24"] }))];
        let blocks = [block("office", "10.0.0.9/32", "a"), block("office", "10.0.0.200/32", "b")];
        settle(&mut pools, &blocks);
        let draining =
            |pool: &StoredPool| find_condition(&status(pool).unwrap().conditions, DRAINING).cloned();
        assert_eq!(draining(&pools[0]), None);
        pools[0].metadata.generation = Some(2);
        pools[0].spec = json!({ "subnets": ["10.0.0.0/25"] });
        settle(&mut pools, &blocks);
        let told = draining(&pools[0]).unwrap().message;
        assert!(told.starts_with("b has one block, of which the pool hands nothing out"), "{told}");
        assert_eq!(reason(&pools[0], ACCEPTED), "Accepted");
        settle(&mut pools, &blocks[..1]);
        assert_eq!(draining(&pools[0]), None);
    }

    #[test]
    fn what_a_shrunk_pools_block_has_is_nobody_elses() {
        let spec = |last: &str| json!({ "ranges": [{ "subnet": "10.0.0.0/16", "rangeEnd": last }], "blockSize": 16 });
        let rest =
            json!({ "ranges": [{ "subnet": "10.0.0.0/16", "rangeStart": "10.0.1.6", "gateway": "none" }] });
        let mut pools = [pool("a", spec("10.0.1.200")), pool("b", rest)];
        pools[1].metadata.generation = Some(7);
        let blocks = [block("a", "10.0.1.0/28", "w")];
        let [a, _] = &mut pools;
        settle(std::slice::from_mut(a), &blocks);
        pools[0].metadata.generation = Some(2);
        pools[0].spec = spec("10.0.1.5");
        settle(&mut pools, &blocks);
        assert_eq!([reason(&pools[0], ACCEPTED), reason(&pools[1], ACCEPTED)], ["Accepted", "Overlaps"]);
        settle(&mut pools, &[]);
        assert_eq!(reason(&pools[1], ACCEPTED), "Accepted");
        // Two that were accepted and have parts of one block do not stand in each other's way.
        pools[0].metadata.generation = Some(3);
        pools[0].spec = spec("10.0.1.4");
        settle(&mut pools, &blocks);
        assert_eq!([reason(&pools[0], ACCEPTED), reason(&pools[1], ACCEPTED)], ["Accepted", "Accepted"]);
    }

    #[test]
    fn what_is_held_of_a_pool_that_is_gone_is_nobody_elses() {
        let spec = json!({ "subnets": ["10.0.1.0/24"], "routingDomain": "dmz" });
        let mut pools = [pool("b", spec.clone())];
        let blocks = [block("a", "10.0.1.16/28", "w")];
        settle(&mut pools, &blocks);
        assert_eq!(reason(&pools[0], ACCEPTED), OVERLAPS);
        let message = &status(&pools[0]).unwrap().conditions[0].message;
        assert!(message.contains("blocks of pool a, which was deleted"), "{message}");
        settle(&mut pools, &[]);
        assert_eq!(reason(&pools[0], ACCEPTED), "Accepted");
        // One that was edited so that nobody can read it.
        let wrong = json!({ "subnets": ["10.0.1.7/24"], "routingDomain": "dmz" });
        let mut pools = [pool("a", wrong.clone()), pool("b", spec.clone())];
        settle(&mut pools, &blocks);
        assert_eq!([reason(&pools[0], ACCEPTED), reason(&pools[1], ACCEPTED)], ["Invalid", OVERLAPS]);
        let mut pools = [pool("a", json!({ "subnets": ["10.0.1.7/24"] })), pool("b", spec)];
        settle(&mut pools, &blocks);
        assert_eq!(reason(&pools[1], ACCEPTED), "Accepted", "in another domain");
    }

    #[test]
    fn what_is_held_outside_is_given_by_no_pool_that_hands_out_nothing_here() {
        for other in [
            json!({ "subnets": ["10.0.0.0/16"], "inventory": true }),
            json!({ "subnets": ["10.0.1.0/24"], "routingDomain": "dmz" }),
        ] {
            let rest = json!({ "subnets": ["10.0.1.0/24"] });
            let mut pools = [pool("a", json!({ "subnets": ["10.0.0.0/24"] })), pool("c", other)];
            let blocks = [block("a", "10.0.0.240/28", "v"), block("a", "10.0.1.0/28", "w")];
            settle(&mut pools[1..], &[]);
            settle(&mut pools[..1], &blocks);
            let [a, c] = pools;
            let mut pools = [a, c, pool("b", rest)];
            settle(&mut pools, &blocks);
            assert_eq!(reason(&pools[2], ACCEPTED), OVERLAPS, "{:?}", pools[1].spec);
        }
    }

    #[test]
    fn a_pool_that_is_created_again_has_the_blocks_of_its_name() {
        let mut pools = [pool("office", json!({ "subnets": ["10.0.0.0/16"], "blockSize": 16 }))];
        let old = [block("office", "10.9.0.0/32", "a")];
        settle(&mut pools, &old);
        assert_eq!(reason(&pools[0], ACCEPTED), "OldBlocks");
        let found = status(&pools[0]).unwrap();
        assert!(found.block_length_v4.is_none() && found.conditions[0].message.starts_with("a still hold"));
        pools[0].spec = json!({ "subnets": ["10.0.0.0/16"] });
        settle(&mut pools, &old);
        let found = status(&pools[0]).unwrap();
        assert_eq!((reason(&pools[0], ACCEPTED), found.block_length_v4), ("Accepted".to_owned(), Some(32)));
        assert_eq!(reason(&pools[0], DRAINING), "OutsideRanges");
    }
}
