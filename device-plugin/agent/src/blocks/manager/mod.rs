//! What the node does about the cluster's pools: pure. Nothing here does I/O or reads a clock.
//!
//! The protocol is [`pool_blocks::Node`]; this decides when it wants and returns blocks, what `ipam-pool` may hand out
//! ([`Grants`]), and who of those that wait for addresses is answered.

mod claims;
mod current;
mod files;
mod floating;
mod grants;
mod notes;
mod spare;
#[cfg(test)]
mod tests;
mod waiter;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use net_types::{Addr, AddrSet, Family};
use node::Grants;
use pool_blocks::{
    Answer, BootTime, Disk, DiskVersion, Geometry, Horizon, Input, Key, Node, NodeName, Output, Owner, Place,
    PoolName, Request, RequestId, Run,
};
use proto::agent_socket::{ClaimAnswer, PoolClaim};
use proto::health::{ApiVerb, Metrics};
use proto::published::PoolNotes;

use super::checks::checked;
use super::geometry::{PoolError, geometry, handed_out};
use super::pool_folder::KnownPools;
use super::usage::Usage;
use grants::Writing;
use notes::Notes;
use waiter::{Promise, Waiter, Wanted};

/// How long the API server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request waits for the cluster's part, and how soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the leases are looked at.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// How soon they are after a claim was granted.
const USAGE_AFTER_CLAIM: Duration = Duration::from_secs(2);

/// Names a claim that waits.
pub(crate) type ClaimId = u64;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Tick,
    /// The pools changed.
    Pools(Arc<KnownPools>),
    /// Files of pools changed.
    Files,
    /// The leases, as they are now.
    Usage(Usage),
    /// The leases could not be read.
    NoUsage,
    Answer(RequestId, Answer),
    Connected,
    Disconnected,
    Synced(DiskVersion),
    Claim(ClaimId, PoolClaim),
    /// Nobody waits for it any more.
    Abandoned(ClaimId),
    /// What became of [`Effect::WriteGrants`].
    Granted(PoolName, GrantResult),
}

/// What became of grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrantResult {
    Written,
    /// They were not written, since these addresses are used.
    Used(AddrSet),
    Failed,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    Send(RequestId, Request),
    WriteDisk(DiskVersion, Disk),
    /// `unless_used`: only if nothing is used that the grants before had and these have not.
    WriteGrants {
        pool: PoolName,
        grants: Grants,
        unless_used: bool,
    },
    Reply(ClaimId, ClaimAnswer),
    /// The pools of which the node holds or uses something.
    InUse(BTreeSet<String>),
    /// A pool, as it is in this specification, takes the place of this node's file, which hands out these addresses.
    Replace(String, serde_json::Value, AddrSet),
    /// What the cluster is to be told.
    Notes(PoolNotes),
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// `None`: there is none.
    pub(crate) disk: Option<Disk>,
    /// Of this boot.
    pub(crate) run: Run,
    pub(crate) grants: BTreeMap<PoolName, Grants>,
}

struct Pending {
    request: Request,
    /// Whether the cluster's part was told.
    sent: bool,
    /// When it counts as not answered.
    due: BootTime,
}

/// The blocks of one node.
pub(crate) struct Manager {
    node: Node,
    boot_id: String,
    metrics: Arc<Metrics>,
    known: Arc<KnownPools>,
    geometries: BTreeMap<PoolName, Geometry>,
    errors: BTreeMap<PoolName, PoolError>,
    /// What each pool hands out, whether in blocks or not.
    handed_out: BTreeMap<PoolName, AddrSet>,
    usage: Usage,
    /// How often the leases were read since the start.
    usage_reads: u64,
    next_usage: BootTime,
    connected: bool,
    pending: BTreeMap<RequestId, Pending>,
    unsynced: Option<(DiskVersion, Disk, BootTime)>,
    /// The grants that `ipam-pool` goes by, and those on their way.
    written: BTreeMap<PoolName, Grants>,
    writing: BTreeMap<PoolName, Writing>,
    retry_grants: BTreeMap<PoolName, BootTime>,
    /// Blocks that are to go back, once the grants are without them.
    returning: BTreeSet<Key>,
    /// Since when nothing of a block is used.
    idle: BTreeMap<Key, BootTime>,
    /// Addresses that blocks are to give up, once the grants are without them; and who has them then.
    releasing: BTreeMap<(PoolName, Addr), Option<Owner>>,
    waiters: BTreeMap<ClaimId, Waiter>,
    /// Who was told lately that there is an address for it, which it may not have taken yet.
    promises: Vec<Promise>,
    searches: BTreeMap<Wanted, floating::Search>,
    /// Floating addresses whose owner is on one node at a time.
    exclusive: BTreeSet<Key>,
    /// Why pods got no addresses, as it was told last, and until when no other reason is.
    refusals_told: BTreeMap<PoolName, (String, BootTime)>,
    conflicts_told: Vec<pool_blocks::Conflict>,
    reads: current::Reads,
    /// Pools in the place of files that are not accepted yet, and how often the leases had been read when that was so first.
    replaced: BTreeMap<PoolName, u64>,
    in_use: Option<BTreeSet<String>>,
    notes: Notes,
    effects: Vec<Effect>,
}

