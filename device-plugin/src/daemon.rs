//! The daemon as a whole: where LANs come from, and everybody who wants to know of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node::NodeConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Election, Hearing, Leader, Mirror, Reporter, Timing};
use crate::health::{self, Metrics, Overview};
use crate::kubelet::{self, DevicePlugins};
use crate::node_spokes::{self, NodeSpokes};
use crate::standalone;
use crate::status::NodeStatus;

/// Where LANs come from.
pub(crate) enum Lans {
    /// Files.
    Folder(PathBuf),
    /// An API server.
    Cluster {
        /// The namespaces to take them from; none: all.
        namespaces: Vec<String>,
        /// Where the leader's lease is.
        lease_namespace: String,
    },
}

/// What to run with.
pub(crate) struct Options {
    pub(crate) lans: Lans,
    pub(crate) node_name: Option<String>,
    /// The kubelet's folder of sockets; `None`: no kubelet.
    pub(crate) kubelet_dir: Option<PathBuf>,
    /// Where metrics and health are told; `None`: nowhere.
    pub(crate) health: Option<SocketAddr>,
}

/// The mirror of the cluster's LANs, below the state folder.
const MIRROR: &str = "lans";
const LEASE: &str = "k8slan-leader";

/// How long the others may take to end when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Runs until SIGTERM or SIGINT, and leaves the LANs standing.
pub(crate) async fn run(options: Options) -> Result<()> {
    raise_file_limit();
    let (told, status) = watch::channel(Arc::new(NodeStatus::default()));
    let (stop, stopped) = watch::channel(false);
    let metrics = Arc::new(Metrics::default());
    // Those that have something to end well, and those that may just be dropped.
    let mut orderly: JoinSet<Result<()>> = JoinSet::new();
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();

    let kubelet = options.kubelet_dir.clone().map(|dir| {
        let spokes = Arc::new(NodeSpokes::new(status.clone(), Arc::clone(&metrics)));
        let plugins = DevicePlugins::new(dir, Arc::clone(&spokes));
        let kubelet = plugins.status();
        let stop = wait_for(stopped.clone());
        orderly.spawn(async move { Ok(plugins.run(stop).await?) });
        let mut status = status.clone();
        tasks.spawn(async move {
            loop {
                spokes.follow(&status.borrow_and_update().clone());
                if status.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        });
        kubelet
    });

    let lan_dir = match &options.lans {
        Lans::Folder(dir) => dir.clone(),
        Lans::Cluster { namespaces, lease_namespace } => {
            let node = options.node_name.clone().context("a node of a cluster has a name")?;
            let dir = NodeConfig::load()?.paths().state().join(MIRROR);
            let client = kube::Client::try_default().await.context("find the API server")?;
            let mirror = Mirror::new(client.clone(), namespaces.clone(), dir.clone())?;
            let hearing = mirror.hearing();
            orderly.spawn(lead(client.clone(), lease_namespace.clone(), node.clone(), stopped.clone()));
            join_cluster(&mut tasks, client, &node, mirror, &status);
            count_errors(&mut tasks, hearing, Arc::clone(&metrics));
            dir
        }
    };

    if let Some(address) = options.health {
        let (sender, overview) = watch::channel(Overview::default());
        tasks.spawn(tell(status.clone(), kubelet, sender));
        let metrics = Arc::clone(&metrics);
        tasks.spawn(async move {
            let bound = |address| tracing::info!(%address, "metrics and health");
            Ok(health::serve(address, metrics, overview, bound).await?)
        });
    }

    let standalone = standalone::Options {
        lan_dir,
        node_name: options.node_name,
        mirrored: matches!(options.lans, Lans::Cluster { .. }),
        kubelet: options.kubelet_dir.is_some(),
    };
    let result = tokio::select! {
        result = standalone::run(standalone, &told) => result,
        Some(ended) = orderly.join_next() => ended.context("a part of the daemon")?,
        Some(ended) = tasks.join_next() => ended.context("a part of the daemon")?,
    };
    stop.send_replace(true);
    let ended = async { while orderly.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    result
}

/// The cluster's part: its LANs in, this node's reports out.
fn join_cluster(
    tasks: &mut JoinSet<Result<()>>,
    client: kube::Client,
    node: &str,
    mirror: Mirror,
    status: &watch::Receiver<Arc<NodeStatus>>,
) {
    let (sender, reports) = watch::channel(Arc::default());
    let reporter = Reporter::new(client, node.to_owned(), reports, mirror.hearing());
    tasks.spawn(async move { Ok(mirror.run().await?) });
    tasks.spawn(async move {
        reporter.run().await;
        Ok(())
    });
    let mut status = status.clone();
    tasks.spawn(async move {
        loop {
            sender.send_replace(Arc::new(node_spokes::reports(&status.borrow_and_update().clone())));
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    });
}

/// Leads when it is this node's turn.
async fn lead(
    client: kube::Client,
    namespace: String,
    node: String,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    let election = Election::new(client.clone(), &namespace, LEASE, &node, Timing::default());
    let leader = Leader::new(client);
    election.run(|| leader.run(), wait_for(stopped)).await;
    Ok(())
}

fn count_errors(
    tasks: &mut JoinSet<Result<()>>,
    mut hearing: watch::Receiver<Hearing>,
    metrics: Arc<Metrics>,
) {
    tasks.spawn(async move {
        while hearing.changed().await.is_ok() {
            metrics.api_errors.set(hearing.borrow_and_update().errors);
        }
        std::future::pending().await
    });
}

/// Keeps the overview as things are.
async fn tell(
    mut status: watch::Receiver<Arc<NodeStatus>>,
    mut kubelet: Option<watch::Receiver<kubelet::Status>>,
    sender: watch::Sender<Overview>,
) -> Result<()> {
    loop {
        let now = status.borrow_and_update().clone();
        let registered = kubelet.as_mut().map(|kubelet| kubelet.borrow_and_update().clone());
        sender.send_replace(node_spokes::overview(&now, registered.as_ref()));
        let kubelet_changes = async {
            let changed = match &mut kubelet {
                Some(kubelet) => kubelet.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return std::future::pending().await },
            () = kubelet_changes => {}
        }
    }
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error is the daemon's end.
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
