//! What is needed on the node, and what goes back.

use std::time::Duration;

use net_types::{Addr, AddrSet, Family};

use super::{Holding, Leases, Node, Stage};
use crate::weakness::Weakness;
use crate::{BootTime, Key, Owner, Phase, Place, PoolName, Prefix, Uid};

/// For how long a block that another had is passed over.
pub(super) const TAKEN: Duration = Duration::from_secs(60);

impl Node {
    /// Claims one more block: one that is leaving and that the pool still has, or else the first in this node's order that nobody is known to have. One
    /// claim of a pool and family is under way at a time for each that is wanted.
    pub(super) fn want_block(&mut self, now: BootTime, pool: &PoolName, family: Family) {
        let reuses_without_update = self.weakened.lacks(Weakness::ReusesWithoutUpdate);
        let Some(geometry) = self.pools.get(pool) else { return };
        let leaving = self.holdings.iter_mut().find(|(key, holding)| {
            let fits = |prefix: Prefix| prefix.first().family() == family && geometry.has_block(prefix);
            let is_block = matches!(key.place, Place::Block(prefix) if fits(prefix));
            // What is fenced may be on its way out whatever is written.
            let is_fenced = holding
                .seen
                .as_ref()
                .is_some_and(|object| object.spec.holders.iter().any(|holder| holder.fenced));
            key.pool == *pool && is_block && holding.stage == Stage::Leaving && !is_fenced
        });
        if let Some((_, holding)) = leaving {
            if reuses_without_update && let Some(uid) = holding.record.as_ref().map(|record| record.uid) {
                holding.record(uid, Phase::Held);
                holding.stage = Stage::Held;
            } else {
                holding.go_to(Stage::Take);
            }
            return;
        }
        self.taken.retain(|_, until| *until > now);
        let free = geometry
            .claim_order(family, &self.me)
            .map(|block| Key::block(pool, block))
            .find(|key| !self.holdings.contains_key(key) && !self.taken.contains_key(key));
        if let Some(key) = free {
            self.holdings.insert(key, Holding::new(Stage::Claim));
        }
    }

    /// Claims the block around an address, unless another is known to have it.
    pub(super) fn want_block_of(&mut self, now: BootTime, pool: &PoolName, address: Addr) {
        let Some(geometry) = self.pools.get(pool).filter(|pool| pool.addresses().contains(address)) else {
            return;
        };
        let key = geometry.block_of(address);
        self.taken.retain(|_, until| *until > now);
        match self.holdings.get_mut(&key) {
            Some(holding) if holding.stage == Stage::Leaving => holding.go_to(Stage::Take),
            Some(_) => {}
            None if self.taken.contains_key(&key) => {}
            None => {
                self.holdings.insert(key, Holding { particular: true, ..Holding::new(Stage::Claim) });
            }
        }
    }

    /// Joins an owner's floating address.
    pub(super) fn want_address(&mut self, pool: &PoolName, address: Addr, owner: Owner) {
        let key = Key::address(pool, address);
        match self.holdings.get_mut(&key) {
            Some(holding) if holding.stage == Stage::Leaving && holding.owner() == Some(&owner) => {
                holding.go_to(Stage::Take);
            }
            Some(_) => {}
            None => {
                self.holdings.insert(key, Holding { owner: Some(owner), ..Holding::new(Stage::Look) });
            }
        }
    }

    /// The disk was lost, and the leases say by now what is used: that is looked for, as what the disk had would be.
    pub(super) fn count(&mut self, leases: &dyn Leases) {
        self.counted = true;
        for (key, owner) in leases.keys() {
            self.look_for(key, owner);
        }
    }

    /// The same for what is used of the pools and was never claimed: by pods that had it before the pool had blocks, or that
    /// somebody brought here by hand.
    pub(super) fn look_for_used(&mut self, leases: &dyn Leases) {
        for (key, owner) in leases.keys() {
            let is_of_pool = self.pools.get(&key.pool).is_some_and(|pool| match key.place {
                Place::Block(block) => pool.has_block(block),
                Place::Address(address) => pool.addresses().contains(address),
            });
            if is_of_pool {
                self.look_for(key, owner);
            }
        }
    }

    fn look_for(&mut self, key: Key, owner: Option<Owner>) {
        self.holdings.entry(key).or_insert_with(|| {
            let mut holding = Holding { owner, ..Holding::new(Stage::Look) };
            holding.record(Uid::UNKNOWN, Phase::Held);
            holding
        });
    }

    /// Leaves what nothing uses.
    pub(super) fn give_back(&mut self, key: &Key, leases: &dyn Leases) {
        let Some(holding) = self.holdings.get_mut(key) else { return };
        if !leases.used(key).is_empty() {
            return;
        }
        match (holding.stage, &holding.record) {
            (Stage::Held, Some(record)) => {
                let uid = record.uid;
                holding.record(uid, Phase::Leaving);
                holding.go_to(Stage::Leaving);
            }
            // Not used yet, and perhaps never: another is in the way.
            (Stage::Check, _) => {
                let Some(uid) = holding.seen.as_ref().map(|object| object.uid) else { return };
                holding.record(uid, Phase::Leaving);
                holding.go_to(Stage::Leaving);
            }
            (Stage::Lost, _) if holding.busy.is_none() => {
                holding.seen = None;
                holding.go_to(Stage::Withdraw);
            }
            _ => {}
        }
    }

    /// Gives up an address of a block, if no pod has it, so that it can float.
    pub(super) fn release_if_free(&mut self, pool: &PoolName, address: Addr, leases: &dyn Leases) {
        let Some(key) = self.pools.get(pool).map(|geometry| geometry.block_of(address)) else { return };
        let Some(holding) = self.holdings.get_mut(&key) else { return };
        let Some(record) = holding.record.as_mut().filter(|record| record.phase == Phase::Held) else {
            return;
        };
        if record.released.contains(address) || leases.used(&key).contains(address) {
            return;
        }
        let one = AddrSet::union([net_types::AddrRange::single(address)]);
        record.released = AddrSet::union(record.released.iter().chain(one.iter()));
        holding.dirty = true;
    }
}
