//! Keeping a folder as the API server has the LANs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use lan::LanKey;
use node::{Durability, SafeDir, SafeDirError};
use tokio::sync::watch;

use super::chain;
use super::object::{self, FoundLan};

/// Watches LANs and writes each into a file of its own.
pub struct Mirror {
    client: Client,
    namespaces: Vec<String>,
    dir: SafeDir,
    hearing: watch::Sender<Hearing>,
}

/// How well the API server is heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hearing {
    /// Whether the folder has been brought up to date since the start. Before, it is what the daemon's
    /// last life left.
    pub up_to_date: bool,
    /// What the API server or the way to it last said, until it is heard again.
    pub error: Option<String>,
    /// How often something went wrong.
    pub errors: u64,
    /// The LANs that there are.
    pub lans: Arc<BTreeMap<LanKey, FoundLan>>,
}

/// Why LANs cannot be mirrored.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The folder is not usable.
    #[error("cannot keep the cluster's LANs in {dir:?}")]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: SafeDirError,
    },
}

impl Mirror {
    /// Mirrors the LANs of these namespaces, or of all if there are none, into `dir`, which is made.
    ///
    /// # Errors
    /// The folder cannot be made, or others than root could write to it.
    pub fn new(client: Client, namespaces: Vec<String>, dir: PathBuf) -> Result<Self, MirrorError> {
        let dir = SafeDir::create(&dir).map_err(|source| MirrorError::Folder { dir, source })?;
        Ok(Self { client, namespaces, dir, hearing: watch::channel(Hearing::default()).0 })
    }

    /// How well the API server is heard, now and whenever that changes.
    #[must_use]
    pub fn hearing(&self) -> watch::Receiver<Hearing> {
        self.hearing.subscribe()
    }

    /// Follows the API server for ever. What cannot be reached is tried again, with longer and longer
    /// waits; meanwhile the folder stays as it is.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub async fn run(self) -> Result<(), MirrorError> {
        let resource = object::lans();
        let apis: Vec<(Option<String>, Api<DynamicObject>)> = if self.namespaces.is_empty() {
            vec![(None, Api::all_with(self.client.clone(), &resource))]
        } else {
            let api = |namespace: &String| {
                let api = Api::namespaced_with(self.client.clone(), namespace, &resource);
                (Some(namespace.clone()), api)
            };
            self.namespaces.iter().map(api).collect()
        };
        let count = apis.len();
        let watches = apis.into_iter().map(|(namespace, api)| {
            let events = watch_objects(api, watcher::Config::default()).default_backoff();
            events.map(move |event| (namespace.clone(), event)).boxed()
        });
        let mut events = stream::select_all(watches);
        let mut progress = Progress { fresh: BTreeMap::new(), complete: BTreeSet::new(), count };
        while let Some((namespace, event)) = events.next().await {
            match event {
                Ok(event) => self.take(&mut progress, namespace, event)?,
                Err(error) => {
                    let text = chain(&error);
                    tracing::warn!(error = text, "the API server is not heard; LANs stay as they are");
                    self.hearing.send_modify(|hearing| {
                        hearing.errors += 1;
                        hearing.error = Some(text);
                    });
                }
            }
        }
        Ok(())
    }

    fn take(
        &self,
        progress: &mut Progress,
        namespace: Option<String>,
        event: Event<DynamicObject>,
    ) -> Result<(), MirrorError> {
        let mut lans = Arc::clone(&self.hearing.borrow().lans);
        let mut heard = true;
        match event {
            Event::Init => {
                progress.fresh.insert(namespace, BTreeSet::new());
                heard = false;
            }
            Event::InitApply(object) => {
                if let Some(key) = self.write(&object, &mut lans)?
                    && let Some(fresh) = progress.fresh.get_mut(&namespace)
                {
                    fresh.insert(key);
                }
            }
            Event::InitDone => {
                let fresh = progress.fresh.remove(&namespace).unwrap_or_default();
                self.forget_others(namespace.as_deref(), &fresh, &mut lans)?;
                progress.complete.insert(namespace);
            }
            Event::Apply(object) => {
                self.write(&object, &mut lans)?;
            }
            Event::Delete(object) => {
                if let Ok(key) = object::key(&object) {
                    self.remove(&object::file_name(&key))?;
                    Arc::make_mut(&mut lans).remove(&key);
                }
            }
        }
        let up_to_date = progress.complete.len() == progress.count;
        self.hearing.send_if_modified(|hearing| {
            let next = Hearing {
                up_to_date,
                error: hearing.error.take().filter(|_| !heard),
                errors: hearing.errors,
                lans,
            };
            let changed = *hearing != next;
            *hearing = next;
            changed
        });
        Ok(())
    }

    fn write(
        &self,
        object: &DynamicObject,
        lans: &mut Arc<BTreeMap<LanKey, FoundLan>>,
    ) -> Result<Option<LanKey>, MirrorError> {
        let key = match object::key(object) {
            Ok(key) => key,
            Err(error) => {
                // The CRD does not let such names in; an older one may have.
                tracing::warn!(name = ?object.metadata.name, %error, "a LAN that cannot be built anywhere");
                return Ok(None);
            }
        };
        let name = object::file_name(&key);
        let text = object::text(object, &key);
        if self.dir.read(&name).ok().flatten().as_deref() != Some(&text) {
            self.dir.write(&name, &text, Durability::Kept).map_err(|source| self.failed(source))?;
        }
        Arc::make_mut(lans).insert(key.clone(), object::found(object, key.clone()));
        Ok(Some(key))
    }

    /// Removes the LANs that went away while nobody listened.
    fn forget_others(
        &self,
        namespace: Option<&str>,
        fresh: &BTreeSet<LanKey>,
        lans: &mut Arc<BTreeMap<LanKey, FoundLan>>,
    ) -> Result<(), MirrorError> {
        let keep: BTreeSet<_> = fresh.iter().map(object::file_name).collect();
        for name in self.dir.names().map_err(|source| self.failed(source))? {
            let Some(of) = object::namespace_of_file(&name) else { continue };
            // A namespace that is no longer named is no longer this daemon's.
            let mine = namespace.is_none_or(|namespace| of == namespace)
                || !self.namespaces.iter().any(|named| named == of);
            if mine && !keep.contains(&name) {
                self.remove(&name)?;
            }
        }
        Arc::make_mut(lans)
            .retain(|key, _| fresh.contains(key) || namespace.is_some_and(|n| n != key.namespace()));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), MirrorError> {
        self.dir.remove(name).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: SafeDirError) -> MirrorError {
        MirrorError::Folder { dir: self.dir.path().to_owned(), source }
    }
}

/// How far the first lists have come, by namespace (`None`: all).
struct Progress {
    fresh: BTreeMap<Option<String>, BTreeSet<LanKey>>,
    complete: BTreeSet<Option<String>>,
    count: usize,
}
