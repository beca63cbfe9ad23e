//! Everything works again: what has two holders is told, and nobody waits for ever.

use net_types::Addr;

use super::check::HolderOf;
use super::machine::{LeasesOf, Power};
use super::world::{MINUTE, SECOND, World};
use crate::{Input, Place};

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
                let run = self.machines[machine].node.run();
                self.start_daemon(machine, run);
            }
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
        self.check_that_all_can_go_on();
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
            let leases = LeasesOf { pods: &machine.pods, known: machine.leases };
            machine.node.conflicts(&leases).iter().any(|conflict| {
                conflict.used.contains(address)
                    && names.iter().any(|name| conflict.other.contains(name.as_str()))
            })
        })
    }

    /// No pod, no conflict: every node gets an address as long as there are enough.
    fn check_that_all_can_go_on(&mut self) {
        if self.violation.is_some() {
            return;
        }
        for machine in &mut self.machines {
            machine.pods.clear();
        }
        for owner in self.owners.clone() {
            self.api.owners.remove(&owner);
        }
        for _ in 0..3 {
            for machine in 0..self.machines.len() {
                let keys: Vec<_> = self.machines[machine].node.keys().cloned().collect();
                for key in keys {
                    self.step(machine, Input::Return(key));
                }
                self.step(machine, Input::Changed);
            }
            self.run_until(self.now + MINUTE);
        }
        let blocks: Vec<String> = self
            .api
            .objects
            .keys()
            .filter(|key| matches!(key.place, Place::Block(_)))
            .map(ToString::to_string)
            .collect();
        if !blocks.is_empty() {
            self.fail(format!("nothing is used, and these are not returned: {blocks:?}"));
        }
        // Addresses without owners go.
        self.run_until(self.now + 75 * MINUTE);
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
        }
    }
}
