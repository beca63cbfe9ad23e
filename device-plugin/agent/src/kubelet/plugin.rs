//! Keeps every resource registered with the kubelet, through restarts of either side.
//!
//! One task owns all of the state. It waits for: the folder (a kubelet that starts deletes every socket and then
//! makes `kubelet.sock`), the catalog, the beginning and end of ListAndWatch calls, answers to registrations, and
//! retries that are due. Nothing is polled.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::SpokeProvider;
use super::folder::FolderWatch;
use super::registrations::{KubeletState, MAX_REGISTRATIONS, Registrations, Status};
use super::service::Service;
use super::v1beta1::device_plugin_server::DevicePluginServer;

/// How long open calls may take to end when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Why the device plugin cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The folder cannot be watched.
    #[error(
        "cannot watch the kubelet's folder {dir:?} (too many watches? see fs.inotify.max_user_instances)"
    )]
    Watch { dir: PathBuf, source: io::Error },
    /// The gRPC server ended unexpectedly.
    #[error("the device plugin's gRPC server ended")]
    Server(#[source] tonic::transport::Error),
}

/// The device plugins of a node, one per resource.
pub struct DevicePlugins<S> {
    dir: PathBuf,
    spokes: Arc<S>,
    status: watch::Sender<Status>,
}

impl<S: SpokeProvider> DevicePlugins<S> {
    /// Device plugins in the kubelet's folder `dir` (`/var/lib/kubelet/device-plugins`).
    #[must_use]
    pub fn new(dir: PathBuf, spokes: Arc<S>) -> Self {
        let none = Status { kubelet: KubeletState::Absent, wanted: 0, registered: 0, problem: None };
        Self { dir, spokes, status: watch::channel(none).0 }
    }

    /// The current status, and its changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Serves and stays registered until `stop` is done; then ends all calls and removes the sockets. The resources
    /// stay registered: the kubelet keeps them for its grace period.
    ///
    /// # Errors
    /// The folder cannot be watched. Everything else is retried and shown in the status.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), KubeletError> {
        let watched = |source| KubeletError::Watch { dir: self.dir.clone(), source };
        let mut folder = FolderWatch::new(&self.dir).map_err(watched)?;
        let mut catalog = self.spokes.catalog();
        let (accepted, incoming) = mpsc::channel(MAX_REGISTRATIONS);
        let (events, mut reported) = mpsc::unbounded_channel();
        let (stop_server, server_stops) = tokio::sync::oneshot::channel::<()>();
        let service = DevicePluginServer::new(Service::new(Arc::clone(&self.spokes)));
        let server = Server::builder()
            // A kubelet only requests one list and sometimes a device.
            .max_concurrent_streams(16)
            .initial_connection_window_size(64 * 1024)
            .initial_stream_window_size(64 * 1024)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
                // An error means that the sender is gone, which also means the end.
                let _ = server_stops.await;
            });
        let mut server = std::pin::pin!(server);
        let mut stop = std::pin::pin!(stop);

        let mut state = Registrations::new(self.dir.clone(), accepted, events);
        state.remove_stale_sockets();
        state.apply_catalog(&catalog.borrow_and_update());
        state.kubelet_may_have_changed(true);
        loop {
            state.start_registrations();
            self.status.send_if_modified(|status| state.report(status));
            let due = state.next_due();
            let retry = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                ended = &mut server => return ended.map_err(KubeletError::Server),
                Some(event) = reported.recv() => state.apply_stream_event(&event),
                changes = folder.changes() => state.apply_folder_changes(&changes.map_err(watched)?),
                Ok(()) = catalog.changed() => state.apply_catalog(&catalog.borrow_and_update()),
                Some(done) = state.running.join_next() => state.registered(done),
                () = retry => state.retry(),
            }
        }
        state.close();
        // The receiver is the server's, which still exists.
        let _ = stop_server.send(());
        drop(state);
        if tokio::time::timeout(STOP_DEADLINE, server).await.is_err() {
            tracing::debug!("calls were still open when the device plugin stopped");
        }
        Ok(())
    }
}
