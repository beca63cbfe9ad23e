//! The health that is published to operators and to the programs of this node: that of the node's part, and that of a
//! cluster's part in a process of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use proto::health::{ApiMetrics, HealthSource, HealthSummary, Metrics, node_up};
use proto::link::Link;
use proto::published::NodeStatus;

/// The health of the node's part.
pub(crate) struct NodeHealth {
    pub(crate) metrics: Arc<Metrics>,
    /// The API server's metrics, if the cluster's part runs in this process.
    pub(crate) api: Option<Arc<ApiMetrics>>,
    pub(crate) health_summary: watch::Receiver<HealthSummary>,
    /// Why something that the API server has cannot be stored on this node.
    pub(crate) storage_error: watch::Receiver<Option<String>>,
    /// The status, for `/status`.
    pub(crate) status: Option<watch::Receiver<Arc<NodeStatus>>>,
}

/// The health of the cluster's part, which asks the node's part for its own.
pub(crate) struct ClusterHealth {
    pub(crate) api: Arc<ApiMetrics>,
    pub(crate) link: Arc<Link>,
}

/// What readiness waits for, until the LANs that the API server has are where they are built from.
fn lans_missing(api: &ApiMetrics) -> Option<String> {
    let missing = match (api.lans_heard.load(Ordering::Relaxed), api.lans_stored.load(Ordering::Relaxed)) {
        (false, _) => "the API server has not sent the LANs yet; the log says what it answers",
        (true, false) => "the node's part of k8slan has not stored the LANs of the API server yet",
        (true, true) => return None,
    };
    Some(missing.to_owned())
}

impl HealthSource for NodeHealth {
    async fn metrics(&self) -> String {
        let health_summary = self.health_summary.borrow().clone();
        let api = self.api.as_ref().map(|api| api.render()).unwrap_or_default();
        self.metrics.render(&health_summary) + &api
    }

    async fn waiting(&self) -> Vec<String> {
        let api = self.api.as_deref().and_then(lans_missing);
        let storage = self.storage_error.borrow();
        let storage = storage
            .as_ref()
            .map(|error| format!("what the API server has cannot be stored on this node: {error}"));
        api.into_iter().chain(storage).chain(self.health_summary.borrow().waiting.clone()).collect()
    }

    fn status(&self) -> Option<String> {
        let status = self.status.as_ref()?.borrow();
        status.reconciled.then(|| status.text())
    }
}

impl HealthSource for ClusterHealth {
    async fn metrics(&self) -> String {
        let node = self.link.ask().await;
        let up = node_up(node.is_ok());
        node.map(|answer| answer.metrics).unwrap_or_default() + &up + &self.api.render()
    }

    async fn waiting(&self) -> Vec<String> {
        let node = self.link.ask().await.map(|answer| answer.waiting).unwrap_or_else(|error| {
            vec![format!("the node's part of k8slan, which builds LANs, is away: {error:#}")]
        });
        lans_missing(&self.api).into_iter().chain(node).collect()
    }

    fn status(&self) -> Option<String> {
        None
    }
}
