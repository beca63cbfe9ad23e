//! Unix sockets that answer root only.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixStream};

/// A bound socket (mode 0600). Dropping it closes it, and removes its file if that is still this socket's.
pub struct RootSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path exists, and is not a socket that may be replaced.
    #[error(
        "cannot make the socket {path:?}: it exists and is not a socket that root owns; find out what it is and remove it"
    )]
    Foreign { path: PathBuf },
    /// An operation of the kernel failed.
    #[error("cannot make the socket {path:?}")]
    Bind { path: PathBuf, source: io::Error },
}

/// The users that may be at either end: root, and the user of this process.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

impl RootSocket {
    /// Binds the socket. One that an earlier process left is replaced.
    ///
    /// # Errors
    /// The path exists and is not a socket that root owns, or an operation of the kernel failed.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SocketError::Foreign { path: path.to_owned() },
            _ => SocketError::Bind { path: path.to_owned(), source },
        })
    }

    fn open(path: &Path) -> io::Result<Self> {
        remove_socket(path)?;
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// The next connection of root; others are closed and logged.
    pub async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if is_trusted(peer.uid()) => return stream,
                    Ok(peer) => tracing::warn!(
                        socket = %self.path.display(), uid = peer.uid(), pid = peer.pid(),
                        "refused a connection: only root may talk to this socket"
                    ),
                    Err(error) => {
                        tracing::warn!(socket = %self.path.display(), %error, "cannot tell who connects");
                    }
                },
                Err(error) => {
                    // Usually the process is out of file descriptors; the connection stays in the queue meanwhile.
                    tracing::warn!(socket = %self.path.display(), %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Whether the file exists and is still this socket's.
    pub fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// Removes the file if it is still this socket's.
    pub fn unlink(&self) {
        if self.is_in_place() {
            // The next start finds and removes a file that cannot be removed now.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for RootSocket {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Connects to a socket of the daemon.
///
/// # Errors
/// It does not exist, nobody listens, or it or its owner is not root's.
pub async fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if !metadata.file_type().is_socket() {
        bail!("{} is not a socket: find out what it is and remove it", path.display());
    }
    if !is_trusted(metadata.uid()) || metadata.mode() & 0o077 != 0 {
        bail!(
            "{} is not trusted: it belongs to user {} and has mode {:04o}, and must be root's and 0600; remove it and \
             restart the daemon",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        );
    }
    let stream = UnixStream::connect(path).await.with_context(|| format!("connect to {}", path.display()))?;
    let peer = stream.peer_cred().context("tell who answers")?;
    if !is_trusted(peer.uid()) {
        bail!("user {} answers on {}: only root may", peer.uid(), path.display());
    }
    Ok(stream)
}

/// Removes a k8slan socket that an earlier process left. A missing file is no error; anything else is an
/// `AlreadyExists`.
pub fn remove_socket(path: &Path) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_anything_else_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = RootSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(socket.is_in_place());
        drop(socket);
        assert!(!path.exists());

        std::fs::write(&path, "").unwrap();
        assert!(matches!(RootSocket::bind(&path), Err(SocketError::Foreign { .. })));
        std::fs::remove_file(&path).unwrap();
        if nix::unistd::geteuid().is_root() {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
            assert!(matches!(RootSocket::bind(&path), Err(SocketError::Foreign { .. })));
            assert!(path.exists());
        }
    }

    #[tokio::test]
    async fn another_sockets_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let first = RootSocket::bind(&path).unwrap();
        let second = RootSocket::bind(&path).unwrap();
        assert!(!first.is_in_place() && second.is_in_place());
        drop(first);
        assert!(path.exists());
    }
}
