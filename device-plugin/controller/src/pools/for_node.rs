//! A pool as a node is told of it. Pure.

use std::collections::BTreeMap;

use kube::core::{ApiResource, GroupVersionKind, Object};
use lan::pool::LanPoolStatus;
use lan::{ACCEPTED, find_condition};
use net_types::Family;
use node::{BlockLength, ClusterPool};
use serde_json::Value;

use crate::guarded::Guarded;

/// The condition of a pool that says that all of its blocks are somebody's, and its reasons: of both families, or of one.
pub(super) const EXHAUSTED: &str = "Exhausted";
pub(super) const NO_BLOCK: &str = "NoBlockLeft";
pub(super) const NO_IPV4_BLOCK: &str = "NoIPv4BlockLeft";
pub(super) const NO_IPV6_BLOCK: &str = "NoIPv6BlockLeft";

/// Why a pool is not accepted: it takes the place of files.
pub(super) const REPLACING: &str = "ReplacingFiles";

/// A pool at the API server: its specification as its author wrote it.
pub(super) type StoredPool = Object<Value, Guarded<LanPoolStatus>>;

/// The kind of [`StoredPool`].
pub(super) fn pools() -> ApiResource {
    let kind = GroupVersionKind::gvk("lan.k8slan.io", "v1beta1", "LANPool");
    ApiResource::from_gvk_with_plural(&kind, "lanpools")
}

pub(super) type Labels = BTreeMap<String, String>;

pub(super) fn status(pool: &StoredPool) -> Option<&LanPoolStatus> {
    pool.status.as_ref().and_then(Guarded::valid)
}

/// Whether the leader has accepted the specification as it is now.
pub(super) fn is_accepted(pool: &StoredPool) -> bool {
    let accepted = status(pool).and_then(|status| find_condition(&status.conditions, ACCEPTED));
    accepted.is_some_and(|found| found.is_true() && found.observed_generation == pool.metadata.generation)
}

/// Whether files of its name give way to it; what is to be in blocks before it is accepted is claimed.
pub(super) fn is_replacing(pool: &StoredPool) -> bool {
    let accepted = status(pool).and_then(|status| find_condition(&status.conditions, ACCEPTED));
    accepted.is_some_and(|found| {
        found.reason == REPLACING && found.observed_generation == pool.metadata.generation
    })
}

/// The pool for a node with these labels; `None`: they are not known.
///
/// What `before` says, the last that was accepted, stays until the leader has accepted the edit: the edit may overlap another
/// pool.
pub(super) fn for_node(
    pool: &StoredPool,
    labels: Option<&Labels>,
    before: Option<&ClusterPool>,
) -> ClusterPool {
    if is_accepted(pool) {
        return ClusterPool {
            name: name(pool),
            uid: uid(pool),
            accepted: true,
            replacing: false,
            elsewhere: false,
            in_place_of: None,
            deleted: false,
            spec: pool.spec.clone(),
            blocks: block_lengths(pool),
            refusal: refusal(&pool.spec, labels),
            exhausted: exhausted_families(pool),
            namespaces: None,
            reserved: Vec::new(),
        };
    }
    let refusal = Some(not_accepted(pool));
    // A node that is not selected keeps its file, and the pool waits for that.
    let is_refused = pool.spec["inventory"] != true && self::refusal(&pool.spec, labels).is_some();
    let (replacing, elsewhere) = (is_replacing(pool) && !is_refused, is_refused && labels.is_some());
    match before {
        None if replacing => {
            let (name, uid, spec) = (name(pool), uid(pool), pool.spec.clone());
            let blocks = block_lengths(pool);
            ClusterPool { name, uid, spec, blocks, refusal, replacing, ..ClusterPool::default() }
        }
        Some(before) => ClusterPool { refusal, ..before.clone() },
        None => {
            let (name, uid, spec) = (name(pool), uid(pool), pool.spec.clone());
            ClusterPool { name, uid, spec, refusal, elsewhere, ..ClusterPool::default() }
        }
    }
}

