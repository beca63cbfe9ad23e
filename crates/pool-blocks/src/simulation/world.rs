//! All of it, and the order in which things happen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use net_types::{Addr, Family};

use super::api::Api;
use super::bias::Bias;
use super::faults::{self, Fault};
use super::machine::{Machine, Power};
use super::pools::Pool;
use super::random::Random;
use crate::weakness::{Weakened, Weakness};
use crate::{
    Answer, BootTime, Disk, DiskVersion, Geometry, Horizon, Input, Key, Leader, Node, NodeState, Output,
    Owner, Place, PoolSnapshot, Request, RequestId, Run,
};

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;

/// What a history may have, beside what every network and machine does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowed {
    /// Objects deleted by hand, backups restored.
    pub(super) people: bool,
    /// A `Node` deleted, or said to be out of service, while its machine runs.
    pub(super) false_statements: bool,
}

/// What happens at a time.
pub(super) enum Event {
    /// A request reaches the API server, or the network loses it.
    Request {
        machine: usize,
        incarnation: u64,
        id: RequestId,
        request: Request,
    },
    Answer {
        machine: usize,
        incarnation: u64,
        id: RequestId,
        answer: Answer,
    },
    LeaderRequest(Request),
    Synced {
        machine: usize,
        incarnation: u64,
        version: DiskVersion,
    },
    Wake {
        machine: usize,
        incarnation: u64,
    },
    Lead(usize),
    Fault,
    /// A pod goes where one is, and another comes.
    Churn(usize),
    LearnPool(usize),
    /// What a watch saw reaches a node.
    Floats(usize, Vec<Addr>),
    StartPod(usize),
    StartLauncher(usize, Owner),
    StopLauncher(usize, Owner),
    /// An owner is made or deleted.
    Exists(Owner, bool),
    /// What is not used goes back.
    GiveBack(usize),
    /// A machine is said to be in service, or not to be.
    Service(usize, bool),
    /// Nobody hears a machine, or it is heard again.
    Partition(usize, bool),
}

/// An event and its place in the order: by time, then as they were thought of.
struct Queued {
    time: u64,
    sequence: u64,
    event: Box<Event>,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
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
        (self.time, self.sequence).cmp(&(other.time, other.sequence))
    }
}

/// A process that believes to lead.
pub(super) struct LeaderProcess {
    pub(super) leader: Leader,
    pub(super) rate: u64,
    pub(super) view: PoolSnapshot,
    pub(super) pool: Option<Geometry>,
}

/// The reason why two may have one address in this history, and whether nodes can know what they hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuses {
    pub(super) double: Option<&'static str>,
    pub(super) unseen: bool,
    /// Whether a backup was restored: what was sent before fits what it brought back.
    pub(super) restored: bool,
    /// Whether the API server gives out versions again since: what was sent before can fit what was written since.
    pub(super) versions_again: bool,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) api: Api,
    pub(super) backups: Vec<Api>,
    pub(super) machines: Vec<Machine>,
    pub(super) leaders: Vec<LeaderProcess>,
    pub(super) pool: Pool,
    pub(super) owners: Vec<Owner>,
    pub(super) allowed: Allowed,
    pub(super) excuses: Excuses,
    pub(super) weakness: Option<Weakness>,
    pub(super) calm: bool,
    pub(super) last_fault: u64,
    pub(super) shares: Vec<(Fault, u64)>,
    /// How long a node waits for an answer.
    pub(super) patience: u64,
    /// Whether messages are late more often than not, and disks take their time.
    pub(super) slow: bool,
    pub(super) bias: Option<Bias>,
    pub(super) violation: Option<String>,
    pub(super) doubles: u64,
    pub(super) allocations: u64,
    pub(super) trace: Option<Vec<String>>,
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
}

