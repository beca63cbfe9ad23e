//! What an answer changes.

use std::collections::BTreeMap;
use std::time::Duration;

use net_types::{AddrRange, AddrSet};

use super::{About, Holding, Leases, Node, Stage, want};
use crate::weakness::Weakness;
use crate::{Answer, BootTime, Key, NodeName, NodeState, Object, Phase, Place, PoolName, RequestId};

/// How soon what failed or is in another's way is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How soon a node reads again that may not allocate, and asks again for what the API server does not take.
const UNFIT: Duration = Duration::from_secs(30);

impl Node {
    pub(super) fn take_answer(&mut self, now: BootTime, leases: &dyn Leases, id: RequestId, answer: Answer) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let sent = if self.weakened.lacks(Weakness::CountsFromTheAnswer) { now } else { pending.sent };
        match (pending.about, answer) {
            (About::Own, Answer::Own(node, objects)) => self.take_own(now, leases, id, sent, node, objects),
            (About::Own, _) => self.next_own = now.after(AGAIN),
            (About::Addresses(pool), Answer::Addresses(all)) => self.take_addresses(leases, id, &pool, all),
            (About::Addresses(pool), _) => self.list_later(now, &pool),
            (About::Around(key), answer) => self.take_around(now, &key, answer),
            (About::Holding(key, stage), answer) => self.take_about(now, leases, sent, &key, stage, answer),
        }
    }

    /// The own `Node`, and all objects that name it.
    fn take_own(
        &mut self,
        now: BootTime,
        leases: &dyn Leases,
        id: RequestId,
        sent: BootTime,
        node: Option<NodeState>,
        objects: Vec<Object>,
    ) {
        self.own = node.filter(|node| !node.out_of_service).map(|node| (node.uid, sent));
        self.next_own = now.after(if self.own.is_some() { self.horizon.between_reads() } else { UNFIT });
        let uid = self.own.map(|(uid, _)| uid);
        let ignores_fences = self.weakened.lacks(Weakness::IgnoresFences);
        let checks_again = !self.weakened.lacks(Weakness::DoesNotCheckAgain);
        let last_id = RequestId(self.last_id);
        let mut theirs: BTreeMap<Key, Object> =
            objects.into_iter().map(|object| (object.key.clone(), object)).collect();
        let mut gone = Vec::new();
        for (key, holding) in &mut self.holdings {
            let object = theirs.remove(key);
            if holding.busy.is_some() || holding.settled >= id {
                continue;
            }
            match (holding.stage, object) {
                (Stage::Held, Some(object)) => {
                    let holder = object.spec.holder(&self.me);
                    let same = holding.record.as_ref().is_some_and(|record| record.uid == object.uid);
                    let good =
                        same && holder.is_some_and(|h| Some(h.uid) == uid && (!h.fenced || ignores_fences));
                    if good {
                        // What no process of this boot used is checked first: the one before may have ended before it was.
                        if holding.permit.replace(sent).is_none() && checks_again {
                            holding.stage = Stage::Check;
                            holding.settled = last_id;
                        }
                        holding.listed = false;
                    } else {
                        holding.go_to(Stage::Take);
                    }
                    holding.seen = Some(object);
                }
                (Stage::Held, None) => holding.go_to(Stage::Look),
                (Stage::Leaving, Some(object)) => leave(holding, object),
                (Stage::Leaving, None) => gone.push(key.clone()),
                (Stage::Lost, Some(object)) => {
                    holding.seen = Some(object);
                    holding.go_to(Stage::Take);
                }
                // Who has it now is read again.
                (Stage::Lost, None) => {
                    holding.seen = None;
                    holding.listed = false;
                }
                _ => {}
            }
        }
        for key in gone {
            self.holdings.remove(&key);
        }
        if self.counted {
            for (key, object) in theirs {
                // What pods have of a pool that is gone stays theirs as long as the object does.
                if self.is_of_pool(&key) || leases.used(&key).is_empty() {
                    let stray = self.stray(leases, object);
                    self.holdings.insert(key, stray);
                }
            }
        }
    }

    /// Whether something is of a pool that is known, and a block in its length.
    fn is_of_pool(&self, key: &Key) -> bool {
        self.pools.get(&key.pool).is_some_and(|pool| match key.place {
            Place::Block(block) => block.length() == pool.lengths().of(block.first().family()),
            Place::Address(_) => true,
        })
    }

    /// An object that names this node and that the disk does not know: a create whose answer was lost, a lost disk, a restored
    /// backup. It is taken if something here uses it, and goes back if nothing does.
    fn stray(&self, leases: &dyn Leases, object: Object) -> Holding {
        let used = !leases.used(&object.key).is_empty();
        let owner = object.spec.owner.clone();
        if self.weakened.lacks(Weakness::AdoptsWithoutUpdate) {
            let permit = self.own.map(|(_, sent)| sent);
            let mut holding = Holding { owner, permit, ..Holding::new(Stage::Held) };
            holding.record(object.uid, Phase::Held);
            holding.seen = Some(object);
            return holding;
        }
        let mut holding = Holding { owner, ..Holding::new(if used { Stage::Take } else { Stage::Leaving }) };
        if !used {
            holding.record(object.uid, Phase::Leaving);
        }
        holding.seen = Some(object);
        holding
    }

    /// The floating addresses of a pool: those in blocks that were claimed before the list was sent are not used.
    fn take_addresses(&mut self, leases: &dyn Leases, id: RequestId, pool: &PoolName, mut all: Vec<Object>) {
        if self.weakened.lacks(Weakness::NamesHoldersAlone) {
            all.iter_mut().for_each(|object| object.spec.contested.clear());
        }
        let before_writing = self.weakened.lacks(Weakness::ReadsBeforeWriting);
        let gives_what_floats = self.weakened.lacks(Weakness::GivesWhatFloats);
        for (key, holding) in self.holdings.iter_mut().filter(|(key, _)| key.pool == *pool) {
            let Place::Block(block) = key.place else { continue };
            let after = holding.settled < id || before_writing;
            if holding.stage == Stage::Check && after && holding.busy.is_none() {
                finish_claim(holding, &leases.used(key), block.range(), &all);
            }
            match holding.stage {
                Stage::Lost => {
                    holding.told = floating_in(&leases.used(key), &all, |_| true);
                    holding.listed = true;
                }
                Stage::Held if !holding.is_alone() => {
                    tell_floating(holding, &leases.used(key), &all);
                }
                _ => {}
            }
            if gives_what_floats {
                holding.in_the_way = AddrSet::default();
            }
        }
    }

    /// The list did not come.
    fn list_later(&mut self, now: BootTime, pool: &PoolName) {
        let waiting = self.holdings.iter_mut().filter(|(key, holding)| {
            key.pool == *pool
                && holding.busy.is_none()
                && matches!(holding.stage, Stage::Check | Stage::Held | Stage::Lost)
        });
        waiting.for_each(|(_, holding)| holding.not_before = holding.not_before.max(now.after(AGAIN)));
    }

    fn take_about(
        &mut self,
        now: BootTime,
        leases: &dyn Leases,
        sent: BootTime,
        key: &Key,
        asked_at: Stage,
        answer: Answer,
    ) {
        let last_id = RequestId(self.last_id);
        let Some(holding) = self.holdings.get_mut(key) else { return };
        holding.busy = None;
        if holding.stage != asked_at {
            // It was decided otherwise meanwhile: what the request did is read.
            holding.settled = last_id;
            holding.seen = None;
            return;
        }
        match answer {
            Answer::Written(object) => {
                holding.settled = last_id;
                self.written(now, leases, sent, key, object);
            }
            Answer::Deleted | Answer::NotFound if holding.stage == Stage::Leaving => self.drop_holding(key),
            Answer::Object(object) => self.looked(now, key, object),
            // Nobody waits for what cannot be had. What is used is tried again: somebody may mend it.
            Answer::Forbidden(_) if holding.stage == Stage::Claim && holding.record.is_none() => {
                self.drop_holding(key);
            }
            Answer::Unknown
            | Answer::Conflict
            | Answer::NotFound
            | Answer::AlreadyExists
            | Answer::Forbidden(_) => {
                match answer {
                    Answer::Unknown => holding.not_before = now.after(AGAIN),
                    Answer::Forbidden(_) => holding.not_before = now.after(UNFIT),
                    _ => {}
                }
                holding.settled = last_id;
                match holding.stage {
                    Stage::Claim | Stage::Take => holding.stage = Stage::Look,
                    Stage::Held => {
                        holding.seen = None;
                        self.next_own = now;
                    }
                    Stage::Leaving | Stage::Lost | Stage::Withdraw => holding.seen = None,
                    Stage::Look | Stage::Check => {}
                }
            }
            Answer::Deleted | Answer::Own(..) | Answer::Addresses(_) | Answer::Pool(_) => {}
        }
    }

    /// A create or an update was done.
    fn written(&mut self, now: BootTime, leases: &dyn Leases, sent: BootTime, key: &Key, object: Object) {
        let weakened = self.weakened;
        // It cannot be unfenced: it is being deleted, and somebody's finalizer keeps it for some time.
        let goes = object.spec.holder(&self.me).is_some_and(|holder| holder.fenced);
        let Some(holding) = self.holdings.get_mut(key) else { return };
        match holding.stage {
            Stage::Claim | Stage::Take if goes && leases.used(key).is_empty() => self.claim_next(now, key),
            Stage::Claim | Stage::Take if goes => {
                holding.go_to(Stage::Look);
                holding.not_before = now.after(AGAIN);
            }
            Stage::Claim | Stage::Take => {
                holding.permit = Some(sent);
                holding.seen = Some(object);
                holding.stage = Stage::Check;
                match key.place {
                    Place::Block(block) if weakened.lacks(Weakness::ClaimsWithoutReading) => {
                        finish_claim(holding, &leases.used(key), block.range(), &[]);
                    }
                    Place::Address(_) if weakened.lacks(Weakness::FloatsWithoutReading) => {
                        finish_join(holding)
                    }
                    _ => {}
                }
            }
            Stage::Held => {
                holding.permit = Some(sent);
                holding.seen = Some(object);
            }
            Stage::Lost => holding.seen = Some(object),
            Stage::Leaving | Stage::Withdraw => self.drop_holding(key),
            Stage::Look | Stage::Check => {}
        }
    }

    /// An object was read: this one, the block around an address that is claimed, or that of who has what is lost.
    fn looked(&mut self, now: BootTime, key: &Key, object: Option<Object>) {
        let me = self.me.clone();
        let forgets = self.weakened.lacks(Weakness::ForgetsWhatIsGone);
        // A pool may have changed since one of its blocks was wanted.
        let is_pools_block = match key.place {
            Place::Block(block) => self.pools.get(&key.pool).is_some_and(|pool| pool.has_block(block)),
            Place::Address(_) => false,
        };
        let Some(holding) = self.holdings.get_mut(key) else { return };
        match (holding.stage, object) {
            (Stage::Look | Stage::Take, None) => {
                if (is_pools_block || holding.record.is_some()) && !(forgets && holding.record.is_some()) {
                    holding.stage = Stage::Claim;
                } else {
                    self.drop_holding(key);
                }
            }
            (Stage::Look | Stage::Take, Some(object)) => {
                if is_ours(&me, holding, &object) {
                    holding.seen = Some(object);
                    holding.stage = Stage::Take;
                } else if let Some(record) = &holding.record {
                    let (uid, other) = (record.uid, object.spec.holder_text());
                    holding.record(uid, Phase::Lost { other });
                    holding.seen = Some(object);
                    holding.go_to(Stage::Lost);
                } else {
                    self.claim_next(now, key);
                }
            }
            (Stage::Leaving, Some(object)) if object.spec.holder(&me).is_some() => leave(holding, object),
            (Stage::Leaving | Stage::Withdraw, None) => self.drop_holding(key),
            (Stage::Leaving, Some(_)) => self.drop_holding(key),
            (Stage::Lost, None) => holding.go_to(Stage::Claim),
            (Stage::Lost, Some(object)) if is_ours(&me, holding, &object) => {
                holding.seen = Some(object);
                holding.go_to(Stage::Take);
            }
            (Stage::Lost, Some(object)) => {
                let other = object.spec.holder_text();
                let known = holding
                    .record
                    .as_ref()
                    .filter(|record| record.phase != Phase::Lost { other: other.clone() });
                if let Some(uid) = known.map(|record| record.uid) {
                    holding.record(uid, Phase::Lost { other });
                }
                holding.seen = Some(object);
            }
            (Stage::Withdraw, Some(object)) if !object.spec.contested.contains(&me) => self.drop_holding(key),
            (Stage::Withdraw, Some(object)) => holding.seen = Some(object),
            (Stage::Claim | Stage::Check | Stage::Held, _) => {}
        }
    }

    /// The block around a floating address was read.
    fn take_around(&mut self, now: BootTime, key: &Key, answer: Answer) {
        let (Some(holding), Place::Address(address)) = (self.holdings.get_mut(key), key.place) else {
            return;
        };
        holding.busy = None;
        let Answer::Object(around) = answer else {
            holding.not_before = now.after(AGAIN);
            return;
        };
        // Where another node contests the block, its pods may have the address.
        let is_free =
            |block: &Object| block.spec.released.contains(address) && block.spec.contested.is_empty();
        let told = around.filter(|block| !is_free(block)).map(|block| block.spec.users_text());
        match holding.stage {
            Stage::Check if told.is_none() => finish_join(holding),
            Stage::Check => {
                holding.told = told;
                holding.not_before = now.after(AGAIN);
            }
            Stage::Lost => {
                holding.told = told;
                holding.listed = true;
            }
            _ => {}
        }
    }

    /// Another was first: the next block in this node's order, unless this one was asked for.
    fn claim_next(&mut self, now: BootTime, key: &Key) {
        let particular = self.holdings.remove(key).is_some_and(|holding| holding.particular);
        let Place::Block(block) = key.place else { return };
        self.taken.insert(key.clone(), now.after(want::TAKEN));
        if !particular {
            self.want_block(now, &key.pool, block.first().family());
        }
    }

    fn drop_holding(&mut self, key: &Key) {
        self.holdings.remove(key);
    }
}

