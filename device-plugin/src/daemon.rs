//! The daemon as a whole: the node's part, which makes links and mounts and talks to the kubelet; the cluster's
//! part, which talks to the API server; or both in one process.
//!
//! The parts speak over one connection ([`proto::link`]), in one process as between two. Each of them can run, and end,
//! without the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node::{NodeConfig, SafeDir};
use tokio::io::DuplexStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::health_sources::{ClusterHealth, NodeHealth};
use agent::cluster_objects::NodeObjects;
use agent::device_catalog::DeviceCatalog;
use agent::handed_out::HandedOut;
use agent::kubelet::{self, DevicePlugins};
use agent::node_loop::{self, NodeLock};
use agent::readiness::Readiness;
use agent::status_views;
use agent::sweep::{self, ClusterView, Sweep};
use controller::{DeletedVms, Election, LEASE, LanNodeWriter, Leader, Mirror, MirrorState, Pods, Timing};
use proto::agent_socket;
use proto::health::{self, ApiMetrics, HealthSource, HealthSummary, Metrics};
use proto::link::{self, Kind, Link, LinkServer, Outbox, Presence, Published};
use proto::locks::lock_cluster_part;
use proto::published::{NodeStatus, VmNames, status_file};
use proto::root_socket::RootSocket;

pub(crate) struct Node {
    /// The folder of LAN files.
    pub(crate) lan_dir: PathBuf,
    /// Whether the folder mirrors an API server's objects.
    pub(crate) mirrored: bool,
    pub(crate) node_name: Option<String>,
    /// The kubelet's folder of sockets; `None`: no kubelet.
    pub(crate) kubelet_dir: Option<PathBuf>,
    /// Whether the names and types of k8slan (Go) are supported.
    pub(crate) k8slan_go: bool,
}

pub(crate) struct Cluster {
    pub(crate) node_name: String,
    /// The namespaces to read LANs from; empty: all.
    pub(crate) namespaces: Vec<String>,
    /// The namespace of the leader's lease.
    pub(crate) lease_namespace: String,
    /// Whether the leader makes the definitions of k8slan (Go).
    pub(crate) k8slan_go: bool,
}

/// How long the other tasks may take to end when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// After how long a missing node's part is reported. A restart takes less; what it built works meanwhile.
const AWAY_AFTER: Duration = Duration::from_secs(30);
/// Replaces [`AWAY_AFTER`], in milliseconds, in tests; only root can set it for the daemon.
const AWAY_VARIABLE: &str = "K8SLAN_AWAY_MS";

/// The other end of the link of a node's part.
enum ClusterPart {
    /// None: the LANs are files of people.
    None,
    /// Another process.
    Socket,
    /// In this process; its API metrics are published with the node's.
    Here { stream: DuplexStream, api: Arc<ApiMetrics> },
}

/// What the link in one process holds of what was said and not heard yet, in bytes.
const LINK_BUFFER: usize = 64 << 10;

/// Runs the node's part alone, until SIGTERM or SIGINT; the LANs stay.
pub(crate) async fn run_node(node: Node, health: Option<SocketAddr>) -> Result<()> {
    let mut all = Tasks::new()?;
    let cluster = if node.mirrored { ClusterPart::Socket } else { ClusterPart::None };
    let build = all.start_node(node, cluster, health)?;
    all.run(build).await
}

/// Runs both parts in one process, until SIGTERM or SIGINT.
pub(crate) async fn run_both(
    cluster: Cluster,
    kubelet_dir: PathBuf,
    health: Option<SocketAddr>,
) -> Result<()> {
    let node = Node {
        lan_dir: mirror_dir()?,
        mirrored: true,
        node_name: Some(cluster.node_name.clone()),
        kubelet_dir: Some(kubelet_dir),
        k8slan_go: cluster.k8slan_go,
    };
    let _only_one = lock_cluster_part()?;
    let mut all = Tasks::new()?;
    let api = Arc::new(ApiMetrics::default());
    let (stream, own) = tokio::io::duplex(LINK_BUFFER);
    let build = all.start_node(node, ClusterPart::Here { stream, api: Arc::clone(&api) }, health)?;
    let outbox = Outbox::default();
    let link = Arc::new(Link::new(outbox.clone()));
    all.start_cluster(cluster, &link, outbox, api);
    all.tasks.spawn(async move {
        link.converse(own).await?;
        anyhow::bail!("the two parts of the daemon do not speak any more")
    });
    all.run(build).await
}

