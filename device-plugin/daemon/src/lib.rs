//! The daemon as a whole: the node's part, which makes links and mounts and talks to the kubelet; the cluster's
//! part, which talks to the API server; or both in one process.
//!
//! The parts speak over one connection ([`proto::link`]), in one process as between two. Each of them can run, and end,
//! without the other.

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

mod cluster_part;
mod health_sources;
mod node_part;
mod tasks;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use node::NodeConfig;
use proto::health::ApiMetrics;
use proto::link::{Link, SnapshotCache};
use proto::locks::lock_cluster_part;

pub use cluster_part::Cluster;
pub use node_part::Node;

use health_sources::ClusterHealth;
use node_part::ClusterPart;
use tasks::{Tasks, wait_for};

/// What the link in one process holds of what was said and not heard yet, in bytes.
const LINK_BUFFER: usize = 64 << 10;

/// Runs the node's part alone, until SIGTERM or SIGINT; the LANs stay.
///
/// # Errors
/// The node's state cannot be used, or a task failed.
pub async fn run_node(node: Node, health: Option<SocketAddr>) -> Result<()> {
    let mut all = Tasks::new()?;
    let cluster = if node.mirrored { ClusterPart::Socket } else { ClusterPart::None };
    let build = all.start_node(node, cluster, health)?;
    all.run(build).await
}

/// Runs both parts in one process, until SIGTERM or SIGINT.
///
/// # Errors
/// The node's state cannot be used, or a task failed.
pub async fn run_both(cluster: Cluster, kubelet_dir: PathBuf, health: Option<SocketAddr>) -> Result<()> {
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
    let cache = SnapshotCache::default();
    let link = Arc::new(Link::new(cache.clone()));
    all.start_cluster(cluster, &link, cache, api);
    all.tasks.spawn(async move {
        link.converse(own).await?;
        anyhow::bail!("the two parts of the daemon do not speak any more")
    });
    all.run(build).await
}

/// Runs the cluster's part alone, until SIGTERM or SIGINT. It needs no capability, only to be root for the socket.
///
/// # Errors
/// Another cluster's part runs, or a task failed.
pub async fn run_cluster(cluster: Cluster, health: Option<SocketAddr>) -> Result<()> {
    let folder = NodeConfig::load()?.paths().controller();
    let _only_one = lock_cluster_part()?;
    let mut all = Tasks::new()?;
    let api = Arc::new(ApiMetrics::default());
    let cache = SnapshotCache::default();
    let link = Arc::new(Link::new(cache.clone()));
    if let Some(address) = health {
        all.serve(address, ClusterHealth { api: Arc::clone(&api), link: Arc::clone(&link) });
    }
    all.start_cluster(cluster, &link, cache, api);
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