impl Manager {
    pub(crate) fn new(
        me: NodeName,
        boot_id: String,
        stored: Stored,
        known: Arc<KnownPools>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reads = current::Reads::after(stored.disk.as_ref(), &stored.run);
        let node = Node::start(me, Horizon::DEFAULT, Vec::new(), stored.disk, stored.run);
        let mut own = Self {
            node,
            boot_id,
            metrics,
            known: Arc::default(),
            geometries: BTreeMap::new(),
            errors: BTreeMap::new(),
            handed_out: BTreeMap::new(),
            usage: Usage::default(),
            usage_reads: 0,
            next_usage: BootTime::default(),
            connected: false,
            pending: BTreeMap::new(),
            unsynced: None,
            written: stored.grants,
            writing: BTreeMap::new(),
            retry_grants: BTreeMap::new(),
            returning: BTreeSet::new(),
            idle: BTreeMap::new(),
            releasing: BTreeMap::new(),
            waiters: BTreeMap::new(),
            promises: Vec::new(),
            searches: BTreeMap::new(),
            exclusive: BTreeSet::new(),
            refusals_told: BTreeMap::new(),
            conflicts_told: Vec::new(),
            reads,
            replaced: BTreeMap::new(),
            in_use: None,
            notes: Notes::default(),
            effects: Vec::new(),
        };
        own.set_pools(known);
        own
    }

    /// Takes an event in and says what is to be done.
    pub(crate) fn step(&mut self, now: BootTime, event: Event) -> Vec<Effect> {
        match event {
            Event::Tick | Event::Files => self.tick(now),
            Event::Pools(known) => {
                let had_pools = self.has_pools();
                self.set_pools(known);
                self.send_waiting(now);
                self.read_leases_soon(now, had_pools);
            }
            Event::Usage(usage) => self.take_usage(now, usage),
            Event::NoUsage => self.next_usage = now.after(AGAIN),
            Event::Answer(id, answer) => self.take_answer(now, id, answer),
            Event::Connected => self.connect(now),
            Event::Disconnected => self.disconnect(now),
            Event::Synced(version) => {
                if self.unsynced.as_ref().is_some_and(|(newest, ..)| *newest <= version) {
                    self.unsynced = None;
                }
                self.node_step(now, Input::Synced(version));
            }
            Event::Claim(id, claim) => self.take_claim(now, id, claim),
            Event::Abandoned(id) => drop(self.waiters.remove(&id)),
            Event::Granted(pool, result) => self.take_granted(now, &pool, result),
        }
        if self.is_active() {
            self.read_pools(now);
            self.claim_for_waiters(now);
            self.release_reserved();
            self.decide_grants(now);
        }
        self.answer_late(now);
        self.tell_use();
        self.tell_notes(now);
        std::mem::take(&mut self.effects)
    }

    /// What is to be kept for the next process of this boot.
    pub(crate) fn run(&self) -> Run {
        self.reads.without_unread(self.node.run())
    }

    /// Whether the leases are to be read before this event is taken in.
    pub(crate) fn wants_usage(&self, now: BootTime, event: &Event) -> bool {
        let by_leases = match event {
            Event::Answer(id, Answer::Own(..) | Answer::Addresses(_)) => {
                self.has_pools() && self.pending.contains_key(id)
            }
            Event::Files => true,
            _ => false,
        };
        by_leases || now >= self.next_usage
    }