/// Runs the cluster's part alone, until SIGTERM or SIGINT. It needs no capability, only to be root for the socket.
pub(crate) async fn run_cluster(cluster: Cluster, health: Option<SocketAddr>) -> Result<()> {
    let folder = NodeConfig::load()?.paths().controller();
    let _only_one = lock_cluster_part()?;
    let mut all = Tasks::new()?;
    let api = Arc::new(ApiMetrics::default());
    let outbox = Outbox::default();
    let link = Arc::new(Link::new(outbox.clone()));
    if let Some(address) = health {
        all.serve(address, ClusterHealth { api: Arc::clone(&api), link: Arc::clone(&link) });
    }
    all.start_cluster(cluster, &link, outbox, api);
    all.tasks.spawn(async move { match link.run(&folder).await {} });
    let stopped = wait_for(all.stopped());
    all.run(async {
        stopped.await;
        Ok(())
    })
    .await
}

fn mirror_dir() -> Result<PathBuf> {
    Ok(NodeConfig::load()?.paths().state().join(controller::MIRROR))
}

struct Tasks {
    status: watch::Sender<Arc<NodeStatus>>,
    stop: watch::Sender<bool>,
    /// Tasks that must finish what they have begun.
    orderly: JoinSet<Result<()>>,
    /// Tasks that can be dropped at any time.
    tasks: JoinSet<Result<()>>,
}

