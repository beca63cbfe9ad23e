//! A node of the simulation: the protocol's state machine, and pods that take and leave addresses. When a block is wanted and
//! returned is decided as `agent::blocks` does it, in short.

use std::collections::{BTreeMap, VecDeque};

use net_types::{AddrRange, AddrSet, Family};
use pool_blocks::{
    Answer, BootTime, Disk, Geometry, Horizon, Input, Key, Leases, Node, Output, Owner, PoolName, Progress,
    Refusal, Request, RequestId, Run, Uid, Want,
};

/// A block of which nothing is used is kept so long.
const IDLE: u64 = 600_000;
/// The same where nothing is left for others.
const IDLE_IN_DEMAND: u64 = 30_000;

/// A block that the node hands out.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    used: u32,
    capacity: u32,
    idle_since: Option<u64>,
}

struct Used<'a>(&'a BTreeMap<Key, Block>);

impl Leases for Used<'_> {
    fn used(&self, key: &Key) -> AddrSet {
        let used = self.0.get(key).is_some_and(|block| block.used > 0);
        match key.place {
            pool_blocks::Place::Block(block) if used => AddrSet::union([AddrRange::single(block.first())]),
            _ => AddrSet::default(),
        }
    }

    fn keys(&self) -> Vec<(Key, Option<Owner>)> {
        self.0.iter().filter(|(_, block)| block.used > 0).map(|(key, _)| (key.clone(), None)).collect()
    }
}

pub(super) struct Machine {
    pub(super) uid: Uid,
    node: Node,
    pool: PoolName,
    size: u128,
    blocks: BTreeMap<Key, Block>,
    disk: Disk,
    /// Blocks of which nothing is handed out before the pool was read by a request with a larger number.
    unread: BTreeMap<Key, RequestId>,
    /// That read, on its way.
    reads: bool,
    /// Since when pods wait.
    waiting: VecDeque<u64>,
    /// How long pods waited for which something had to be claimed.
    pub(super) waits: Vec<u64>,
    /// Pods that were refused, since no block was left.
    pub(super) refused: u64,
}

impl Machine {
    pub(super) fn new(name: &str, number: usize, geometry: &Geometry) -> Self {
        let disk = Disk::default();
        let node = Node::start(
            name.into(),
            Horizon::DEFAULT,
            vec![geometry.clone()],
            Some(disk.clone()),
            Run::default(),
        );
        let bits = Family::V4.bits() - geometry.lengths().of(Family::V4);
        Self {
            uid: Uid::from_number(1_000_000_000 + number as u128),
            node,
            pool: geometry.pool().clone(),
            size: 1 << bits,
            blocks: BTreeMap::new(),
            disk,
            unread: BTreeMap::new(),
            reads: false,
            waiting: VecDeque::new(),
            waits: Vec::new(),
            refused: 0,
        }
    }

    /// The machine boots again: all pods start anew, and what is on disk is there.
    pub(super) fn reboot(&mut self, name: &str, geometry: &Geometry) {
        let disk = Some(self.disk.clone());
        self.node = Node::start(name.into(), Horizon::DEFAULT, vec![geometry.clone()], disk, Run::default());
        self.unread = self.disk.records.keys().map(|key| (key.clone(), RequestId(0))).collect();
        self.reads = false;
        self.blocks.clear();
        self.waiting.clear();
    }

    /// Takes in what happens. `exhausted`: no block is left for anybody.
    pub(super) fn step(&mut self, now: u64, input: Input, exhausted: bool) -> Vec<Output> {
        let mut out = match input {
            Input::Answered(id, Answer::Pool(_)) => {
                self.reads = false;
                self.unread.retain(|_, created| *created > id);
                Vec::new()
            }
            Input::Answered(_, Answer::Written(ref object)) if !self.blocks.contains_key(&object.key) => {
                self.unread.insert(object.key.clone(), self.node.next_id());
                self.node_step(now, input)
            }
            input => self.node_step(now, input),
        };
        self.serve(now, exhausted, &mut out);
        self.unread.retain(|key, _| self.node.keys().any(|own| own == key));
        if !self.unread.is_empty() && !self.reads {
            self.reads = true;
            out.push(Output::Send(self.node.next_id(), Request::Pool(self.pool.clone())));
        }
        out
    }

    fn node_step(&mut self, now: u64, input: Input) -> Vec<Output> {
        let out = self.node.step(BootTime::from_millis(now), &Used(&self.blocks), input);
        for output in &out {
            if let Output::Write(_, disk) = output {
                self.disk = disk.clone();
            }
        }
        out
    }