    /// When something is due without an event; `None`: nothing will be.
    pub(crate) fn wake_at(&self, now: BootTime) -> Option<BootTime> {
        if !self.has_pools() {
            return Some(self.next_usage);
        }
        let pending = self.pending.values().map(|pending| pending.due);
        let waiters = self.waiters.values().map(|waiter| waiter.deadline);
        let disk = self.unsynced.iter().map(|(.., again)| *again);
        let grants = self.retry_grants.values().copied();
        let node = self.is_active().then(|| self.node.wake_at(now));
        let reads = self.reads.wake_at();
        let notes = self.notes.wake_at(now);
        let all = pending.chain(waiters).chain(disk).chain(grants).chain(reads).chain(node).chain(notes);
        Some(all.fold(self.next_usage, Ord::min))
    }

    fn has_pools(&self) -> bool {
        !self.known.pools.is_empty() || self.node.keys().next().is_some()
    }

    /// Whether the protocol runs: nothing is asked of the API server on a node without pools.
    fn is_active(&self) -> bool {
        self.has_pools() && self.usage_reads > 0
    }

    fn node_step(&mut self, now: BootTime, input: Input) {
        let outputs = self.node.step(now, &self.usage.leases(&self.geometries), input);
        for output in outputs {
            match output {
                Output::Send(id, request) => self.send(now, id, request),
                Output::Write(version, disk) => {
                    self.effects.push(Effect::WriteDisk(version, disk.clone()));
                    self.unsynced = Some((version, disk, now.after(AGAIN)));
                }
            }
        }
    }

    fn send(&mut self, now: BootTime, id: RequestId, request: Request) {
        self.metrics.pools.count_request(match request {
            Request::ReadOwn | Request::Get(_) | Request::Pool(_) => ApiVerb::Get,
            Request::ListAddresses(_) | Request::Float(_) => ApiVerb::List,
            Request::Create(..) => ApiVerb::Create,
            Request::Update(..) => ApiVerb::Update,
            Request::Delete(..) => ApiVerb::Delete,
        });
        let sent = self.may_send(&request);
        let due = now.after(if sent { ANSWER_TIMEOUT } else { AGAIN });
        if sent {
            self.effects.push(Effect::Send(id, request.clone()));
        }
        self.pending.insert(id, Pending { request, sent, due });
    }

    /// Nothing is created by pools that may have changed since they were told.
    fn may_send(&self, request: &Request) -> bool {
        self.connected && (self.known.complete || !matches!(request, Request::Create(..)))
    }

