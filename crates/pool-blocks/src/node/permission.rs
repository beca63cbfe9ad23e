//! What may be allocated, and what is told.

use net_types::AddrSet;

use super::{Holding, Leases, Node, Stage};
use crate::weakness::Weakness;
use crate::{BootTime, DiskVersion, Key, NodeName, Owner, Phase, Place};

/// Why nothing may be allocated from a block or floating address. All end by themselves or by what they say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The disk was lost.
    #[error("this node lost what it kept on disk, and has not counted yet what its pods have")]
    NotCounted,
    /// There is no current read of the own `Node`.
    #[error("the API server has not shown this node's Node object as in service")]
    NodeUnknown,
    /// It is not this node's, or not yet or not any more.
    #[error("{0} is not held by this node")]
    NotHeld(Key),
    /// The disk has not confirmed the claim.
    #[error("the claim of {0} is not on disk yet")]
    NotSynced(Key),
    /// No read confirmed it for too long.
    #[error(
        "the API server has not confirmed for {} minutes that {key} is this node's; it may be another's by now",
        since.as_secs() / 60
    )]
    Horizon {
        /// What was not confirmed.
        key: Key,
        /// Since the last confirmation was asked for.
        since: std::time::Duration,
    },
    /// Another node used it as well.
    #[error("{key} is contested by node {by}, whose pods may have addresses of it")]
    Contested {
        /// What both have.
        key: Key,
        /// The other node.
        by: NodeName,
    },
}

/// Addresses that two have, or will have if nobody waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What this node holds, or held.
    pub key: Key,
    /// The addresses of it that are used here.
    pub used: AddrSet,
    /// Who else has it.
    pub other: String,
}

impl Node {
    /// Until when addresses of this may be given to pods.
    ///
    /// # Errors
    /// None may be.
    pub fn may_use(&self, now: BootTime, key: &Key) -> Result<BootTime, Refusal> {
        if !self.counted {
            return Err(Refusal::NotCounted);
        }
        let (_, node_sent) = self.own.ok_or(Refusal::NodeUnknown)?;
        let not_held = || Refusal::NotHeld(key.clone());
        let holding =
            self.holdings.get(key).filter(|holding| holding.stage == Stage::Held).ok_or_else(not_held)?;
        holding.record.as_ref().filter(|record| record.phase == Phase::Held).ok_or_else(not_held)?;
        if !self.is_synced(holding) && !self.weakened.lacks(Weakness::UsesBeforeSync) {
            return Err(Refusal::NotSynced(key.clone()));
        }
        let confirmed = holding.permit.ok_or_else(not_held)?.min(node_sent);
        let until = confirmed.after(self.horizon.for_node());
        if now >= until {
            let since = std::time::Duration::from_millis(now.millis().saturating_sub(confirmed.millis()));
            return Err(Refusal::Horizon { key: key.clone(), since });
        }
        match holding.seen.as_ref().and_then(|object| object.spec.contested.first()) {
            Some(by) => Err(Refusal::Contested { key: key.clone(), by: by.clone() }),
            None => Ok(until),
        }
    }

    /// The addresses of a block, or the floating address, as far as they are this node's to give.
    #[must_use]
    pub fn addresses(&self, key: &Key) -> AddrSet {
        match key.place {
            Place::Block(block) => self.pools.get(&key.pool).map_or_else(AddrSet::default, |geometry| {
                geometry.addresses_in(block).without(&self.released(key)).without(&self.kept_back(key))
            }),
            Place::Address(address) => AddrSet::union([net_types::AddrRange::single(address)]),
        }
    }

    /// The addresses of a block that float though pods have them, or had them when that was read: nobody gets them of the block.
    #[must_use]
    pub fn kept_back(&self, key: &Key) -> AddrSet {
        let in_the_way = self.holdings.get(key).map(|holding| holding.in_the_way.clone());
        in_the_way.unwrap_or_default().without(&self.released(key))
    }

    fn released(&self, key: &Key) -> AddrSet {
        let record = self.holdings.get(key).and_then(|holding| holding.record.as_ref());
        record.map(|record| record.released.clone()).unwrap_or_default()
    }

    /// Whose floating address it is.
    #[must_use]
    pub fn owner_of(&self, key: &Key) -> Option<&Owner> {
        self.holdings.get(key)?.owner()
    }

    /// What this node has in use that another has, too.
    #[must_use]
    pub fn conflicts(&self, leases: &dyn Leases) -> Vec<Conflict> {
        let in_the_way = |holding: &Holding| match &holding.record.as_ref()?.phase {
            Phase::Lost { other } => {
                // Others who lost it as well have said so there.
                let contested = holding.seen.iter().flat_map(|object| &object.spec.contested);
                let others = contested.filter(|node| **node != self.me).map(NodeName::as_str);
                let told = holding.told.as_deref();
                Some(std::iter::once(other.as_str()).chain(others).chain(told).collect::<Vec<_>>().join(", "))
            }
            _ => holding.told.clone(),
        };
        let all = self.holdings.iter().filter_map(|(key, holding)| Some((key, in_the_way(holding)?)));
        let all = all.map(|(key, other)| Conflict { key: key.clone(), used: leases.used(key), other });
        all.filter(|conflict| !conflict.used.is_empty()).collect()
    }

    pub(super) fn is_synced(&self, holding: &Holding) -> bool {
        !holding.dirty && (holding.recorded_in <= self.synced || holding.recorded_in == DiskVersion(0))
    }
}
