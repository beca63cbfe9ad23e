//! What people, pods, machines and the network do.

use net_types::Addr;

use super::machine::Power;
use super::world::{Event, MINUTE, SECOND, World};
use crate::{Input, Key, NodeState, Place, Request, Run, Spec, Want};

impl World {
    pub(super) fn fault(&mut self) {
        let machine = self.random.index(self.machines.len());
        match self.random.below(100) {
            0..=21 => self.start_pod(machine),
            22..=31 => self.start_launcher(machine),
            32..=43 => self.stop_pod(machine),
            44..=49 => self.give_back(machine),
            50..=52 => self.give_and_take(machine),
            53..=57 => self.watch(machine),
            58..=63 => self.partition(machine),
            64..=69 => self.restart_daemon(machine),
            70..=74 => self.power(machine),
            75..=77 => self.lose_disk(machine),
            78..=81 => self.pause(machine),
            82..=88 => self.change_node(machine),
            89 => self.change_owner(),
            90 => self.reserve(),
            91 | 92 => self.new_leader_process(),
            93 | 94 => {
                self.machines[machine].wall_offset =
                    self.random.between(0, 240 * MINUTE).cast_signed() - (120 * MINUTE).cast_signed()
            }
            95 => self.backups.push(self.api.clone()),
            96 => self.island(machine),
            97 => self.flap(machine),
            _ => self.person(),
        }
    }

    /// Until it is done, or for a while.
    pub(super) fn schedule_faults(&mut self) {
        let mut time = 0;
        let hectic = self.random.percent(50);
        for _ in 0..self.random.between(20, 70) {
            time += match self.random.below(10) {
                0..=5 if hectic => self.random.between(1, 2 * SECOND),
                0..=7 => self.random.between(SECOND, 3 * MINUTE),
                _ => self.random.between(MINUTE, 35 * MINUTE),
            };
            self.at(time, Event::Fault);
        }
        self.last_fault = time;
    }

    pub(super) fn start_daemon(&mut self, machine: usize, run: Run) {
        let own = &mut self.machines[machine];
        own.daemon = true;
        own.incarnation += 1;
        own.writes.clear();
        own.next_wake = 0;
        let (name, disk) = (own.name.clone(), own.disk.clone());
        let lost = disk.is_none();
        self.machines[machine].node = self.new_node(name.as_str(), disk, run);
        self.note(|w| format!("{name}: daemon starts, disk {:?}", w.machines[machine].disk));
        self.step(machine, Input::Tick);
        if lost {
            let wait = if self.calm { 1 } else { self.random.between(1, 10 * MINUTE) };
            // The daemon lists what its pods have.
            self.machines[machine].counts_at = self.now + wait;
        }
    }

    pub(super) fn stop_daemon(&mut self, machine: usize) -> Run {
        let some = self.random.below(4);
        let own = &mut self.machines[machine];
        own.daemon = false;
        // What was begun is on the disk or is not.
        for _ in 0..some {
            if let Some((_, disk)) = own.writes.pop_front() {
                own.disk = Some(disk);
            }
        }
        own.writes.clear();
        own.node.run()
    }

    fn restart_daemon(&mut self, machine: usize) {
        if !self.machines[machine].runs() {
            if self.machines[machine].power == Power::On {
                let run = self.machines[machine].node.run();
                self.start_daemon(machine, run);
            }
            return;
        }
        let run = self.stop_daemon(machine);
        self.note(|w| format!("{}: daemon dies", w.machines[machine].name));
        if self.random.percent(70) {
            self.start_daemon(machine, run);
        }
    }

    pub(super) fn power(&mut self, machine: usize) {
        match self.machines[machine].power {
            Power::On => {
                if self.machines[machine].daemon {
                    self.stop_daemon(machine);
                }
                let own = &mut self.machines[machine];
                own.power = Power::Off;
                own.pods.clear();
                own.leases = true;
                own.counts_at = u64::MAX;
                self.note(|w| format!("{}: off", w.machines[machine].name));
                if self.random.percent(50) {
                    self.boot(machine);
                }
            }
            Power::Off => self.boot(machine),
            Power::Paused => {}
        }
    }

    pub(super) fn boot(&mut self, machine: usize) {
        let now = self.now;
        self.machines[machine].boot(now);
        self.note(|w| format!("{}: boots", w.machines[machine].name));
        self.start_daemon(machine, Run::default());
        // Its kubelet makes the Node that is missing.
        self.register(machine);
    }

    pub(super) fn register(&mut self, machine: usize) {
        let name = self.machines[machine].name.clone();
        if !self.machines[machine].partitioned && !self.api.nodes.contains_key(&name) {
            let uid = self.api.new_uid();
            self.note(|_| format!("{name}: its Node is made anew, {uid:?}"));
            self.api.nodes.insert(name, NodeState { uid, out_of_service: false });
        }
    }