    /// Sends what could not be sent before.
    fn send_waiting(&mut self, now: BootTime) {
        let waiting =
            self.pending.iter().filter(|(_, pending)| !pending.sent && self.may_send(&pending.request));
        let waiting: Vec<RequestId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            let is_outside = match &pending.request {
                Request::Create(key, _) => {
                    !self.geometries.get(&key.pool).is_some_and(|pool| match key.place {
                        Place::Block(block) => pool.has_block(block),
                        Place::Address(address) => pool.addresses().contains(address),
                    })
                }
                _ => false,
            };
            if is_outside {
                // Who wanted it looks at what there is by now.
                self.take_answer(now, id, Answer::Unknown);
                continue;
            }
            (pending.sent, pending.due) = (true, now.after(ANSWER_TIMEOUT));
            self.effects.push(Effect::Send(id, pending.request.clone()));
        }
    }

    fn tick(&mut self, now: BootTime) {
        let late: Vec<RequestId> =
            self.pending.iter().filter(|(_, pending)| pending.due <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.take_answer(now, id, Answer::Unknown);
        }
        if let Some((version, disk, again)) = &mut self.unsynced
            && *again <= now
        {
            *again = now.after(AGAIN);
            self.effects.push(Effect::WriteDisk(*version, disk.clone()));
        }
        if self.is_active() {
            self.node_step(now, Input::Tick);
        }
    }

    fn take_answer(&mut self, now: BootTime, id: RequestId, answer: Answer) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let held: BTreeSet<Key> = self.node.keys().cloned().collect();
        let me = self.node.name();
        let knows = |object: &pool_blocks::Object| {
            held.contains(&object.key) || object.spec.holder(me).is_some() || self.has_place(&object.key)
        };
        let answer = checked(&pending.request, answer, knows);
        if answer == Answer::AlreadyExists {
            self.metrics.pools.conflicts.increment();
        }
        if let Answer::Forbidden(reason) = &answer {
            self.tell_forbidden(now, &pending.request, reason);
        }
        self.tell_made_again(&pending.request, &answer);
        if let Request::Float(asked) = pending.request {
            return self.take_float(now, asked, answer);
        }
        if let Request::Pool(pool) = &pending.request {
            return self.take_pool(now, id, pool, answer);
        }
        if let (Request::Create(key, _) | Request::Update(key, ..), Answer::Written(_)) =
            (&pending.request, &answer)
            && matches!(key.place, Place::Block(_))
            && !self.is_granted(key)
        {
            self.note_taken(key);
        }
        let answer = match &pending.request {
            // By the list, a block gives up what floats in it and no pod has.
            Request::ListAddresses(pool) if !self.usage.is_readable(pool) => Answer::Unknown,
            _ => self.without_foreign(answer),
        };
        self.node_step(now, Input::Answered(id, answer));
    }

    /// Whether this could be a block or an address of a pool here.
    fn has_place(&self, key: &Key) -> bool {
        self.geometries.get(&key.pool).is_some_and(|geometry| match key.place {
            Place::Block(block) => block.length() == geometry.lengths().of(block.first().family()),
            Place::Address(address) => geometry.addresses().contains(address),
        })
    }

    fn connect(&mut self, now: BootTime) {
        self.connected = true;
        self.send_waiting(now);
    }

    fn disconnect(&mut self, now: BootTime) {
        self.connected = false;
        let sent: Vec<RequestId> =
            self.pending.iter().filter(|(_, pending)| pending.sent).map(|(id, _)| *id).collect();
        for id in sent {
            self.take_answer(now, id, Answer::Unknown);
        }
        let waiting: Vec<ClaimId> = self.waiters.keys().copied().collect();
        for id in waiting {
            self.reply(now, id, ClaimAnswer::Later(self.what_is_missing()));
        }
    }

    fn set_pools(&mut self, known: Arc<KnownPools>) {
        for (name, pool) in &known.pools {
            if self.known.pools.get(name) != Some(pool) {
                self.reads.told(name);
            }
        }
        self.known = known;
        self.geometries.clear();
        self.errors.clear();
        self.handed_out.clear();
        for pool in self.known.pools.values() {
            let name = PoolName::from(pool.name.as_str());
            match geometry(pool) {
                Ok(geometry) => drop(self.geometries.insert(name, geometry)),
                Err(error) => drop(self.errors.insert(name, error)),
            }
            if let Ok(all) = handed_out(pool) {
                self.handed_out.insert(pool.name.as_str().into(), all);
            }
        }
        self.node.set_pools(self.geometries.values().cloned().collect());
        self.note_replaced();
    }

    fn take_usage(&mut self, now: BootTime, usage: Usage) {
        self.tell_unreadable(&usage);
        self.usage = usage;
        self.usage_reads += 1;
        self.next_usage = now.after(self.usage_interval());
        if !self.has_pools() {
            return;
        }
        self.replace_files();
        if !self.node.has_counted() {
            // What is used of a pool that is not known yet, or that cannot be read, cannot be looked for.
            if self.known.complete && self.usage.unreadable().is_empty() {
                self.node_step(now, Input::Counted);
            }
            return;
        }
        self.node_step(now, Input::LeasesRead);
        self.look_at_spare(now);
        self.tell_conflicts();
    }

    fn tell_use(&mut self) {
        self.metrics.pools.set_counts(self.counts());
        if self.usage_reads == 0 {
            return;
        }
        let pools = self.node.keys().map(|key| &key.pool).chain(self.usage.pools());
        let in_use: BTreeSet<String> = pools.map(ToString::to_string).collect();
        if self.in_use.as_ref() != Some(&in_use) {
            self.effects.push(Effect::InUse(in_use.clone()));
            self.in_use = Some(in_use);
        }
    }

    fn is_exhausted(&self, pool: &PoolName, family: Family) -> bool {
        self.known.pools.get(pool.as_str()).is_some_and(|pool| pool.exhausted.contains(&family))
    }
}

fn family_of(key: &Key) -> Family {
    match key.place {
        Place::Block(prefix) => prefix.first().family(),
        Place::Address(address) => address.family(),
    }
}
