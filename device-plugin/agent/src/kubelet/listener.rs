//! A spoke's socket in the kubelet's folder, and its connections.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tonic::transport::server::Connected;

use super::devices::{Advertised, StreamEvent};
use super::{DeviceHandle, socket_name};
use proto::root_socket::{RootSocket, SocketError};

/// The context of every call on a spoke's socket.
pub(super) struct Endpoint {
    pub(super) handed: DeviceHandle,
    pub(super) devices: watch::Receiver<Advertised>,
    pub(super) events: mpsc::UnboundedSender<StreamEvent>,
}

/// A connection, with the endpoint of its socket.
pub(super) struct Connection {
    stream: UnixStream,
    endpoint: Arc<Endpoint>,
}

/// A bound socket; dropping it closes it, and removes its file if that is still this socket's.
pub(super) struct Listener {
    socket: Arc<RootSocket>,
    accepting: tokio::task::AbortHandle,
}

impl Listener {
    /// Binds the socket and passes every connection of root's to `accepted`.
    pub(super) fn bind(
        dir: &Path,
        endpoint: Arc<Endpoint>,
        accepted: mpsc::Sender<io::Result<Connection>>,
    ) -> Result<Self, SocketError> {
        let socket = Arc::new(RootSocket::bind(&dir.join(socket_name(&endpoint.handed.resource)))?);
        let accepting = tokio::spawn(accept(Arc::clone(&socket), endpoint, accepted)).abort_handle();
        Ok(Self { socket, accepting })
    }

    /// Whether the file still exists and is this socket's.
    pub(super) fn is_in_place(&self) -> bool {
        self.socket.is_in_place()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        // The task ends later.
        self.socket.unlink();
    }
}

async fn accept(
    socket: Arc<RootSocket>,
    endpoint: Arc<Endpoint>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        let connection = Connection { stream: socket.accept().await, endpoint: Arc::clone(&endpoint) };
        if accepted.send(Ok(connection)).await.is_err() {
            return;
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
