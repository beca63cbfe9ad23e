//! The API server of the simulation: the objects, and what it was asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use net_types::Addr;
use pool_blocks::{
    Answer, Geometry, Holder, Key, NodeName, NodeState, Object, Place, Prefix, Request, ResourceVersion,
    Spec, Uid,
};

/// Objects that one page of a list has, as the controller asks for it.
const PAGE: usize = 500;

/// What was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// HTTP requests in each second.
    pub(super) by_second: HashMap<u64, u32>,
    pub(super) writes: u64,
    /// Creates that came too late.
    pub(super) refused: u64,
    /// Objects in answers.
    pub(super) objects_read: u64,
    /// Blocks that were created or deleted, by moments of 300 ms: the leader then writes the pool's status once.
    changes: BTreeSet<u64>,
}

impl Asked {
    pub(super) fn requests(&self) -> u64 {
        self.by_second.values().copied().map(u64::from).sum()
    }

    pub(super) fn peak(&self) -> u32 {
        self.by_second.values().copied().max().unwrap_or_default()
    }

    pub(super) fn status_writes(&self) -> usize {
        self.changes.len()
    }
}

pub(super) struct Api {
    objects: HashMap<Key, Object>,
    by_node: HashMap<NodeName, BTreeSet<Key>>,
    floating: BTreeMap<Addr, Object>,
    version: u64,
    pub(super) asked: Asked,
}

impl Api {
    /// With so many floating addresses, the pool's first, beside one another, as the leader chooses them. Their owners do not run.
    pub(super) fn new(geometry: &Geometry, floating: usize) -> Self {
        let own = Self {
            objects: HashMap::new(),
            by_node: HashMap::new(),
            floating: BTreeMap::new(),
            version: 0,
            asked: Asked::default(),
        };
        let first = geometry.addresses().iter().flat_map(|range| {
            std::iter::successors(Some(range.first()), move |address| {
                address.next().filter(|a| range.contains(*a))
            })
        });
        let first: Vec<Addr> = first.take(floating).collect();
        first.into_iter().fold(own, |mut own, address| {
            let spec = Spec { owner: Some("vm:default/web".into()), ..Spec::default() };
            let object = own.new_object(Key::address(geometry.pool(), address), spec);
            own.floating.insert(address, object);
            own
        })
    }

    fn new_object(&mut self, key: Key, spec: Spec) -> Object {
        self.version += 1;
        let version = ResourceVersion(self.version);
        Object { key, uid: Uid::from_number(u128::from(self.version)), version, spec }
    }

    /// A block that is somebody's who takes no part.
    pub(super) fn give_away(&mut self, key: Key) {
        let holder = Holder { node: "other".into(), uid: Uid::from_number(1), term: 0, fenced: false };
        let object = self.new_object(key.clone(), Spec { holders: vec![holder], ..Spec::default() });
        self.objects.insert(key, object);
    }

    pub(super) fn blocks(&self) -> usize {
        self.objects.len()
    }

    fn count(&mut self, now: u64, requests: usize, objects: usize) {
        *self.asked.by_second.entry(now / 1_000).or_default() += u32::try_from(requests).unwrap_or(u32::MAX);
        self.asked.objects_read += objects as u64;
    }

    fn pages(&self) -> usize {
        self.floating.len().div_ceil(PAGE).max(1)
    }

    pub(super) fn answer(&mut self, now: u64, from: &NodeName, uid: Uid, request: &Request) -> Answer {
        match request {
            Request::ReadOwn => {
                let own = self.by_node.get(from).into_iter().flatten();
                let own: Vec<Object> = own.filter_map(|key| self.objects.get(key)).cloned().collect();
                // The Node, its blocks, and all floating addresses.
                self.count(now, 2 + self.pages(), 1 + own.len() + self.floating.len());
                Answer::Own(Some(NodeState { uid, out_of_service: false }), own)
            }
            Request::ListAddresses(_) => {
                self.count(now, self.pages(), self.floating.len());
                // The node looks for those in its own blocks alone.
                let blocks = self.by_node.get(from).into_iter().flatten();
                let found = blocks.flat_map(|key| match key.place {
                    Place::Block(block) => self.floating_in(block),
                    Place::Address(_) => Vec::new(),
                });
                Answer::Addresses(found.collect())
            }
            Request::Get(key) => {
                self.count(now, 1, 1);
                Answer::Object(self.objects.get(key).cloned())
            }
            Request::Pool(_) => {
                self.count(now, 1, 0);
                Answer::Pool(None)
            }
            Request::Create(key, spec) => {
                self.count(now, 1, 0);
                self.asked.writes += 1;
                if self.objects.contains_key(key) {
                    self.asked.refused += 1;
                    return Answer::AlreadyExists;
                }
                let object = self.new_object(key.clone(), spec.clone());
                self.objects.insert(key.clone(), object.clone());
                self.by_node.entry(from.clone()).or_default().insert(key.clone());
                self.asked.changes.insert(now / 300);
                Answer::Written(object)
            }
            Request::Update(key, uid, version, spec) => {
                self.count(now, 1, 0);
                self.asked.writes += 1;
                self.version += 1;
                match self.objects.get_mut(key) {
                    None => Answer::NotFound,
                    Some(object) if object.uid != *uid || object.version != *version => Answer::Conflict,
                    Some(object) => {
                        object.spec = spec.clone();
                        object.version = ResourceVersion(self.version);
                        Answer::Written(object.clone())
                    }
                }
            }
            Request::Delete(key, uid, version) => {
                self.count(now, 1, 0);
                self.asked.writes += 1;
                match self.objects.get(key) {
                    None => Answer::NotFound,
                    Some(object) if object.uid != *uid || object.version != *version => Answer::Conflict,
                    Some(_) => {
                        self.objects.remove(key);
                        self.by_node.entry(from.clone()).or_default().remove(key);
                        self.asked.changes.insert(now / 300);
                        Answer::Deleted
                    }
                }
            }
            // Nobody floats here.
            _ => Answer::Unknown,
        }
    }

    fn floating_in(&self, block: Prefix) -> Vec<Object> {
        let range = block.range();
        self.floating.range(range.first()..=range.last()).map(|(_, object)| object.clone()).collect()
    }
}