    fn partition(&mut self, machine: usize) {
        let own = &mut self.machines[machine];
        own.partitioned = !own.partitioned;
        self.note(|w| {
            format!("{}: partitioned {}", w.machines[machine].name, w.machines[machine].partitioned)
        });
    }

    fn lose_disk(&mut self, machine: usize) {
        match self.machines[machine].power {
            Power::On => {}
            Power::Paused => return,
            Power::Off => {
                self.machines[machine].disk = None;
                return;
            }
        }
        if self.machines[machine].daemon {
            self.stop_daemon(machine);
        }
        let own = &mut self.machines[machine];
        own.disk = None;
        own.leases = own.pods.is_empty();
        self.note(|w| format!("{}: its disk is lost", w.machines[machine].name));
        self.start_daemon(machine, Run::default());
    }

    pub(super) fn pause(&mut self, machine: usize) {
        let now = self.now;
        match self.machines[machine].power {
            Power::On => {
                self.machines[machine].pause(now);
                if self.is_said_to_be_off(machine) {
                    self.excuses.unseen = true;
                }
            }
            Power::Paused => self.machines[machine].unpause(now),
            Power::Off => return,
        }
        self.note(|w| format!("{}: {:?}", w.machines[machine].name, w.machines[machine].power));
    }

    fn is_said_to_be_off(&self, machine: usize) -> bool {
        self.api.nodes.get(&self.machines[machine].name).is_none_or(|node| node.out_of_service)
    }

    /// Deletes the `Node`, makes it anew, or sets and removes the taint.
    fn change_node(&mut self, machine: usize) {
        let name = self.machines[machine].name.clone();
        let is_off = self.machines[machine].power == Power::Off;
        match self.api.nodes.get(&name).copied() {
            None => {
                if !is_off {
                    self.register(machine);
                }
                return;
            }
            Some(node) if node.out_of_service => {
                self.api.nodes.insert(name.clone(), NodeState { out_of_service: false, ..node });
                self.note(|_| format!("{name}: in service"));
                return;
            }
            Some(_) => {}
        }
        if !is_off {
            if !self.allowed.false_statements {
                return;
            }
            self.excuses.double = Some("somebody said that a machine was off that ran");
            if self.machines[machine].power == Power::Paused {
                self.excuses.unseen = true;
            }
        }
        if self.random.percent(60) {
            self.note(|_| format!("{name}: its Node is deleted"));
            self.api.nodes.remove(&name);
        } else if let Some(node) = self.api.nodes.get_mut(&name) {
            node.out_of_service = true;
            self.note(|_| format!("{name}: out of service"));
        }
    }

