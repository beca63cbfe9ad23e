//! The pools, their objects and the nodes, as the leader's watches have them.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource};
use lan::pool::{LanAddress, LanBlock, LanPoolNode, LanReservation};
use net_types::Addr;
use pool_blocks::{NodeState, Object, PoolSnapshot, Uid};
use proto::published::PoolNote;
use serde::de::DeserializeOwned;

use super::api::{node_state, readable};
use super::conditions::NodeNotes;
use super::convert::{address_object, block_object};
use super::floating::created;
use super::for_node::{StoredPool, name, pools};
use super::foreign::{self, Foreign};
use super::node_writer::note;
use super::watched::{Watched, refusal_code};
use crate::chain;

/// An event of one of the watches; the pools themselves are listed whenever something is decided.
#[expect(clippy::large_enum_variant, reason = "each is applied at once, and none is kept")]
pub(super) enum WatchEvent {
    Pools(Event<StoredPool>),
    Blocks(Event<DeserializeGuard<LanBlock>>),
    Addresses(Event<DeserializeGuard<LanAddress>>),
    Nodes(Event<DeserializeGuard<Node>>),
    Reservations(Event<DeserializeGuard<LanReservation>>),
    Notes(Event<DeserializeGuard<LanPoolNode>>),
}

pub(super) type WatchEvents = BoxStream<'static, Result<WatchEvent, watcher::Error>>;

/// The cluster as its watches have it.
#[derive(Default)]
pub(super) struct Cache {
    /// A pool's version is all that is kept of it.
    pools: Watched<Option<String>>,
    blocks: Watched<Option<Object>>,
    /// With the times at which they were made.
    addresses: Watched<Option<(Object, String)>>,
    pub(super) nodes: Watched<SeenNode>,
    pub(super) reservations: Watched<Option<LanReservation>>,
    /// The pool, the node, and what it says.
    pub(super) notes: Watched<Option<(String, String, PoolNote)>>,
}

/// What is kept of a node.
#[derive(Debug, PartialEq)]
pub(super) struct SeenNode {
    state: Option<NodeState>,
    addresses: Vec<Addr>,
}

/// All that the leader watches.
pub(super) fn watches(client: &Client) -> [WatchEvents; 6] {
    let client = || client.clone();
    [
        watch(Api::all_with(client(), &pools()), WatchEvent::Pools),
        watch(Api::all(client()), WatchEvent::Blocks),
        watch(Api::all(client()), WatchEvent::Addresses),
        watch(Api::all(client()), WatchEvent::Nodes),
        watch(Api::all(client()), WatchEvent::Reservations),
        watch_notes(Api::all(client())),
    ]
}

impl Cache {
    pub(super) fn is_listed(&self) -> bool {
        self.pools.is_listed()
            && self.blocks.is_listed()
            && self.addresses.is_listed()
            && self.nodes.is_listed()
            && self.notes.is_listed()
    }

    pub(super) fn blocks(&self) -> Vec<Object> {
        self.blocks.values().flatten().cloned().collect()
    }

    pub(super) fn addresses(&self) -> Vec<(Object, String)> {
        self.addresses.values().flatten().cloned().collect()
    }

    /// The oldest first.
    pub(super) fn reservations(&self) -> Vec<&LanReservation> {
        let mut all: Vec<&LanReservation> = self.reservations.values().flatten().collect();
        all.sort_by_key(|one| {
            let created = one.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, one.metadata.namespace.clone(), one.metadata.name.clone())
        });
        all
    }

    /// Whether it changes anything.
    pub(super) fn apply(&mut self, event: WatchEvent) -> bool {
        match event {
            WatchEvent::Pools(event) => {
                self.pools.apply(event, |pool| (name(pool), pool.metadata.resource_version.clone()))
            }
            WatchEvent::Blocks(event) => {
                self.blocks.apply(event, |block| (object_name(block), readable(block, block_object)))
            }
            WatchEvent::Addresses(event) => self.addresses.apply(event, |address| {
                let object = readable(address, address_object);
                (object_name(address), object.map(|object| (object, created(address))))
            }),
            WatchEvent::Reservations(event) => self.reservations.apply(event, |reservation| {
                let metadata = reservation.meta();
                let key = format!(
                    "{}/{}",
                    metadata.namespace.as_deref().unwrap_or_default(),
                    object_name(reservation)
                );
                (key, reservation.0.clone().ok())
            }),
            WatchEvent::Nodes(event) => self.nodes.apply(event, |node| (object_name(node), seen(node))),
            WatchEvent::Notes(event) => self.notes.apply(event, |note| (object_name(note), of_node(note))),
        }
    }

    pub(super) fn objects(&self) -> Vec<Object> {
        self.blocks().into_iter().chain(self.addresses().into_iter().map(|(object, _)| object)).collect()
    }

    /// Which node has which address.
    pub(super) fn node_addresses(&self) -> Foreign {
        let each = |(name, seen): (&String, &SeenNode)| {
            let who = format!("node {name}");
            seen.addresses.iter().map(|address| (*address, who.clone())).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(each).collect()
    }

    /// Whether there is any pool.
    pub(super) fn has_pools(&self) -> bool {
        self.pools.values().next().is_some()
    }

    /// What nodes say, by pool.
    pub(super) fn notes(&self) -> BTreeMap<String, NodeNotes> {
        let mut notes: BTreeMap<String, NodeNotes> = BTreeMap::new();
        for (pool, node, note) in self.notes.values().flatten() {
            notes.entry(pool.clone()).or_default().insert(node.clone(), note.clone());
        }
        notes
    }

    pub(super) fn snapshot(&self) -> PoolSnapshot {
        let objects = self.objects();
        let nodes = self.nodes.iter().filter_map(|(name, seen)| Some((name.as_str().into(), seen.state?)));
        PoolSnapshot { nodes: nodes.collect(), objects, owners: BTreeSet::new() }
    }
}

fn object_name(object: &impl Resource) -> String {
    object.meta().name.clone().unwrap_or_default()
}

fn seen(node: &DeserializeGuard<Node>) -> SeenNode {
    let addresses = node.0.as_ref().map(foreign::of_node).unwrap_or_default();
    SeenNode { state: state(node), addresses }
}

/// A `Node` with fields that this version cannot read is there, and in service.
fn state(node: &DeserializeGuard<Node>) -> Option<NodeState> {
    match &node.0 {
        Ok(node) => node_state(node),
        Err(invalid) => {
            let uid = invalid.metadata.uid.as_deref().and_then(Uid::parse)?;
            Some(NodeState { uid, out_of_service: false })
        }
    }
}

pub(super) fn of_node(object: &DeserializeGuard<LanPoolNode>) -> Option<(String, String, PoolNote)> {
    let LanPoolNode { spec, .. } = object.0.as_ref().ok()?;
    Some((spec.pool.clone(), spec.node.clone(), note(spec)))
}

/// A cluster whose definitions are older has no notes.
fn watch_notes(api: Api<DeserializeGuard<LanPoolNode>>) -> WatchEvents {
    let events = watch_objects(api, watcher::Config::default()).default_backoff();
    let events = events.map(|event| match event {
        Err(error) if matches!(refusal_code(&error), Some(403 | 404)) => {
            tracing::debug!(error = chain(&error), "what nodes say of pools is not heard");
            Ok(Event::InitDone)
        }
        event => event,
    });
    events.map_ok(WatchEvent::Notes).boxed()
}

fn watch<K>(api: Api<K>, of: fn(Event<K>) -> WatchEvent) -> WatchEvents
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    watch_objects(api, watcher::Config::default()).default_backoff().map_ok(of).boxed()
}
