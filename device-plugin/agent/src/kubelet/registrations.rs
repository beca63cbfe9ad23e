//! Which resource is registered with the kubelet, and what is to be done next: a state machine without waiting, fed with
//! events by [`super::plugin`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::devices::{Advertised, StreamEvent};
use super::folder::{Changes, KubeletSocket, find_kubelet};
use super::listener::{Connection, Endpoint, Listener};
use super::registrar::{RegisterError, Registrar};
use super::{Catalog, Offer, ResourceName};
use proto::kubelet::resource_of_socket;
use proto::root_socket::remove_socket;

const KUBELET_SOCKET: &str = "kubelet.sock";

/// The most concurrent registrations.
pub(super) const MAX_REGISTRATIONS: usize = 32;

/// The kubelet closes a connection and then marks the resource as gone; a registration in between would be marked
/// instead. So the next registration waits this long after a stream ended.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// After how long it is an error that a kubelet that accepted a registration has not asked for the device list.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(10);

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

struct Resource {
    devices: watch::Sender<Advertised>,
    endpoint: Arc<Endpoint>,
    listener: Option<Listener>,
    streams: BTreeSet<u64>,
    stage: Stage,
    /// The registration that was sent last.
    attempt: u64,
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

/// The answer to a registration, with its number: a resource that went and came back may have been sent twice.
pub(super) type Registered = (ResourceName, u64, Result<(), RegisterError>);

/// All resources, and their registrations with the kubelet.
pub(super) struct Registrations {
    dir: PathBuf,
    accepted: mpsc::Sender<io::Result<Connection>>,
    events: mpsc::UnboundedSender<StreamEvent>,
    resources: BTreeMap<ResourceName, Resource>,
    catalog: Arc<Catalog>,
    kubelet: KubeletSocket,
    registrar: Option<Registrar>,
    /// The number of registrations that were sent.
    attempts: u64,
    pub(super) running: JoinSet<Registered>,
    /// From when on each resource that went may be registered again: until then the kubelet may still mark it as gone.
    settled: BTreeMap<ResourceName, Instant>,
    /// When to do something without another event.
    due: BTreeSet<(Instant, ResourceName)>,
    listed: usize,
    last_logged: Option<String>,
}

impl Registrations {
    pub(super) fn new(
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
            attempts: 0,
            running: JoinSet::new(),
            settled: BTreeMap::new(),
            due: BTreeSet::new(),
            listed: 0,
            last_logged: None,
        }
    }

    /// Removes sockets of an earlier daemon that was killed.
    pub(super) fn remove_stale_sockets(&self) {
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
    pub(super) fn apply_catalog(&mut self, catalog: &Arc<Catalog>) {
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
                None => self.add(name),
            }
        }
        let gone: Vec<_> =
            self.resources.keys().filter(|name| !catalog.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }

    /// Offers a resource to the kubelet, as soon as it has dropped one of that name that went.
    fn add(&mut self, name: &ResourceName) {
        let Some(offer) = self.catalog.get(name) else { return };
        let now = Instant::now();
        self.settled.retain(|_, settled| *settled > now);
        let when = self.settled.get(name).copied().unwrap_or(now);
        let (devices, receiver) = watch::channel(Advertised::Device(offer.health.clone()));
        let handed = offer.handed.clone();
        let endpoint = Arc::new(Endpoint { handed, devices: receiver, events: self.events.clone() });
        let resource = Resource {
            devices,
            endpoint,
            listener: None,
            streams: BTreeSet::new(),
            stage: Stage::Waiting(None),
            attempt: 0,
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
        let is_known = matches!(resource.stage, Stage::Asked | Stage::Agreed(_));
        self.set_stage(name, Stage::Leaving);
        if told {
            self.resources.remove(name);
            if is_known {
                // The kubelet looks for the list, and finds none.
                self.settled.insert(name.clone(), Instant::now() + DEBOUNCE);
            }
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

    pub(super) fn apply_folder_changes(&mut self, changes: &Changes) {
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
    pub(super) fn kubelet_may_have_changed(&mut self, new: bool) {
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
        self.running.abort_all();
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
        self.settled.clear();
        let when = self.registrar.is_some().then(Instant::now);
        let spokes: Vec<_> = self.resources.keys().cloned().collect();
        for name in spokes {
            let Some(resource) = self.resources.get_mut(&name) else { continue };
            resource.failures = 0;
            resource.problem = None;
            if resource.stage == Stage::Leaving {
                // The kubelet that had to be told does not exist any more.
                self.resources.remove(&name);
                self.add(&name);
            } else {
                // Open streams are the old kubelet's and do not count.
                resource.streams.clear();
                self.set_stage(&name, Stage::Waiting(when));
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let ready = self.registrar.is_some() && self.running.len() < MAX_REGISTRATIONS;
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

    pub(super) fn start_registrations(&mut self) {
        let Some(registrar) = self.registrar.clone() else { return };
        let now = Instant::now();
        while self.running.len() < MAX_REGISTRATIONS {
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
            self.attempts += 1;
            let (registrar, attempt) = (registrar.clone(), self.attempts);
            resource.attempt = attempt;
            self.set_stage(&name, Stage::Asked);
            self.running.spawn(async move {
                let result = registrar.register(&name).await;
                (name, attempt, result)
            });
        }
    }

    pub(super) fn registered(&mut self, done: Result<Registered, tokio::task::JoinError>) {
        // An error is about a registration with a kubelet that does not exist any more.
        let Ok((name, attempt, result)) = done else { return };
        let Some(resource) = self.resources.get(&name) else { return };
        if resource.stage != Stage::Asked || resource.attempt != attempt {
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

    pub(super) fn apply_stream_event(&mut self, event: &StreamEvent) {
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
                self.settled.insert(event.resource.clone(), settled);
                self.add(&event.resource);
            }
            Stage::Listed => self.set_stage(&event.resource, Stage::Waiting(Some(settled))),
            Stage::Waiting(_) | Stage::Asked | Stage::Agreed(_) => {}
        }
    }

    /// Runs retries that are due; waiting registrations are started elsewhere.
    pub(super) fn retry(&mut self) {
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
    pub(super) fn report(&self, status: &mut Status) -> bool {
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

    pub(super) fn close(&mut self) {
        self.running.abort_all();
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
