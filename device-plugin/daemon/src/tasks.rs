//! What runs side by side in this process, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proto::health::{self, HealthSource};
use proto::published::NodeStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the other tasks may take to end when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// The tasks of the daemon, whichever parts run in this process.
pub(crate) struct Tasks {
    pub(crate) status: watch::Sender<Arc<NodeStatus>>,
    stop: watch::Sender<bool>,
    /// Tasks that must finish what they have begun.
    pub(crate) orderly: JoinSet<Result<()>>,
    /// Tasks that can be dropped at any time.
    pub(crate) tasks: JoinSet<Result<()>>,
}

impl Tasks {
    /// Starts with only the signal handler.
    pub(crate) fn new() -> Result<Self> {
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

    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Serves `/metrics`, `/livez` and `/readyz`.
    pub(crate) fn serve(&mut self, address: SocketAddr, source: impl HealthSource) {
        self.tasks.spawn(async move {
            let bound = |address| tracing::info!(%address, "metrics and health");
            Ok(health::serve(address, Arc::new(source), bound).await?)
        });
    }

    /// Runs until `main` ends, which a signal makes it do, or until another task fails.
    pub(crate) async fn run(mut self, main: impl Future<Output = Result<()>>) -> Result<()> {
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

/// Waits until the daemon stops.
pub(crate) async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // The sender is dropped only at the daemon's end.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
