//! Frees what nodes and owners have that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::weakness::{Weakened, Weakness};
use crate::{
    BootTime, Holder, Horizon, Key, NodeName, NodeState, Object, Owner, Place, Request, ResourceVersion,
    Spec, Uid,
};

/// How long a floating address waits for an owner that is gone: who comes back under its name keeps it.
const OWNER_GRACE: Duration = Duration::from_secs(3_600);

/// The cluster as a watch cache has it: nothing that is decided by it is wrong if it is old, since every write says for which
/// version it is meant.
#[derive(Clone, Debug, Default)]
pub struct PoolSnapshot {
    /// All nodes.
    pub nodes: BTreeMap<NodeName, NodeState>,
    /// All blocks and floating addresses.
    pub objects: Vec<Object>,
    /// All owners that exist.
    pub owners: BTreeSet<Owner>,
}

/// The leader. A new one starts with nothing, and so waits for all again.
pub struct Leader {
    horizon: Horizon,
    weakened: Weakened,
    /// Since when this leader has seen each object with what is fenced in it, in the version that it still has: a node that was
    /// taken out of it may have joined it again, and been fenced again, with the same `term`.
    fenced: BTreeMap<(Key, Uid, ResourceVersion), BootTime>,
    /// Since when this leader has seen an address without its owner.
    orphans: BTreeMap<(Key, Uid), BootTime>,
}

impl Leader {
    /// A leader that has just begun.
    #[must_use]
    pub fn new(horizon: Horizon) -> Self {
        Self { horizon, weakened: Weakened::default(), fenced: BTreeMap::new(), orphans: BTreeMap::new() }
    }

    #[cfg(test)]
    pub(crate) fn weakened(self, weakened: Weakened) -> Self {
        Self { weakened, ..self }
    }

    /// What is to be written by what is seen now.
    ///
    /// A block of a node that is gone is fenced first, and deleted one horizon after this leader saw the fence: whatever the
    /// node read before the fence lets it allocate for less than that, and what it reads after it lets it allocate nothing until
    /// it has written the fence away, and then the delete does not fit.
    pub fn reconcile(&mut self, now: BootTime, view: &PoolSnapshot) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut fenced = BTreeMap::new();
        let mut orphans = BTreeMap::new();
        for object in &view.objects {
            let gone = |holder: &Holder| {
                view.nodes.get(&holder.node).is_none_or(|node| node.uid != holder.uid || node.out_of_service)
            };
            let mut to_fence = false;
            let mut to_free = Vec::new();
            for holder in object.spec.holders.iter().filter(|holder| gone(holder)) {
                if !holder.fenced && !self.weakened.lacks(Weakness::FreesUnfenced) {
                    to_fence = true;
                    continue;
                }
                let by_term = self.weakened.lacks(Weakness::KnowsFencesByTerm);
                let version = if by_term { ResourceVersion(holder.term) } else { object.version };
                let key = (object.key.clone(), object.uid, version);
                let since = self.fenced.get(&key).copied().unwrap_or(now);
                fenced.insert(key, since);
                if now >= since.after(self.horizon.for_leader()) || self.weakened.lacks(Weakness::FreesAtOnce)
                {
                    to_free.push(holder.node.clone());
                }
            }
            if to_fence {
                let mut spec = object.spec.clone();
                spec.holders.iter_mut().filter(|holder| gone(holder)).for_each(|holder| holder.fenced = true);
                requests.push(self.update(object, spec));
            } else if !to_free.is_empty() {
                requests.push(self.free(object, &to_free));
            } else if let Some(owner) = &object.spec.owner
                && !view.owners.contains(owner)
            {
                let key = (object.key.clone(), object.uid);
                let since = self.orphans.get(&key).copied().unwrap_or(now);
                orphans.insert(key, since);
                let unused =
                    object.spec.holders.is_empty() || self.weakened.lacks(Weakness::DropsHeldAddresses);
                if unused && now >= since.after(OWNER_GRACE) {
                    requests.push(self.delete(object));
                }
            }
        }
        self.fenced = fenced;
        self.orphans = orphans;
        requests
    }

    fn free(&self, object: &Object, nodes: &[NodeName]) -> Request {
        match object.key.place {
            Place::Block(_) => self.delete(object),
            Place::Address(_) => {
                let mut spec = object.spec.clone();
                spec.holders.retain(|holder| !nodes.contains(&holder.node));
                self.update(object, spec)
            }
        }
    }

    fn update(&self, object: &Object, spec: Spec) -> Request {
        Request::Update(object.key.clone(), object.uid, self.version(object), spec)
    }

    fn delete(&self, object: &Object) -> Request {
        Request::Delete(object.key.clone(), object.uid, self.version(object))
    }

    fn version(&self, object: &Object) -> ResourceVersion {
        if self.weakened.lacks(Weakness::FreesAnyVersion) { ResourceVersion::ANY } else { object.version }
    }
}
