//! Tells the node's part of the pools at the API server.

use std::collections::BTreeMap;
use std::convert::Infallible;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::core::{DeserializeGuard, ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource};
use lan::pool::LanReservation;
use node::{ClusterPool, Reserved};
use proto::link::{Kind, Object, ObjectKey, SnapshotCache};

use super::for_node::{Labels, StoredPool, for_node, is_accepted, name, pools};
use super::namespaces::{NamespaceEvent, NamespaceWatch, Namespaces, selector};
use super::reservations::reserved;
use super::watched::{Watched, refusal_code};
use crate::chain;

/// Watches pools, reservations, this node's labels, and namespaces while a pool selects them by their labels, and puts each pool into the cache.
pub struct PoolMirror {
    client: Client,
    node: String,
    cache: SnapshotCache,
    known: Known,
    /// Whether the cache was told of the pools.
    has_told: bool,
}

/// What was heard.
#[derive(Default)]
struct Known {
    pools: BTreeMap<String, StoredPool>,
    /// The pools of a list that is not complete.
    listed: BTreeMap<String, StoredPool>,
    /// Each as it was accepted last, with its UID.
    accepted: BTreeMap<String, (Option<String>, ClusterPool)>,
    /// `None`: this node cannot be read.
    labels: Option<Labels>,
    namespaces: Namespaces,
    reservations: Watched<Option<(String, Reserved)>>,
    /// Whether all pools, and the labels as well as they can be, are known.
    is_complete: bool,
    node_is_read: bool,
}

enum WatchEvent {
    Pool(Box<Result<Event<StoredPool>, watcher::Error>>),
    Node(Box<Result<Event<PartialObjectMeta<Node>>, watcher::Error>>),
    Namespace(Box<NamespaceEvent>),
    Reservation(Box<Result<Event<DeserializeGuard<LanReservation>>, watcher::Error>>),
}

impl PoolMirror {
    /// Puts the pools into `cache`, for the node of this name.
    #[must_use]
    pub fn new(client: Client, node: &str, cache: SnapshotCache) -> Self {
        Self { client, node: node.to_owned(), cache, known: Known::default(), has_told: false }
    }

    /// Follows the API server without end. While it does not answer, the cache stays as it is.
    pub async fn run(mut self) -> Infallible {
        let pools: Api<StoredPool> = Api::all_with(self.client.clone(), &pools());
        let pools = watch_objects(pools, watcher::Config::default()).default_backoff();
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.node));
        let node: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let node = watch_objects(node, config).default_backoff();
        let reservations: Api<DeserializeGuard<LanReservation>> = Api::all(self.client.clone());
        let reservations = watch_objects(reservations, watcher::Config::default()).default_backoff();
        let mut events = stream::select_all([
            pools.map(|event| WatchEvent::Pool(Box::new(event))).boxed(),
            node.map(|event| WatchEvent::Node(Box::new(event))).boxed(),
            reservations.map(|event| WatchEvent::Reservation(Box::new(event))).boxed(),
        ]);
        let mut namespaces = NamespaceWatch::default();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                event = namespaces.next() => Some(WatchEvent::Namespace(Box::new(event))),
            };
            // The watches repeat what fails, and have no end.
            let Some(event) = event else { return std::future::pending().await };
            match event {
                WatchEvent::Pool(event) => match *event {
                    Ok(event) => self.known.apply_pool(event),
                    Err(error) => self.known.apply_pool_error(&error),
                },
                WatchEvent::Node(event) => self.known.apply_node(*event),
                WatchEvent::Reservation(event) => {
                    if !self.known.apply_reservation(*event) {
                        continue;
                    }
                }
                WatchEvent::Namespace(event) => {
                    if !self.known.namespaces.apply(*event) {
                        continue;
                    }
                }
            }
            if namespaces.set(self.known.asks_for_namespaces(), &self.client) {
                self.known.namespaces = Namespaces::default();
            }
            self.tell();
        }
    }

    /// Puts what is known into the cache, which sends what differs.
    fn tell(&mut self) {
        let is_known = self.known.node_is_read && self.known.reservations.is_listed();
        if !is_known || !self.known.is_complete {
            return;
        }
        // The node has what was selected before this process began, until more is known.
        if !self.has_told && self.known.asks_for_namespaces() && !self.known.namespaces.are_read() {
            return;
        }
        self.has_told = true;
        for pool in self.known.for_node() {
            self.cache.put(Object::LanPool(pool));
        }
        let pools = &self.known.pools;
        self.cache.complete(
            Kind::LanPool,
            |key| matches!(key, ObjectKey::LanPool(name) if pools.contains_key(name)),
        );
    }
}

