//! The API server: linearizable writes, one resourceVersion for all objects, a UID for each, preconditions, backups.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Answer, Key, NodeName, NodeState, Object, Owner, Place, PoolSnapshot, Request, ResourceVersion, Uid,
};

#[derive(Clone, Default)]
pub(super) struct Api {
    pub(super) objects: BTreeMap<Key, Object>,
    pub(super) nodes: BTreeMap<NodeName, NodeState>,
    pub(super) owners: BTreeSet<Owner>,
    version: u64,
    uids: u128,
}

impl Api {
    pub(super) fn answer(&mut self, from: &NodeName, request: Request) -> Answer {
        match request {
            Request::ReadOwn => {
                let own = |object: &&Object| object.spec.holder(from).is_some();
                Answer::Own(
                    self.nodes.get(from).copied(),
                    self.objects.values().filter(own).cloned().collect(),
                )
            }
            Request::ListAddresses(pool) => {
                let of_pool = |object: &&Object| {
                    object.key.pool == pool && matches!(object.key.place, Place::Address(_))
                };
                Answer::Addresses(self.objects.values().filter(of_pool).cloned().collect())
            }
            // Here the leader makes them.
            Request::Float(_) | Request::Pool(_) => Answer::Unknown,
            Request::Get(key) => Answer::Object(self.objects.get(&key).cloned()),
            Request::Create(key, spec) => {
                if self.objects.contains_key(&key) {
                    return Answer::AlreadyExists;
                }
                let object =
                    Object { key: key.clone(), uid: self.new_uid(), version: self.next_version(), spec };
                self.objects.insert(key, object.clone());
                Answer::Written(object)
            }
            Request::Update(key, uid, version, spec) => match self.find(&key, uid, version) {
                Err(answer) => *answer,
                Ok(mut object) => {
                    // As the real one: what changes nothing makes no version.
                    if object.spec != spec {
                        object = Object { version: self.next_version(), spec, ..object };
                        self.objects.insert(key, object.clone());
                    }
                    Answer::Written(object)
                }
            },
            Request::Delete(key, uid, version) => match self.find(&key, uid, version) {
                Err(answer) => *answer,
                Ok(_) => {
                    self.next_version();
                    self.objects.remove(&key);
                    Answer::Deleted
                }
            },
        }
    }

    fn find(&self, key: &Key, uid: Uid, version: ResourceVersion) -> Result<Object, Box<Answer>> {
        let object = self.objects.get(key).ok_or(Box::new(Answer::NotFound))?;
        let fits = object.uid == uid && (object.version == version || version == ResourceVersion::ANY);
        if fits { Ok(object.clone()) } else { Err(Box::new(Answer::Conflict)) }
    }

    pub(super) fn new_uid(&mut self) -> Uid {
        self.uids += 1;
        Uid::from_number(self.uids)
    }

    fn next_version(&mut self) -> ResourceVersion {
        self.version += 1;
        ResourceVersion(self.version)
    }

    pub(super) fn view(&self) -> PoolSnapshot {
        PoolSnapshot {
            nodes: self.nodes.clone(),
            objects: self.objects.values().cloned().collect(),
            owners: self.owners.clone(),
        }
    }

    /// Becomes what it was. Versions are given out again unless they are raised, as `etcdutl snapshot restore --bump-revision`
    /// does; UIDs, which are random, are not.
    pub(super) fn restore(&mut self, backup: &Self, raises: bool) {
        let version = if raises { self.version } else { backup.version };
        *self = Self { uids: self.uids, version, ..backup.clone() };
    }
}
