//! The state machine of one node.
//!
//! A block or floating address that the node has or wants is a [`Holding`]. After every input, [`Node::step`] decides for each
//! what is asked of the API server next; at most one request about each is on its way. The rules are the same for both kinds:
//!
//! - It is taken by a write (create, or an update that changes its resourceVersion), then the other kind is read, then the disk
//!   says so, then it is used. Of a node that claims a block and one that claims an address in it, at least one sees the other.
//! - It is used as long as a consistent read showed it as this node's and unfenced, sent less than 0.8 of a horizon ago.
//! - It is left on the disk first, and then in the API server.
//! - What the disk has and the API server has not is created again; what another has is lost, and told on both sides.

mod answer;
mod decide;
mod holding;
mod permission;
#[cfg(test)]
mod tests;
mod want;

use std::collections::BTreeMap;

use net_types::{Addr, AddrSet, Family};

use crate::weakness::{Weakened, Weakness};
use crate::{
    Answer, BootTime, Disk, DiskVersion, Geometry, Horizon, Key, NodeName, Object, Owner, Phase, Place,
    PoolName, Record, Request, RequestId, Run, Uid,
};

use holding::{Holding, Stage};
pub use permission::{Conflict, Refusal};

/// What the node's leases say. They are asked under the lock of the pool, which no allocation of that pool passes meanwhile.
pub trait Leases {
    /// The addresses that were given out as this block's, or the floating address, and are held, resting or quarantined. One that
    /// an owner has as its floating address is not used as an address of the block around it.
    fn used(&self, key: &Key) -> AddrSet;

    /// All blocks and floating addresses of which something is used, and whose the floating ones are.
    fn keys(&self) -> Vec<(Key, Option<Owner>)>;
}

/// What somebody on the node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// One more block of a pool.
    Block(PoolName, Family),
    /// The block that this address is in, and no other.
    BlockOf(PoolName, Addr),
    /// The floating address of an owner who is to run here.
    Address(PoolName, Addr, Owner),
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Something is needed.
    Want(Want),
    /// Nothing in this is used; it goes back. The caller holds the pool's lock.
    Return(Key),
    /// A floating address was seen in a block of this node, perhaps some time ago. The caller holds the pool's lock, and hands this
    /// address out of the block no more unless [`Node::addresses`] still has it.
    Floats(PoolName, Addr),
    /// What this node holds may have changed, as a watch says.
    Changed,
    /// The API server's answer, or that none came.
    Answered(RequestId, Answer),
    /// The disk has this version and all before it.
    Synced(DiskVersion),
    /// The leases say all that live attachments have; until then, a node that lost its disk allocates nothing.
    Counted,
    /// The leases were read.
    LeasesRead,
}

/// What a node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the API server.
    Send(RequestId, Request),
    /// Write and sync this; [`Input::Synced`] says when it is done.
    Write(DiskVersion, Disk),
}

/// What a request on its way is about.
enum About {
    Own,
    Addresses(PoolName),
    /// A holding, at the stage that asked: it may be at another when the answer comes.
    Holding(Key, Stage),
    /// The block around a floating address.
    Around(Key),
}

struct Pending {
    about: About,
    sent: BootTime,
}

/// How far a node is with what it has or wants, for who drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is being claimed, or taken again.
    Claiming,
    /// It is this node's; whether it may be used says [`Node::may_use`].
    Held,
    /// It goes back.
    Leaving,
    /// Another has it.
    Lost,
}

/// The state machine of one node.
pub struct Node {
    me: NodeName,
    horizon: Horizon,
    weakened: Weakened,
    pools: BTreeMap<PoolName, Geometry>,
    /// As [`Run::node`].
    own: Option<(Uid, BootTime)>,
    next_own: BootTime,
    holdings: BTreeMap<Key, Holding>,
    /// Blocks that others were found to have, and until when that is believed.
    taken: BTreeMap<Key, BootTime>,
    /// Whether the leases can be believed. Until then nothing is claimed and nothing written: a disk that is there says that they can.
    counted: bool,
    has_disk: bool,
    disk: DiskVersion,
    synced: DiskVersion,
    last_id: u64,
    pending: BTreeMap<RequestId, Pending>,
}

