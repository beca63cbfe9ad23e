//! The health that is published to operators and to the programs of this node: that of the node's part, and that of a
//! cluster's part in a process of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use tokio::sync::watch;

use proto::agent_socket::Agent;
use proto::health::{ApiMetrics, HealthSource, HealthSummary, Metrics, node_up};
use proto::published::NodeStatus;

/// The health of the node's part.
pub(crate) struct NodeHealth {
    pub(crate) metrics: Arc<Metrics>,
    /// The API server's metrics, if the cluster's part runs in this process.
    pub(crate) api: Option<Arc<ApiMetrics>>,
    pub(crate) health_summary: watch::Receiver<HealthSummary>,
    /// The status, for `/status`.
    pub(crate) status: Option<watch::Receiver<Arc<NodeStatus>>>,
}

/// The health of the cluster's part, which asks the node's part for its own.
pub(crate) struct ClusterHealth {
    pub(crate) api: Arc<ApiMetrics>,
    pub(crate) agent: Arc<Agent>,
}

/// What readiness waits for, while the API server has sent no LANs since the start.
fn api_not_heard(api: &ApiMetrics) -> Option<String> {
    (!api.lans_heard.load(Ordering::Relaxed))
        .then(|| "the API server has not sent the LANs yet; the log says what it answers".to_owned())
}

impl HealthSource for NodeHealth {
    async fn metrics(&self) -> String {
        let health_summary = self.health_summary.borrow().clone();
        let api = self.api.as_ref().map(|api| api.render()).unwrap_or_default();
        self.metrics.render(&health_summary) + &api
    }

    async fn waiting(&self) -> Vec<String> {
        let api = self.api.as_deref().and_then(api_not_heard);
        api.into_iter().chain(self.health_summary.borrow().waiting.clone()).collect()
    }

    fn status(&self) -> Option<String> {
        let status = self.status.as_ref()?.borrow();
        status.reconciled.then(|| status.text())
    }
}

impl HealthSource for ClusterHealth {
    async fn metrics(&self) -> String {
        let node = self.agent.get("/metrics").await.ok().filter(|(code, _)| *code == StatusCode::OK);
        let up = node.is_some();
        node.map(|(_, text)| text).unwrap_or_default() + &node_up(up) + &self.api.render()
    }

    async fn waiting(&self) -> Vec<String> {
        let mut waiting: Vec<String> = api_not_heard(&self.api).into_iter().collect();
        match self.agent.get("/readyz").await {
            Ok((StatusCode::OK, _)) => {}
            // The first line is the same for every reason.
            Ok((_, text)) => waiting.extend(text.lines().skip(1).map(str::to_owned)),
            Err(error) => {
                waiting.push(format!("the node's part of k8slan, which builds LANs, is away: {error:#}"));
            }
        }
        waiting
    }

    fn status(&self) -> Option<String> {
        None
    }
}
