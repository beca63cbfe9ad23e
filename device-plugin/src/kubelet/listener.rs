//! A spoke's socket in the kubelet's folder, and the connections that come in on it.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use net_types::SpokeName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tonic::transport::server::Connected;

use super::devices::{Advertised, StreamEvent};
use super::socket_name;

/// What every call on a spoke's socket needs to know.
pub(super) struct Endpoint {
    pub(super) spoke: SpokeName,
    pub(super) devices: watch::Receiver<Advertised>,
    pub(super) events: mpsc::UnboundedSender<StreamEvent>,
}

/// A connection, with the socket that it came in on.
pub(super) struct Connection {
    stream: UnixStream,
    endpoint: Arc<Endpoint>,
}

/// Why a spoke has no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error(
        "cannot make the socket {path:?}: something that is no socket of root's stands there; look what it is and remove it"
    )]
    Foreign { path: PathBuf },
    #[error("cannot make the socket {path:?}")]
    Bind { path: PathBuf, source: io::Error },
}

/// A bound socket; dropping it closes it, and removes its file where that is still this socket's.
pub(super) struct Listener {
    path: PathBuf,
    identity: (u64, u64),
    accepting: tokio::task::AbortHandle,
}

impl Listener {
    /// Binds the socket and hands every connection of root's to `accepted`.
    pub(super) fn bind(
        dir: &Path,
        endpoint: Arc<Endpoint>,
        accepted: mpsc::Sender<io::Result<Connection>>,
    ) -> Result<Self, ListenError> {
        let path = dir.join(socket_name(&endpoint.spoke));
        let (listener, identity) = match Self::open(&path) {
            Ok(opened) => opened,
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                return Err(ListenError::Foreign { path });
            }
            Err(source) => return Err(ListenError::Bind { path, source }),
        };
        let accepting = tokio::spawn(accept(listener, endpoint, accepted)).abort_handle();
        Ok(Self { path, identity, accepting })
    }

    fn open(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
        remove_socket(path)?;
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok((listener, (metadata.dev(), metadata.ino())))
    }

    /// Whether the file is still there and still this socket's.
    pub(super) fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        if self.is_in_place() {
            // A file that cannot be removed is found and removed by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket of ours that an earlier life left there; nothing there is fine, anything else is
/// an `AlreadyExists`.
pub(super) fn remove_socket(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let ours = metadata.file_type().is_socket() && metadata.uid() == nix::unistd::geteuid().as_raw();
    if !ours {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn accept(
    listener: UnixListener,
    endpoint: Arc<Endpoint>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let trusted = [0, nix::unistd::geteuid().as_raw()];
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) if trusted.contains(&peer.uid()) => {
                    let connection = Connection { stream, endpoint: Arc::clone(&endpoint) };
                    if accepted.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Ok(peer) => tracing::warn!(
                    spoke = %endpoint.spoke, uid = peer.uid(), pid = peer.pid(),
                    "refused a connection: only root may talk to a device plugin's socket"
                ),
                Err(error) => tracing::warn!(spoke = %endpoint.spoke, %error, "cannot tell who connects"),
            },
            Err(error) => {
                // Out of file descriptors, mostly: the connection stays in the queue meanwhile.
                tracing::warn!(spoke = %endpoint.spoke, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Endpoint>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.endpoint)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