impl Node {
    /// A node's machine when its process starts. `disk`: `None` if there is none, which is so on a new node and on one
    /// that lost it. `run`: of the same boot, or nothing.
    #[must_use]
    pub fn start(me: NodeName, horizon: Horizon, pools: Vec<Geometry>, disk: Option<Disk>, run: Run) -> Self {
        let counted = disk.is_some();
        let mut holdings = BTreeMap::new();
        for (key, record) in disk.unwrap_or_default().records {
            let stage = match record.phase {
                Phase::Held => Stage::Held,
                Phase::Leaving => Stage::Leaving,
                Phase::Lost { .. } => Stage::Lost,
            };
            let permit = run.permits.get(&key).copied();
            holdings.insert(key, Holding { record: Some(record), permit, ..Holding::new(stage) });
        }
        Self {
            me,
            horizon,
            weakened: Weakened::default(),
            pools: pools.into_iter().map(|pool| (pool.pool().clone(), pool)).collect(),
            own: run.node,
            next_own: BootTime::default(),
            holdings,
            taken: BTreeMap::new(),
            counted,
            has_disk: counted,
            disk: DiskVersion(0),
            synced: DiskVersion(0),
            last_id: 0,
            pending: BTreeMap::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn weakened(mut self, weakened: Weakened) -> Self {
        self.counted |= weakened.lacks(Weakness::DoesNotCount);
        self.weakened = weakened;
        self
    }

    /// Takes an input in and says what is to be done.
    pub fn step(&mut self, now: BootTime, leases: &dyn Leases, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick => {}
            Input::Want(_) if !self.counted => {}
            Input::Want(Want::Block(pool, family)) => self.want_block(now, &pool, family),
            Input::Want(Want::BlockOf(pool, address)) => self.want_block_of(now, &pool, address),
            Input::Want(Want::Address(pool, address, owner)) => self.want_address(&pool, address, owner),
            Input::Return(key) => self.give_back(&key, leases),
            Input::Floats(pool, address) => self.release_if_free(&pool, address, leases),
            Input::Changed => self.next_own = now,
            Input::Answered(id, answer) => self.take_answer(now, leases, id, answer),
            Input::Synced(version) => self.synced = self.synced.max(version),
            Input::Counted => self.count(leases),
            Input::LeasesRead if !self.counted => {}
            Input::LeasesRead => self.look_for_used(leases),
        }
        self.write_disk(&mut out);
        self.decide(now, &mut out);
        out
    }

    /// What is to be kept for the next process of this boot.
    #[must_use]
    pub fn run(&self) -> Run {
        // What is taken again is not checked yet, and what the disk lacks is not to be used: a record from before may be there. Who
        // is in the way is told by the next process once it has checked that itself.
        let used = |holding: &&Holding| {
            let is_alone = holding.is_alone() || self.weakened.lacks(Weakness::DoesNotCheckAgain);
            holding.stage == Stage::Held && self.is_synced(holding) && is_alone
        };
        let permit = |(key, holding): (&Key, &Holding)| {
            Some(holding).filter(used).and_then(|holding| Some((key.clone(), holding.permit?)))
        };
        Run { node: self.own, permits: self.holdings.iter().filter_map(permit).collect() }
    }

    /// When something is due without an input.
    #[must_use]
    pub fn wake_at(&self, now: BootTime) -> BootTime {
        // While one read is on its way, its answer is waited for.
        let next_own = if self.is_reading() { BootTime::from_millis(u64::MAX) } else { self.next_own };
        let waiting = self.holdings.values().filter(|holding| holding.busy.is_none());
        waiting.map(|holding| holding.not_before).filter(|time| *time > now).fold(next_own, Ord::min)
    }

    /// Whether a read of the own `Node` is on its way.
    fn is_reading(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.about, About::Own))
    }

    /// The pools as they are by now. What is held stays held, whatever became of its pool; a block that its pool does not have any
    /// more is not asked for.
    pub fn set_pools(&mut self, pools: Vec<Geometry>) {
        self.pools = pools.into_iter().map(|pool| (pool.pool().clone(), pool)).collect();
        let pools = &self.pools;
        self.holdings.retain(|key, holding| {
            let is_asked_for =
                holding.stage == Stage::Claim && holding.busy.is_none() && holding.record.is_none();
            let is_gone = |block| pools.get(&key.pool).is_some_and(|pool| !pool.has_block(block));
            !(is_asked_for && matches!(key.place, Place::Block(block) if is_gone(block)))
        });
    }

    /// Whether the leases can be believed: there was a disk, or they were counted.
    #[must_use]
    pub fn has_counted(&self) -> bool {
        self.counted
    }

    /// Whether a read showed the own `Node` as in service.
    #[must_use]
    pub fn is_in_service(&self) -> bool {
        self.own.is_some()
    }

    /// Whether another was found to have this lately.
    #[must_use]
    pub fn is_taken(&self, now: BootTime, key: &Key) -> bool {
        self.taken.get(key).is_some_and(|until| *until > now)
    }

    /// All that it holds, wants or lost, and how far it is with it.
    pub fn progress(&self) -> impl Iterator<Item = (&Key, Progress)> {
        self.holdings.iter().map(|(key, holding)| {
            let progress = match holding.stage {
                Stage::Claim | Stage::Look | Stage::Take | Stage::Check => Progress::Claiming,
                Stage::Held => Progress::Held,
                Stage::Leaving => Progress::Leaving,
                Stage::Lost | Stage::Withdraw => Progress::Lost,
            };
            (key, progress)
        })
    }

    /// Whether the disk says that this is held, whatever the API server has: created now, it is created again.
    #[must_use]
    pub fn held_before(&self, key: &Key) -> bool {
        let record = self.holdings.get(key).and_then(|holding| holding.record.as_ref());
        record.is_some_and(|record| record.phase == Phase::Held)
    }

    /// What it holds, wants or lost.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.holdings.keys()
    }

    /// The node.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.me
    }

    /// The object of what it holds, as it was last seen.
    #[must_use]
    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.holdings.get(key)?.seen.as_ref()
    }

    /// The number of a request of who drives the node, which no other has.
    pub fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    fn write_disk(&mut self, out: &mut Vec<Output>) {
        // A record that was dropped goes with the next change: until then the disk says `Leaving`, and the API server nothing.
        let is_new = self.counted && !self.has_disk;
        if !self.holdings.values().any(|holding| holding.dirty) && !is_new {
            return;
        }
        self.has_disk = true;
        self.disk = DiskVersion(self.disk.0 + 1);
        let mut records: BTreeMap<Key, Record> = BTreeMap::new();
        for (key, holding) in &mut self.holdings {
            if std::mem::take(&mut holding.dirty) {
                holding.recorded_in = self.disk;
            }
            if let Some(record) = &holding.record {
                records.insert(key.clone(), record.clone());
            }
        }
        out.push(Output::Write(self.disk, Disk { records }));
    }
}
