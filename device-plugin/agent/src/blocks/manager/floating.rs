//! Addresses that follow their owners over nodes: who waits for one, and which of them are to be given up by a block of this node.

use std::collections::BTreeSet;

use net_types::{Addr, AddrSet, Family};
use node::FloatingGrant;
use pool_blocks::{
    Answer, BootTime, ClaimUser, Float, Input, Key, NodeName, Object, Owner, Place, PoolName, Progress,
    Request, RequestId, Want,
};
use proto::agent_socket::ClaimAnswer;

use super::waiter::{Waiter, Wanted};
use super::{AGAIN, ClaimId, Manager};

/// What is looked for, for the first that waits for it.
#[derive(Debug, Default)]
pub(super) struct Search {
    request: Option<RequestId>,
    not_before: BootTime,
    /// Whether one of this node's own addresses was tried, since no other is free.
    tried_own: bool,
}

impl Manager {
    /// Asks for the addresses that owners wait for, and joins them.
    pub(super) fn claim_floating(&mut self, now: BootTime) {
        self.leave_shared(now);
        let wanted: BTreeSet<Wanted> = self.waiters.values().filter_map(Waiter::wanted).collect();
        self.searches.retain(|one, search| wanted.contains(one) || search.request.is_some());
        for (pool, family, owner) in wanted {
            match self.held_by(&pool, family, &owner) {
                Some((key, Progress::Leaving)) if !self.exclusive.contains(&key) => {
                    self.join(now, &key, owner)
                }
                // Another may be first: once it is left, it is looked for again.
                Some((_, Progress::Leaving)) => {}
                Some((key, Progress::Lost)) => {
                    let reason = format!("another than {owner} has {key}");
                    self.reply_to_owner(now, &(pool, family, owner), &ClaimAnswer::Refused(reason));
                }
                Some((key, Progress::Held)) if self.is_granted(&key) => {
                    self.reply_to_owner(now, &(pool, family, owner), &ClaimAnswer::Granted);
                }
                Some((_, Progress::Held | Progress::Claiming)) => {}
                None => self.search(now, (pool, family, owner)),
            }
        }
    }

    fn search(&mut self, now: BootTime, wanted: Wanted) {
        let search = self.searches.entry(wanted.clone()).or_default();
        if search.request.is_some() || search.not_before > now {
            return;
        }
        let waiter = self.waiters.values().find(|waiter| waiter.wanted().as_ref() == Some(&wanted));
        let Some(waiter) = waiter else { return };
        let (create, asked) = (waiter.creates(), waiter.address);
        let address = if create { asked } else { self.reserved_for(&wanted) };
        if !create && address.is_none() {
            return self.answer_not_made(now, &wanted);
        }
        let user = waiter.user();
        self.ask(now, wanted, create, address, user);
    }

    fn ask(
        &mut self,
        now: BootTime,
        wanted: Wanted,
        create: bool,
        address: Option<Addr>,
        user: Option<ClaimUser>,
    ) {
        let id = self.node.next_id();
        let (pool, family, owner) = wanted.clone();
        self.searches.entry(wanted).or_default().request = Some(id);
        self.send(now, id, Request::Float(Float { pool, family, owner, create, address, user }));
    }

    /// What the cluster's part found or made.
    pub(super) fn take_float(&mut self, now: BootTime, asked: Float, answer: Answer) {
        let wanted = (asked.pool.clone(), asked.family, asked.owner.clone());
        self.take_float_answer(now, wanted, &asked, answer);
    }

    /// The address that is reserved for an owner, once the leader has made it.
    fn reserved_for(&self, (pool, family, owner): &Wanted) -> Option<Addr> {
        let reserved = &self.known.pools.get(pool.as_str())?.reserved;
        let mut of_owner = reserved.iter().filter(|one| one.owner.as_deref() == Some(owner.as_str()));
        of_owner.find_map(|one| one.address.filter(|address| address.family() == *family))
    }

    fn take_float_answer(&mut self, now: BootTime, wanted: Wanted, asked: &Float, answer: Answer) {
        let (create, address) = (asked.create, asked.address);
        let Some(search) = self.searches.get_mut(&wanted) else { return };
        search.request = None;
        match answer {
            Answer::Object(Some(object)) => self.take_found(now, wanted, &object),
            Answer::Object(None) if !create => self.answer_not_made(now, &wanted),
            Answer::Object(None) => {
                let first = !std::mem::replace(&mut search.tried_own, true);
                let own = self.unused_of(&wanted.0, wanted.1).filter(|_| first && address.is_none());
                if own.is_some() {
                    return self.ask(now, wanted, create, own, asked.user.clone());
                }
                let reason = match address {
                    Some(address) => format!("{address} of the pool {} is somebody else's", wanted.0),
                    None => {
                        format!("no address of the pool {} is left that could follow {}", wanted.0, wanted.2)
                    }
                };
                self.searches.remove(&wanted);
                self.reply_to_owner(now, &wanted, &ClaimAnswer::Refused(reason));
            }
            _ => search.not_before = now.after(AGAIN),
        }
    }

