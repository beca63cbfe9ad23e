//! Pods and launchers, and what stays of their addresses when they go.

use net_types::{AddrRange, AddrSet, Family};

use super::machine::{Pod, Power, Rest};
use super::world::{Event, MINUTE, SECOND, World};
use crate::{Input, Key, Owner, Place, Want};

impl World {
    /// A pod wants any address.
    pub(super) fn start_pod(&mut self, machine: usize) {
        self.count(machine);
        if self.machines[machine].power != Power::On {
            return;
        }
        if self.random.percent(30) && self.resume_pod(machine) {
            return;
        }
        let keys: Vec<Key> = self.machines[machine].node.keys().cloned().collect();
        for key in keys.iter().filter(|key| matches!(key.place, Place::Block(_))) {
            if let Some(address) = self.free_addresses(machine, key).iter().next().map(AddrRange::first) {
                self.allocate(machine, Pod { address, key: key.clone(), owner: None });
                return;
            }
        }
        let pool = self.pool.name.clone();
        self.want(machine, Want::Block(pool, Family::V4));
    }

    /// A pod wants one address and no other.
    pub(super) fn start_pod_at(&mut self, machine: usize) {
        self.count(machine);
        let Some(address) = self.any_address().filter(|_| self.machines[machine].power == Power::On) else {
            return;
        };
        let key = self.machines[machine].pools.first().map(|pool| pool.block_of(address));
        match key.filter(|key| self.free_addresses(machine, key).contains(address)) {
            Some(key) => self.allocate(machine, Pod { address, key, owner: None }),
            None => self.want(machine, Want::BlockOf(self.pool.name.clone(), address)),
        }
    }

    /// Who comes back gets the address that is kept, if the node still has it.
    fn resume_pod(&mut self, machine: usize) -> bool {
        let own = &self.machines[machine];
        let clock = self.clock(machine);
        let found = own.rests.iter().find(|rest| {
            let is_pods = rest.until.is_none() && rest.owner.is_none();
            let is_given = own.node.addresses(&rest.key).contains(rest.address);
            is_pods && is_given && own.node.may_use(clock, &rest.key).is_ok()
        });
        let pod = found.map(|rest| Pod { address: rest.address, key: rest.key.clone(), owner: None });
        let is_found = pod.is_some();
        if let Some(pod) = pod {
            self.allocate(machine, pod);
        }
        is_found
    }

    /// What the node would give to pods from this block.
    fn free_addresses(&self, machine: usize, key: &Key) -> AddrSet {
        let own = &self.machines[machine];
        if own.node.may_use(self.clock(machine), key).is_err() {
            return AddrSet::default();
        }
        let pods = own.pods.iter().map(|pod| pod.address);
        let rests = own.rests.iter().filter(|rest| rest.lasts(self.now)).map(|rest| rest.address);
        let used = AddrSet::union(pods.chain(rests).map(AddrRange::single));
        own.node.addresses(key).without(&used)
    }

    /// An owner's pod wants its address.
    pub(super) fn start_launcher(&mut self, machine: usize) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        if self.api.owners.contains(&owner) || self.random.percent(10) {
            self.start_launcher_of(machine, &owner);
        }
    }

    pub(super) fn start_launcher_of(&mut self, machine: usize, owner: &Owner) {
        self.count(machine);
        if self.machines[machine].power != Power::On {
            return;
        }
        let Some(key) = self.address_of(owner) else { return };
        let Place::Address(address) = key.place else { return };
        let own = &self.machines[machine];
        // The leases of a machine are in one place: nothing in it is handed out twice.
        let pods = own.pods.iter().map(|pod| (pod.address, &pod.owner));
        let rests = own.rests.iter().filter(|rest| rest.lasts(self.now));
        let mut used = pods.chain(rests.map(|rest| (rest.address, &rest.owner)));
        let other = used.any(|(one, of)| one == address && of.as_ref() != Some(owner));
        if own.node.may_use(self.clock(machine), &key).is_ok() && own.node.owner_of(&key) == Some(owner) {
            if other {
                return;
            }
            self.allocate(machine, Pod { address, key, owner: Some(owner.clone()) });
        } else {
            let pool = self.pool.name.clone();
            self.want(machine, Want::Address(pool, address, owner.clone()));
        }
    }

    pub(super) fn stop_pod(&mut self, machine: usize) {
        self.count(machine);
        if self.machines[machine].power != Power::On || self.machines[machine].pods.is_empty() {
            return;
        }
        let index = self.random.index(self.machines[machine].pods.len());
        self.stop(machine, index);
    }

    pub(super) fn stop_launcher_of(&mut self, machine: usize, owner: &Owner) {
        self.count(machine);
        let own = &self.machines[machine];
        let found = own.pods.iter().position(|pod| pod.owner.as_ref() == Some(owner));
        if let Some(index) = found.filter(|_| own.power == Power::On) {
            self.stop(machine, index);
        }
    }

    fn stop(&mut self, machine: usize, index: usize) {
        let pod = self.machines[machine].pods.remove(index);
        let until = match self.random.below(20) {
            0..=9 => Some(self.now),
            10..=16 => Some(self.now + self.random.between(SECOND, 40 * MINUTE)),
            _ => None,
        };
        self.note(|w| format!("{}: {} rests until {until:?}", w.machines[machine].name, pod.address));
        let Pod { address, key, owner } = pod;
        // Two launchers of one machine may have it.
        if !self.machines[machine].pods.iter().any(|pod| pod.address == address) {
            self.machines[machine].rests.push(Rest { address, key, owner, until, freed: false });
        }
    }

    /// What rested is free, and something that was kept is not any more.
    pub(super) fn forget_rests(&mut self, machine: usize) {
        let index = self.random.index(self.machines[machine].rests.len());
        let now = self.now;
        let rests = &mut self.machines[machine].rests;
        if index < rests.len() {
            rests.remove(index);
        }
        rests.retain(|rest| rest.lasts(now));
    }

    /// A node that lost its disk learns what its pods have; the others look at it now and then.
    pub(super) fn count(&mut self, machine: usize) {
        let is_due = self.machines[machine].counts_at <= self.now;
        if self.machines[machine].runs() && is_due && self.knows_pool(machine) {
            self.machines[machine].counts_at = u64::MAX;
            self.machines[machine].leases = true;
            self.note(|w| format!("{}: has counted", w.machines[machine].name));
            self.step(machine, Input::Counted);
        } else if self.machines[machine].runs() && self.random.percent(20) {
            self.step(machine, Input::LeasesRead);
        }
    }

    /// Many come at once, on all nodes.
    pub(super) fn rush(&mut self) {
        let longest = if self.random.percent(50) { 5 * SECOND } else { 5 * MINUTE };
        for machine in 0..self.machines.len() {
            for _ in 0..self.random.between(1, 6) {
                self.later(self.now, longest, Event::StartPod(machine));
            }
            let owner = self.owners[self.random.index(self.owners.len())].clone();
            self.later(self.now, longest, Event::StartLauncher(machine, owner));
        }
        self.last_fault = self.last_fault.max(self.now + longest);
    }

    /// What is returned is wanted again at once.
    pub(super) fn give_and_take(&mut self, machine: usize) {
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

    pub(super) fn give_back(&mut self, machine: usize) {
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
