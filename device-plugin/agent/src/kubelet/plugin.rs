//! Keeps every resource registered with the kubelet, through restarts of either side.
//!
//! One task owns all of the state. It waits for: the folder (a kubelet that starts deletes every socket and then
//! makes `kubelet.sock`), the catalog, the beginning and end of ListAndWatch calls, answers to registrations, and
//! retries that are due. Nothing is polled.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::devices::{Advertised, StreamEvent};
use super::folder::{Changes, FolderWatch, KubeletSocket, find_kubelet};
use super::listener::{Connection, Endpoint, Listener};
use super::registrar::{RegisterError, Registrar};
use super::service::Service;
use super::v1beta1::device_plugin_server::DevicePluginServer;
use super::{Catalog, Offer, ResourceName, SpokeProvider};
use proto::kubelet::resource_of_socket;
use proto::root_socket::remove_socket;

const KUBELET_SOCKET: &str = "kubelet.sock";

/// The most concurrent registrations.
const MAX_REGISTRATIONS: usize = 32;

/// The kubelet closes a connection and then marks the resource as gone; a registration in between would be marked
/// instead. So the next registration waits this long after a stream ended.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// After how long it is an error that a kubelet that accepted a registration has not asked for the device list.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// How long open calls may take to end when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Why the device plugin cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The folder cannot be watched.
    #[error(
        "cannot watch the kubelet's folder {dir:?} (too many watches? see fs.inotify.max_user_instances)"
    )]
    Watch { dir: PathBuf, source: io::Error },
    /// The gRPC server ended unexpectedly.
    #[error("the device plugin's gRPC server ended")]
    Server(#[source] tonic::transport::Error),
}

/// The state of the registrations with the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub kubelet: KubeletState,
    /// How many resources should be registered.
    pub wanted: usize,
    /// The number of resources whose device list the kubelet is reading.
    pub registered: usize,
    /// The last error that has not been followed by a success.
    pub problem: Option<String>,
}

/// The state of the kubelet's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletState {
    /// `kubelet.sock` does not exist.
    Absent,
    /// There is something that must not be trusted, with the reason.
    Refused(String),
    /// There is a socket of root's.
    Present,
}

/// The device plugins of a node, one per resource.
pub struct DevicePlugins<S> {
    dir: PathBuf,
    spokes: Arc<S>,
    status: watch::Sender<Status>,
}

impl<S: SpokeProvider> DevicePlugins<S> {
    /// Device plugins in the kubelet's folder `dir` (`/var/lib/kubelet/device-plugins`).
    #[must_use]
    pub fn new(dir: PathBuf, spokes: Arc<S>) -> Self {
        let none = Status { kubelet: KubeletState::Absent, wanted: 0, registered: 0, problem: None };
        Self { dir, spokes, status: watch::channel(none).0 }
    }