impl Tasks {
    /// Starts with only the signal handler.
    fn new() -> Result<Self> {
        let stop = watch::channel(false).0;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut tasks = JoinSet::new();
        let on_signal = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            on_signal.send_replace(true);
            std::future::pending().await
        });
        let status = watch::channel(Arc::new(NodeStatus::default())).0;
        Ok(Self { status, stop, orderly: JoinSet::new(), tasks })
    }

    fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Starts the tasks of the node's part, and returns its main loop.
    fn start_node(
        &mut self,
        node: Node,
        cluster: ClusterPart,
        health: Option<SocketAddr>,
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let options = node_loop::Options {
            lan_dir: node.lan_dir,
            node_name: node.node_name,
            mirrored: node.mirrored,
            kubelet: node.kubelet_dir.is_some(),
            k8slan_go: node.k8slan_go,
        };
        let node_lock = NodeLock::acquire(&options)?;
        let before = status_file::read(node_lock.paths().run()).unwrap_or_else(|error| {
            tracing::warn!("which LANs stood is not known: {error:#}");
            None
        });
        let readiness = Readiness::after(before.as_ref());
        raise_file_limit();
        let metrics = Arc::new(Metrics::default());
        let state = node_lock.paths().state();
        let holders = match node.k8slan_go || HandedOut::is_kept(state) {
            true => Some((HandedOut::open(state)?, node.k8slan_go)),
            false => None,
        };
        let kubelet = node.kubelet_dir.map(|dir| self.start_kubelet(dir, &metrics, holders));
        let (sender, health_summary) = watch::channel(HealthSummary::default());
        self.tasks.spawn(publish_health(self.status.subscribe(), kubelet, readiness, sender));
        let api = match &cluster {
            ClusterPart::Here { api, .. } => Some(Arc::clone(api)),
            ClusterPart::None | ClusterPart::Socket => None,
        };
        let source = |status| NodeHealth {
            metrics: Arc::clone(&metrics),
            api: api.clone(),
            health_summary: health_summary.clone(),
            status,
        };
        let (pods, live_pods) = watch::channel(None);
        let (vms, deleted_vms) = watch::channel(VmNames::new());
        let (sticky_vms, kept) = watch::channel(VmNames::new());
        let view = ClusterView { live_pods, deleted_vms, sticky_vms };
        let paths = node_lock.paths();
        self.tasks.spawn(Sweep::new(paths.clone(), view, Arc::clone(&metrics)).run());
        let local = Arc::new(source(Some(self.status.subscribe())));
        if !matches!(cluster, ClusterPart::None) {
            let objects = NodeObjects::open(&options.lan_dir, paths, pods, vms)?;
            let published = Published { status: self.status.subscribe(), sticky_vms: kept };
            let server = LinkServer::new(published, Arc::clone(&local), objects);
            self.start_link(server, cluster, &paths.controller())?;
        }
        let socket = RootSocket::bind(&paths.run().join(agent_socket::SOCKET))?;
        self.tasks.spawn(async move {
            agent_socket::serve(socket, local).await;
            Ok(())
        });
        if let Some(address) = health {
            self.serve(address, source(None));
        }
        let (status, stop) = (self.status.clone(), wait_for(self.stopped()));
        Ok(async move { node_loop::run(node_lock, options, before, &status, &metrics, stop).await })
    }

    /// Serves the other part, in this process or on a socket in `folder`.
    fn start_link(
        &mut self,
        mut server: LinkServer<NodeHealth, NodeObjects>,
        cluster: ClusterPart,
        folder: &Path,
    ) -> Result<()> {
        if let ClusterPart::Here { stream, .. } = cluster {
            self.tasks.spawn(async move {
                // What is wrong is logged, and the other end closes.
                let _ = server.converse(stream).await;
                std::future::pending().await
            });
            return Ok(());
        }
        let socket = RootSocket::bind(&SafeDir::create(folder)?.path().join(link::SOCKET))?;
        self.tasks.spawn(async move {
            server.serve(socket).await;
            Ok(())
        });
        Ok(())
    }

    fn start_kubelet(
        &mut self,
        dir: PathBuf,
        metrics: &Arc<Metrics>,
        k8slan_go: Option<(HandedOut, bool)>,
    ) -> watch::Receiver<kubelet::Status> {
        let spokes = Arc::new(DeviceCatalog::new(self.status.subscribe(), Arc::clone(metrics), k8slan_go));
        let plugins = DevicePlugins::new(dir, Arc::clone(&spokes));
        let kubelet = plugins.status();
        let stop = wait_for(self.stopped());
        self.orderly.spawn(async move { Ok(plugins.run(stop).await?) });
        self.tasks.spawn(async move {
            spokes.run().await;
            std::future::pending().await
        });
        kubelet
    }

    /// Starts the tasks that talk to the API server: its LANs are read, this node's reports are written.
    fn start_cluster(&mut self, cluster: Cluster, link: &Link, outbox: Outbox, metrics: Arc<ApiMetrics>) {
        let Cluster { node_name: node, namespaces, lease_namespace, k8slan_go } = cluster;
        let (status, presence, sticky_vms) = (link.status(), link.presence(), link.sticky_vms());
        let stopped = self.stopped();
        self.orderly.spawn(async move {
            let client = kube::Client::try_default().await.context("find the API server")?;
            let mut tasks: JoinSet<Result<()>> = JoinSet::new();
            let mirror = Mirror::new(client.clone(), &node, namespaces, outbox.clone());
            let (sender, reports) = watch::channel(Arc::default());
            let writer = LanNodeWriter::new(client.clone(), node.clone(), reports, mirror.state());
            count_api_errors(&mut tasks, mirror.state(), &outbox, Arc::clone(&metrics));
            let deleted_vms = DeletedVms::new(
                client.clone(),
                sticky_vms,
                outbox.clone(),
                sweep::grace(),
                Arc::clone(&metrics),
            );
            let pods = Pods::new(client.clone(), node.clone(), outbox, metrics);
            tasks.spawn(async move { match deleted_vms.run().await {} });
            tasks.spawn(async move { match pods.run().await {} });
            tasks.spawn(async move { match mirror.run().await {} });
            tasks.spawn(async move {
                writer.run().await;
                Ok(())
            });
            tasks.spawn(publish_reports(status, presence, sender));
            tokio::select! {
                () = run_leader(client, lease_namespace, node, k8slan_go, stopped) => Ok(()),
                Some(ended) = tasks.join_next() => ended.context("a part of the daemon")?,
            }
        });
    }

    /// Serves `/metrics`, `/livez` and `/readyz`.
    fn serve(&mut self, address: SocketAddr, source: impl HealthSource) {
        self.tasks.spawn(async move {
            let bound = |address| tracing::info!(%address, "metrics and health");
            Ok(health::serve(address, Arc::new(source), bound).await?)
        });
    }

    /// Runs until `main` ends, which a signal makes it do, or until another task fails.
    async fn run(mut self, main: impl Future<Output = Result<()>>) -> Result<()> {
        let mut main = std::pin::pin!(main);
        let (done, result) = tokio::select! {
            result = &mut main => (true, result),
            Some(ended) = self.orderly.join_next() => (false, ended.context("a part of the daemon").flatten()),
            Some(ended) = self.tasks.join_next() => (false, ended.context("a part of the daemon").flatten()),
        };
        self.stop.send_replace(true);
        // What has been begun, above all a reconcile, is finished.
        let result = if done { result } else { result.and(main.await) };
        let ended = async { while self.orderly.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
        result
    }
}

