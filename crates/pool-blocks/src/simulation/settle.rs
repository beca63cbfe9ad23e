//! Everything works again: what has two holders is told, and nobody waits for ever.

use net_types::Addr;

use super::check::HolderOf;
use super::machine::Power;
use super::world::{MINUTE, SECOND, World};
use crate::{Conflict, Input, Key, Place, Progress};

impl World {
    pub(super) fn settle(&mut self) {
        self.calm = true;
        self.note(|_| "everything works again".to_owned());
        for machine in 0..self.machines.len() {
            self.machines[machine].partitioned = false;
            match self.machines[machine].power {
                Power::Off => self.boot(machine),
                Power::Paused => self.pause(machine),
                Power::On => {}
            }
            self.register(machine);
            let name = self.machines[machine].name.clone();
            if let Some(node) = self.api.nodes.get_mut(&name) {
                node.out_of_service = false;
            }
            if !self.machines[machine].daemon {
                self.start_daemon(machine);
            }
        }
        self.restore_pool();
        for machine in 0..self.machines.len() {
            self.machines[machine].counts_at = self.machines[machine].counts_at.min(self.now);
            self.count(machine);
        }
        // What is still on its way arrives.
        self.run_until(self.now + 55 * MINUTE);
        for _ in 0..4 {
            (0..self.machines.len()).for_each(|machine| self.step(machine, Input::Changed));
            self.run_until(self.now + 2 * MINUTE);
        }
        self.check_that_doubles_are_told();
        self.check_that_nothing_else_is_told();
        if self.violation.is_none() {
            self.check_that_all_can_go_on();
        }
    }

    /// Who is told to be in the way of what a node holds may be there.
    fn check_that_nothing_else_is_told(&mut self) {
        for machine in 0..self.machines.len() {
            let own = &self.machines[machine];
            let held = |key: &Key| own.node.progress().any(|(one, far)| one == key && far == Progress::Held);
            let is_there = |conflict: &Conflict| {
                self.api.objects.values().any(|object| match object.key.place {
                    Place::Address(address) => {
                        conflict.used.contains(address)
                            && !(object.spec.holders.is_empty() && object.spec.contested.is_empty())
                    }
                    Place::Block(_) => false,
                })
            };
            let told = own.node.conflicts(&own.leases(self.now));
            let wrong = told.into_iter().find(|conflict| held(&conflict.key) && !is_there(conflict));
            if let Some(wrong) = wrong {
                let name = self.machines[machine].name.clone();
                self.fail(format!("{name} tells of somebody who is not there: {wrong:?}"));
            }
        }
    }

    fn check_that_doubles_are_told(&mut self) {
        let mut addresses: Vec<Addr> =
            self.machines.iter().flat_map(|m| m.pods.iter().map(|pod| pod.address)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            let holders = self.holders(address);
            let goes_on = holders.iter().all(|holder| matches!(holder, HolderOf::Pod(..)))
                && self.machines.iter().enumerate().any(|(number, machine)| {
                    let clock = self.clock(number);
                    machine
                        .pods
                        .iter()
                        .any(|pod| pod.address == address && machine.node.may_use(clock, &pod.key).is_ok())
                });
            if holders.len() > 1 && goes_on {
                self.fail(format!("{address} has two holders, and its block is allocated from: {holders:?}"));
            }
            if holders.len() > 1 && !self.is_told(address) {
                let excuse = self.excuses.double;
                self.fail(format!("{address} has two holders and nobody says so: {holders:?} ({excuse:?})"));
            }
        }
    }

    /// Whether a node names its own use of the address together with another holder, and nobody allocates there any more.
    fn is_told(&self, address: Addr) -> bool {
        // An owner is found by its own name, or by that of the node where it runs.
        let mut names: Vec<String> = Vec::new();
        for machine in &self.machines {
            for pod in machine.pods.iter().filter(|pod| pod.address == address) {
                names.push(machine.name.to_string());
                names.extend(pod.owner.as_ref().map(ToString::to_string));
            }
        }
        self.machines.iter().any(|machine| {
            let leases = machine.leases(self.now);
            machine.node.conflicts(&leases).iter().any(|conflict| {
                conflict.used.contains(address)
                    && names.iter().any(|name| conflict.other.contains(name.as_str()))
            })
        })
    }

    /// No pod, no conflict: all goes back, and every node and owner gets an address as long as there are enough.
    fn check_that_all_can_go_on(&mut self) {
        for machine in &mut self.machines {
            machine.pods.clear();
            machine.rests.clear();
        }
        let owners = std::mem::take(&mut self.api.owners);
        for _ in 0..3 {
            self.return_all();
            self.run_until(self.now + MINUTE);
        }
        self.check_that_nothing_is_left("nothing is used", |key| matches!(key.place, Place::Block(_)));
        // Addresses without owners go.
        self.run_until(self.now + 75 * MINUTE);
        self.check_that_nothing_is_left("no owner is there", |_| true);
        self.check_that_nodes_get_addresses();
        self.api.owners = owners;
        self.check_that_owners_get_addresses();
    }

    fn return_all(&mut self) {
        for machine in 0..self.machines.len() {
            self.give_all_back(machine);
            self.step(machine, Input::Changed);
        }
    }

    fn check_that_nothing_is_left(&mut self, why: &str, is_meant: impl Fn(&Key) -> bool) {
        let left: Vec<String> =
            self.api.objects.keys().filter(|key| is_meant(key)).map(ToString::to_string).collect();
        if !left.is_empty() {
            self.fail(format!("{why}, and these are not returned: {left:?}"));
        }
    }

    fn check_that_nodes_get_addresses(&mut self) {
        for machine in 0..self.machines.len() {
            for _ in 0..4 {
                if !self.machines[machine].pods.is_empty() {
                    break;
                }
                self.start_pod(machine);
                self.run_until(self.now + 20 * SECOND);
            }
            if self.machines[machine].pods.is_empty() {
                let name = self.machines[machine].name.clone();
                self.fail(format!("{name} gets no address though there are"));
            }
            // While a slow disk wrote the one block, it may have claimed another, which the next node needs.
            self.give_all_back(machine);
            self.run_until(self.now + MINUTE);
        }
    }

    /// Each owner runs on all nodes, one after the other.
    fn check_that_owners_get_addresses(&mut self) {
        for owner in self.api.owners.clone() {
            for machine in 0..self.machines.len() {
                let runs = |world: &Self| {
                    world.machines[machine].pods.iter().any(|pod| pod.owner.as_ref() == Some(&owner))
                };
                for _ in 0..10 {
                    if runs(self) {
                        break;
                    }
                    (0..self.machines.len()).for_each(|machine| self.watch(machine));
                    self.start_launcher_of(machine, &owner);
                    self.run_until(self.now + MINUTE);
                }
                if !runs(self) {
                    let name = self.machines[machine].name.clone();
                    self.fail(format!("{owner} gets no address on {name} though there are"));
                }
                self.machines[machine].pods.retain(|pod| pod.owner.is_none());
                self.give_all_back(machine);
            }
        }
    }
}
