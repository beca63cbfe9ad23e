//! What `ipam-pool` may hand out.

use net_types::{Addr, AddrRange, AddrSet, Family};
use node::{Grant, Grants};
use pool_blocks::{BootTime, Input, Key, Place, PoolName, Progress, Refusal};

use super::{AGAIN, Effect, Event, GrantResult, Manager};

/// Grants on their way to `ipam-pool`.
pub(super) struct Writing {
    grants: Grants,
    returning: Vec<Key>,
    releasing: Vec<Addr>,
}

/// The addresses of grants.
pub(super) fn addresses(grants: Option<&Grants>) -> AddrSet {
    let all = grants.into_iter().flat_map(|grants| &grants.grants);
    AddrSet::union(all.flat_map(|grant| grant.addresses.iter()))
}

/// How many addresses of a family there are.
pub(super) fn count(addresses: &AddrSet, family: Family) -> u128 {
    let own = addresses.iter().filter(|range| range.family() == family);
    own.fold(0, |sum, range| sum.saturating_add(range.len()))
}

impl Manager {
    /// Writes the grants of each pool for which they changed.
    pub(super) fn decide_grants(&mut self, now: BootTime) {
        let mut pools: Vec<PoolName> = self.node.keys().map(|key| key.pool.clone()).collect();
        pools.extend(self.written.keys().cloned());
        pools.sort_unstable();
        pools.dedup();
        for pool in pools {
            let waits = self.retry_grants.get(&pool).is_some_and(|again| *again > now);
            if waits || self.writing.contains_key(&pool) {
                continue;
            }
            self.retry_grants.remove(&pool);
            let grants = self.grants_of(now, &pool);
            let returning: Vec<Key> = self.returning.iter().filter(|key| key.pool == pool).cloned().collect();
            let releasing = self.releasing_of(&pool);
            let is_empty = grants.grants.is_empty() && grants.floating.is_empty();
            let is_same = self.written.get(&pool).map_or(is_empty, |before| *before == grants);
            if is_same && returning.is_empty() && releasing.is_empty() {
                continue;
            }
            self.effects.push(Effect::WriteGrants {
                pool: pool.clone(),
                grants: grants.clone(),
                unless_used: !returning.is_empty() || !releasing.is_empty(),
            });
            self.writing.insert(pool, Writing { grants, returning, releasing });
        }
    }

    fn grants_of(&self, now: BootTime, pool: &PoolName) -> Grants {
        let floating = self.floating_grants(now, pool);
        let mut grants = Grants { boot_id: self.boot_id.clone(), grants: Vec::new(), floating };
        // An owner has its own address still.
        if self.known.pools.get(pool.as_str()).is_some_and(|pool| pool.deleted) {
            return grants;
        }
        let releasing = AddrSet::union(self.releasing_of(pool).into_iter().map(AddrRange::single));
        let keys = self.node.keys().filter(|key| key.pool == *pool && !self.returning.contains(key));
        let keys = keys.filter(|key| !self.reads.is_awaited(key));
        for key in keys.filter(|key| matches!(key.place, Place::Block(_))) {
            if let Ok(until) = self.node.may_use(now, key) {
                let addresses = self.node.addresses(key).without(&releasing);
                if !addresses.is_empty() {
                    grants.grants.push(Grant { addresses, until: until.millis() });
                }
            }
        }
        grants
    }

    /// What is handed out of a pool by now.
    pub(super) fn handed_out(&self, now: BootTime, pool: &PoolName) -> AddrSet {
        let all = self.written.get(pool).into_iter().flat_map(|grants| &grants.grants);
        let valid = all.filter(|grant| grant.until > now.millis());
        AddrSet::union(valid.flat_map(|grant| grant.addresses.iter()))
    }

    /// Whether addresses of this are handed out by now.
    pub(super) fn is_granted(&self, key: &Key) -> bool {
        let Some(written) = self.written.get(&key.pool) else { return false };
        match key.place {
            Place::Block(_) => self.node.addresses(key).shared_with(&addresses(Some(written))).is_some(),
            Place::Address(address) => {
                written.floating.iter().any(|grant| grant.address == address && grant.until > 0)
            }
        }
    }

    /// Whether this is claimed, but not yet handed out. What is held and waits for a read of the API server is, too: after a boot
    /// each node would claim one block more than it has.
    pub(super) fn is_in_claim(&self, now: BootTime, key: &Key, progress: Progress) -> bool {
        match progress {
            Progress::Claiming => true,
            Progress::Held => match self.node.may_use(now, key) {
                Ok(_) => !self.node.addresses(key).is_empty() && !self.is_granted(key),
                Err(refusal) => {
                    matches!(refusal, Refusal::NotSynced(_) | Refusal::NodeUnknown | Refusal::Horizon { .. })
                }
            },
            Progress::Leaving | Progress::Lost => false,
        }
    }

    pub(super) fn take_granted(&mut self, now: BootTime, pool: &PoolName, result: GrantResult) {
        let Some(Writing { grants, returning, releasing }) = self.writing.remove(pool) else { return };
        for key in &returning {
            self.returning.remove(key);
        }
        match result {
            GrantResult::Written => {
                let before = addresses(self.written.get(pool));
                let grown = addresses(Some(&grants)).without(&before);
                self.written.insert(pool.clone(), grants);
                for key in returning {
                    // Nothing of it can be allocated any more, and nothing was when it was taken away.
                    self.node_step(now, Input::Return(key.clone()));
                    self.idle.remove(&key);
                }
                self.release(now, pool, releasing);
                self.answer_waiters(now, pool, &grown);
            }
            GrantResult::Used(used) => {
                self.usage.add(pool, &used);
                self.keep(pool, &used);
                // It is looked at again when it has been idle.
                self.idle.retain(|key, _| !returning.contains(key));
            }
            GrantResult::Failed => {
                self.retry_grants.insert(pool.clone(), now.after(AGAIN));
            }
        }
    }
}

impl Event {
    /// The same where the leases could not be read: what is decided by them waits.
    pub(crate) fn without_usage(self) -> Self {
        match self {
            Self::Answer(id, _) => Self::Answer(id, pool_blocks::Answer::Unknown),
            other => other,
        }
    }
}
