//! What is claimed ahead of need, and what goes back.

use std::time::Duration;

use net_types::Family;
use pool_blocks::{BootTime, Input, Key, Place, PoolName, Progress, Want};

use super::grants::count;
use super::{Manager, family_of};

/// How long a block is kept of which nothing is used.
const IDLE: Duration = Duration::from_secs(600);
/// The same where others wait for it, the pool is to go, or does not have it any more: longer than a pod takes that was told of it.
const IDLE_IN_DEMAND: Duration = Duration::from_secs(30);

impl Manager {
    /// Whether a block is one that its pool does not have any more.
    pub(super) fn is_outside(&self, key: &Key) -> bool {
        let Place::Block(block) = key.place else { return false };
        self.geometries.get(&key.pool).is_some_and(|pool| !pool.has_block(block))
    }

    /// Decides by leases that were just read.
    pub(super) fn look_at_spare(&mut self, now: BootTime) {
        let keys: Vec<(Key, Progress)> = self.node.progress().map(|(key, p)| (key.clone(), p)).collect();
        self.idle.retain(|key, _| keys.iter().any(|(own, _)| own == key));
        for (key, progress) in &keys {
            if !self.usage.of(key).is_empty() {
                self.idle.remove(key);
            } else if *progress == Progress::Lost {
                // Nothing of it is handed out any more, so that nothing of it can be used from now on.
                if !self.is_granted(key) {
                    self.node_step(now, Input::Return(key.clone()));
                }
            } else {
                self.idle.entry(key.clone()).or_insert(now);
            }
        }
        self.return_floating(now, &keys);
        let mut pools: Vec<PoolName> = keys.into_iter().map(|(key, _)| key.pool).collect();
        pools.dedup();
        for pool in pools {
            for family in Family::BOTH {
                self.look_at_pool(now, &pool, family);
            }
        }
    }

    /// An owner's address goes back some time after the owner has left this node: until then it starts here again without a
    /// request. That of an owner that is on one node at a time goes back at once.
    fn return_floating(&mut self, now: BootTime, keys: &[(Key, Progress)]) {
        for (key, progress) in keys {
            let is_floating = matches!(key.place, Place::Address(_)) && *progress == Progress::Held;
            let patience = if self.comes_back(key) { IDLE } else { Duration::ZERO };
            let idle = self.idle.get(key).is_some_and(|since| since.after(patience) <= now);
            if !is_floating || !idle || self.is_wanted(key) {
                continue;
            }
            if self.is_granted(key) {
                self.returning.insert(key.clone());
            } else {
                self.node_step(now, Input::Return(key.clone()));
            }
        }
    }

    /// Whether its owner is a machine, or a claim that a machine uses, of which nobody on another node waits for it to go back.
    fn comes_back(&self, key: &Key) -> bool {
        let is_of =
            |prefix: &str| self.node.owner_of(key).is_some_and(|owner| owner.as_str().starts_with(prefix));
        is_of("vm:") || (is_of("claim:") && !self.exclusive.contains(key))
    }

    fn look_at_pool(&mut self, now: BootTime, pool: &PoolName, family: Family) {
        if !self.usage.is_readable(pool) {
            return;
        }
        let (mut free, mut used) = (0u128, 0u128);
        let mut held = Vec::new();
        for (key, progress) in self.node.progress() {
            let is_block = matches!(key.place, Place::Block(_));
            if key.pool == *pool && family_of(key) == family && progress == Progress::Held && is_block {
                let in_use = self.usage.of(key);
                used = used.saturating_add(count(&in_use, family));
                free = free.saturating_add(count(&self.node.addresses(key).without(&in_use), family));
                held.push(key.clone());
            }
        }
        // Of a pool that is gone nothing is needed any more.
        let known = self.known.pools.get(pool.as_str());
        let in_demand =
            known.is_none_or(|known| known.exhausted.contains(&family) || known.refusal.is_some());
        let size = self.block_size(pool, family).unwrap_or(1);
        let keeps_spare = size > 1 && used > 0 && !in_demand;
        if keeps_spare
            && self.connected
            && self.known.complete
            && !self.reads.is_outdated(now, pool)
            && free < size.div_ceil(4)
            && self.blocks_in_claim(now, pool, family) == 0
        {
            self.node_step(now, Input::Want(Want::Block(pool.clone(), family)));
            return;
        }
        if self.waiters_of(pool) {
            return;
        }
        let spare = if keeps_spare { size } else { 0 };
        let patience = if in_demand { IDLE_IN_DEMAND } else { IDLE };
        for key in held {
            let is_outside = self.is_outside(&key);
            let patience = if is_outside { IDLE_IN_DEMAND } else { patience };
            let idle = self.idle.get(&key).is_some_and(|since| since.after(patience) <= now);
            let left = free.saturating_sub(count(&self.node.addresses(&key), family));
            if !idle || (left < spare && !is_outside) {
                continue;
            }
            free = left;
            if self.is_granted(&key) {
                // First nothing more may be handed out of it.
                self.returning.insert(key);
            } else {
                self.node_step(now, Input::Return(key));
            }
        }
    }
}