impl Known {
    fn apply_pool(&mut self, event: Event<StoredPool>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pool) => drop(self.listed.insert(name(&pool), pool)),
            Event::InitDone => {
                self.pools = std::mem::take(&mut self.listed);
                self.is_complete = true;
            }
            Event::Apply(pool) => drop(self.pools.insert(name(&pool), pool)),
            Event::Delete(pool) => drop(self.pools.remove(&name(&pool))),
        }
    }

    /// A cluster without the kind has no pools. Once there were some, such an answer says nothing about them.
    fn apply_pool_error(&mut self, error: &watcher::Error) {
        let text = chain(error);
        match refusal_code(error) {
            Some(404) if self.pools.is_empty() => {
                tracing::debug!(error = text, "the cluster has no LANPools");
                self.is_complete = true;
            }
            _ => {
                tracing::warn!(error = text, "the API server is not heard about pools; they stay as they are")
            }
        }
    }

    /// Returns whether it changes anything. A cluster without the kind has no reservations.
    fn apply_reservation(
        &mut self,
        event: Result<Event<DeserializeGuard<LanReservation>>, watcher::Error>,
    ) -> bool {
        let keep = |found: &DeserializeGuard<LanReservation>| {
            let metadata = found.meta();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let key = format!("{}/{}", text(&metadata.namespace), text(&metadata.name));
            let valid = found.0.as_ref().ok();
            (key, valid.and_then(|one| Some((one.spec.pool.clone(), reserved(one)?))))
        };
        match event {
            Ok(event) => self.reservations.apply(event, keep),
            Err(error) => {
                tracing::debug!(error = chain(&error), "the API server is not heard about reservations");
                let is_first = !self.reservations.is_listed() && refusal_code(&error) == Some(404);
                is_first && self.reservations.apply(Event::InitDone, keep)
            }
        }
    }

    fn apply_node(&mut self, event: Result<Event<PartialObjectMeta<Node>>, watcher::Error>) {
        match event {
            Ok(Event::InitApply(node) | Event::Apply(node)) => {
                let ObjectMeta { labels, .. } = node.metadata;
                self.labels = Some(labels.unwrap_or_default());
            }
            Ok(Event::InitDone) => self.node_is_read = true,
            // If a node is deleted while its daemon runs, it keeps its labels.
            Ok(Event::Init | Event::Delete(_)) => {}
            // Whoever may not read nodes, and a server without them, has no labels.
            Err(error) => {
                tracing::debug!(error = chain(&error), "the labels of this node are not heard of");
                self.node_is_read |= matches!(refusal_code(&error), Some(0 | 403 | 404));
            }
        }
    }

    /// Whether a pool selects namespaces by their labels.
    fn asks_for_namespaces(&self) -> bool {
        self.pools.values().any(|pool| selector(&pool.spec).is_some())
    }

    fn for_node(&mut self) -> Vec<ClusterPool> {
        let Self { pools, accepted, labels, namespaces, reservations, .. } = self;
        let mut reserved: BTreeMap<&str, Vec<Reserved>> = BTreeMap::new();
        for (pool, one) in reservations.values().flatten() {
            reserved.entry(pool).or_default().push(one.clone());
        }
        accepted.retain(|name, (uid, _)| pools.get(name).is_some_and(|pool| pool.metadata.uid == *uid));
        let told = pools.iter().map(|(name, pool)| {
            let told = for_node(pool, labels.as_ref(), accepted.get(name).map(|(_, pool)| pool));
            if is_accepted(pool) {
                accepted.insert(name.clone(), (pool.metadata.uid.clone(), told.clone()));
            }
            let reserved = reserved.remove(&**name).unwrap_or_default();
            ClusterPool { namespaces: namespaces.selected(&told.spec), reserved, ..told }
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(name: &str) -> StoredPool {
        serde_json::from_value(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool",
            "metadata": { "name": name, "generation": 1 },
            "spec": { "subnets": ["10.0.0.0/24"], "nodeSelector": { "zone": "a" } },
        }))
        .unwrap()
    }

    fn refused(code: u16) -> watcher::Error {
        let status = kube::core::Status { code, ..kube::core::Status::default() };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_cluster_without_the_kind_has_no_pools() {
        let mut known = Known::default();
        known.apply_pool_error(&refused(500));
        assert!(!known.is_complete);
        known.apply_pool_error(&refused(404));
        assert!(known.is_complete && known.for_node().is_empty());
        known.apply_pool(Event::Apply(pool("a")));
        known.apply_pool_error(&refused(404));
        assert_eq!(known.for_node().len(), 1, "what was there stays");
    }

    #[test]
    fn a_list_replaces_what_was_known() {
        let mut known = Known::default();
        for (event, names) in [
            (Event::Init, vec![]),
            (Event::InitApply(pool("a")), vec![]),
            (Event::InitDone, vec!["a"]),
            (Event::Apply(pool("b")), vec!["a", "b"]),
            (Event::Init, vec!["a", "b"]),
            (Event::InitApply(pool("c")), vec!["a", "b"]),
            (Event::InitDone, vec!["c"]),
            (Event::Delete(pool("c")), vec![]),
        ] {
            known.apply_pool(event);
            let found: Vec<String> = known.for_node().into_iter().map(|pool| pool.name).collect();
            assert_eq!(found, names);
        }
        known.apply_node(Err(refused(403)));
        assert!(known.node_is_read && known.labels.is_none());
    }
}