impl World {
    pub(super) fn new(seed: u64, weakness: Option<Weakness>, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let pool = Pool::new(&mut random);
        let mut allowed = match random.below(10) {
            0..=4 => Allowed::default(),
            5 | 6 => Allowed { false_statements: true, ..Allowed::default() },
            7 | 8 => Allowed { people: true, ..Allowed::default() },
            _ => Allowed { people: true, false_statements: true },
        };
        let mut patience = if random.percent(60) { 10 * SECOND } else { random.between(MINUTE, 60 * MINUTE) };
        let slow = random.percent(25);
        let mut shares = faults::shares(&mut random);
        let bias = Bias::of(seed);
        if let Some(bias) = bias {
            (allowed, shares) = (bias.allowed(), bias.shares());
            patience = if bias == Bias::LateLists { 10 * MINUTE } else { patience };
        }
        let mut world = Self {
            random,
            now: 0,
            api: Api::default(),
            backups: Vec::new(),
            machines: Vec::new(),
            leaders: Vec::new(),
            pool,
            owners: vec!["vm:default/a".into(), "vm:default/b".into()],
            allowed,
            excuses: Excuses::default(),
            weakness,
            calm: false,
            last_fault: 0,
            shares,
            patience,
            slow,
            bias,
            violation: None,
            doubles: 0,
            allocations: 0,
            trace: trace.then(Vec::new),
            queue: BinaryHeap::new(),
            sequence: 0,
        };
        for name in ["node1", "node2", "node3"] {
            let rate = world.rate();
            let pools: Vec<Geometry> = world.pool.now.iter().cloned().collect();
            let node = world.new_node(name, pools.clone(), Some(Disk::default()), Run::default());
            world.machines.push(Machine::new(name.into(), rate, pools, node));
            let uid = world.api.new_uid();
            world.api.nodes.insert(name.into(), NodeState { uid, out_of_service: false });
        }
        for number in 0..2 {
            let rate = world.rate();
            let leader = world.new_leader();
            world.leaders.push(LeaderProcess { leader, rate, view: PoolSnapshot::default(), pool: None });
            world.at(MINUTE + number, Event::Lead(usize::try_from(number).unwrap_or(0)));
        }
        world.api.owners.extend(world.owners.iter().cloned());
        world.backups.push(world.api.clone());
        for machine in 0..world.machines.len() {
            world.at(1, Event::Wake { machine, incarnation: 0 });
        }
        world
    }

    /// How fast a clock goes, in thousandths: as far off as clocks may be, mostly.
    fn rate(&mut self) -> u64 {
        match self.random.below(5) {
            0 | 1 => 900,
            2 | 3 => 1_100,
            _ => self.random.between(900, 1_100),
        }
    }

    fn horizon(&self) -> Horizon {
        Horizon::DEFAULT
    }

    pub(super) fn new_node(&self, name: &str, pools: Vec<Geometry>, disk: Option<Disk>, run: Run) -> Node {
        let horizon = match self.weakness {
            Some(Weakness::UsesTheWholeHorizon) => self.horizon().with_node_percent(100),
            _ => self.horizon(),
        };
        let weakened = Weakened::by(self.weakness);
        Node::start(name.into(), horizon, pools, disk, run).weakened(weakened)
    }

