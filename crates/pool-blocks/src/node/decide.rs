//! Which request is next.

use super::{About, Holding, Node, Output, Pending, Stage};
use crate::weakness::Weakness;
use crate::{BootTime, Holder, Key, Object, Place, PoolName, Request, ResourceVersion, Spec, Uid};

impl Node {
    pub(super) fn decide(&mut self, now: BootTime, out: &mut Vec<Output>) {
        if now >= self.next_own && !self.is_reading() {
            self.send(now, About::Own, Request::ReadOwn, out);
        }
        let waiting: Vec<Key> = self
            .holdings
            .iter()
            .filter(|(_, holding)| holding.busy.is_none() && holding.not_before <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            let Some(holding) = self.holdings.get(&key) else { continue };
            if let Some(request) = self.next_request(&key, holding) {
                match request {
                    Request::ListAddresses(pool) => self.list_addresses(now, pool, out),
                    request => {
                        let is_around = matches!(&request, Request::Get(of) if *of != key);
                        let stage = holding.stage;
                        let about = if is_around { About::Around(key) } else { About::Holding(key, stage) };
                        self.send(now, about, request, out);
                    }
                }
            }
        }
    }

    fn send(&mut self, now: BootTime, about: About, request: Request, out: &mut Vec<Output>) {
        let id = self.next_id();
        if let About::Holding(key, _) | About::Around(key) = &about
            && let Some(holding) = self.holdings.get_mut(key)
        {
            holding.busy = Some(id);
        }
        self.pending.insert(id, Pending { about, sent: now });
        out.push(Output::Send(id, request));
    }

    /// One list serves all blocks of the pool that were claimed before it was sent.
    fn list_addresses(&mut self, now: BootTime, pool: PoolName, out: &mut Vec<Output>) {
        let listing = self
            .pending
            .values()
            .any(|pending| matches!(&pending.about, About::Addresses(of) if *of == pool));
        if !listing {
            self.send(now, About::Addresses(pool.clone()), Request::ListAddresses(pool), out);
        }
    }

    fn next_request(&self, key: &Key, holding: &Holding) -> Option<Request> {
        // What the object will say is released must be on the disk before.
        let synced = self.is_synced(holding) || self.weakened.lacks(Weakness::ReleasesBeforeSync);
        match holding.stage {
            Stage::Claim | Stage::Take | Stage::Held if !synced => None,
            Stage::Look => Some(Request::Get(key.clone())),
            Stage::Claim => {
                let (uid, _) = self.own?;
                let holder = Holder { node: self.me.clone(), uid, term: 0, fenced: false };
                let released =
                    holding.record.as_ref().map(|record| record.released.clone()).unwrap_or_default();
                let spec = Spec {
                    owner: holding.owner().cloned(),
                    holders: vec![holder],
                    released,
                    contested: Vec::new(),
                };
                Some(Request::Create(key.clone(), spec))
            }
            Stage::Take => {
                let (uid, _) = self.own?;
                match &holding.seen {
                    Some(object) => Some(update(object, self.taken_over(object, holding, uid))),
                    None => Some(Request::Get(key.clone())),
                }
            }
            Stage::Check => self.other_kind(key),
            Stage::Held => {
                let (record, object) = (holding.record.as_ref()?, holding.seen.as_ref()?);
                if record.released != object.spec.released {
                    let released = record.released.clone();
                    return Some(update(object, Spec { released, ..object.spec.clone() }));
                }
                // Who was in the way may be gone.
                let is_old = !holding.is_alone() && !holding.listed;
                is_old.then(|| Request::ListAddresses(key.pool.clone()))
            }
            Stage::Leaving => {
                if !self.is_synced(holding) && !self.weakened.lacks(Weakness::DeletesBeforeSync) {
                    return None;
                }
                let Some(object) = &holding.seen else { return Some(Request::Get(key.clone())) };
                match key.place {
                    Place::Block(_) => {
                        let any = self.weakened.lacks(Weakness::DeletesAnyVersion);
                        let version = if any { ResourceVersion::ANY } else { object.version };
                        Some(Request::Delete(key.clone(), object.uid, version))
                    }
                    Place::Address(_) => {
                        let mut spec = object.spec.clone();
                        spec.holders.retain(|holder| holder.node != self.me);
                        Some(update(object, spec))
                    }
                }
            }
            Stage::Lost => {
                let Some(object) = &holding.seen else { return Some(Request::Get(key.clone())) };
                let contests = object.spec.contested.contains(&self.me)
                    || !object.spec.is_readable()
                    || self.weakened.lacks(Weakness::DoesNotContest);
                if !contests {
                    let mut spec = object.spec.clone();
                    spec.contested.push(self.me.clone());
                    return Some(update(object, spec));
                }
                // A third one may have it: what that node released, or what a block around that address has.
                let can_be = match key.place {
                    Place::Block(_) => !object.spec.released.is_empty(),
                    Place::Address(_) => !self.weakened.lacks(Weakness::NamesHoldersAlone),
                };
                if can_be && !holding.listed { self.other_kind(key) } else { None }
            }
            Stage::Withdraw => {
                let Some(object) = &holding.seen else { return Some(Request::Get(key.clone())) };
                let mut spec = object.spec.clone();
                spec.contested.retain(|node| *node != self.me);
                Some(update(object, spec))
            }
        }
    }

    /// Asks who else may have it: the addresses that float in a block, or the block around an address.
    fn other_kind(&self, key: &Key) -> Option<Request> {
        match key.place {
            Place::Block(_) => Some(Request::ListAddresses(key.pool.clone())),
            Place::Address(address) => Some(Request::Get(self.pools.get(&key.pool)?.block_of(address))),
        }
    }

    /// What an object says once it is this node's, in a version that no request from before fits.
    fn taken_over(&self, object: &Object, holding: &Holding, uid: Uid) -> Spec {
        let mut spec = object.spec.clone();
        let term = spec.holders.iter().map(|holder| holder.term).max().unwrap_or(0) + 1;
        let holder = Holder { node: self.me.clone(), uid, term, fenced: false };
        match spec.holders.iter_mut().find(|holder| holder.node == self.me) {
            Some(own) => *own = holder,
            None => spec.holders.push(holder),
        }
        spec.contested.retain(|node| *node != self.me);
        if let Some(record) = &holding.record {
            spec.released = net_types::AddrSet::union(spec.released.iter().chain(record.released.iter()));
        }
        spec
    }
}

fn update(object: &Object, spec: Spec) -> Request {
    Request::Update(object.key.clone(), object.uid, object.version, spec)
}
