//! Tells the node's part of the LANs at the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use lan::LanKey;
use proto::link::{Kind, Object, ObjectKey, SnapshotCache};
use tokio::sync::watch;

use super::chain;
use super::lan_object::{self, MirroredLan, StoredLan};

/// The folder below the state folder in which the node's part keeps the cluster's LANs.
pub const MIRROR: &str = "lans";

const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Watches LANs and puts each into the cache.
pub struct Mirror {
    client: Client,
    node: String,
    namespaces: Vec<String>,
    cache: SnapshotCache,
    state: watch::Sender<MirrorState>,
}

/// The state of the connection to the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorState {
    /// Whether all LANs were heard of since the start.
    pub up_to_date: bool,
    /// The last error of the watch, until the watch works again.
    pub error: Option<String>,
    /// The number of errors since the start.
    pub errors: u64,
    pub lans: Arc<BTreeMap<LanKey, MirroredLan>>,
}

type LanEvent = Result<Event<StoredLan>, watcher::Error>;
type NodeEvent = Result<Event<PartialObjectMeta<Node>>, watcher::Error>;

/// An event of one of the watches.
enum WatchEvent {
    /// LANs in this namespace (`None`: in all).
    Lans(Option<String>, Box<LanEvent>),
    /// The metadata of this node.
    Node(Box<NodeEvent>),
}

impl Mirror {
    /// Puts the LANs of these namespaces, or of all if the list is empty, into `cache`, for the node of this name.
    #[must_use]
    pub fn new(client: Client, node: &str, namespaces: Vec<String>, cache: SnapshotCache) -> Self {
        let state = watch::channel(MirrorState::default()).0;
        Self { client, node: node.to_owned(), namespaces, cache, state }
    }

    /// The state now, and each change of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<MirrorState> {
        self.state.subscribe()
    }

    /// Follows the API server without end. A request that fails is repeated with longer and longer pauses; meanwhile
    /// the cache stays as it is.
    pub async fn run(self) -> Infallible {
        // The node's names come first: a LAN that is read without them might be built on another underlay.
        let mut node = node_events(&self.client, &self.node);
        while let Some(event) = node.next().await {
            if self.apply_node_event(event) {
                break;
            }
        }
        let lans = lan_events(&self.client, &self.namespaces);
        let mut progress = Progress { count: lans.len(), ..Progress::default() };
        let node = node.map(|event| WatchEvent::Node(Box::new(event))).boxed();
        let mut events = stream::select_all(lans.into_iter().chain([node]));
        while let Some(event) = events.next().await {
            match event {
                WatchEvent::Lans(namespace, event) => match *event {
                    Ok(event) => self.apply(&mut progress, namespace, event),
                    Err(error) => self.record_watch_error(&error),
                },
                WatchEvent::Node(event) => drop(self.apply_node_event(*event)),
            }
        }
        // The watches repeat what fails, and have no end.
        std::future::pending().await
    }

    /// Applies an event about the node. Returns whether its names are known as well as they can be.
    fn apply_node_event(&self, event: NodeEvent) -> bool {
        match event {
            Ok(Event::InitApply(node) | Event::Apply(node)) => {
                self.cache.put(Object::HostName(hostname(&node.metadata, &self.node)));
                false
            }
            Ok(Event::InitDone) => true,
            // If a node is deleted while its daemon runs, it keeps its name.
            Ok(Event::Init | Event::Delete(_)) => false,
            Err(error) => {
                self.record_watch_error(&error);
                // If nodes may not be read, or the server does not have them, the node's part uses the host name that
                // it has.
                is_final(&error)
            }
        }
    }

    fn record_watch_error(&self, error: &watcher::Error) {
        let text = chain(error);
        tracing::warn!(error = text, "the API server is not heard; LANs stay as they are");
        self.state.send_modify(|state| {
            state.errors += 1;
            state.error = Some(text);
        });
    }

    fn apply(&self, progress: &mut Progress, namespace: Option<String>, event: Event<StoredLan>) {
        let mut lans = Arc::clone(&self.state.borrow().lans);
        let mut heard = true;
        match event {
            Event::Init => {
                progress.fresh.insert(namespace, BTreeSet::new());
                heard = false;
            }
            Event::InitApply(object) => {
                if let Some(key) = self.put(&object, &mut lans)
                    && let Some(fresh) = progress.fresh.get_mut(&namespace)
                {
                    fresh.insert(key);
                }
            }
            Event::InitDone => {
                let fresh = progress.fresh.remove(&namespace).unwrap_or_default();
                let stays = |key: &LanKey| {
                    fresh.contains(key) || namespace.as_ref().is_some_and(|n| n != key.namespace())
                };
                Arc::make_mut(&mut lans).retain(|key, _| stays(key));
                progress.complete.insert(namespace);
                if progress.complete.len() == progress.count {
                    // Also those go that were deleted while nobody listened, and those of namespaces that are not
                    // watched any more.
                    let exists =
                        |key: &ObjectKey| matches!(key, ObjectKey::Lan(key) if lans.contains_key(key));
                    self.cache.complete(Kind::Lan, exists);
                }
            }
            Event::Apply(object) => drop(self.put(&object, &mut lans)),
            Event::Delete(object) => {
                if let Ok(key) = lan_object::key(&object.metadata) {
                    Arc::make_mut(&mut lans).remove(&key);
                    self.cache.remove(&ObjectKey::Lan(key));
                }
            }
        }
        let up_to_date = progress.complete.len() == progress.count;
        self.state.send_if_modified(|state| {
            let next = MirrorState {
                up_to_date,
                error: state.error.take().filter(|_| !heard),
                errors: state.errors,
                lans,
            };
            let changed = *state != next;
            *state = next;
            changed
        });
    }

    fn put(&self, object: &StoredLan, lans: &mut Arc<BTreeMap<LanKey, MirroredLan>>) -> Option<LanKey> {
        let key = match lan_object::key(&object.metadata) {
            Ok(key) => key,
            Err(error) => {
                // The CRD does not allow such names; an older one may have.
                tracing::warn!(name = ?object.metadata.name, %error, "a LAN that cannot be built anywhere");
                return None;
            }
        };
        self.cache.put(Object::Lan(lan_object::for_node(object, key.clone())));
        let lan = lan_object::parse_lan(object, key.clone());
        if lans.get(&key) != Some(&lan) {
            Arc::make_mut(lans).insert(key.clone(), lan);
        }
        Some(key)
    }
}

