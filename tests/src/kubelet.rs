//! A kubelet's device manager for tests, over real sockets.
//!
//! It does what `pkg/kubelet/cm/devicemanager` of Kubernetes 1.34 does as seen from a plugin: deletes
//! every socket in its folder when it starts and then makes `kubelet.sock`; dials a plugin's socket
//! while the plugin waits for the answer to Register; reads the device list until the stream ends;
//! keeps registered resources and allocations in a checkpoint; and rejects pods as the real one does,
//! in its words. It has a runtime of its own, so that its end is as abrupt as a process's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use prost::Message;
use proto::kubelet::v1beta1::device_plugin_client::DevicePluginClient;
use proto::kubelet::v1beta1::registration_server::{Registration, RegistrationServer};
use proto::kubelet::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse, Empty, RegisterRequest,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

const CHECKPOINT: &str = "kubelet_internal_checkpoint";

/// How this kubelet differs from the newest.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The version that it speaks.
    pub version: &'static str,
    /// Older kubelets know a plugin's connection by its resource alone, and cut the newer one off when an
    /// older one ends.
    pub by_resource_alone: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { version: "v1beta1", by_resource_alone: false }
    }
}

/// A running kubelet; dropping it kills it.
pub struct Kubelet {
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

struct Inner {
    dir: PathBuf,
    manner: Manner,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    healthy: BTreeMap<String, BTreeSet<String>>,
    unhealthy: BTreeMap<String, BTreeSet<String>>,
    endpoints: BTreeMap<String, PluginEndpoint>,
    clients: BTreeMap<String, Vec<Connected>>,
    allocations: Vec<Allocation>,
    counts: Counts,
}

/// What happened since the kubelet started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Register calls that came in.
    pub registrations: usize,
    /// Device lists that came in.
    pub lists: usize,
}

struct PluginEndpoint {
    client: Option<DevicePluginClient<Channel>>,
    stopped: Option<Instant>,
}

struct Connected {
    path: PathBuf,
    hang_up: Option<tokio::sync::oneshot::Sender<()>>,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocation {
    #[serde(rename = "PodUID")]
    pod: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    devices: BTreeSet<String>,
    alloc_resp: Vec<u8>,
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    pod_device_entries: Vec<Allocation>,
    registered_devices: BTreeMap<String, BTreeSet<String>>,
}

impl Kubelet {
    /// Starts a kubelet on its plugin folder.
    ///
    /// # Errors
    /// The folder cannot be made, cleaned or served from.
    pub fn start(dir: &Path) -> io::Result<Self> {
        Self::start_as(dir, Manner::default())
    }

