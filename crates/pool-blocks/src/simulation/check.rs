//! Pods, and what must be so of their addresses.

use net_types::{Addr, AddrRange, AddrSet, Family};

use super::machine::{Pod, Power};
use super::world::World;
use crate::{Answer, Key, Owner, Phase, Place, Uid, Want};

/// Who has an address: a pod, by its machine and place there, or an owner, wherever it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HolderOf {
    Pod(usize, usize),
    Owner(Owner),
}

impl World {
    /// A pod wants any address.
    pub(super) fn start_pod(&mut self, machine: usize) {
        self.count(machine);
        if self.machines[machine].power != Power::On {
            return;
        }
        let keys: Vec<Key> = self.machines[machine].node.keys().cloned().collect();
        for key in keys.iter().filter(|key| matches!(key.place, Place::Block(_))) {
            if let Some(address) = self.free_address(machine, key) {
                self.allocate(machine, Pod { address, key: key.clone(), owner: None });
                return;
            }
        }
        let pool = self.geometry.pool().clone();
        self.want(machine, Want::Block(pool, Family::V4));
    }

    /// What the node would give to a pod from this block.
    pub(super) fn free_address(&self, machine: usize, key: &Key) -> Option<Addr> {
        let own = &self.machines[machine];
        own.node.may_use(self.clock(machine), key).ok()?;
        let used = AddrSet::union(own.pods.iter().map(|pod| AddrRange::single(pod.address)));
        own.node.addresses(key).without(&used).iter().next().map(AddrRange::first)
    }

    /// An owner's pod wants its address.
    pub(super) fn start_launcher(&mut self, machine: usize) {
        self.count(machine);
        if self.machines[machine].power != Power::On {
            return;
        }
        let owner = self.owners[self.random.index(self.owners.len())].clone();
        if !self.api.owners.contains(&owner) && !self.random.percent(10) {
            return;
        }
        let Some(key) = self.address_of(&owner) else { return };
        let Place::Address(address) = key.place else { return };
        let own = &self.machines[machine];
        // The leases of a machine are in one place: nothing in it is handed out twice.
        let other = own.pods.iter().any(|pod| pod.address == address && pod.owner.as_ref() != Some(&owner));
        if own.node.may_use(self.clock(machine), &key).is_ok() && own.node.owner_of(&key) == Some(&owner) {
            if other {
                return;
            }
            self.allocate(machine, Pod { address, key, owner: Some(owner) });
        } else {
            let pool = self.geometry.pool().clone();
            self.want(machine, Want::Address(pool, address, owner));
        }
    }

    pub(super) fn stop_pod(&mut self, machine: usize) {
        self.count(machine);
        if self.machines[machine].power != Power::On || self.machines[machine].pods.is_empty() {
            return;
        }
        let index = self.random.index(self.machines[machine].pods.len());
        let pod = self.machines[machine].pods.remove(index);
        self.note(|w| format!("{}: {} is free", w.machines[machine].name, pod.address));
    }

    /// A node that lost its disk learns what its pods have.
    pub(super) fn count(&mut self, machine: usize) {
        if self.machines[machine].runs() && self.machines[machine].counts_at <= self.now {
            self.machines[machine].counts_at = u64::MAX;
            self.machines[machine].leases = true;
            self.note(|w| format!("{}: has counted", w.machines[machine].name));
            self.step(machine, crate::Input::Counted);
        }
    }

    fn allocate(&mut self, machine: usize, pod: Pod) {
        self.allocations += 1;
        self.note(|w| format!("{}: {} to {:?}", w.machines[machine].name, pod.address, pod.owner));
        let name = self.machines[machine].name.clone();
        let object = self.api.objects.get(&pod.key);
        let covered = object
            .is_some_and(|object| object.spec.holder(&name).is_some() && object.spec.owner == pod.owner);
        if !covered && !self.excuses.unseen {
            self.fail(format!(
                "{name} allocates {} from {}, which is not its own: {object:?}",
                pod.address, pod.key
            ));
        }
        let record = self.machines[machine].disk.as_ref().and_then(|disk| disk.records.get(&pod.key));
        if record.is_none_or(|record| record.phase != Phase::Held) {
            self.fail(format!("{name} allocates from {}, of which its disk says {record:?}", pod.key));
        }
        let address = pod.address;
        self.machines[machine].pods.push(pod);
        let holders = self.holders(address);
        if holders.len() > 1 {
            self.doubles += 1;
            if self.excuses.double.is_none() {
                self.fail(format!("{address} has two holders: {holders:?}"));
            }
        }
    }

    /// What a node did in the API server, its disk says.
    pub(super) fn check_disk(&mut self, machine: usize, deleted: Option<&(Key, Uid)>, answer: &Answer) {
        if self.excuses.unseen {
            return;
        }
        let Some(disk) = &self.machines[machine].disk else { return };
        let held = |key: &Key, uid: Uid| {
            disk.records.get(key).filter(|record| record.uid == uid && record.phase == Phase::Held)
        };
        let text = match (deleted, answer) {
            (Some((key, uid)), _) => {
                held(key, *uid).map(|_| format!("{key} is deleted, and held by the disk"))
            }
            (None, Answer::Written(object)) => held(&object.key, object.uid)
                .filter(|record| !object.spec.released.without(&record.released).is_empty())
                .map(|record| format!("{object:?} releases more than {record:?}")),
            _ => None,
        };
        if let Some(text) = text {
            self.fail(text);
        }
    }

    /// What the leader frees, nobody uses.
    pub(super) fn check_freed(&mut self, key: &Key) {
        let alive = self.machines.iter().filter(|machine| machine.power != Power::Off);
        let user = alive.into_iter().find(|machine| machine.pods.iter().any(|pod| pod.key == *key));
        if let Some(name) = user.map(|machine| machine.name.clone()) {
            self.fail(format!("the leader frees {key}, which {name} uses"));
        }
    }

    /// All who live and have this address.
    pub(super) fn holders(&self, address: Addr) -> Vec<HolderOf> {
        let mut holders = Vec::new();
        for (number, machine) in self.machines.iter().enumerate().filter(|(_, m)| m.power != Power::Off) {
            for (index, pod) in machine.pods.iter().enumerate().filter(|(_, pod)| pod.address == address) {
                let holder = pod.owner.clone().map_or(HolderOf::Pod(number, index), HolderOf::Owner);
                if !holders.contains(&holder) {
                    holders.push(holder);
                }
            }
        }
        holders
    }
}