    /// The current status, and its changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Serves and stays registered until `stop` is done; then ends all calls and removes the sockets. The resources
    /// stay registered: the kubelet keeps them for its grace period.
    ///
    /// # Errors
    /// The folder cannot be watched. Everything else is retried and shown in the status.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), KubeletError> {
        let watched = |source| KubeletError::Watch { dir: self.dir.clone(), source };
        let mut folder = FolderWatch::new(&self.dir).map_err(watched)?;
        let mut catalog = self.spokes.catalog();
        let (accepted, incoming) = mpsc::channel(MAX_REGISTRATIONS);
        let (events, mut reported) = mpsc::unbounded_channel();
        let (stop_server, server_stops) = tokio::sync::oneshot::channel::<()>();
        let service = DevicePluginServer::new(Service::new(Arc::clone(&self.spokes)));
        let server = Server::builder()
            // A kubelet only requests one list and sometimes a device.
            .max_concurrent_streams(16)
            .initial_connection_window_size(64 * 1024)
            .initial_stream_window_size(64 * 1024)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
                // An error means that the sender is gone, which also means the end.
                let _ = server_stops.await;
            });
        let mut server = std::pin::pin!(server);
        let mut stop = std::pin::pin!(stop);

        let mut state = State::new(self.dir.clone(), accepted, events);
        state.remove_stale_sockets();
        state.apply_catalog(&catalog.borrow_and_update());
        state.kubelet_may_have_changed(true);
        loop {
            state.start_registrations();
            self.status.send_if_modified(|status| state.report(status));
            let due = state.next_due();
            let retry = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                ended = &mut server => return ended.map_err(KubeletError::Server),
                Some(event) = reported.recv() => state.apply_stream_event(&event),
                changes = folder.changes() => state.apply_folder_changes(&changes.map_err(watched)?),
                Ok(()) = catalog.changed() => state.apply_catalog(&catalog.borrow_and_update()),
                Some(done) = state.registrations.join_next() => state.registered(done),
                () = retry => state.retry(),
            }
        }
        state.close();
        // The receiver is the server's, which still exists.
        let _ = stop_server.send(());
        drop(state);
        if tokio::time::timeout(STOP_DEADLINE, server).await.is_err() {
            tracing::debug!("calls were still open when the device plugin stopped");
        }
        Ok(())
    }
}

struct Resource {
    devices: watch::Sender<Advertised>,
    endpoint: Arc<Endpoint>,
    listener: Option<Listener>,
    streams: BTreeSet<u64>,
    stage: Stage,
    failures: u32,
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not registered with this kubelet; to be registered at that time, or after another event.
    Waiting(Option<Instant>),
    /// The registration was sent.
    Asked,
    /// The kubelet accepted, and has to request the device list by then.
    Agreed(Instant),
    /// The kubelet reads the device list.
    Listed,
    /// It is removed; the kubelet is being told.
    Leaving,
}

type Registered = (ResourceName, u64, Result<(), RegisterError>);

struct State {
    dir: PathBuf,
    accepted: mpsc::Sender<io::Result<Connection>>,
    events: mpsc::UnboundedSender<StreamEvent>,
    resources: BTreeMap<ResourceName, Resource>,
    catalog: Arc<Catalog>,
    kubelet: KubeletSocket,
    registrar: Option<Registrar>,
    /// The number of kubelets that were seen one after the other.
    life: u64,
    registrations: JoinSet<Registered>,
    /// When to do something without another event.
    due: BTreeSet<(Instant, ResourceName)>,
    listed: usize,
    last_logged: Option<String>,
}

impl State {
    fn new(
        dir: PathBuf,
        accepted: mpsc::Sender<io::Result<Connection>>,
        events: mpsc::UnboundedSender<StreamEvent>,
    ) -> Self {
        Self {
            dir,
            accepted,
            events,
            resources: BTreeMap::new(),
            catalog: Arc::default(),
            kubelet: KubeletSocket::Absent,
            registrar: None,
            life: 0,
            registrations: JoinSet::new(),
            due: BTreeSet::new(),
            listed: 0,
            last_logged: None,
        }
    }