    pub(super) fn new_leader(&self) -> Leader {
        Leader::new(self.horizon()).weakened(Weakened::by(self.weakness))
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Queued { time, sequence: self.sequence, event: Box::new(event) }));
    }

    pub(super) fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.3} {}", self.now as f64 / 1_000.0, text(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }

    pub(super) fn fail(&mut self, text: String) {
        self.note(|_| format!("VIOLATION {text}"));
        self.violation.get_or_insert(text);
    }

    /// Lets things happen until a time.
    pub(super) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.time <= end => {}
                _ => break,
            }
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.time;
            self.happen(*next.event);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Request { machine, incarnation, id, request } => {
                self.request_arrives(machine, incarnation, id, request)
            }
            Event::Answer { machine, incarnation, id, answer } => {
                if self.is_running(machine, incarnation) {
                    self.note(|w| format!("{} <- {id:?} {answer:?}", w.machines[machine].name));
                    self.step(machine, Input::Answered(id, answer));
                } else if self.machines[machine].power == Power::Paused {
                    self.at(self.now + MINUTE, Event::Answer { machine, incarnation, id, answer });
                }
            }
            Event::LeaderRequest(request) => self.leader_request_arrives(request),
            Event::Synced { machine, incarnation, version } => {
                if self.is_running(machine, incarnation) {
                    self.sync_to(machine, version);
                    self.step(machine, Input::Synced(version));
                } else if self.machines[machine].power == Power::Paused {
                    self.at(self.now + MINUTE, Event::Synced { machine, incarnation, version });
                }
            }
            Event::Wake { machine, incarnation } => {
                if self.is_running(machine, incarnation) {
                    // One that a sooner one replaced is none.
                    if self.now >= self.machines[machine].next_wake {
                        self.machines[machine].next_wake = u64::MAX;
                        self.step(machine, Input::Tick);
                    }
                } else if self.machines[machine].power == Power::Paused {
                    self.at(self.now + MINUTE, Event::Wake { machine, incarnation });
                }
            }
            Event::Lead(leader) => self.lead(leader),
            Event::Fault => self.fault(),
            Event::Floats(machine, addresses) => self.see_floating(machine, &addresses),
            Event::StartPod(machine) => self.start_pod(machine),
            Event::StartLauncher(machine, owner) => self.start_launcher_of(machine, &owner),
            Event::StopLauncher(machine, owner) => self.stop_launcher_of(machine, &owner),
            Event::Exists(owner, exists) => self.set_existing(owner, exists),
            Event::LearnPool(machine) => self.learn_pool(machine),
            Event::GiveBack(machine) => self.give_all_back(machine),
            Event::Partition(machine, begins) => self.machines[machine].partitioned = begins && !self.calm,
            Event::Service(machine, works) => self.say_service(machine, works),
            Event::Churn(machine) => {
                self.stop_pod(machine);
                self.start_pod(machine);
                self.start_launcher(machine);
            }
        }
    }

    pub(super) fn is_running(&self, machine: usize, incarnation: u64) -> bool {
        let machine = &self.machines[machine];
        machine.runs() && machine.incarnation == incarnation
    }

    /// The clock that the node's machine goes by.
    pub(super) fn clock(&self, machine: usize) -> BootTime {
        match self.weakness {
            Some(Weakness::GoesByWallTime) => self.machines[machine].wall_clock(self.now),
            _ => self.machines[machine].clock(self.now),
        }
    }

    pub(super) fn step(&mut self, machine: usize, input: Input) {
        let clock = self.clock(machine);
        let own = &mut self.machines[machine];
        let leases = own.leases(self.now);
        let outputs = own.node.step(clock, &leases, input);
        for output in outputs {
            match output {
                Output::Send(id, request) => self.send(machine, id, request),
                Output::Write(version, disk) => {
                    let incarnation = self.machines[machine].incarnation;
                    self.machines[machine].writes.push_back((version, disk));
                    let takes = if self.random.percent(if self.slow { 30 } else { 95 }) {
                        self.random.between(1, 40)
                    } else {
                        self.random.between(40, 20 * SECOND)
                    };
                    self.at(self.now + takes, Event::Synced { machine, incarnation, version });
                }
            }
        }
        // What the next process of this boot may use is written after a while.
        if self.random.percent(80) {
            self.machines[machine].run = self.machines[machine].node.run();
        }
        let own = &self.machines[machine];
        let wake = self.now + own.until(self.now, own.node.wake_at(clock)).clamp(SECOND, 10 * MINUTE) + 5;
        if wake + SECOND < own.next_wake || own.next_wake <= self.now {
            let incarnation = own.incarnation;
            self.machines[machine].next_wake = wake;
            self.at(wake, Event::Wake { machine, incarnation });
        }
    }

    /// The disk has all writes up to this one.
    pub(super) fn sync_to(&mut self, machine: usize, version: DiskVersion) {
        let own = &mut self.machines[machine];
        while own.writes.front().is_some_and(|(next, _)| *next <= version) {
            own.disk = own.writes.pop_front().map(|(_, disk)| disk);
        }
    }

    fn lead(&mut self, number: usize) {
        let pause = self.random.between(30 * SECOND, if self.calm { 2 * MINUTE } else { 9 * MINUTE });
        self.at(self.now + pause, Event::Lead(number));
        // What the watch cache has is now and then what it had before.
        let is_stale = !self.calm && self.random.percent(30);
        if !is_stale {
            self.leaders[number].view = self.api.view();
            self.leaders[number].pool = self.pool.now.clone();
        }
        let view = self.leaders[number].view.clone();
        let clock = BootTime::from_millis(self.now * self.leaders[number].rate / 1_000);
        let mut requests = self.leaders[number].leader.reconcile(clock, &view);
        for owner in &self.owners {
            let has = view.objects.iter().any(|object| object.spec.owner.as_ref() == Some(owner));
            if view.owners.contains(owner) && !has {
                let pool = self.leaders[number].pool.as_ref();
                requests.extend(pool.and_then(|pool| Leader::float(pool, Family::V4, &view, owner, 0)));
            }
        }
        for request in requests {
            self.note(|_| format!("leader{number} -> {request:?}"));
            for _ in 0..self.copies() {
                let delay = self.delay();
                self.at(self.now + delay, Event::LeaderRequest(request.clone()));
            }
        }
    }

    /// The address of an owner, if it has one.
    pub(super) fn address_of(&self, owner: &Owner) -> Option<Key> {
        let own = |key: &&Key| self.api.objects[*key].spec.owner.as_ref() == Some(owner);
        self.api.objects.keys().filter(|key| matches!(key.place, Place::Address(_))).find(own).cloned()
    }
}