    pub(super) fn wake_at(&self, now: u64) -> u64 {
        self.node.wake_at(BootTime::from_millis(now)).millis()
    }

    pub(super) fn start_pod(&mut self, now: u64, exhausted: bool) -> Vec<Output> {
        self.waiting.push_back(now);
        let mut out = Vec::new();
        self.serve(now, exhausted, &mut out);
        out
    }

    /// A pod's address has rested. Pods are in all blocks alike, since the address is next that was not used for longest.
    pub(super) fn free_address(&mut self, now: u64) {
        if let Some(block) = self.blocks.values_mut().max_by_key(|block| block.used) {
            block.used = block.used.saturating_sub(1);
            if block.used == 0 {
                block.idle_since = Some(now);
            }
        }
    }

    pub(super) fn used(&self) -> u32 {
        self.blocks.values().map(|block| block.used).sum()
    }

    fn serve(&mut self, now: u64, exhausted: bool, out: &mut Vec<Output>) {
        self.refresh(now);
        while !self.waiting.is_empty() {
            let free = |block: &&mut Block| block.used < block.capacity;
            match self.blocks.values_mut().filter(free).max_by_key(|block| block.capacity - block.used) {
                Some(block) => {
                    block.used += 1;
                    block.idle_since = None;
                    let since = self.waiting.pop_front().unwrap_or(now);
                    if since < now {
                        self.waits.push(now - since);
                    }
                }
                None => break,
            }
        }
        if exhausted && self.in_claim(now) == 0 {
            self.refused += self.waiting.len() as u64;
            self.waiting.clear();
        }
        while self.in_claim(now) * self.size < self.waiting.len() as u128 {
            let before = self.in_claim(now);
            let wanted = self.node_step(now, Input::Want(Want::Block(self.pool.clone(), Family::V4)));
            out.extend(wanted);
            if self.in_claim(now) <= before {
                break;
            }
        }
    }

    /// What may be handed out by now.
    fn refresh(&mut self, now: u64) {
        let node = &self.node;
        let at = BootTime::from_millis(now);
        self.blocks.retain(|key, block| block.used > 0 || node.may_use(at, key).is_ok());
        for key in node.keys() {
            let is_known = self.blocks.contains_key(key) || self.unread.contains_key(key);
            if !is_known && node.may_use(at, key).is_ok() {
                let capacity = u32::try_from(node.addresses(key).len()).unwrap_or(u32::MAX);
                let block = Block { used: 0, capacity, idle_since: Some(now) };
                self.blocks.insert(key.clone(), block);
            }
        }
    }

    fn in_claim(&self, now: u64) -> u128 {
        let at = BootTime::from_millis(now);
        let own = self.node.progress().filter(|(key, progress)| match progress {
            Progress::Claiming => true,
            Progress::Held if self.unread.contains_key(*key) => true,
            Progress::Held => matches!(self.node.may_use(at, key), Err(Refusal::NotSynced(_))),
            Progress::Leaving | Progress::Lost => false,
        });
        own.count() as u128
    }

    /// Looks at the leases, as it is done every minute: claims ahead of need, returns what is idle.
    pub(super) fn look(&mut self, now: u64, exhausted: bool) -> Vec<Output> {
        self.refresh(now);
        let capacity: u32 = self.blocks.values().map(|block| block.capacity).sum();
        let used = self.used();
        let mut free = u128::from(capacity.saturating_sub(used));
        let keeps_spare = used > 0 && !exhausted;
        if keeps_spare && free < self.size.div_ceil(4) {
            if self.in_claim(now) == 0 {
                return self.node_step(now, Input::Want(Want::Block(self.pool.clone(), Family::V4)));
            }
            return Vec::new();
        }
        let spare = if keeps_spare { self.size } else { 0 };
        let patience = if exhausted { IDLE_IN_DEMAND } else { IDLE };
        let idle: Vec<(Key, u128)> = self
            .blocks
            .iter()
            .filter(|(_, block)| {
                block.used == 0 && block.idle_since.is_some_and(|since| since + patience <= now)
            })
            .map(|(key, block)| (key.clone(), u128::from(block.capacity)))
            .collect();
        let mut out = Vec::new();
        for (key, capacity) in idle {
            let left = free.saturating_sub(capacity);
            if left >= spare {
                free = left;
                self.blocks.remove(&key);
                out.extend(self.node_step(now, Input::Return(key)));
            }
        }
        out
    }
}
