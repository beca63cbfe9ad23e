//! The tasks of the node's part.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::blocks::{BlockManager, Claims, Pools};
use agent::cluster_objects::{NodeObjects, Publishers};
use agent::device_catalog::DeviceCatalog;
use agent::handed_out::HandedOut;
use agent::kubelet::{self, DevicePlugins};
use agent::node_loop::{self, NodeLock};
use agent::readiness::Readiness;
use agent::status_views;
use agent::sweep::{ClusterView, Sweep};
use anyhow::Result;
use node::SafeDir;
use proto::agent_socket;
use proto::health::{ApiMetrics, HealthSummary, Metrics};
use proto::link::{self, LinkServer, Published, Queue};
use proto::published::{NodeStatus, VmNames, status_file};
use proto::root_socket::RootSocket;
use tokio::io::DuplexStream;
use tokio::sync::watch;

use crate::health_sources::NodeHealth;
use crate::tasks::{Tasks, wait_for};

/// What the node's part is told at its start.
pub struct Node {
    /// The folder of LAN files.
    pub lan_dir: PathBuf,
    /// Whether the folder mirrors an API server's objects.
    pub mirrored: bool,
    pub node_name: Option<String>,
    /// The kubelet's folder of sockets; `None`: no kubelet.
    pub kubelet_dir: Option<PathBuf>,
    /// Whether the names and types of k8slan (Go) are supported.
    pub k8slan_go: bool,
}

/// The other end of the link of a node's part.
pub(crate) enum ClusterPart {
    /// None: the LANs are files of people.
    None,
    /// Another process.
    Socket,
    /// In this process; its API metrics are published with the node's.
    Here { stream: DuplexStream, api: Arc<ApiMetrics> },
}

impl Tasks {
    /// Starts the tasks of the node's part, and returns its main loop.
    pub(crate) fn start_node(
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
        let (storage_error, storage) = watch::channel(None);
        let source = |status| NodeHealth {
            metrics: Arc::clone(&metrics),
            api: api.clone(),
            health_summary: health_summary.clone(),
            storage_error: storage.clone(),
            status,
        };
        let (pods, live_pods) = watch::channel(None);
        let (vms, deleted_vms) = watch::channel(VmNames::new());
        let (sticky_vms, kept) = watch::channel(VmNames::new());
        let view = ClusterView { live_pods, deleted_vms, sticky_vms };
        let paths = node_lock.paths();
        self.tasks.spawn(Sweep::new(paths.clone(), view, Arc::clone(&metrics)).run());
        let local = Arc::new(source(Some(self.status.subscribe())));
        let mut claims = Claims::of_no_cluster();
        if !matches!(cluster, ClusterPart::None) {
            let (pools, pool_requests) = (Pools::open(paths)?, Queue::default());
            let node = node_lock.node();
            let opened =
                BlockManager::open(paths, node, pools.clone(), pool_requests.clone(), Arc::clone(&metrics))?;
            let (block_manager, blocks);
            (block_manager, blocks, claims) = opened;
            let pool_notes = block_manager.notes();
            self.tasks.spawn(block_manager.run());
            let publishers = Publishers { live_pods: pods, deleted_vms: vms, storage_error, blocks };
            let objects = NodeObjects::open(&options.lan_dir, paths, pools, publishers)?;
            let status = self.status.subscribe();
            let published = Published { status, sticky_vms: kept, pool_notes, pool_requests };
            let server = LinkServer::new(published, Arc::clone(&local), objects);
            self.start_link(server, cluster, &paths.controller())?;
        }
        let socket = RootSocket::bind(&paths.run().join(agent_socket::SOCKET))?;
        self.tasks.spawn(async move {
            agent_socket::serve(socket, local, Arc::new(claims)).await;
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
