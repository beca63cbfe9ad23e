//! Owners of floating addresses: virtual machines that run, move, go and come back.

use net_types::{Addr, AddrRange};

use super::bias::Bias;
use super::machine::Machine;
use super::world::{Event, MINUTE, SECOND, World};
use crate::{Input, Key, Owner, Place, Request, Spec};

impl World {
    pub(super) fn change_owner(&mut self) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        let running =
            self.machines.iter().any(|m| m.pods.iter().any(|pod| pod.owner.as_ref() == Some(&owner)));
        if !self.api.owners.remove(&owner) {
            self.api.owners.insert(owner.clone());
        }
        self.note(|w| format!("{owner}: exists {}, runs {running}", w.api.owners.contains(&owner)));
    }

    /// Somebody reserves an address for an owner, whoever has it.
    pub(super) fn reserve(&mut self) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        let Some(address) = self.any_address() else { return };
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
        let key = Key::address(&self.pool.name, address);
        self.note(|_| format!("{address} is reserved for {owner}"));
        if self.bias == Some(Bias::LateLists) {
            self.run_soon(&owner);
        }
        let spec = Spec { owner: Some(owner), ..Spec::default() };
        self.api.answer(&"somebody".into(), Request::Create(key, spec));
        for machine in 0..self.machines.len() {
            self.watch(machine);
        }
    }

    /// Starts an owner while every node starts pods, and ends it.
    fn run_soon(&mut self, owner: &Owner) {
        let (now, end) = (self.now, self.now + 5 * MINUTE);
        let machine = self.random.index(self.machines.len());
        for _ in 0..4 {
            self.later(now, 10 * SECOND, Event::StartLauncher(machine, owner.clone()));
        }
        for machine in 0..self.machines.len() {
            self.later(now, 20 * SECOND, Event::StartPod(machine));
            self.later(now, MINUTE, Event::StartPod(machine));
            self.later(now, 4 * MINUTE, Event::StartPod(machine));
        }
        self.at(end, Event::StopLauncher(machine, owner.clone()));
        self.later(end, MINUTE, Event::GiveBack(machine));
        self.last_fault = self.last_fault.max(end + MINUTE);
    }

    pub(super) fn watch(&mut self, machine: usize) {
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
        if self.random.percent(25) {
            let delay = self.random.between(SECOND, 20 * MINUTE);
            self.at(self.now + delay, Event::Floats(machine, floating));
        } else {
            self.see_floating(machine, &floating);
        }
        self.step(machine, Input::Changed);
    }

    /// What floated when the watch saw it.
    pub(super) fn see_floating(&mut self, machine: usize, floating: &[Addr]) {
        if self.machines[machine].runs() {
            for address in floating {
                self.step(machine, Input::Floats(self.pool.name.clone(), *address));
            }
        }
    }

    /// Any address of the pool.
    pub(super) fn any_address(&mut self) -> Option<Addr> {
        let ranges: Vec<AddrRange> = self.pool.now.iter().flat_map(|pool| pool.addresses().iter()).collect();
        let mut all = Vec::new();
        for range in ranges {
            let next = |address: &Addr| address.next().filter(|next| range.contains(*next));
            all.extend(std::iter::successors(Some(range.first()), next));
        }
        self.random.pick(&all).copied()
    }

    /// A virtual machine moves to a node, from where it runs, and perhaps back before the move ended.
    pub(super) fn migrate(&mut self, target: usize) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        let runs = |machine: &Machine| machine.pods.iter().any(|pod| pod.owner.as_ref() == Some(&owner));
        let source = self.machines.iter().position(runs).filter(|source| *source != target);
        let end = self.now + self.random.between(2 * SECOND, 6 * MINUTE);
        self.start_on(target, &owner, end);
        let Some(source) = source else { return };
        self.at(end, Event::StopLauncher(source, owner.clone()));
        self.later(end, MINUTE, Event::GiveBack(source));
        if self.random.percent(30) {
            let back = end + self.random.between(SECOND, 3 * MINUTE);
            self.start_on(source, &owner, back);
            self.at(back, Event::StopLauncher(target, owner));
            self.later(back, MINUTE, Event::GiveBack(target));
        }
    }

    /// Its launcher is tried until it runs, or for some time.
    fn start_on(&mut self, machine: usize, owner: &Owner, end: u64) {
        let mut time = self.now;
        for _ in 0..4 {
            time = self.random.between(time, end.max(time));
            self.at(time, Event::StartLauncher(machine, owner.clone()));
        }
        self.last_fault = self.last_fault.max(end);
    }

    /// A virtual machine is deleted, its launchers end, and one of its name is made, soon or after its address was freed.
    pub(super) fn make_anew(&mut self) {
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        for machine in 0..self.machines.len() {
            self.later(self.now, 2 * MINUTE, Event::StopLauncher(machine, owner.clone()));
            self.later(self.now, 10 * MINUTE, Event::GiveBack(machine));
        }
        let longest = if self.random.percent(50) { 5 * MINUTE } else { 150 * MINUTE };
        let again = self.now + self.random.between(MINUTE, longest);
        self.at(self.now, Event::Exists(owner.clone(), false));
        self.at(again, Event::Exists(owner.clone(), true));
        for _ in 0..4 {
            let machine = self.random.index(self.machines.len());
            self.later(again, 10 * MINUTE, Event::StartLauncher(machine, owner.clone()));
        }
        self.last_fault = self.last_fault.max(again + 10 * MINUTE);
    }

    pub(super) fn set_existing(&mut self, owner: Owner, exists: bool) {
        self.note(|_| format!("{owner}: exists {exists}"));
        if exists {
            self.api.owners.insert(owner);
        } else {
            self.api.owners.remove(&owner);
        }
    }
}