/// The watches of the LANs, of these namespaces or of all.
fn lan_events(client: &Client, namespaces: &[String]) -> Vec<BoxStream<'static, WatchEvent>> {
    let resource = lan_object::lans();
    let apis: Vec<(Option<String>, Api<StoredLan>)> = if namespaces.is_empty() {
        vec![(None, Api::all_with(client.clone(), &resource))]
    } else {
        let api = |namespace: &String| {
            (Some(namespace.clone()), Api::namespaced_with(client.clone(), namespace, &resource))
        };
        namespaces.iter().map(api).collect()
    };
    let watches = apis.into_iter().map(|(namespace, api)| {
        let events = watch_objects(api, watcher::Config::default()).default_backoff();
        events.map(move |event| WatchEvent::Lans(namespace.clone(), Box::new(event))).boxed()
    });
    watches.collect()
}

/// The watch of this node's metadata only: the rest is large and changes often.
fn node_events(client: &Client, node: &str) -> BoxStream<'static, NodeEvent> {
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let api: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    watch_objects(api, config).default_backoff().boxed()
}

/// The second name by which `vxlanDevMap` may mean a node, if it has one.
pub(super) fn hostname(metadata: &ObjectMeta, node: &str) -> Option<String> {
    let label = metadata.labels.as_ref()?.get(HOSTNAME_LABEL)?;
    (label != node).then(|| label.clone())
}

/// Whether another request would not help: the server answered, and refuses.
fn is_final(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    // 0 is an answer that is not Kubernetes' own, for example of a server that has no nodes.
    matches!(status.code, 0 | 403 | 404)
}

/// The state of the watches.
#[derive(Default)]
struct Progress {
    /// The LANs of first lists that are not complete, by namespace (`None`: all).
    fresh: BTreeMap<Option<String>, BTreeSet<LanKey>>,
    complete: BTreeSet<Option<String>>,
    count: usize,
}