    /// Removes sockets of an earlier daemon that was killed.
    fn remove_stale_sockets(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_str().and_then(resource_of_socket).is_some()
                && let Err(error) = remove_socket(&entry.path())
            {
                tracing::warn!(path = ?entry.path(), %error, "cannot remove a stale socket");
            }
        }
    }

    /// Applies a new catalog.
    fn apply_catalog(&mut self, catalog: &Arc<Catalog>) {
        self.catalog = Arc::clone(catalog);
        // The name stands for another spoke now: first the kubelet must drop the old one.
        let is_another = |name: &ResourceName, offer: &Offer| {
            self.resources.get(name).is_some_and(|resource| resource.endpoint.handed != offer.handed)
        };
        let others: Vec<_> = catalog
            .iter()
            .filter(|(name, offer)| is_another(name, offer))
            .map(|(name, _)| name.clone())
            .collect();
        others.iter().for_each(|name| self.remove(name));
        for (name, offer) in catalog.iter() {
            match self.resources.get(name) {
                Some(resource) if resource.stage != Stage::Leaving => {
                    resource.devices.send_if_modified(|advertised| {
                        let next = Advertised::Device(offer.health.clone());
                        let changed = *advertised != next;
                        *advertised = next;
                        changed
                    });
                }
                // Added again when the kubelet has dropped the old one.
                Some(_) => {}
                None => self.add(name, Instant::now()),
            }
        }
        let gone: Vec<_> =
            self.resources.keys().filter(|name| !catalog.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }

    fn add(&mut self, name: &ResourceName, when: Instant) {
        let Some(offer) = self.catalog.get(name) else { return };
        let (devices, receiver) = watch::channel(Advertised::Device(offer.health.clone()));
        let handed = offer.handed.clone();
        let endpoint = Arc::new(Endpoint { handed, devices: receiver, events: self.events.clone() });
        let resource = Resource {
            devices,
            endpoint,
            listener: None,
            streams: BTreeSet::new(),
            stage: Stage::Waiting(None),
            failures: 0,
            problem: None,
        };
        self.resources.insert(name.clone(), resource);
        self.set_stage(name, Stage::Waiting(Some(when)));
    }

    fn remove(&mut self, name: &ResourceName) {
        let Some(resource) = self.resources.get(name) else { return };
        if resource.stage == Stage::Leaving {
            return;
        }
        resource.devices.send_replace(Advertised::Gone);
        let told = resource.streams.is_empty();
        self.set_stage(name, Stage::Leaving);
        if told {
            self.resources.remove(name);
        } else if let Some(resource) = self.resources.get_mut(name) {
            resource.listener = None;
        }
    }

    /// Changes the stage of a resource, with the counters and the times that depend on it.
    fn set_stage(&mut self, name: &ResourceName, stage: Stage) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        let last = std::mem::replace(&mut resource.stage, stage);
        if let Some(due) = last.due() {
            self.due.remove(&(due, name.clone()));
        }
        if let Some(due) = stage.due() {
            self.due.insert((due, name.clone()));
        }
        self.listed -= usize::from(last == Stage::Listed);
        self.listed += usize::from(stage == Stage::Listed);
        if stage == Stage::Listed {
            resource.failures = 0;
            resource.problem = None;
            if self.listed == self.resources.len() {
                tracing::info!(resources = self.listed, "registered with the kubelet");
                self.last_logged = None;
            }
        }
    }

    fn apply_folder_changes(&mut self, changes: &Changes) {
        let touched =
            |names: &BTreeSet<String>| names.iter().filter_map(|n| resource_of_socket(n)).collect::<Vec<_>>();
        let lost = if changes.everything {
            self.resources.keys().cloned().collect()
        } else {
            touched(&changes.removed)
        };
        for name in lost {
            self.restore_socket(&name);
        }
        let of_kubelet = |names: &BTreeSet<String>| names.contains(KUBELET_SOCKET);
        if of_kubelet(&changes.created) {
            self.kubelet_may_have_changed(true);
        } else if changes.everything || of_kubelet(&changes.removed) || of_kubelet(&changes.changed) {
            self.kubelet_may_have_changed(false);
        }
    }

    /// Recreates a socket that was deleted while its resource was registered, or about to be.
    fn restore_socket(&mut self, name: &ResourceName) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        let Some(listener) = &resource.listener else { return };
        if !listener.is_in_place() {
            resource.listener = None;
            if let Err(error) = Self::listen(&self.dir, &self.accepted, resource) {
                self.failed(name, error);
            }
        }
    }

    fn listen(
        dir: &std::path::Path,
        accepted: &mpsc::Sender<io::Result<Connection>>,
        resource: &mut Resource,
    ) -> Result<(), String> {
        if resource.listener.as_ref().is_some_and(Listener::is_in_place) {
            return Ok(());
        }
        resource.listener = None;
        let listener = Listener::bind(dir, Arc::clone(&resource.endpoint), accepted.clone());
        let listener = listener.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        resource.listener = Some(listener);
        Ok(())
    }

    /// Examines `kubelet.sock`. A new socket is a new kubelet, which has no registrations.
    fn kubelet_may_have_changed(&mut self, new: bool) {
        let found = find_kubelet(&self.dir, KUBELET_SOCKET);
        if !new && found == self.kubelet {
            return;
        }
        let same_socket = match (&self.kubelet, &found) {
            (
                KubeletSocket::Present { device, inode, .. },
                KubeletSocket::Present { device: found_device, inode: found_inode, .. },
            ) => !new && (device, inode) == (found_device, found_inode),
            _ => false,
        };
        self.kubelet = found;
        if same_socket {
            return;
        }
        self.life += 1;
        self.registrations.abort_all();
        self.registrar = match &self.kubelet {
            KubeletSocket::Present { .. } => {
                tracing::info!(dir = ?self.dir, "the kubelet is there, registering");
                Some(Registrar::new(self.dir.join(KUBELET_SOCKET)))
            }
            KubeletSocket::Refused(reason) => {
                tracing::error!(reason, "not registering with the kubelet");
                None
            }
            KubeletSocket::Absent => {
                tracing::info!(dir = ?self.dir, "waiting for the kubelet");
                None
            }
        };
        let when = self.registrar.is_some().then(Instant::now);
        let spokes: Vec<_> = self.resources.keys().cloned().collect();
        for name in spokes {
            let Some(resource) = self.resources.get_mut(&name) else { continue };
            resource.failures = 0;
            resource.problem = None;
            if resource.stage == Stage::Leaving {
                // The kubelet that had to be told does not exist any more.
                self.resources.remove(&name);
                self.add(&name, Instant::now());
            } else {
                // Open streams are the old kubelet's and do not count.
                resource.streams.clear();
                self.set_stage(&name, Stage::Waiting(when));
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let ready = self.registrar.is_some() && self.registrations.len() < MAX_REGISTRATIONS;
        let mut due = self.due.iter();
        if ready {
            return due.next().map(|(due, _)| *due);
        }
        // The others are started when another registration is answered.
        let waits = |name: &ResourceName| {
            self.resources.get(name).is_some_and(|resource| matches!(resource.stage, Stage::Waiting(_)))
        };
        due.find(|(_, name)| !waits(name)).map(|(due, _)| *due)
    }

    fn start_registrations(&mut self) {
        let Some(registrar) = self.registrar.clone() else { return };
        let now = Instant::now();
        while self.registrations.len() < MAX_REGISTRATIONS {
            let Some((due, name)) = self.due.first().cloned() else { return };
            let Some(resource) = self.resources.get_mut(&name) else {
                self.due.remove(&(due, name));
                continue;
            };
            if due > now || !matches!(resource.stage, Stage::Waiting(_)) {
                return;
            }
            // A kubelet deletes sockets before it makes its own: with this kubelet running, an existing one stays.
            if let Err(error) = Self::listen(&self.dir, &self.accepted, resource) {
                self.failed(&name, error);
                continue;
            }
            self.set_stage(&name, Stage::Asked);
            let (registrar, life) = (registrar.clone(), self.life);
            self.registrations.spawn(async move {
                let result = registrar.register(&name).await;
                (name, life, result)
            });
        }
    }

    fn registered(&mut self, done: Result<Registered, tokio::task::JoinError>) {
        // An error is about a registration with a kubelet that does not exist any more.
        let Ok((name, life, result)) = done else { return };
        if life != self.life {
            return;
        }
        let Some(resource) = self.resources.get(&name) else { return };
        if resource.stage != Stage::Asked {
            return;
        }
        let listed = !resource.streams.is_empty();
        match result {
            _ if listed => self.set_stage(&name, Stage::Listed),
            Ok(()) => self.set_stage(&name, Stage::Agreed(Instant::now() + LIST_DEADLINE)),
            Err(error @ RegisterError::Version(_)) => {
                self.note_problem(&name, error.to_string());
                self.set_stage(&name, Stage::Waiting(None));
            }
            Err(error) => self.failed(&name, error.to_string()),
        }
    }

    fn failed(&mut self, name: &ResourceName, problem: String) {
        self.note_problem(name, problem);
        let Some(resource) = self.resources.get_mut(name) else { return };
        let wait = FIRST_RETRY.saturating_mul(1 << resource.failures.min(12)).min(LAST_RETRY);
        resource.failures += 1;
        self.set_stage(name, Stage::Waiting(Some(Instant::now() + wait)));
    }

    fn note_problem(&mut self, name: &ResourceName, problem: String) {
        // A thousand resources have the same problem at once; it is logged once.
        if self.last_logged.as_ref() != Some(&problem) {
            tracing::warn!(resource = %name, problem, "not registered with the kubelet");
            self.last_logged = Some(problem.clone());
        }
        if let Some(resource) = self.resources.get_mut(name) {
            resource.problem = Some(problem);
        }
    }

    fn apply_stream_event(&mut self, event: &StreamEvent) {
        let Some(resource) = self.resources.get_mut(&event.resource) else { return };
        if event.open {
            resource.streams.insert(event.stream);
            if resource.stage != Stage::Leaving {
                self.set_stage(&event.resource, Stage::Listed);
            }
            return;
        }
        if !resource.streams.remove(&event.stream) || !resource.streams.is_empty() {
            return;
        }
        let settled = Instant::now() + DEBOUNCE;
        match resource.stage {
            Stage::Leaving => {
                self.resources.remove(&event.resource);
                self.add(&event.resource, settled);
            }
            Stage::Listed => self.set_stage(&event.resource, Stage::Waiting(Some(settled))),
            Stage::Waiting(_) | Stage::Asked | Stage::Agreed(_) => {}
        }
    }

    /// Runs retries that are due; waiting registrations are started elsewhere.
    fn retry(&mut self) {
        let now = Instant::now();
        let late: Vec<_> = self.due.iter().take_while(|(due, _)| *due <= now).cloned().collect();
        for (_, name) in late {
            let agreed = |resource: &Resource| matches!(resource.stage, Stage::Agreed(_));
            if self.resources.get(&name).is_some_and(agreed) {
                let seconds = LIST_DEADLINE.as_secs();
                self.failed(
                    &name,
                    format!(
                        "the kubelet took the registration, but asked for no device list within {seconds} s"
                    ),
                );
            }
        }
    }

    /// Updates the status; returns whether it changed.
    fn report(&self, status: &mut Status) -> bool {
        let next = Status {
            kubelet: match &self.kubelet {
                KubeletSocket::Absent => KubeletState::Absent,
                KubeletSocket::Refused(reason) => KubeletState::Refused(reason.clone()),
                KubeletSocket::Present { .. } => KubeletState::Present,
            },
            wanted: self.catalog.len(),
            registered: self.listed,
            problem: self.last_logged.clone().filter(|_| self.listed < self.resources.len()),
        };
        let changed = *status != next;
        *status = next;
        changed
    }

    fn close(&mut self) {
        self.registrations.abort_all();
        for resource in self.resources.values_mut() {
            resource.devices.send_replace(Advertised::Closing);
            resource.listener = None;
        }
    }
}

impl Stage {
    fn due(self) -> Option<Instant> {
        match self {
            Self::Waiting(due) => due,
            Self::Agreed(due) => Some(due),
            Self::Asked | Self::Listed | Self::Leaving => None,
        }
    }
}