    /// Starts one that differs from the newest.
    ///
    /// # Errors
    /// The folder cannot be made, cleaned or served from.
    pub fn start_as(dir: &Path, manner: Manner) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let state = State::from_checkpoint(&dir.join(CHECKPOINT))?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                std::fs::remove_file(entry.path())?;
            }
        }
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            manner,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(dir.join("kubelet.sock"))?
        };
        let service = RegistrationServer::new(Service(Arc::clone(&inner)));
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Ok(Self { inner, runtime: Some(runtime) })
    }

    /// Ends as on SIGTERM: its socket goes with it.
    pub fn stop(mut self) {
        let _ = std::fs::remove_file(self.inner.dir.join("kubelet.sock"));
        self.end();
    }

    /// Ends as on SIGKILL: its socket's file stays.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// What the node's status says of a resource: capacity and allocatable. `None`: it is not there.
    #[must_use]
    pub fn resource(&self, resource: &str) -> Option<(usize, usize)> {
        self.inner.lock().resource(resource)
    }

    /// Every resource with anything allocatable.
    #[must_use]
    pub fn allocatable(&self) -> BTreeSet<String> {
        let state = self.inner.lock();
        state.healthy.iter().filter(|(_, ids)| !ids.is_empty()).map(|(name, _)| name.clone()).collect()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// Waits until so many resources can be allocated, and says how long that took.
    ///
    /// # Errors
    /// How many there were at the end.
    pub fn wait_allocatable(&self, count: usize, limit: Duration) -> Result<Duration, String> {
        self.wait(limit, |state| {
            let there = state.healthy.values().filter(|ids| !ids.is_empty()).count();
            if there == count { Ok(()) } else { Err(format!("{there} of {count} resources are allocatable")) }
        })
    }

    /// Waits until a resource has this capacity and so much of it can be allocated.
    ///
    /// # Errors
    /// What it was at the end.
    pub fn wait_resource(
        &self,
        resource: &str,
        wanted: (usize, usize),
        limit: Duration,
    ) -> Result<Duration, String> {
        self.wait(limit, |state| match state.resource(resource) {
            Some(found) if found == wanted => Ok(()),
            other => Err(format!("{resource} has {other:?} and not {wanted:?} of capacity and allocatable")),
        })
    }

    fn wait(
        &self,
        limit: Duration,
        probe: impl Fn(&State) -> Result<(), String>,
    ) -> Result<Duration, String> {
        let start = Instant::now();
        let mut state = self.inner.lock();
        loop {
            let Err(what) = probe(&state) else { return Ok(start.elapsed()) };
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                return Err(format!("{what} after {limit:?}"));
            };
            state = self.inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Admits a container that wants so many of a resource, as it is done for new pods and again for every
    /// pod after a reboot, and gives what the container is started with.
    ///
    /// # Errors
    /// Why the pod is rejected, for good: the kubelet's words.
    pub fn admit(
        &self,
        pod: &str,
        container: &str,
        resource: &str,
        count: usize,
    ) -> Result<ContainerAllocateResponse, String> {
        let (devices, client) = {
            let mut state = self.inner.lock();
            match state.devices_to_allocate(pod, container, resource, count)? {
                Err(had) => return Ok(had),
                Ok(devices) => {
                    let endpoint =
                        state.endpoints.get(resource).ok_or(format!("unknown Device Plugin {resource}"))?;
                    if endpoint.stopped.is_some() {
                        return Err(format!("endpoint {resource} has been stopped"));
                    }
                    let client = endpoint.client.clone().ok_or(format!("no client of {resource}"))?;
                    state.allocations.push(Allocation {
                        pod: pod.to_owned(),
                        container_name: container.to_owned(),
                        resource_name: resource.to_owned(),
                        devices: devices.clone(),
                        alloc_resp: Vec::new(),
                    });
                    (devices, client)
                }
            }
        };
        let answer = self.call(client, devices.into_iter().collect());
        let mut state = self.inner.lock();
        let mine =
            |a: &Allocation| a.pod == pod && a.container_name == container && a.resource_name == resource;
        match answer {
            Ok(response) => {
                for allocation in state.allocations.iter_mut().filter(|a| mine(a)) {
                    allocation.alloc_resp = response.encode_to_vec();
                }
                state.write_checkpoint(&self.inner.dir.join(CHECKPOINT)).map_err(|e| e.to_string())?;
                Ok(response)
            }
            Err(status) => {
                state.allocations.retain(|a| !mine(a));
                Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
            }
        }
    }

    /// What the checkpoint says that a container of a pod was given, as it is read when its sandbox is made anew:
    /// the plugin is not asked again.
    #[must_use]
    pub fn given(&self, pod: &str, container: &str) -> ContainerAllocateResponse {
        let state = self.inner.lock();
        let of_container = state.allocations.iter().filter(|a| a.pod == pod && a.container_name == container);
        let mut given = ContainerAllocateResponse::default();
        for response in of_container {
            let response =
                ContainerAllocateResponse::decode(response.alloc_resp.as_slice()).unwrap_or_default();
            given.envs.extend(response.envs);
            given.devices.extend(response.devices);
        }
        given
    }

    fn call(
        &self,
        mut client: DevicePluginClient<Channel>,
        devices_ids: Vec<String>,
    ) -> Result<ContainerAllocateResponse, Status> {
        let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids }] };
        let runtime = self.runtime.as_ref().ok_or_else(|| Status::unavailable("the kubelet has ended"))?;
        let answer = runtime.block_on(client.allocate(request))?;
        answer
            .into_inner()
            .container_responses
            .into_iter()
            .next()
            .ok_or_else(|| Status::internal("no containers return in allocation response"))
    }

    /// Forgets a pod that ended.
    pub fn forget(&self, pod: &str) {
        self.inner.lock().allocations.retain(|a| a.pod != pod);
    }

    /// A client of a plugin, to call it as no kubelet would.
    ///
    /// # Errors
    /// The resource is not registered.
    pub fn client(&self, resource: &str) -> Result<DevicePluginClient<Channel>, String> {
        let state = self.inner.lock();
        let endpoint = state.endpoints.get(resource).and_then(|endpoint| endpoint.client.clone());
        endpoint.ok_or_else(|| format!("{resource} is not registered"))
    }

    /// Runs something where the kubelet's connections live.
    ///
    /// # Panics
    /// The kubelet has ended.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.as_ref().expect("the kubelet runs").block_on(future)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn from_checkpoint(path: &Path) -> io::Result<Self> {
        let checkpoint: Checkpoint = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut state = Self { allocations: checkpoint.pod_device_entries, ..Self::default() };
        for resource in checkpoint.registered_devices.into_keys() {
            state.healthy.insert(resource.clone(), BTreeSet::new());
            state.unhealthy.insert(resource.clone(), BTreeSet::new());
            state.endpoints.insert(resource, PluginEndpoint { client: None, stopped: Some(Instant::now()) });
        }
        Ok(state)
    }

    fn write_checkpoint(&self, path: &Path) -> io::Result<()> {
        let checkpoint = Checkpoint {
            pod_device_entries: self.allocations.clone(),
            registered_devices: self.healthy.clone(),
        };
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&checkpoint)?)?;
        std::fs::rename(temporary, path)
    }

    fn resource(&self, resource: &str) -> Option<(usize, usize)> {
        let healthy = self.healthy.get(resource)?.len();
        Some((healthy + self.unhealthy.get(resource).map_or(0, BTreeSet::len), healthy))
    }

    /// The devices to ask the plugin for, or what the container already has.
    fn devices_to_allocate(
        &self,
        pod: &str,
        container: &str,
        resource: &str,
        required: usize,
    ) -> Result<Result<BTreeSet<String>, ContainerAllocateResponse>, String> {
        let had = self
            .allocations
            .iter()
            .find(|a| a.pod == pod && a.container_name == container && a.resource_name == resource);
        let Some(healthy) = self.healthy.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if let Some(had) = had {
            if !had.devices.is_subset(healthy) {
                return Err(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
                ));
            }
            let response = ContainerAllocateResponse::decode(had.alloc_resp.as_slice());
            return response.map(Err).map_err(|error| error.to_string());
        }
        let in_use: BTreeSet<_> = self
            .allocations
            .iter()
            .filter(|a| a.resource_name == resource)
            .flat_map(|a| a.devices.iter().cloned())
            .collect();
        let available: BTreeSet<_> = healthy.difference(&in_use).cloned().collect();
        if available.len() < required {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {required}, Available: {}",
                available.len()
            ));
        }
        Ok(Ok(available.into_iter().take(required).collect()))
    }
}

