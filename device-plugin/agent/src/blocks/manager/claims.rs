//! What is claimed for those that wait for addresses.

use std::time::Duration;

use net_types::{Addr, AddrSet, Family};
use pool_blocks::{BootTime, Input, Key, Place, PoolName, Progress, Refusal, Request, Want};
use proto::agent_socket::{ClaimAnswer, PoolClaim};

use super::grants::count;
use super::waiter::{Promise, Waiter};
use super::{ClaimId, Manager, USAGE_AFTER_CLAIM, family_of};

/// How long a claim waits for a decision.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(15);
/// How far apart the log says of a pool why pods get no addresses.
const REFUSALS_APART: Duration = Duration::from_secs(60);
/// How long an address is kept for who was told of it: longer than an ADD takes from there to its lease.
const PROMISED: Duration = USAGE_AFTER_CLAIM;

impl Manager {
    pub(super) fn take_claim(&mut self, now: BootTime, id: ClaimId, claim: PoolClaim) {
        let PoolClaim { pool, family, address, owner, pod } = claim;
        let waiter = Waiter {
            pool: pool.as_str().into(),
            family,
            address,
            owner,
            pod,
            since: now,
            deadline: now.after(CLAIM_TIMEOUT),
            usage_reads: self.usage_reads,
        };
        let refusal = self.refusal(&waiter);
        let granted = waiter.is_served_by_blocks()
            && address.is_some_and(|address| self.handed_out(now, &waiter.pool).contains(address));
        if refusal.is_none() && waiter.needs_any() && self.unused(now, &waiter.pool, family) > 0 {
            // Pods may have it by now.
            self.next_usage = self.next_usage.min(now);
        }
        self.waiters.insert(id, waiter);
        match refusal {
            _ if granted => self.reply(now, id, ClaimAnswer::Granted),
            Some(reason) => self.reply(now, id, ClaimAnswer::Refused(reason)),
            None if !self.connected => {
                self.reply(now, id, ClaimAnswer::Later(self.what_is_missing()));
            }
            None => {}
        }
    }

    /// Why a pool cannot give this, whatever the API server says.
    fn refusal(&self, waiter: &Waiter) -> Option<String> {
        let Waiter { pool, family, address, .. } = waiter;
        let Some(known) = self.known.pools.get(pool.as_str()) else {
            return Some(format!("there is no LANPool {pool} that this node was told of"));
        };
        if let Some(refusal) = &known.refusal {
            return Some(refusal.clone());
        }
        if let Some(error) = self.errors.get(pool) {
            return Some(error.to_string());
        }
        let geometry = self.geometries.get(pool)?;
        match address {
            Some(address) if !geometry.addresses().contains(*address) => {
                Some(format!("the pool {pool} does not hand out {address}"))
            }
            _ if geometry.block_count(*family) == 0 => {
                Some(format!("the pool {pool} has no {} addresses", family_name(*family)))
            }
            _ => None,
        }
    }

    /// Wants as many blocks as those need that wait.
    pub(super) fn claim_for_waiters(&mut self, now: BootTime) {
        if !self.node.has_counted() {
            return;
        }
        let mut groups: Vec<(PoolName, Family)> = Vec::new();
        let waiting: Vec<ClaimId> = self.waiters.keys().copied().collect();
        for id in waiting {
            let Some(waiter) = self.waiters.get(&id) else { continue };
            if let Some(refusal) = self.refusal(waiter) {
                self.reply(now, id, ClaimAnswer::Refused(refusal));
                continue;
            }
            let (pool, family) = (waiter.pool.clone(), waiter.family);
            if self.reads.is_outdated(now, &pool) {
                let reason = format!("the pool {pool} was changed, and this node was not told of that yet");
                self.reply(now, id, ClaimAnswer::Later(reason));
                continue;
            }
            if !waiter.is_served_by_blocks() {
                continue;
            }
            match waiter.address {
                Some(address) => self.claim_address(now, id, &pool, address),
                None if !groups.contains(&(pool.clone(), family)) => groups.push((pool, family)),
                None => {}
            }
        }
        for (pool, family) in groups {
            self.claim_blocks(now, &pool, family);
        }
        self.claim_floating(now);
    }

