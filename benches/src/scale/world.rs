//! The simulated cluster: what happens when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use net_types::{AddrRange, AddrSet, Family};
use pool_blocks::{BlockLengths, DiskVersion, Geometry, Input, Key, NodeName, Output, Request, RequestId};

use super::api::{Api, Asked};
use super::machine::Machine;

/// From a node to the API server and back, in milliseconds.
pub(super) const ROUND_TRIP: u64 = 10;
/// Until the disk has what was written.
const SYNC: u64 = 4;
/// How long an address rests.
const COOLDOWN: u64 = 60_000;
/// How often leases are looked at.
const LOOK: u64 = 60_000;
/// How long a pod lives on average.
const LIFETIME: f64 = 7_200_000.0;
pub(super) const DAY: u64 = 86_400_000;

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) addresses: u32,
    pub(super) floating: usize,
}

enum Event {
    Arrive(usize, RequestId, Box<Request>),
    Answer(usize, RequestId, Box<pool_blocks::Answer>),
    Synced(usize, DiskVersion),
    Wake(usize),
    StartPod(usize),
    /// The next one of a node, as pods come by themselves.
    NextPod(usize),
    FreeAddress(usize),
    Look(usize),
    Claim(usize),
}

struct Queued {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) struct World {
    geometry: Geometry,
    pub(super) api: Api,
    names: Vec<NodeName>,
    machines: Vec<Machine>,
    /// The pods that each node has on average.
    means: Vec<f64>,
    wakes: Vec<u64>,
    looks: Vec<bool>,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    random: Random,
    pub(super) now: u64,
    pub(super) pods_started: u64,
    block_count: u128,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        (-(1.0 - self.unit()).ln() * mean) as u64
    }
}

impl World {
    /// Nodes that have nothing, and do nothing yet; `pods`: how many they have on average, from and to.
    pub(super) fn new(size: Size, pods: [f64; 2]) -> Self {
        let first = net_types::Addr::from(std::net::IpAddr::from([10, 0, 0, 0]));
        let last = net_types::Addr::new(Family::V4, first.number() + u128::from(size.addresses) - 1);
        let range = last.and_then(|last| AddrRange::new(first, last)).unwrap_or(AddrRange::single(first));
        let lengths = BlockLengths { v4: 26, v6: 122 };
        let geometry = Geometry::new("pool".into(), lengths, AddrSet::union([range]));
        let names: Vec<String> =
            (0..size.nodes).map(|number| format!("worker-{number:05}.example.net")).collect();
        let machines = names.iter().enumerate().map(|(number, name)| Machine::new(name, number, &geometry));
        let machines: Vec<Machine> = machines.collect();
        let mut random = Random(size.nodes as u64);
        let block_count = geometry.block_count(Family::V4);
        Self {
            api: Api::new(&geometry, size.floating),
            means: names.iter().map(|_| pods[0] + (pods[1] - pods[0]) * random.unit()).collect(),
            names: names.iter().map(|name| name.as_str().into()).collect(),
            wakes: vec![u64::MAX; machines.len()],
            looks: vec![false; machines.len()],
            machines,
            geometry,
            queue: BinaryHeap::new(),
            queued: 0,
            random,
            now: 1_000,
            pods_started: 0,
            block_count,
        }
    }

    /// The blocks that the pool has.
    pub(super) fn block_count(&self) -> u128 {
        self.block_count
    }

    /// Whether all blocks are somebody's.
    fn is_exhausted(&self) -> bool {
        self.api.blocks() as u128 >= self.block_count
    }

    /// The pods that were refused since the last time.
    pub(super) fn take_refused(&mut self) -> u64 {
        self.machines.iter_mut().map(|machine| std::mem::take(&mut machine.refused)).sum()
    }

    /// Gives so much of a hundred of the blocks to nodes that take no part.
    pub(super) fn give_away(&mut self, percent: u64) {
        let blocks: Vec<_> = self.geometry.blocks(Family::V4).collect();
        for block in blocks {
            if self.random.next() % 100 < percent {
                self.api.give_away(Key::block(self.geometry.pool(), block));
            }
        }
    }

    /// Starts all nodes with all of their pods, within `spread` milliseconds.
    pub(super) fn start_all(&mut self, spread: u64) {
        for number in 0..self.machines.len() {
            let at = self.now + if spread == 0 { 0 } else { self.random.next() % spread };
            self.push(at, Event::Wake(number));
            let pods = self.means.get(number).copied().unwrap_or_default() as u64;
            for _ in 0..pods {
                self.push(at + ROUND_TRIP, Event::StartPod(number));
            }
        }
    }

    /// Starts all nodes without pods.
    pub(super) fn start_idle(&mut self) {
        for number in 0..self.machines.len() {
            let at = self.now + self.random.next() % 60_000;
            self.push(at, Event::Wake(number));
        }
    }

    /// All machines boot again.
    pub(super) fn reboot_all(&mut self) {
        self.queue.clear();
        self.wakes.fill(u64::MAX);
        self.looks.fill(false);
        for (machine, name) in self.machines.iter_mut().zip(&self.names) {
            machine.reboot(name.as_str(), &self.geometry);
        }
    }