struct Service(Arc<Inner>);

#[tonic::async_trait]
impl Registration for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.0.lock().counts.registrations += 1;
        if request.version != self.0.manner.version {
            return Err(Status::unknown(format!(
                "requested API version \"{}\" is not supported by kubelet. Supported version is \"{}\"",
                request.version, self.0.manner.version
            )));
        }
        if !is_extended_resource(&request.resource_name) {
            return Err(Status::unknown(format!(
                "the ResourceName \"{}\" is invalid",
                request.resource_name
            )));
        }
        let path = self.0.dir.join(&request.endpoint);
        Inner::connect(&self.0, request.resource_name, path).await.map_err(Status::unknown)?;
        Ok(Response::new(Empty {}))
    }
}

/// A domain that is not Kubernetes' own, a slash, and a qualified name.
fn is_extended_resource(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.split_once('/').is_some_and(|(domain, rest)| {
        !domain.is_empty()
            && !domain.ends_with("kubernetes.io")
            && !rest.contains('/')
            && rest.len() <= 63
            && edge(rest.bytes().next())
            && edge(rest.bytes().last())
    })
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(inner: &Arc<Self>, resource: String, path: PathBuf) -> Result<(), String> {
        let (hang_up, hung_up) = tokio::sync::oneshot::channel();
        let connected = Connected { path: path.clone(), hang_up: Some(hang_up) };
        {
            let mut state = inner.lock();
            let clients = state.clients.entry(resource.clone()).or_default();
            if inner.manner.by_resource_alone {
                clients.clear();
            }
            clients.push(connected);
        }
        let connection = async {
            let mut client = DevicePluginClient::new(dial(&path).await?);
            client
                .get_device_plugin_options(Empty {})
                .await
                .map_err(|status| format!("failed to get device plugin options: {}", status.message()))?;
            Ok(client)
        };
        let client = match connection.await {
            Ok(client) => client,
            Err(error) => {
                inner.take_client(&resource, &path);
                return Err(error);
            }
        };
        let endpoint = PluginEndpoint { client: Some(client.clone()), stopped: None };
        inner.lock().endpoints.insert(resource.clone(), endpoint);
        tokio::spawn(run(Arc::clone(inner), resource, path, client, hung_up));
        Ok(())
    }

    /// Takes the first connection of that resource (and path) off the list.
    fn take_client(&self, resource: &str, path: &Path) -> Option<Connected> {
        let mut state = self.lock();
        let clients = state.clients.get_mut(resource)?;
        let which = clients.iter().position(|c| self.manner.by_resource_alone || c.path == path)?;
        Some(clients.remove(which))
    }
}

