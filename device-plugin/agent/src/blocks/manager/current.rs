//! What pools are by now: a block is created by what this node was told of its pool, which may have changed before. So the pool
//! is read after that, and what is not its block goes back before anything of it is handed out.

use std::collections::BTreeMap;
use std::time::Duration;

use pool_blocks::{
    Answer, BootTime, CurrentPool, Disk, Input, Key, Phase, Place, PoolName, Request, RequestId, Run,
};

use super::{AGAIN, Manager};

/// For how long nothing is claimed of a pool that is not as this node was told, unless it is told before.
const OUTDATED: Duration = Duration::from_secs(30);

/// The reads of pools.
#[derive(Default)]
pub(super) struct Reads {
    /// Blocks whose pool is to be read, by a request with a larger number than this.
    waiting: BTreeMap<Key, RequestId>,
    /// The reads on their way.
    sent: BTreeMap<PoolName, RequestId>,
    /// When what failed is tried again.
    again: BTreeMap<PoolName, BootTime>,
    /// Pools that are not as this node was told, and until when that is believed.
    outdated: BTreeMap<PoolName, BootTime>,
}

impl Reads {
    /// What no process of this boot handed out: the one before may have ended before it read the pool.
    pub(super) fn after(disk: Option<&Disk>, run: &Run) -> Self {
        let records = disk.into_iter().flat_map(|disk| &disk.records);
        let unread = records.filter(|(key, record)| {
            let is_block = matches!(key.place, Place::Block(_));
            is_block && record.phase == Phase::Held && !run.permits.contains_key(key)
        });
        Self { waiting: unread.map(|(key, _)| (key.clone(), RequestId(0))).collect(), ..Self::default() }
    }

    /// Whether nothing of a block may be handed out yet.
    pub(super) fn is_awaited(&self, key: &Key) -> bool {
        self.waiting.contains_key(key)
    }

    /// What is to be kept for the next process.
    pub(super) fn without_unread(&self, mut run: Run) -> Run {
        run.permits.retain(|key, _| !self.is_awaited(key));
        run
    }

    /// A pool was told.
    pub(super) fn told(&mut self, pool: &str) {
        self.outdated.retain(|of, _| of.as_str() != pool);
    }

    /// When something is due.
    pub(super) fn wake_at(&self) -> impl Iterator<Item = BootTime> {
        self.again.values().copied()
    }

    pub(super) fn is_outdated(&self, now: BootTime, pool: &PoolName) -> bool {
        self.outdated.get(pool).is_some_and(|until| *until > now)
    }
}

impl Manager {
    /// A block was created, or taken again.
    pub(super) fn note_taken(&mut self, key: &Key) {
        let stamp = self.node.next_id();
        self.reads.waiting.insert(key.clone(), stamp);
    }

    /// One read serves all blocks of a pool that were created before it was sent.
    pub(super) fn read_pools(&mut self, now: BootTime) {
        let reads = &mut self.reads;
        reads.waiting.retain(|key, _| self.node.keys().any(|own| own == key));
        let pools: Vec<PoolName> = reads.waiting.keys().map(|key| key.pool.clone()).collect();
        reads.again.retain(|pool, again| *again > now && pools.contains(pool));
        for pool in pools {
            if self.reads.sent.contains_key(&pool) || self.reads.again.contains_key(&pool) {
                continue;
            }
            let id = self.node.next_id();
            self.reads.sent.insert(pool.clone(), id);
            self.send(now, id, Request::Pool(pool));
        }
    }

    pub(super) fn take_pool(&mut self, now: BootTime, id: RequestId, pool: &PoolName, answer: Answer) {
        self.reads.sent.remove(pool);
        let Answer::Pool(current) = answer else {
            self.reads.again.insert(pool.clone(), now.after(AGAIN));
            return;
        };
        let read = self.reads.waiting.iter().filter(|(key, stamp)| key.pool == *pool && **stamp < id);
        let read: Vec<Key> = read.map(|(key, _)| key.clone()).collect();
        for key in read {
            self.reads.waiting.remove(&key);
            if !self.is_as_told(&key, current.as_ref()) {
                self.reads.outdated.insert(pool.clone(), now.after(OUTDATED));
                // What pods use stays.
                self.node_step(now, Input::Return(key));
            }
        }
    }

    fn is_as_told(&self, key: &Key, current: Option<&CurrentPool>) -> bool {
        let (Some(told), Some(current), Place::Block(block)) =
            (self.geometries.get(&key.pool), current, key.place)
        else {
            return false;
        };
        // As a whole: what this node may claim of it yet is less where it takes the place of a file.
        let of_block = net_types::AddrSet::union([block.range()]);
        let in_block = |all: &net_types::AddrSet| all.intersection(&of_block);
        let all = self.handed_out.get(&key.pool).map(in_block);
        told.lengths() == current.lengths && all == Some(in_block(&current.addresses))
    }
}