    /// From now on pods come by themselves, and end.
    pub(super) fn churn(&mut self) {
        for number in 0..self.machines.len() {
            for _ in 0..self.machines.get(number).map_or(0, Machine::used) {
                self.end_later(number);
            }
            self.next_pod(number);
        }
    }

    /// So many nodes want one address more each, within `spread` milliseconds.
    pub(super) fn claim_on(&mut self, nodes: usize, spread: u64) {
        for number in 0..nodes.min(self.machines.len()) {
            let at = self.now + self.random.next() % spread.max(1);
            self.push(at, Event::Claim(number));
        }
    }

    fn end_later(&mut self, number: usize) {
        let at = self.now + self.random.exponential(LIFETIME) + COOLDOWN;
        self.push(at, Event::FreeAddress(number));
    }

    fn next_pod(&mut self, number: usize) {
        let mean = self.means.get(number).copied().unwrap_or(1.0);
        let at = self.now + self.random.exponential(LIFETIME / mean);
        self.push(at, Event::NextPod(number));
    }

    fn push(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Queued { at, number: self.queued, event }));
    }

    /// What was asked since the last time, and how long pods waited that had to wait.
    pub(super) fn take(&mut self) -> (Asked, Vec<u64>) {
        let mut waits: Vec<u64> =
            self.machines.iter_mut().flat_map(|machine| std::mem::take(&mut machine.waits)).collect();
        waits.sort_unstable();
        self.pods_started = 0;
        (std::mem::take(&mut self.api.asked), waits)
    }

    pub(super) fn pods(&self) -> u64 {
        self.machines.iter().map(|machine| u64::from(machine.used())).sum()
    }

    /// Goes on for so long.
    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at > end {
                self.queue.push(Reverse(next));
                break;
            }
            self.now = next.at;
            self.take_event(next.event);
        }
        self.now = end;
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Arrive(number, id, request) => {
                let (Some(name), Some(machine)) = (self.names.get(number), self.machines.get(number)) else {
                    return;
                };
                let answer = self.api.answer(self.now, name, machine.uid, &request);
                self.push(self.now + ROUND_TRIP / 2, Event::Answer(number, id, Box::new(answer)));
            }
            Event::Answer(number, id, answer) => self.step(number, Input::Answered(id, *answer)),
            Event::Synced(number, version) => self.step(number, Input::Synced(version)),
            Event::Wake(number) => {
                // One that was put off is not for now.
                if self.wakes.get(number).is_some_and(|at| *at == self.now || *at == u64::MAX) {
                    if let Some(at) = self.wakes.get_mut(number) {
                        *at = u64::MAX;
                    }
                    self.step(number, Input::Tick);
                }
            }
            Event::StartPod(number) => self.start_pod(number),
            Event::NextPod(number) => {
                self.start_pod(number);
                self.end_later(number);
                self.next_pod(number);
            }
            Event::FreeAddress(number) => {
                if let Some(machine) = self.machines.get_mut(number) {
                    machine.free_address(self.now);
                }
                self.look_later(number);
            }
            Event::Look(number) => {
                if let Some(looks) = self.looks.get_mut(number) {
                    *looks = false;
                }
                let exhausted = self.is_exhausted();
                let out = self.machines.get_mut(number).map(|machine| machine.look(self.now, exhausted));
                self.act(number, out.unwrap_or_default());
            }
            Event::Claim(number) => {
                let exhausted = self.is_exhausted();
                let out = self.machines.get_mut(number).map(|machine| machine.start_pod(self.now, exhausted));
                self.act(number, out.unwrap_or_default());
            }
        }
    }

    fn start_pod(&mut self, number: usize) {
        self.pods_started += 1;
        let exhausted = self.is_exhausted();
        let out = self.machines.get_mut(number).map(|machine| machine.start_pod(self.now, exhausted));
        self.act(number, out.unwrap_or_default());
        self.look_later(number);
    }

    fn look_later(&mut self, number: usize) {
        if let Some(looks) = self.looks.get_mut(number)
            && !*looks
        {
            *looks = true;
            self.push(self.now + LOOK, Event::Look(number));
        }
    }

    fn step(&mut self, number: usize, input: Input) {
        let exhausted = self.is_exhausted();
        let out = self.machines.get_mut(number).map(|machine| machine.step(self.now, input, exhausted));
        self.act(number, out.unwrap_or_default());
    }

    fn act(&mut self, number: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(id, request) => {
                    self.push(self.now + ROUND_TRIP / 2, Event::Arrive(number, id, Box::new(request)));
                }
                Output::Write(version, _) => self.push(self.now + SYNC, Event::Synced(number, version)),
            }
        }
        let (Some(machine), Some(at)) = (self.machines.get(number), self.wakes.get(number)) else { return };
        let wake = machine.wake_at(self.now).max(self.now + 1);
        if wake < *at {
            if let Some(at) = self.wakes.get_mut(number) {
                *at = wake;
            }
            self.push(wake, Event::Wake(number));
        }
    }
}
