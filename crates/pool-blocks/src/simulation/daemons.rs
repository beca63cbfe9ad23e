//! Machines and their daemons: they start, end, and lose what they had.

use super::machine::Power;
use super::world::{MINUTE, World};
use crate::{Input, NodeState, Run};

impl World {
    pub(super) fn start_daemon(&mut self, machine: usize) {
        let own = &mut self.machines[machine];
        own.daemon = true;
        own.incarnation += 1;
        own.writes.clear();
        own.next_wake = 0;
        let (name, pools) = (own.name.clone(), own.pools.clone());
        let (disk, run) = (own.disk.clone(), own.run.clone());
        let lost = disk.is_none();
        self.machines[machine].node = self.new_node(name.as_str(), pools, disk, run);
        self.note(|w| format!("{name}: daemon starts, disk {:?}", w.machines[machine].disk));
        self.step(machine, Input::Tick);
        self.learn_pool_soon(machine);
        if lost {
            let wait = if self.calm { 1 } else { self.random.between(1, 10 * MINUTE) };
            // The daemon lists what its pods have.
            self.machines[machine].counts_at = self.now + wait;
        }
    }

    pub(super) fn stop_daemon(&mut self, machine: usize) {
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
    }

    pub(super) fn restart_daemon(&mut self, machine: usize) {
        if !self.machines[machine].runs() {
            if self.machines[machine].power == Power::On {
                self.start_daemon(machine);
            }
            return;
        }
        self.stop_daemon(machine);
        self.note(|w| format!("{}: daemon dies", w.machines[machine].name));
        if self.random.percent(70) {
            self.start_daemon(machine);
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
                own.run = Run::default();
                own.rests.retain(|rest| rest.until.is_none());
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
        self.start_daemon(machine);
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

    pub(super) fn partition(&mut self, machine: usize) {
        let own = &mut self.machines[machine];
        own.partitioned = !own.partitioned;
        self.note(|w| {
            format!("{}: partitioned {}", w.machines[machine].name, w.machines[machine].partitioned)
        });
    }

    pub(super) fn lose_disk(&mut self, machine: usize) {
        match self.machines[machine].power {
            Power::On => {}
            Power::Paused => return,
            Power::Off => {
                self.machines[machine].disk = None;
                self.machines[machine].pools.clear();
                self.machines[machine].rests.clear();
                return;
            }
        }
        if self.machines[machine].daemon {
            self.stop_daemon(machine);
        }
        let own = &mut self.machines[machine];
        own.disk = None;
        own.pools.clear();
        own.rests.clear();
        own.leases = own.pods.is_empty();
        self.note(|w| format!("{}: its disk is lost", w.machines[machine].name));
        self.start_daemon(machine);
    }

    pub(super) fn pause(&mut self, machine: usize) {
        let now = self.now;
        match self.machines[machine].power {
            Power::On => {
                self.machines[machine].pause(now);
                if self.was_said_to_be_off(machine) {
                    self.excuses.unseen = true;
                }
            }
            Power::Paused => self.machines[machine].unpause(now),
            Power::Off => return,
        }
        self.note(|w| format!("{}: {:?}", w.machines[machine].name, w.machines[machine].power));
    }
}
