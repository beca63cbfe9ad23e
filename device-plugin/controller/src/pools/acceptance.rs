//! Whether a pool is accepted, and what is said where it is not. Pure.

use std::collections::BTreeMap;

use lan::pool::{LanPoolSpec, ParsedPool};
use lan::{ACCEPTED, find_condition};
use pool_blocks::{PoolStage, PoolStep};

use super::files;
use super::for_node::{REPLACING, StoredPool, name, status};
use super::held::OtherLength;

pub(super) const PROPOSED: &str = "Proposed";
pub(super) const OVERLAPS: &str = "Overlaps";
const OLD_BLOCKS: &str = "OldBlocks";

/// All pools by name; of those that are invalid, why.
pub(super) type Parsed = BTreeMap<String, Result<(LanPoolSpec, ParsedPool), String>>;

/// Of the specification as it is now: an edit is accepted like a new pool, since it may overlap.
pub(super) fn stage(pool: &StoredPool) -> PoolStage {
    let accepted = status(pool).and_then(|status| find_condition(&status.conditions, ACCEPTED));
    match accepted.filter(|found| found.observed_generation == pool.metadata.generation) {
        Some(found) if found.is_true() => PoolStage::Accepted,
        // Nodes claim of it.
        Some(found) if found.reason == REPLACING => PoolStage::Accepted,
        Some(found) if [PROPOSED, files::FILES].contains(&found.reason.as_str()) => PoolStage::Proposed,
        _ => PoolStage::New,
    }
}

/// Whether a pool is accepted.
pub(super) struct Acceptance {
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Acceptance {
    pub(super) fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }

    pub(super) fn of_old_blocks(other: &OtherLength) -> Self {
        let nodes = &other.nodes;
        let message = format!(
            "{nodes} still hold blocks of a pool of this name that was deleted, in another size: leave blockSize out, use \
             another name, or wait until they have gone back, which they do when no pod has an address of them"
        );
        Self::no(OLD_BLOCKS, message)
    }
}

/// By what the pools are, and what is decided about this one.
pub(super) fn acceptance(pool: &StoredPool, all: &Parsed, step: Option<&PoolStep>) -> Acceptance {
    let proposed = || {
        let message = "it is accepted as soon as no other pool that overlaps it is proposed";
        Acceptance::no(PROPOSED, message.to_owned())
    };
    let accepted = || Acceptance { holds: true, reason: "Accepted", message: String::new() };
    match (all.get(&name(pool)), step) {
        (Some(Err(error)), _) => Acceptance::no("Invalid", error.clone()),
        (_, Some(PoolStep::Refuse(_, other))) if !all.contains_key(other.as_str()) => Acceptance::no(
            OVERLAPS,
            format!(
                "it has addresses of blocks of pool {other}, which was deleted: they go back when no pod has an address of them, and \
                 'kubectl get lanblocks' shows who holds them"
            ),
        ),
        (_, Some(PoolStep::Refuse(_, other))) => Acceptance::no(
            OVERLAPS,
            format!(
                "it has addresses of pool {other}, or of blocks of it that nodes still hold: change or delete one of them, or give \
                 them two values of routingDomain"
            ),
        ),
        (_, Some(PoolStep::Accept(_))) => accepted(),
        (_, Some(PoolStep::Propose(_))) => proposed(),
        (_, None) if stage(pool) == PoolStage::Accepted => accepted(),
        (_, None) => proposed(),
    }
}
