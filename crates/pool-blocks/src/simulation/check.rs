//! What must be so of addresses.

use net_types::Addr;

use super::machine::{Pod, Power};
use super::world::World;
use crate::{Answer, Key, Owner, Phase, Spec, Uid};

/// Who has an address: a pod, by its machine and place there, or an owner, wherever it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HolderOf {
    Pod(usize, usize),
    Owner(Owner),
}

impl World {
    pub(super) fn allocate(&mut self, machine: usize, pod: Pod) {
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
        self.check_rests(machine, &pod);
        self.machines[machine].rests.retain(|rest| rest.address != address);
        self.machines[machine].pods.push(pod);
        let holders = self.holders(address);
        if holders.len() > 1 {
            self.doubles += 1;
            if self.excuses.double.is_none() {
                self.fail(format!("{address} has two holders: {holders:?}"));
            }
        }
    }

    /// What rests on a node or is kept there, another one does not hand out, until the leader has freed it.
    fn check_rests(&mut self, machine: usize, pod: &Pod) {
        if self.excuses.double.is_some() {
            return;
        }
        let others = self.machines.iter().enumerate().filter(|(number, _)| *number != machine);
        let resting = others.filter(|(_, other)| {
            let mut rests = other.rests.iter().filter(|rest| rest.lasts(self.now) && !rest.freed);
            rests.any(|rest| rest.address == pod.address && (rest.owner != pod.owner || pod.owner.is_none()))
        });
        let names: Vec<String> = resting.map(|(_, other)| other.name.to_string()).collect();
        if let Some(other) = names.first() {
            let name = &self.machines[machine].name;
            self.fail(format!("{name} allocates {}, which rests on {other}", pod.address));
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

    /// What a node leaves, it does not use.
    pub(super) fn check_left(&mut self, machine: usize, left: Option<&Key>) {
        if self.excuses.restored {
            return;
        }
        let own = &self.machines[machine];
        let pod = own.pods.iter().find(|pod| Some(&pod.key) == left);
        let text = pod.map(|pod| format!("{} leaves {}, and {} is used", own.name, pod.key, pod.address));
        if let Some(text) = text {
            self.fail(text);
        }
    }

    /// What the leader frees, nobody uses.
    pub(super) fn check_freed(&mut self, key: &Key) {
        let alive = self.machines.iter().filter(|machine| machine.power != Power::Off);
        let user = alive.into_iter().find(|machine| {
            // What is kept may be from before a reboot, and the node have been gone since.
            let rests = machine.rests.iter().any(|rest| rest.key == *key && rest.until > Some(self.now));
            rests || machine.pods.iter().any(|pod| pod.key == *key)
        });
        if let Some(name) = user.map(|machine| machine.name.clone()) {
            self.fail(format!("the leader frees {key}, which {name} uses"));
        }
    }

    /// What rests on a node that the leader took out of this is not expected to be nobody else's any more.
    pub(super) fn end_rests(&mut self, key: &Key, before: &Spec, after: Option<&Spec>) {
        for machine in &mut self.machines {
            let was = before.holder(&machine.name).is_some();
            if was && after.is_none_or(|spec| spec.holder(&machine.name).is_none()) {
                let rests = machine.rests.iter_mut().filter(|rest| rest.key == *key);
                rests.for_each(|rest| rest.freed = true);
            }
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