    fn change_owner(&mut self) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        let running =
            self.machines.iter().any(|m| m.pods.iter().any(|pod| pod.owner.as_ref() == Some(&owner)));
        if !self.api.owners.remove(&owner) {
            self.api.owners.insert(owner.clone());
        }
        self.note(|w| format!("{owner}: exists {}, runs {running}", w.api.owners.contains(&owner)));
    }

    /// Somebody reserves an address for an owner, whoever has it.
    fn reserve(&mut self) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        let addresses: Vec<Addr> = self
            .geometry
            .addresses()
            .iter()
            .flat_map(|range| {
                std::iter::successors(Some(range.first()), move |address| {
                    address.next().filter(|next| range.contains(*next))
                })
            })
            .collect();
        let Some(address) = self.random.pick(&addresses).copied() else { return };
        let held = self
            .api
            .objects
            .values()
            .any(|object| object.spec.owner.as_ref() == Some(&owner) && !object.spec.holders.is_empty());
        if held {
            return;
        }
        // The one that it had goes, since nobody is in it.
        self.api.objects.retain(|_, object| object.spec.owner.as_ref() != Some(&owner));
        let key = Key::address(self.geometry.pool(), address);
        self.note(|_| format!("{address} is reserved for {owner}"));
        let spec = Spec { owner: Some(owner), ..Spec::default() };
        self.api.answer(&"somebody".into(), Request::Create(key, spec));
        for machine in 0..self.machines.len() {
            self.watch(machine);
        }
    }

    fn new_leader_process(&mut self) {
        let number = self.random.index(self.leaders.len());
        self.leaders[number].leader = self.new_leader();
        self.note(|_| format!("leader{number} starts"));
    }

    fn person(&mut self) {
        if !self.allowed.people {
            return;
        }
        self.excuses.unseen = true;
        if self.random.percent(60) {
            self.excuses.double = Some("somebody deleted an object");
            let keys: Vec<Key> = self.api.objects.keys().cloned().collect();
            if let Some(key) = self.random.pick(&keys) {
                self.note(|_| format!("somebody deletes {key}"));
                self.api.objects.remove(key);
            }
        } else {
            self.excuses.double = Some("a backup was restored");
            let backup = self.random.index(self.backups.len());
            self.note(|_| format!("backup {backup} is restored"));
            let backup = self.backups[backup].clone();
            self.api.restore(&backup);
        }
    }

    fn watch(&mut self, machine: usize) {
        if !self.machines[machine].runs() || self.machines[machine].partitioned {
            return;
        }
        let floating: Vec<_> = self
            .api
            .objects
            .keys()
            .filter_map(|key| match key.place {
                Place::Address(address) => Some(address),
                Place::Block(_) => None,
            })
            .collect();
        for address in floating {
            let pool = self.geometry.pool().clone();
            self.step(machine, Input::Floats(pool, address));
        }
        self.step(machine, Input::Changed);
    }

    /// A machine that nobody hears goes on working, and is said to be off, where people may say what is false.
    fn island(&mut self, machine: usize) {
        self.machines[machine].partitioned = true;
        self.change_node(machine);
        let end = self.now + 70 * MINUTE;
        let mut time = self.now;
        while time < end {
            time += self.random.between(10 * SECOND, 3 * MINUTE);
            let one = if self.random.percent(60) { machine } else { self.random.index(self.machines.len()) };
            self.at(time, Event::Churn(one));
        }
        self.last_fault = self.last_fault.max(end);
    }

    /// What is returned is wanted again at once.
    fn give_and_take(&mut self, machine: usize) {
        for _ in 0..3 {
            self.stop_pod(machine);
        }
        self.give_all_back(machine);
        let mut time = self.now;
        for _ in 0..self.random.between(2, 8) {
            time += self.random.between(1, 15 * SECOND);
            let event =
                if self.random.percent(15) { Event::GiveBack(machine) } else { Event::Churn(machine) };
            self.at(time, event);
        }
        self.last_fault = self.last_fault.max(time);
    }

    pub(super) fn give_all_back(&mut self, machine: usize) {
        if self.machines[machine].runs() {
            let keys: Vec<Key> = self.machines[machine].node.keys().cloned().collect();
            for key in keys {
                self.step(machine, Input::Return(key));
            }
        }
    }

    /// A machine that works is said to be out of service, and to be in service for moments.
    fn flap(&mut self, machine: usize) {
        if !self.allowed.false_statements {
            return;
        }
        self.excuses.double = Some("somebody said that a machine was off that ran");
        let end = self.now + 65 * MINUTE;
        let mut time = self.now;
        self.say_service(machine, false);
        while time < end {
            time += self.random.between(MINUTE, 12 * MINUTE);
            self.at(time, Event::Service(machine, true));
            self.later(time, 10 * SECOND, Event::Service(machine, false));
            for _ in 0..3 {
                let one = self.random.index(self.machines.len());
                self.later(time, 4 * MINUTE, Event::Churn(one));
                self.later(time, 4 * MINUTE, Event::Churn(machine));
            }
        }
        self.at(end + 12 * MINUTE, Event::Service(machine, true));
        self.last_fault = self.last_fault.max(end + 12 * MINUTE);
    }

    fn later(&mut self, time: u64, at_most: u64, event: Event) {
        let time = time + self.random.between(SECOND, at_most);
        self.at(time, event);
    }

    pub(super) fn say_service(&mut self, machine: usize, works: bool) {
        // A flap's last "not in service" can come seconds after its end. Once all works again, nobody says so any more: no later
        // event would take it back, and such a node rightly allocates nothing.
        if self.calm && !works {
            return;
        }
        let name = self.machines[machine].name.clone();
        if let Some(node) = self.api.nodes.get_mut(&name) {
            node.out_of_service = !works;
        }
        self.note(|_| format!("{name}: in service {works}"));
        if !works && self.machines[machine].power == Power::Paused {
            self.excuses.unseen = true;
        }
        if self.machines[machine].runs() {
            self.step(machine, Input::Changed);
        }
    }

    fn give_back(&mut self, machine: usize) {
        if !self.machines[machine].runs() {
            return;
        }
        let keys: Vec<Key> = self.machines[machine].node.keys().cloned().collect();
        if let Some(key) = self.random.pick(&keys).cloned() {
            self.note(|w| format!("{}: returns {key}", w.machines[machine].name));
            self.step(machine, Input::Return(key));
        }
    }

    pub(super) fn want(&mut self, machine: usize, want: Want) {
        if self.machines[machine].runs() {
            self.step(machine, Input::Want(want));
        }
    }
}