/// Reads the device list until it ends, then lets go of the plugin.
async fn run(
    inner: Arc<Inner>,
    resource: String,
    path: PathBuf,
    mut client: DevicePluginClient<Channel>,
    hung_up: tokio::sync::oneshot::Receiver<()>,
) {
    let read = async {
        let Ok(stream) = client.list_and_watch(Empty {}).await else { return };
        let mut stream = stream.into_inner();
        while let Ok(Some(list)) = stream.message().await {
            let mut state = inner.lock();
            let (healthy, unhealthy): (Vec<_>, Vec<_>) =
                list.devices.into_iter().partition(|device| device.health == "Healthy");
            state.healthy.insert(resource.clone(), healthy.into_iter().map(|d| d.id).collect());
            state.unhealthy.insert(resource.clone(), unhealthy.into_iter().map(|d| d.id).collect());
            state.counts.lists += 1;
            // What a thousand resources cost the kubelet is the kubelet's; a test measures ours.
            if state.healthy.len() < 100
                && let Err(error) = state.write_checkpoint(&inner.dir.join(CHECKPOINT))
            {
                panic!("the kubelet's checkpoint: {error}");
            }
            drop(state);
            inner.changed.notify_all();
        }
    };
    tokio::select! {
        () = read => {}
        _ = hung_up => {}
    }
    // As in the real one, this may find another connection than the one that just ended.
    let Some(mut found) = inner.take_client(&resource, &path) else { return };
    if let Some(hang_up) = found.hang_up.take() {
        let _ = hang_up.send(());
    }
    let mut state = inner.lock();
    let ids = state.healthy.get_mut(&resource).map(std::mem::take).unwrap_or_default();
    state.unhealthy.entry(resource.clone()).or_default().extend(ids);
    if let Some(endpoint) = state.endpoints.get_mut(&resource) {
        endpoint.stopped = Some(Instant::now());
    }
    drop(state);
    inner.changed.notify_all();
}

/// gRPC's blocking dial: ten seconds, with its waits in between.
async fn dial(path: &Path) -> Result<Channel, String> {
    let start = Instant::now();
    let mut wait = Duration::from_secs(1);
    loop {
        let to = path.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let to = to.clone();
            async move { UnixStream::connect(to).await.map(TokioIo::new) }
        });
        match Endpoint::from_static("http://localhost").connect_with_connector(connect).await {
            Ok(channel) => return Ok(channel),
            Err(_) if start.elapsed() + wait < Duration::from_secs(10) => {
                tokio::time::sleep(wait).await;
                wait = wait.mul_f32(1.6);
            }
            Err(error) => return Err(format!("failed to dial device plugin: {error}")),
        }
    }
}