    fn answer_not_made(&mut self, now: BootTime, wanted: &Wanted) {
        self.searches.entry(wanted.clone()).or_default().not_before = now.after(AGAIN);
        let reason = format!("the address that is reserved for {} is not made yet", wanted.2);
        self.reply_to_owner(now, wanted, &ClaimAnswer::Later(reason));
    }

    fn take_found(&mut self, now: BootTime, wanted: Wanted, object: &Object) {
        let Place::Address(address) = object.key.place else { return };
        self.searches.remove(&wanted);
        let other: Vec<ClaimId> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.wanted().as_ref() == Some(&wanted))
            .filter(|(_, waiter)| waiter.address.is_some_and(|asked| asked != address))
            .map(|(id, _)| *id)
            .collect();
        for id in other {
            let reason = format!(
                "{} has {address} of the pool {}: `kubectl delete lanaddress {}` frees it",
                wanted.2, wanted.0, object.key
            );
            self.reply(now, id, ClaimAnswer::Refused(reason));
        }
        let of_owner = || self.waiters.values().filter(|waiter| waiter.wanted().as_ref() == Some(&wanted));
        let shared = of_owner().any(Waiter::shares);
        let me = self.node.name();
        if let Some(other) = object.spec.holders.iter().find(|holder| holder.node != *me).filter(|_| !shared)
        {
            let reason = still_there(&wanted.2, address, &other.node);
            return self.reply_to_owner(now, &wanted, &ClaimAnswer::Later(reason));
        }
        if shared {
            self.exclusive.remove(&object.key);
        } else {
            self.exclusive.insert(object.key.clone());
        }
        self.release_later(&wanted.0, address, Some(wanted.2.clone()));
        self.join(now, &object.key, wanted.2);
    }

    /// Whether a node has it beside this one, although its owner may be on one alone: both asked at once, and the other was first.
    fn is_shared_wrongly(&self, key: &Key) -> bool {
        let holders = self.node.object(key).map_or(&[][..], |object| &object.spec.holders);
        self.exclusive.contains(key) && holders.iter().any(|holder| holder.node != *self.node.name())
    }

    /// What another node has as well is left to it.
    fn leave_shared(&mut self, now: BootTime) {
        self.exclusive.retain(|key| self.node.keys().any(|own| own == key));
        let shared = self.exclusive.iter().filter(|key| self.is_shared_wrongly(key) && !self.is_granted(key));
        let shared: Vec<Key> = shared.cloned().collect();
        for key in shared {
            self.node_step(now, Input::Return(key));
        }
    }

    fn join(&mut self, now: BootTime, key: &Key, owner: Owner) {
        if let Place::Address(address) = key.place {
            self.node_step(now, Input::Want(Want::Address(key.pool.clone(), address, owner)));
        }
    }

    /// An owner's address here.
    fn held_by(&self, pool: &PoolName, family: Family, owner: &Owner) -> Option<(Key, Progress)> {
        let own = |key: &Key| {
            key.pool == *pool
                && matches!(key.place, Place::Address(address) if address.family() == family)
                && self.node.owner_of(key) == Some(owner)
        };
        let found = self.node.progress().find(|(key, _)| own(key));
        found.map(|(key, progress)| (key.clone(), progress))
    }

    /// Whether its owner waits for it.
    pub(super) fn is_wanted(&self, key: &Key) -> bool {
        let owner = self.node.owner_of(key);
        let mut wanted = self.waiters.values().filter_map(Waiter::wanted);
        wanted.any(|(pool, _, of)| pool == key.pool && Some(&of) == owner)
    }

    fn reply_to_owner(&mut self, now: BootTime, wanted: &Wanted, answer: &ClaimAnswer) {
        let of_owner = self.waiters.iter().filter(|(_, waiter)| waiter.wanted().as_ref() == Some(wanted));
        let all: Vec<ClaimId> = of_owner.map(|(id, _)| *id).collect();
        for id in all {
            self.reply(now, id, answer.clone());
        }
    }

    /// An address of this node's blocks that no pod has, as far as is known.
    fn unused_of(&self, pool: &PoolName, family: Family) -> Option<Addr> {
        let blocks = self.node.progress().filter(|(key, progress)| {
            key.pool == *pool
                && *progress == Progress::Held
                && matches!(key.place, Place::Block(block) if block.first().family() == family)
        });
        let free = blocks.map(|(key, _)| self.node.addresses(key).without(&self.usage.of(key)));
        free.filter_map(|free| free.iter().last().map(|range| range.last())).next()
    }

    /// If the address is in a block of this node, nothing more of it is handed out, and then it is given up.
    pub(super) fn release_later(&mut self, pool: &PoolName, address: Addr, owner: Option<Owner>) {
        let Some(key) = self.geometries.get(pool).map(|geometry| geometry.block_of(address)) else { return };
        let is_held = self.node.progress().any(|(own, progress)| *own == key && progress == Progress::Held);
        // What a pod has that is told to have it together with its owner is not handed out, and is given up once the pod is gone.
        let is_kept_back = self.node.kept_back(&key).contains(address) && !self.usage.has(pool, address);
        if is_held && (is_kept_back || self.node.addresses(&key).contains(address)) {
            self.releasing.insert((pool.clone(), address), owner);
        }
    }

    /// What is reserved in blocks of this node is given up, as soon as no pod has it.
    pub(super) fn release_reserved(&mut self) {
        let known = std::sync::Arc::clone(&self.known);
        for pool in known.pools.values() {
            for reserved in &pool.reserved {
                let name = PoolName::from(pool.name.as_str());
                if let Some(address) = reserved.address
                    && !self.usage.has(&name, address)
                {
                    let owner = reserved.owner.as_deref().map(Owner::from);
                    self.release_later(&name, address, owner);
                }
            }
        }
    }

    /// The own objects, without the addresses that float in blocks of this node: those are to be given up.
    pub(super) fn without_foreign(&mut self, answer: Answer) -> Answer {
        let Answer::Own(node, objects) = answer else { return answer };
        let (own, foreign): (Vec<Object>, Vec<Object>) = objects.into_iter().partition(|object| {
            matches!(object.key.place, Place::Block(_)) || object.spec.holder(self.node.name()).is_some()
        });
        for object in foreign {
            if let Place::Address(address) = object.key.place {
                self.release_later(&object.key.pool, address, object.spec.owner);
            }
        }
        Answer::Own(node, own)
    }

    /// The addresses of a pool that blocks of this node are to give up.
    pub(super) fn releasing_of(&self, pool: &PoolName) -> Vec<Addr> {
        self.releasing.keys().filter(|(of, _)| of == pool).map(|(_, address)| *address).collect()
    }

    /// Nothing more of these is handed out: their blocks give them up.
    pub(super) fn release(&mut self, now: BootTime, pool: &PoolName, addresses: Vec<Addr>) {
        for address in addresses {
            if self.releasing.remove(&(pool.clone(), address)).is_some_and(|owner| owner.is_some()) {
                // If a pod has it, that is its owner's: the grants said so.
                self.usage.hand_over(pool, address);
            }
            self.node_step(now, Input::Floats(pool.clone(), address));
        }
    }

    /// Those of which pods have some stay in their blocks, until these pods are gone.
    pub(super) fn keep(&mut self, pool: &PoolName, used: &AddrSet) {
        self.releasing.retain(|(of, address), _| of != pool || !used.contains(*address));
    }

    /// What follows owners, and what is on its way to an owner.
    pub(super) fn floating_grants(&self, now: BootTime, pool: &PoolName) -> Vec<FloatingGrant> {
        let mut grants = Vec::new();
        for key in self.node.keys().filter(|key| key.pool == *pool && !self.returning.contains(key)) {
            if let (Place::Address(address), Ok(until), Some(owner)) =
                (key.place, self.node.may_use(now, key), self.node.owner_of(key))
                && !self.is_shared_wrongly(key)
            {
                grants.push(FloatingGrant { address, owner: owner.to_string(), until: until.millis() });
            }
        }
        for ((of, address), owner) in &self.releasing {
            if let (Some(owner), true) =
                (owner, of == pool && grants.iter().all(|one| one.address != *address))
            {
                grants.push(FloatingGrant { address: *address, owner: owner.to_string(), until: 0 });
            }
        }
        grants
    }
}

/// Why an owner that is on one node at a time waits.
fn still_there(owner: &Owner, address: Addr, node: &NodeName) -> String {
    format!(
        "{owner} has {address} on node {node}, which gives it up within a minute after its pod there is gone"
    )
}
