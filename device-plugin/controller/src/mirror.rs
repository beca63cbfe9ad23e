//! Keeps a folder equal to the LANs at the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use lan::LanKey;
use node::{Durability, SafeDir, SafeDirError};
use tokio::sync::watch;

use super::chain;
use super::lan_object::{self, MirroredLan, StoredLan};
use proto::published::MirrorAnnotations;

/// The folder of the mirror of the cluster's LANs, below the state folder.
pub const MIRROR: &str = "lans";

const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Watches LANs and writes each into a file of its own.
pub struct Mirror {
    client: Client,
    node: String,
    namespaces: Vec<String>,
    dir: SafeDir,
    state: watch::Sender<MirrorState>,
}

/// The state of the connection to the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorState {
    /// Whether the folder has been brought up to date since the start. Before that, it is as the daemon's last
    /// process left it.
    pub up_to_date: bool,
    /// The last error of the watch, until the watch works again.
    pub error: Option<String>,
    /// The number of errors since the start.
    pub errors: u64,
    pub lans: Arc<BTreeMap<LanKey, MirroredLan>>,
}

#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The folder is not usable.
    #[error("cannot keep the cluster's LANs in {dir:?}")]
    Folder {
        /// The mirror's folder.
        dir: PathBuf,
        source: SafeDirError,
    },
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
    /// Mirrors the LANs of these namespaces, or of all if the list is empty, into `dir`, which is created, for the
    /// node of this name.
    ///
    /// # Errors
    /// The folder cannot be created, or users other than root could write to it.
    pub fn new(
        client: Client,
        node: &str,
        namespaces: Vec<String>,
        dir: PathBuf,
    ) -> Result<Self, MirrorError> {
        let dir = SafeDir::create(&dir).map_err(|source| MirrorError::Folder { dir, source })?;
        Ok(Self {
            client,
            node: node.to_owned(),
            namespaces,
            dir,
            state: watch::channel(MirrorState::default()).0,
        })
    }

    /// The state now, and each change of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<MirrorState> {
        self.state.subscribe()
    }

    /// Follows the API server without end. A request that fails is repeated with longer and longer pauses; meanwhile
    /// the folder stays as it is.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub async fn run(self) -> Result<(), MirrorError> {
        let (client, node, namespaces) = (self.client.clone(), self.node.clone(), self.namespaces.clone());
        let mut files = Files { mirror: self, progress: Progress::default() };
        files = run_blocking(files, |files| {
            files.progress.hostname = files.mirror.read_stored_hostname();
            Ok(())
        })
        .await?
        .0;
        // The node's names come first: a LAN that is read without them might be built on another underlay.
        let mut node = node_events(&client, &node);
        while let Some(event) = node.next().await {
            let known;
            (files, known) =
                run_blocking(files, |files| files.mirror.apply_node_event(&mut files.progress, event))
                    .await?;
            if known {
                break;
            }
        }
        let lans = lan_events(&client, &namespaces);
        files.progress.count = lans.len();
        let node = node.map(|event| WatchEvent::Node(Box::new(event))).boxed();
        // Events that arrive together are written together.
        let mut events = stream::select_all(lans.into_iter().chain([node])).ready_chunks(MAX_BATCH);
        while let Some(heard) = events.next().await {
            files = run_blocking(files, |files| heard.into_iter().try_for_each(|heard| files.apply(heard)))
                .await?
                .0;
        }
        Ok(())
    }

    /// Applies an event about the node. Returns whether its names are known as well as they can be.
    fn apply_node_event(&self, progress: &mut Progress, event: NodeEvent) -> Result<bool, MirrorError> {
        let node = match event {
            Ok(Event::InitApply(node) | Event::Apply(node)) => node,
            Ok(Event::InitDone) => return Ok(true),
            // If a node is deleted while its daemon runs, it keeps its name.
            Ok(Event::Init | Event::Delete(_)) => return Ok(false),
            Err(error) => {
                self.record_watch_error(&error);
                // If nodes may not be read, or the server does not have them, the mirror works without the host name.
                return Ok(is_final(&error));
            }
        };
        let hostname = hostname(&node.metadata, &self.node);
        if progress.hostname != hostname {
            tracing::info!(node = self.node, hostname, "the node's host name");
            progress.hostname = hostname;
            for (key, object) in &progress.objects {
                self.write_file(key, object, progress.hostname.as_ref())?;
            }
        }
        Ok(false)
    }

    /// The host name that the daemon's last process stored.
    fn read_stored_hostname(&self) -> Option<String> {
        let names = self.dir.names().unwrap_or_default();
        names.iter().find_map(|name| {
            let text = self.dir.read(name).ok()??;
            MirrorAnnotations::parse(&serde_json::from_slice(&text).ok()?).hostname
        })
    }

    fn record_watch_error(&self, error: &watcher::Error) {
        let text = chain(error);
        tracing::warn!(error = text, "the API server is not heard; LANs stay as they are");
        self.state.send_modify(|state| {
            state.errors += 1;
            state.error = Some(text);
        });
    }

    fn apply(
        &self,
        progress: &mut Progress,
        namespace: Option<String>,
        event: Event<StoredLan>,
    ) -> Result<(), MirrorError> {
        let mut lans = Arc::clone(&self.state.borrow().lans);
        let mut heard = true;
        match event {
            Event::Init => {
                progress.fresh.insert(namespace, BTreeSet::new());
                heard = false;
            }
            Event::InitApply(object) => {
                if let Some(key) = self.write(object, progress, &mut lans)?
                    && let Some(fresh) = progress.fresh.get_mut(&namespace)
                {
                    fresh.insert(key);
                }
            }
            Event::InitDone => {
                let fresh = progress.fresh.remove(&namespace).unwrap_or_default();
                self.remove_unlisted(namespace.as_deref(), &fresh, progress, &mut lans)?;
                progress.complete.insert(namespace);
            }
            Event::Apply(object) => {
                self.write(object, progress, &mut lans)?;
            }
            Event::Delete(object) => {
                if let Ok(key) = lan_object::key(&object.metadata) {
                    self.remove(&lan_object::file_name(&key))?;
                    progress.objects.remove(&key);
                    Arc::make_mut(&mut lans).remove(&key);
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
        Ok(())
    }

    fn write(
        &self,
        mut object: StoredLan,
        progress: &mut Progress,
        lans: &mut Arc<BTreeMap<LanKey, MirroredLan>>,
    ) -> Result<Option<LanKey>, MirrorError> {
        let key = match lan_object::key(&object.metadata) {
            Ok(key) => key,
            Err(error) => {
                // The CRD does not allow such names; an older one may have.
                tracing::warn!(name = ?object.metadata.name, %error, "a LAN that cannot be built anywhere");
                return Ok(None);
            }
        };
        self.write_file(&key, &object, progress.hostname.as_ref())?;
        Arc::make_mut(lans).insert(key.clone(), lan_object::parse_lan(&object, key.clone()));
        object.metadata.managed_fields = None;
        progress.objects.insert(key.clone(), object);
        Ok(Some(key))
    }

    fn write_file(
        &self,
        key: &LanKey,
        object: &StoredLan,
        hostname: Option<&String>,
    ) -> Result<(), MirrorError> {
        let name = lan_object::file_name(key);
        let notes = MirrorAnnotations { hostname: hostname.cloned(), mtu: lan_object::common_mtu(object) };
        let text = lan_object::text(object, key, &notes);
        if self.dir.read(&name).ok().flatten().as_deref() != Some(&text) {
            self.dir.write(&name, &text, Durability::Kept).map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// Removes the LANs that were deleted while the watch was down.
    fn remove_unlisted(
        &self,
        namespace: Option<&str>,
        fresh: &BTreeSet<LanKey>,
        progress: &mut Progress,
        lans: &mut Arc<BTreeMap<LanKey, MirroredLan>>,
    ) -> Result<(), MirrorError> {
        let keep: BTreeSet<_> = fresh.iter().map(lan_object::file_name).collect();
        for name in self.dir.names().map_err(|source| self.failed(source))? {
            let Some(of) = lan_object::namespace_of_file(&name) else { continue };
            // If a namespace is no longer in the list, its LANs no longer belong to this daemon.
            let mine = namespace.is_none_or(|namespace| of == namespace)
                || !self.namespaces.iter().any(|named| named == of);
            if mine && !keep.contains(&name) {
                self.remove(&name)?;
            }
        }
        let stays = |key: &LanKey| fresh.contains(key) || namespace.is_some_and(|n| n != key.namespace());
        progress.objects.retain(|key, _| stays(key));
        Arc::make_mut(lans).retain(|key, _| stays(key));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), MirrorError> {
        self.dir.remove(name).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: SafeDirError) -> MirrorError {
        MirrorError::Folder { dir: self.dir.path().to_owned(), source }
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

/// The number of events that are applied at once.
const MAX_BATCH: usize = 256;

/// The folder, and the events that its files come from.
struct Files {
    mirror: Mirror,
    progress: Progress,
}

impl Files {
    fn apply(&mut self, heard: WatchEvent) -> Result<(), MirrorError> {
        match heard {
            WatchEvent::Lans(namespace, event) => match *event {
                Ok(event) => self.mirror.apply(&mut self.progress, namespace, event),
                Err(error) => {
                    self.mirror.record_watch_error(&error);
                    Ok(())
                }
            },
            WatchEvent::Node(event) => self.mirror.apply_node_event(&mut self.progress, *event).map(drop),
        }
    }
}

/// Works on the files on a thread that may block: each file is synced, which takes a disk milliseconds, and the first
/// list may have thousands.
async fn run_blocking<T: Send + 'static>(
    mut files: Files,
    work: impl FnOnce(&mut Files) -> Result<T, MirrorError> + Send + 'static,
) -> Result<(Files, T), MirrorError> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&mut files);
        (files, done)
    });
    match done.await {
        Ok((files, done)) => Ok((files, done?)),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down, and ends this task too.
            Err(_) => std::future::pending().await,
        },
    }
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
    /// The second name of the node.
    hostname: Option<String>,
    /// The LANs' objects: their files change with the node's name.
    objects: BTreeMap<LanKey, StoredLan>,
    /// The LANs of first lists that are not complete, by namespace (`None`: all).
    fresh: BTreeMap<Option<String>, BTreeSet<LanKey>>,
    complete: BTreeSet<Option<String>>,
    count: usize,
}
