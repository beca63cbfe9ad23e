//! What is told to operators and to the programs of this node: of the node's part, and of the cluster's part
//! that runs beside it in a process of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::health::{ApiMetrics, Metrics, Overview, Told, node_up};
use crate::status::NodeStatus;

/// The node's part, told by itself.
pub(crate) struct OfNode {
    pub(crate) metrics: Arc<Metrics>,
    /// Where the cluster's part runs in this process.
    pub(crate) api: Option<Arc<ApiMetrics>>,
    pub(crate) overview: watch::Receiver<Overview>,
    /// Where the status is told.
    pub(crate) status: Option<watch::Receiver<Arc<NodeStatus>>>,
}

/// The cluster's part, which asks the node's part.
pub(crate) struct OfCluster {
    pub(crate) api: Arc<ApiMetrics>,
    pub(crate) agent: Arc<Agent>,
}

/// What there is to wait for while the API server has told no LANs since the start.
fn unheard(api: &ApiMetrics) -> Option<String> {
    (!api.lans_heard.load(Ordering::Relaxed))
        .then(|| "the API server has not told the LANs yet; the log says what it answers".to_owned())
}

impl Told for OfNode {
    async fn metrics(&self) -> String {
        let overview = self.overview.borrow().clone();
        let api = self.api.as_ref().map(|api| api.render()).unwrap_or_default();
        self.metrics.render(&overview) + &api
    }

    async fn waiting(&self) -> Vec<String> {
        let api = self.api.as_deref().and_then(unheard);
        api.into_iter().chain(self.overview.borrow().waiting.clone()).collect()
    }

    fn status(&self) -> Option<String> {
        let status = self.status.as_ref()?.borrow();
        status.looked.then(|| status.text())
    }
}

impl Told for OfCluster {
    async fn metrics(&self) -> String {
        let node = self.agent.get("/metrics").await.ok().filter(|(code, _)| *code == StatusCode::OK);
        let up = node.is_some();
        node.map(|(_, text)| text).unwrap_or_default() + &node_up(up) + &self.api.render()
    }

    async fn waiting(&self) -> Vec<String> {
        let mut waiting: Vec<String> = unheard(&self.api).into_iter().collect();
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