/// The block is used, without the addresses that float in it. One that a pod has stays the pod's, and both are told.
fn finish_claim(holding: &mut Holding, used: &AddrSet, block: AddrRange, all: &[Object]) {
    let Some(object) = &holding.seen else { return };
    let (uid, before) = (object.uid, object.spec.released.clone());
    let floating = all.iter().filter_map(|object| match object.key.place {
        Place::Address(address) if block.contains(address) => Some(AddrRange::single(address)),
        _ => None,
    });
    let floating = AddrSet::union(floating).without(used);
    let own = holding.record.iter().flat_map(|record| record.released.iter());
    let released = AddrSet::union(own.chain(before.iter()).chain(floating.iter()));
    holding.record_releasing(uid, Phase::Held, released);
    tell_floating(holding, used, all);
    holding.stage = Stage::Held;
}

/// What pods have and floats is told, and no other pod gets it once they are gone: whose it is may have it still.
fn tell_floating(holding: &mut Holding, used: &AddrSet, all: &[Object]) {
    holding.told = floating_in(used, all, is_joined);
    let joined = all.iter().filter(|object| is_joined(object)).filter_map(|object| match object.key.place {
        Place::Address(address) => Some(AddrRange::single(address)),
        Place::Block(_) => None,
    });
    let before = AddrSet::union(holding.in_the_way.iter().chain(used.iter()));
    let released = holding.record.as_ref().map(|record| record.released.clone()).unwrap_or_default();
    holding.in_the_way = AddrSet::union(joined).intersection(&before).without(&released);
    holding.listed = true;
}