    fn claim_blocks(&mut self, now: BootTime, pool: &PoolName, family: Family) {
        let Some(size) = self.block_size(pool, family) else { return };
        let of_group =
            |waiter: &Waiter| waiter.pool == *pool && waiter.family == family && waiter.needs_any();
        let mut waiting: Vec<ClaimId> =
            self.waiters.iter().filter(|(_, waiter)| of_group(waiter)).map(|(id, _)| *id).collect();
        self.promise_unused(now, pool, family, &mut waiting);
        if !self.known.complete {
            return;
        }
        let needed = waiting.len() as u128;
        let mut blocks = self.blocks_in_claim(now, pool, family);
        while blocks.saturating_mul(size) < needed {
            let leaving = |(key, progress): (&Key, Progress)| {
                key.pool == *pool
                    && family_of(key) == family
                    && progress == Progress::Leaving
                    && !self.is_outside(key)
            };
            let may_give = !self.is_exhausted(pool, family) || self.node.progress().any(leaving);
            if may_give {
                self.node_step(now, Input::Want(Want::Block(pool.clone(), family)));
            }
            let after = self.blocks_in_claim(now, pool, family);
            if after <= blocks {
                break;
            }
            blocks = after;
        }
        if blocks == 0 {
            let reason = format!(
                "no block of the pool {pool} is left for {}: other nodes hold all of them, and give back what they do not use; add \
                 ranges to the LANPool if this lasts",
                family_name(family)
            );
            for id in waiting {
                self.reply(now, id, ClaimAnswer::Refused(reason.clone()));
            }
        }
    }

    /// What is handed out and not used is for the first that wait: no block is claimed for them, since whoever cannot use what
    /// is there would have one claimed after the other. They are told when the leases were read after they came.
    fn promise_unused(&mut self, now: BootTime, pool: &PoolName, family: Family, waiting: &mut Vec<ClaimId>) {
        let unused = self.unused(now, pool, family).min(waiting.len());
        for id in waiting.drain(..unused) {
            let is_current =
                self.waiters.get(&id).is_some_and(|waiter| waiter.usage_reads < self.usage_reads);
            if is_current {
                self.reply(now, id, ClaimAnswer::Granted);
            }
        }
    }

    /// How many addresses of a family are handed out that no lease used when the leases were read last, and that nobody was told
    /// of since.
    fn unused(&self, now: BootTime, pool: &PoolName, family: Family) -> usize {
        if !self.usage.is_readable(pool) {
            return 0;
        }
        let returning = self.returning.iter().filter(|key| key.pool == *pool);
        let returning = AddrSet::union(returning.flat_map(|key| match key.place {
            Place::Block(block) => Some(block.range()),
            Place::Address(_) => None,
        }));
        let unused = self.handed_out(now, pool).without(&returning).without(&self.usage.used(pool));
        let is_for_it =
            |promise: &&Promise| promise.pool == *pool && promise.family == family && promise.until > now;
        let promised = self.promises.iter().filter(is_for_it).count();
        usize::try_from(count(&unused, family)).unwrap_or(usize::MAX).saturating_sub(promised)
    }

    fn claim_address(&mut self, now: BootTime, id: ClaimId, pool: &PoolName, address: Addr) {
        let Some(key) = self.geometries.get(pool).map(|geometry| geometry.block_of(address)) else { return };
        let progress = self.node.progress().find(|(own, _)| **own == key).map(|(_, progress)| progress);
        if self.node.is_taken(now, &key) {
            let reason = format!("another node holds {key}, the block of {address}");
            return self.reply(now, id, ClaimAnswer::Refused(reason));
        }
        match progress {
            None | Some(Progress::Leaving) if !self.known.complete => {}
            None | Some(Progress::Leaving) => {
                self.node_step(now, Input::Want(Want::BlockOf(pool.clone(), address)));
            }
            Some(Progress::Held) if self.is_granted(&key) && !self.node.addresses(&key).contains(address) => {
                let reason = format!("{address} floats: it is an owner's, on whatever node that runs");
                self.reply(now, id, ClaimAnswer::Refused(reason));
            }
            Some(Progress::Lost) => {
                let other = self.node.object(&key).map(|object| object.spec.holder_text());
                let reason = format!(
                    "{} has {key}, the block of {address}: 'ipam-pool release {address}' on this node gives up what is kept of it here",
                    other.unwrap_or_else(|| "another node".to_owned())
                );
                self.reply(now, id, ClaimAnswer::Refused(reason));
            }
            Some(Progress::Claiming | Progress::Held) => {}
        }
    }

    /// The blocks of a family that are claimed, and not handed out yet.
    pub(super) fn blocks_in_claim(&self, now: BootTime, pool: &PoolName, family: Family) -> u128 {
        let own = self.node.progress().filter(|(key, _)| key.pool == *pool && family_of(key) == family);
        own.filter(|(key, progress)| self.is_in_claim(now, key, *progress)).count() as u128
    }

    pub(super) fn block_size(&self, pool: &PoolName, family: Family) -> Option<u128> {
        let length = self.geometries.get(pool)?.lengths().of(family);
        Some(1u128.checked_shl(u32::from(family.bits() - length)).unwrap_or(u128::MAX))
    }