/// The families of which every block is somebody's.
fn exhausted_families(pool: &StoredPool) -> Vec<Family> {
    let exhausted = status(pool).and_then(|status| find_condition(&status.conditions, EXHAUSTED));
    match exhausted.filter(|found| found.is_true()).map(|found| found.reason.as_str()) {
        None => Vec::new(),
        Some(NO_IPV4_BLOCK) => vec![Family::V4],
        Some(NO_IPV6_BLOCK) => vec![Family::V6],
        Some(_) => Family::BOTH.to_vec(),
    }
}

pub(super) fn name(pool: &StoredPool) -> String {
    pool.metadata.name.clone().unwrap_or_default()
}

fn uid(pool: &StoredPool) -> String {
    pool.metadata.uid.clone().unwrap_or_default()
}

fn not_accepted(pool: &StoredPool) -> String {
    let accepted = status(pool).and_then(|status| find_condition(&status.conditions, ACCEPTED));
    match accepted.filter(|found| found.observed_generation == pool.metadata.generation) {
        Some(found) if !found.message.is_empty() => found.message.clone(),
        _ => "the leader has not accepted the pool yet, as it is now".to_owned(),
    }
}

/// The lengths of its blocks, if it has any.
pub(super) fn block_lengths(pool: &StoredPool) -> Option<BlockLength> {
    if !has_blocks(&pool.spec) {
        return None;
    }
    let status = status(pool)?;
    let length = |length: Option<i64>, bits| u8::try_from(length?).ok().filter(|length| *length <= bits);
    Some(BlockLength { v4: length(status.block_length_v4, 32)?, v6: length(status.block_length_v6, 128)? })
}

/// Whether nodes share it in blocks.
pub(super) fn has_blocks(spec: &Value) -> bool {
    !has_parts(spec) && spec["inventory"] != true
}

/// Whether nodes have fixed parts of it, and no blocks.
fn has_parts(spec: &Value) -> bool {
    spec["nodes"].as_object().is_some_and(|nodes| !nodes.is_empty())
}

