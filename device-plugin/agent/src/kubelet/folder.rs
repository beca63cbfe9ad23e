//! Watching the kubelet's plugin folder: its owner, and changes in it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;

use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};
use tokio_stream::Stream;

use proto::root_socket::is_trusted;

type Events = EventStream<[u8; 4096]>;

/// The changes in a folder since the last call.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Events were lost, or the folder itself was created or removed: read everything again.
    pub(super) everything: bool,
    pub(super) created: BTreeSet<String>,
    pub(super) removed: BTreeSet<String>,
    /// Names whose owner or mode changed.
    pub(super) changed: BTreeSet<String>,
}

/// Watches a folder; while it does not exist, its nearest existing ancestor.
pub(super) struct FolderWatch {
    dir: PathBuf,
    events: Events,
    on_dir: bool,
}

impl FolderWatch {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let (events, on_dir) = Self::add_watch(dir)?;
        Ok(Self { dir: dir.to_owned(), events, on_dir })
    }

    fn add_watch(dir: &Path) -> io::Result<(Events, bool)> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut watched = dir;
        loop {
            match (inotify.watches().add(watched, mask), watched.parent()) {
                (Ok(_), _) => break,
                (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => watched = parent,
                (Err(error), _) => return Err(error),
            }
        }
        // If the next part of the path appeared before the watch was set up, there will be no event.
        let on_dir = watched == dir;
        let missed = dir.strip_prefix(watched).ok().and_then(|rest| rest.components().next());
        if !on_dir && missed.is_some_and(|next| watched.join(next).exists()) {
            return Self::add_watch(dir);
        }
        Ok((inotify.into_event_stream([0; 4096])?, on_dir))
    }

    /// Waits for a change.
    ///
    /// Cancelling it loses no event.
    pub(super) async fn changes(&mut self) -> io::Result<Changes> {
        loop {
            let mut changes = Changes::default();
            let mut moved = false;
            let events = &mut self.events;
            // All events that have arrived: a kubelet that starts deletes many files.
            let any = std::future::poll_fn(|cx| {
                let mut any = false;
                loop {
                    match Pin::new(&mut *events).poll_next(cx) {
                        Poll::Ready(Some(Ok(event))) => {
                            any = true;
                            moved |= changes.note(&event);
                        }
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                        Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        Poll::Pending if any => return Poll::Ready(Ok(())),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            });
            any.await?;
            if !self.on_dir || moved {
                let was_on_dir = self.on_dir;
                (self.events, self.on_dir) = Self::add_watch(&self.dir)?;
                if !was_on_dir && !self.on_dir {
                    continue;
                }
                changes.everything = true;
            }
            return Ok(changes);
        }
    }
}

impl Changes {
    /// Applies an event; returns whether the folder itself was replaced.
    fn note(&mut self, event: &Event<std::ffi::OsString>) -> bool {
        self.everything |= event.mask.contains(EventMask::Q_OVERFLOW);
        if let Some(name) = event.name.as_deref().and_then(std::ffi::OsStr::to_str) {
            let name = name.to_owned();
            if event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
                self.created.insert(name);
            } else if event.mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
                self.removed.insert(name);
            } else {
                self.changed.insert(name);
            }
            return false;
        }
        event.mask.intersects(
            EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT,
        )
    }
}

/// What exists at the path of the kubelet's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KubeletSocket {
    Absent,
    /// Something that must not be trusted, with the reason.
    Refused(String),
    /// A socket of root's, with the numbers that identify it.
    Present {
        device: u64,
        inode: u64,
        /// The time of its last change, seconds and nanoseconds.
        changed: (i64, i64),
    },
}

/// Examines the kubelet's folder and socket. If others could replace the socket, they would be asked to dial ours; if
/// they could write to the folder, they could take our sockets' names.
pub(super) fn find_kubelet(dir: &Path, socket: &str) -> KubeletSocket {
    let path = dir.join(socket);
    for (path, wanted_socket) in [(dir, false), (path.as_path(), true)] {
        let metadata = match std::fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return KubeletSocket::Absent,
            Err(error) => return KubeletSocket::Refused(format!("cannot look at {path:?}: {error}")),
        };
        let kind = metadata.file_type();
        if if wanted_socket { !kind.is_socket() } else { !kind.is_dir() } {
            let what = if wanted_socket { "socket" } else { "folder" };
            return KubeletSocket::Refused(format!("{path:?} is not a {what}"));
        }
        if !is_trusted(metadata.uid()) {
            return KubeletSocket::Refused(format!(
                "{path:?} belongs to user {} and not to root: chown it, or find out who made it",
                metadata.uid()
            ));
        }
        if metadata.mode() & 0o022 != 0 {
            return KubeletSocket::Refused(format!(
                "{path:?} can be written by others than its owner (mode {:04o}): chmod go-w it",
                metadata.mode() & 0o7777
            ));
        }
        if wanted_socket {
            return KubeletSocket::Present {
                device: metadata.dev(),
                inode: metadata.ino(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
        }
    }
    KubeletSocket::Absent
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    async fn next(watch: &mut FolderWatch) -> Changes {
        tokio::time::timeout(Duration::from_secs(5), watch.changes()).await.expect("an event").unwrap()
    }

    #[tokio::test]
    async fn sees_files_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        assert!(next(&mut watch).await.created.contains("a"));
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert!(next(&mut watch).await.removed.contains("a"));
    }

    #[tokio::test]
    async fn follows_a_folder_that_comes_late_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("lib/kubelet/device-plugins");
        let mut watch = FolderWatch::new(&deep).unwrap();
        std::fs::create_dir_all(&deep).unwrap();
        assert!(next(&mut watch).await.everything);
        std::fs::write(deep.join("a"), "").unwrap();
        let mut changes = next(&mut watch).await;
        while !changes.created.contains("a") {
            changes = next(&mut watch).await;
        }
        std::fs::remove_dir_all(dir.path().join("lib")).unwrap();
        while !next(&mut watch).await.everything {}
        std::fs::create_dir_all(&deep).unwrap();
        while !next(&mut watch).await.everything {}
    }

    #[test]
    fn only_roots_own_socket_is_a_kubelet() {
        let dir = tempfile::tempdir().unwrap();
        let look = || find_kubelet(dir.path(), "kubelet.sock");
        let refused = |words: &str| match look() {
            KubeletSocket::Refused(reason) => assert!(reason.contains(words), "{reason}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(look(), KubeletSocket::Absent);
        let path = dir.path().join("kubelet.sock");
        std::fs::write(&path, "").unwrap();
        refused("is not a socket");
        std::fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&path, 0o777);
        refused("mode 0777");
        mode(&path, 0o755);
        assert!(matches!(look(), KubeletSocket::Present { .. }));
        mode(dir.path(), 0o770);
        refused("mode 0770");
        mode(dir.path(), 0o750);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
            refused("user 1000");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        refused("is not a socket");
    }
}