    /// More addresses of a pool may be handed out: as many as came are answered, the first first.
    pub(super) fn answer_waiters(&mut self, now: BootTime, pool: &PoolName, grown: &AddrSet) {
        for family in Family::BOTH {
            let mut left = count(grown, family);
            let of_pool = self
                .waiters
                .iter()
                .filter(|(_, w)| w.pool == *pool && w.family == family && w.is_served_by_blocks());
            let waiting: Vec<(ClaimId, Option<Addr>)> = of_pool.map(|(id, w)| (*id, w.address)).collect();
            for (id, address) in waiting {
                let answered = match address {
                    Some(address) => grown.contains(address),
                    None => left > 0,
                };
                if answered {
                    left = left.saturating_sub(1);
                    self.reply(now, id, ClaimAnswer::Granted);
                }
            }
        }
    }

    /// Who waits for a block or an owner's address of the pool is told that none can be had.
    pub(super) fn tell_forbidden(&mut self, now: BootTime, request: &Request, reason: &str) {
        let (pool, owner, is_by_claim) = match request {
            Request::Create(key, _) => (&key.pool, None, false),
            Request::Float(asked) => (&asked.pool, Some(asked.owner.as_str()), asked.user.is_some()),
            _ => return,
        };
        // What is wrong with the claim, perhaps.
        let reason = if is_by_claim {
            reason.to_owned()
        } else {
            format!("the API server does not let this node have anything of {pool}: {reason}")
        };
        let waits = |waiter: &Waiter| {
            let of = waiter.owner.as_ref().map(|owner| owner.name.as_str());
            waiter.pool == *pool && of == owner
        };
        let waiting: Vec<ClaimId> =
            self.waiters.iter().filter(|(_, waiter)| waits(waiter)).map(|(id, _)| *id).collect();
        for id in waiting {
            self.reply(now, id, ClaimAnswer::Later(reason.clone()));
        }
    }

    /// Whether somebody waits for a pool.
    pub(super) fn waiters_of(&self, pool: &PoolName) -> bool {
        self.waiters.values().any(|waiter| waiter.pool == *pool)
    }

    /// Answers those that waited too long.
    pub(super) fn answer_late(&mut self, now: BootTime) {
        let late: Vec<ClaimId> =
            self.waiters.iter().filter(|(_, waiter)| waiter.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.reply(now, id, ClaimAnswer::Later(self.what_is_missing()));
        }
    }

    /// Why nothing was decided.
    pub(super) fn what_is_missing(&self) -> String {
        if !self.connected {
            return "the cluster's part of k8slan, which asks the API server for blocks, is away".to_owned();
        }
        if !self.known.complete {
            return "the cluster's part of k8slan has not said yet which pools there are; its log says why"
                .to_owned();
        }
        if self.usage_reads == 0 {
            return "the leases of this node could not be read yet; the log says why".to_owned();
        }
        if !self.node.has_counted() {
            return Refusal::NotCounted.to_string();
        }
        if !self.node.is_in_service() {
            return Refusal::NodeUnknown.to_string();
        }
        format!("the API server has not decided within {} s who has a block", CLAIM_TIMEOUT.as_secs())
    }

    /// Once for each reason, and not more often than pods come that ask for one address after the other.
    fn warn_of_refusal(&mut self, now: BootTime, pool: &PoolName, reason: &str) {
        let is_told = |(told, quiet): &(String, BootTime)| told == reason || *quiet > now;
        if self.refusals_told.get(pool).is_some_and(is_told) {
            return;
        }
        tracing::warn!(%pool, "no addresses for a pod: {reason}");
        self.refusals_told.insert(pool.clone(), (reason.to_owned(), now.after(REFUSALS_APART)));
    }

    pub(super) fn reply(&mut self, now: BootTime, id: ClaimId, answer: ClaimAnswer) {
        let Some(waiter) = self.waiters.remove(&id) else { return };
        let waited = Duration::from_millis(now.millis().saturating_sub(waiter.since.millis()));
        self.metrics.pools.claim.observe(waited);
        match &answer {
            ClaimAnswer::Granted => {
                if waiter.is_served_by_blocks() {
                    self.promises.retain(|promise| promise.until > now);
                    let (pool, until) = (waiter.pool.clone(), now.after(PROMISED));
                    self.promises.push(Promise { pool, family: waiter.family, until });
                }
                self.metrics.pools.claims.increment();
                if let Some((told, _)) = self.refusals_told.get_mut(&waiter.pool) {
                    told.clear();
                }
                self.notes.granted(&waiter.pool, waiter.pod.as_deref());
                self.next_usage = self.next_usage.min(now.after(USAGE_AFTER_CLAIM));
            }
            ClaimAnswer::Refused(reason) | ClaimAnswer::Later(reason) => {
                self.metrics.pools.claims_refused.increment();
                // Of pools that exist: anybody can name others.
                if self.known.pools.contains_key(waiter.pool.as_str()) {
                    self.notes.refused(now, &waiter.pool, waiter.pod.as_deref(), reason);
                    self.warn_of_refusal(now, &waiter.pool, reason);
                }
            }
        }
        self.effects.push(super::Effect::Reply(id, answer));
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