/// Why a node with these labels may claim nothing of an accepted pool.
fn refusal(spec: &Value, labels: Option<&Labels>) -> Option<String> {
    if spec["inventory"] == true {
        return Some("the pool is an inventory, which hands out nothing: name another one".to_owned());
    }
    let selector = spec["nodeSelector"].as_object().filter(|_| !has_parts(spec))?;
    let Some(labels) = labels else {
        return Some("the pool has a nodeSelector, and the labels of this node cannot be read".to_owned());
    };
    let (key, value) =
        selector.iter().find(|(key, value)| labels.get(*key).map(String::as_str) != value.as_str())?;
    let value = value.as_str().unwrap_or_default();
    Some(format!("the pool's nodeSelector asks for the label {key}={value}, which this node does not have"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(spec: Value, accepted: Option<(bool, i64, &str)>) -> StoredPool {
        let conditions: Vec<Value> = accepted
            .map(|(holds, generation, message)| {
                json!({
                    "type": "Accepted", "status": if holds { "True" } else { "False" }, "reason": "R",
                    "message": message, "observedGeneration": generation,
                    "lastTransitionTime": "2026-11-29T12:00:00Z",
                })
            })
            .into_iter()
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool",
            "metadata": { "name": "office", "generation": 2 }, "spec": spec,
            "status": { "blockLengthV4": 28, "blockLengthV6": 128, "conditions": conditions },
        }))
        .unwrap()
    }

    fn refusal_of(pool: &StoredPool, labels: &[(&str, &str)]) -> String {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        for_node(pool, Some(&labels), None).refusal.unwrap_or_default()
    }

    #[test]
    fn blocks_wait_for_the_leader() {
        let spec = json!({ "subnets": ["10.0.0.0/16"] });
        let accepted = for_node(&pool(spec.clone(), Some((true, 2, ""))), None, None);
        assert_eq!(
            (accepted.blocks, accepted.refusal.clone()),
            (Some(BlockLength { v4: 28, v6: 128 }), None)
        );
        for (status, why) in [
            (None, "has not accepted the pool yet"),
            (Some((true, 1, "of the version before")), "has not accepted the pool yet"),
            (Some((false, 2, "it overlaps pool home")), "it overlaps pool home"),
        ] {
            let told = for_node(&pool(spec.clone(), status), None, None);
            assert_eq!(told.blocks, None);
            assert!(told.refusal.clone().unwrap().contains(why), "{:?}", told.refusal);
            // What was accepted before stays until then.
            let edited = pool(json!({ "subnets": ["10.0.0.0/8"] }), status);
            let kept = for_node(&edited, None, Some(&accepted));
            assert_eq!((&kept.spec, kept.blocks, &kept.refusal), (&spec, accepted.blocks, &told.refusal));
        }
    }

    #[test]
    fn a_node_is_told_why_it_gets_nothing() {
        let selected = json!({ "subnets": ["10.0.0.0/16"], "nodeSelector": { "zone": "a", "disk": "x" } });
        let selected = pool(selected, Some((true, 2, "")));
        assert_eq!(refusal_of(&selected, &[("zone", "a"), ("disk", "x"), ("more", "")]), "");
        let refused = refusal_of(&selected, &[("zone", "b"), ("disk", "x")]);
        assert!(refused.contains("zone=a, which this node does not have"), "{refused}");
        assert!(for_node(&selected, None, None).refusal.unwrap().contains("cannot be read"));
        let inventory = pool(json!({ "subnets": ["10.0.0.0/8"], "inventory": true }), Some((true, 2, "")));
        assert!(refusal_of(&inventory, &[]).contains("inventory"));
        let parts = json!({ "subnets": ["10.0.0.0/24"], "nodes": { "worker1": ["10.0.0.0/26"] } });
        let told = for_node(&pool(parts, Some((true, 2, ""))), None, None);
        assert_eq!((told.blocks, told.refusal), (None, None));
    }

    #[test]
    fn a_family_of_which_nothing_is_left_is_told() {
        let mut pool = pool(json!({ "subnets": ["10.0.0.0/16"] }), Some((true, 2, "")));
        for (reason, families) in [
            (NO_IPV4_BLOCK, &[Family::V4][..]),
            (NO_IPV6_BLOCK, &[Family::V6]),
            (NO_BLOCK, &Family::BOTH),
            ("BlocksLeft", &[]),
        ] {
            if let Some(Guarded::Valid(status)) = &mut pool.status {
                status.conditions.truncate(1);
                let holds = reason != "BlocksLeft";
                status.conditions.push(lan::Condition::new(EXHAUSTED, holds, reason, ""));
            }
            assert_eq!(for_node(&pool, None, None).exhausted, families, "{reason}");
        }
    }

    #[test]
    fn a_pool_that_replaces_files_is_none_for_nodes_without_them() {
        let spec = json!({ "subnets": ["10.0.0.0/16"], "nodeSelector": { "zone": "a" } });
        let mut pool = pool(spec, Some((false, 2, "it waits for worker2")));
        if let Some(Guarded::Valid(status)) = &mut pool.status {
            status.conditions[0].reason = REPLACING.to_owned();
        }
        let labels = |zone: &str| [("zone".to_owned(), zone.to_owned())].into();
        let told = for_node(&pool, Some(&labels("a")), None);
        assert_eq!(
            (told.accepted, told.replacing, told.blocks),
            (false, true, Some(BlockLength { v4: 28, v6: 128 }))
        );
        assert_eq!(told.refusal.as_deref(), Some("it waits for worker2"));
        assert!(!told.is_in_charge(), "a node with a file takes it itself");
        let told = for_node(&pool, Some(&labels("b")), None);
        assert!(!told.replacing && told.elsewhere);
        assert!(!for_node(&pool, None, None).elsewhere, "that is not known");
    }

    #[test]
    fn lengths_that_no_family_has_are_none() {
        let mut pool = pool(json!({ "subnets": ["10.0.0.0/16"] }), Some((true, 2, "")));
        if let Some(Guarded::Valid(status)) = &mut pool.status {
            status.block_length_v4 = Some(33);
        }
        assert_eq!(for_node(&pool, None, None).blocks, None);
    }
}