/// Publishes this node's reports whenever its status changes.
async fn publish_reports(
    mut status: watch::Receiver<Arc<NodeStatus>>,
    mut presence: watch::Receiver<Presence>,
    sender: watch::Sender<Arc<controller::Reports>>,
) -> Result<()> {
    let given = std::env::var(AWAY_VARIABLE).ok().and_then(|text| text.parse().ok());
    let away_after = given.map_or(AWAY_AFTER, Duration::from_millis);
    let mut away_since: Option<Instant> = None;
    loop {
        let now = status.borrow_and_update().clone();
        let here = *presence.borrow_and_update() == Presence::Here;
        away_since = if here { None } else { away_since.or_else(|| Some(Instant::now())) };
        let away = away_since.is_some_and(|since| since.elapsed() >= away_after);
        sender.send_modify(|reports| *reports = Arc::new(controller::reports(&now, away, reports)));
        let timeout_ends = async {
            match away_since.filter(|_| !away) {
                Some(since) => tokio::time::sleep_until(since + away_after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return std::future::pending().await },
            changed = presence.changed() => if changed.is_err() { return std::future::pending().await },
            () = timeout_ends => {}
        }
    }
}

/// Takes part in the election and leads while it holds the lease.
async fn run_leader(
    client: kube::Client,
    namespace: String,
    node: String,
    k8slan_go: bool,
    stopped: watch::Receiver<bool>,
) {
    let election = Election::new(client.clone(), &namespace, LEASE, &node, Timing::default());
    let leader = Leader::new(client, &node).naming_as_k8slan_go(k8slan_go);
    election.run(|| leader.run(), wait_for(stopped)).await;
}

/// Counts errors of the API server, and records that it answered and that the node's part has what it said.
fn count_api_errors(
    tasks: &mut JoinSet<Result<()>>,
    mut state: watch::Receiver<MirrorState>,
    outbox: &Outbox,
    metrics: Arc<ApiMetrics>,
) {
    let mut stored = outbox.stored();
    tasks.spawn(async move {
        loop {
            let (errors, up_to_date) = {
                let now = state.borrow_and_update();
                (now.errors, now.up_to_date)
            };
            metrics.lan_errors.set(errors);
            if up_to_date {
                metrics.lans_heard.store(true, Ordering::Relaxed);
            }
            if stored.borrow_and_update().contains(&Kind::Lan) {
                metrics.lans_stored.store(true, Ordering::Relaxed);
            }
            tokio::select! {
                Ok(()) = state.changed() => {}
                Ok(()) = stored.changed() => {}
                else => return std::future::pending().await,
            }
        }
    });
}

/// Publishes the health summary whenever the status or the kubelet's state changes.
async fn publish_health(
    mut status: watch::Receiver<Arc<NodeStatus>>,
    mut kubelet: Option<watch::Receiver<kubelet::Status>>,
    mut readiness: Readiness,
    sender: watch::Sender<HealthSummary>,
) -> Result<()> {
    loop {
        let now = status.borrow_and_update().clone();
        let registered = kubelet.as_mut().map(|kubelet| kubelet.borrow_and_update().clone());
        let waiting = readiness.waiting(&now, registered.as_ref());
        sender.send_replace(status_views::health_summary(&now, registered.as_ref(), waiting));
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return std::future::pending().await },
            () = changed(kubelet.as_mut()) => {}
        }
    }
}

/// Waits for a change of a value; if there is none, waits for ever.
async fn changed<T>(watched: Option<&mut watch::Receiver<T>>) {
    let changed = match watched {
        Some(watched) => watched.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // The sender is dropped only at the daemon's end.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Every spoke takes two file descriptors: its socket, and the kubelet's connection.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