/// The owners of what is used here and floats.
fn floating_in(used: &AddrSet, all: &[Object], tells: impl Fn(&Object) -> bool) -> Option<String> {
    let in_use = all.iter().filter(|object| match object.key.place {
        Place::Address(address) => used.contains(address) && tells(object),
        Place::Block(_) => false,
    });
    let owners: Vec<String> = in_use.map(|object| object.spec.users_text()).collect();
    (!owners.is_empty()).then(|| owners.join(", "))
}

/// Whether somebody may use it: before its owner does, its node asks who else has the address.
fn is_joined(object: &Object) -> bool {
    !object.spec.holders.is_empty() || !object.spec.contested.is_empty()
}

fn finish_join(holding: &mut Holding) {
    let Some(uid) = holding.seen.as_ref().map(|object| object.uid) else { return };
    holding.told = None;
    holding.record(uid, Phase::Held);
    holding.stage = Stage::Held;
}

/// Whether the node may take the object: its block, or its owner's address.
fn is_ours(me: &NodeName, holding: &Holding, object: &Object) -> bool {
    match &object.spec.owner {
        None => object.spec.holder(me).is_some(),
        owner => holding.owner() == owner.as_ref(),
    }
}

/// What is leaving is there, perhaps as another object of that name.
fn leave(holding: &mut Holding, object: Object) {
    if holding.record.as_ref().is_none_or(|record| record.uid != object.uid) {
        holding.record(object.uid, Phase::Leaving);
    }
    holding.seen = Some(object);
}
