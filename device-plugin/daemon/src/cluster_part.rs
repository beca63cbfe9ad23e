//! The tasks of the cluster's part.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent::sweep;
use anyhow::{Context as _, Result};
use controller::{
    DeletedVms, Election, LEASE, LanNodeWriter, Leader, Mirror, MirrorState, Pods, PoolApi, PoolMirror,
    PoolNodeWriter, Rights, Timing, answer_pool_requests,
};
use proto::health::ApiMetrics;
use proto::link::{Kind, Link, Presence, SnapshotCache};
use proto::published::NodeStatus;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::tasks::{Tasks, wait_for};

/// What the cluster's part is told at its start.
pub struct Cluster {
    pub node_name: String,
    /// The namespaces to read LANs from; empty: all.
    pub namespaces: Vec<String>,
    /// The namespace of the leader's lease.
    pub lease_namespace: String,
    /// Whether the leader makes the definitions of k8slan (Go).
    pub k8slan_go: bool,
}

/// After how long a missing node's part is reported. A restart takes less; what it built works meanwhile.
const AWAY_AFTER: Duration = Duration::from_secs(30);
/// Replaces [`AWAY_AFTER`], in milliseconds, in tests; only root can set it for the daemon.
const AWAY_VARIABLE: &str = "K8SLAN_AWAY_MS";

impl Tasks {
    /// Starts the tasks that talk to the API server: its LANs are read, this node's reports are written.
    pub(crate) fn start_cluster(
        &mut self,
        cluster: Cluster,
        link: &Arc<Link>,
        cache: SnapshotCache,
        metrics: Arc<ApiMetrics>,
    ) {
        let Cluster { node_name: node, namespaces, lease_namespace, k8slan_go } = cluster;
        let (status, presence, sticky_vms) = (link.status(), link.presence(), link.sticky_vms());
        let pool_notes = link.pool_notes();
        let link = Arc::clone(link);
        let stopped = self.stopped();
        self.orderly.spawn(async move {
            let client = kube::Client::try_default().await.context("find the API server")?;
            let mut tasks: JoinSet<Result<()>> = JoinSet::new();
            let mirror = Mirror::new(client.clone(), &node, namespaces, cache.clone());
            let (sender, reports) = watch::channel(Arc::default());
            let writer = LanNodeWriter::new(client.clone(), node.clone(), reports, mirror.state());
            count_api_errors(&mut tasks, mirror.state(), &cache, Arc::clone(&metrics));
            let deleted_vms = DeletedVms::new(
                client.clone(),
                sticky_vms,
                cache.clone(),
                sweep::grace(),
                Arc::clone(&metrics),
            );
            let pools = PoolMirror::new(client.clone(), &node, cache.clone());
            let pool_nodes = PoolNodeWriter::new(client.clone(), &node, pool_notes, cache.clone());
            let pool_api = PoolApi::new(client.clone(), Rights::Node(node.as_str().into()));
            let pods = Pods::new(client.clone(), node.clone(), cache, metrics);
            tasks.spawn(async move { match pools.run().await {} });
            tasks.spawn(async move { match pool_nodes.run().await {} });
            tasks.spawn(async move { match answer_pool_requests(link, pool_api).await {} });
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
    cache: &SnapshotCache,
    metrics: Arc<ApiMetrics>,
) {
    let mut stored = cache.stored();
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
