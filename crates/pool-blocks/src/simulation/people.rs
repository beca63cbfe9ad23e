//! What people say and do, true or not.

use super::bias::Bias;
use super::machine::Power;
use super::world::{Event, MINUTE, SECOND, World};
use crate::{Input, Key, NodeState};

impl World {
    /// One that is paused cannot hear it, nor can one that is paused before it hears it.
    fn say_what_is_false(&mut self, machine: usize) {
        self.excuses.double = Some("somebody said that a machine was off that ran");
        self.machines[machine].said_off = Some(self.now);
        if self.machines[machine].power == Power::Paused {
            self.excuses.unseen = true;
        }
    }

    /// Whether it was said to be off for so short a time that the node may allocate by what it read before.
    pub(super) fn was_said_to_be_off(&self, machine: usize) -> bool {
        self.machines[machine].said_off.is_some_and(|at| self.now < at + 60 * MINUTE)
            || self.api.nodes.get(&self.machines[machine].name).is_none_or(|node| node.out_of_service)
    }

    /// Deletes the `Node`, makes it anew, or sets and removes the taint.
    pub(super) fn change_node(&mut self, machine: usize) {
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
            self.say_what_is_false(machine);
        }
        if self.random.percent(60) {
            self.note(|_| format!("{name}: its Node is deleted"));
            self.api.nodes.remove(&name);
        } else if let Some(node) = self.api.nodes.get_mut(&name) {
            node.out_of_service = true;
            self.note(|_| format!("{name}: out of service"));
        }
    }

    pub(super) fn person(&mut self) {
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
            let raises = self.random.percent(50);
            self.excuses.restored = true;
            self.excuses.versions_again |= !raises;
            self.note(|_| format!("backup {backup} is restored, versions raised {raises}"));
            let backup = self.backups[backup].clone();
            self.api.restore(&backup, raises);
        }
    }

    /// A machine that nobody hears goes on working, and is said to be off, where people may say what is false.
    pub(super) fn island(&mut self, machine: usize) {
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

    /// A machine that works is said to be out of service, and to be in service for moments.
    pub(super) fn flap(&mut self, machine: usize) {
        if !self.allowed.false_statements {
            return;
        }
        self.say_what_is_false(machine);
        let end = self.now + 65 * MINUTE;
        let mut time = self.now;
        self.say_service(machine, false);
        while time < end {
            time += self.random.between(MINUTE, 12 * MINUTE);
            self.at(time, Event::Service(machine, true));
            self.later(time, 10 * SECOND, Event::Service(machine, false));
            if self.bias == Some(Bias::Flaps) {
                self.at(time + 900, Event::Partition(machine, true));
                self.at(time + 8 * MINUTE, Event::Partition(machine, false));
            }
            for _ in 0..3 {
                let one = self.random.index(self.machines.len());
                self.later(time, 4 * MINUTE, Event::Churn(one));
                self.later(time, 4 * MINUTE, Event::Churn(machine));
            }
        }
        self.at(end + 12 * MINUTE, Event::Service(machine, true));
        self.last_fault = self.last_fault.max(end + 12 * MINUTE);
    }

    pub(super) fn later(&mut self, time: u64, at_most: u64, event: Event) {
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
        if !works {
            self.say_what_is_false(machine);
        }
        if self.machines[machine].runs() {
            self.step(machine, Input::Changed);
        }
    }
}
