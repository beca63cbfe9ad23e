use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::statfs::{FsType, fstatfs};

use crate::{Error, Result};

/// `NSFS_MAGIC` of `linux/magic.h`; neither libc nor nix has it.
pub(crate) const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// `NS_GET_NSTYPE` of `linux/nsfs.h` (since Linux 4.11): `_IO(0xb7, 3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held by an open file: it lives at least as long as this value.
///
/// Clones share the file. Nothing here depends on the namespace the caller happens to be in.
#[derive(Clone)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
}

/// The identity of a namespace while it exists: device and inode of its nsfs file.
///
/// The kernel may give the inode of a deleted namespace to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of the nsfs (the same for all namespaces of one kernel).
    pub dev: u64,
    /// Inode, the number in `net:[4026531840]`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netns({}, fd {})", self.id, self.file.as_raw_fd())
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        let path = Path::new(OWN);
        let file = File::open(path)
            .map_err(|error| Error::io("open the thread's own network namespace", path, &error))?;
        Self::from_nsfs(file, path)
    }

    /// The namespace at a path: a bind mount as `ip netns` makes it, or `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// The path does not exist ([`Error::is_not_found`]), or is not a network namespace ([`Error::NotANetns`]).
    pub fn open(path: &Path) -> Result<Self> {
        // O_NONBLOCK: the path comes from outside, and a FIFO there must not block the caller.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| Error::io("open network namespace", path, &error))?;
        let nsfs = fstatfs(&file)
            .map_err(|errno| Error::system("open network namespace", path, errno))?
            .filesystem_type()
            == NSFS_MAGIC;
        if !nsfs {
            let hint = Some("nothing is mounted there; the namespace died or was never made");
            return Err(Error::NotANetns { path: path.into(), hint });
        }
        // SAFETY: NS_GET_NSTYPE takes no argument and the descriptor is open.
        #[expect(unsafe_code, reason = "neither nix nor std has the nsfs ioctls")]
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            let hint = Some("it is a namespace of another kind");
            return Err(Error::NotANetns { path: path.into(), hint });
        }
        Self::from_nsfs(file, path)
    }

    /// Wraps a file that is known to be a network namespace's.
    pub(crate) fn from_nsfs(file: File, path: &Path) -> Result<Self> {
        let meta = file.metadata().map_err(|error| Error::io("look at network namespace", path, &error))?;
        let id = NetnsId { dev: meta.dev(), ino: meta.ino() };
        Ok(Self { file: Arc::new(file), id })
    }

    /// The identity of this namespace.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs a closure on the calling thread with this as its network namespace, then returns to the former one, also
    /// if the closure panics.
    ///
    /// Costs four system calls. Only needed for what the kernel binds to the caller's namespace: opening a socket,
    /// `/proc/sys/net`, mounting a sysfs. Files and sockets opened inside stay in the namespace.
    ///
    /// The closure must not start threads (they would stay in the namespace) and must not be async. If the return
    /// fails, the process aborts: going on in the wrong namespace would change another network.
    ///
    /// # Errors
    /// The namespace cannot be entered: the caller lacks CAP_SYS_ADMIN. The closure did not run then.
    pub fn enter<R>(&self, inside: impl FnOnce() -> R) -> Result<R> {
        let home = File::open(OWN)
            .map_err(|error| Error::io("open the thread's own network namespace", Path::new(OWN), &error))?;
        enter_fd(self.file.as_fd())
            .map_err(|errno| Error::system("enter network namespace", self.id.to_string(), errno))?;
        let back = Back { home };
        let result = inside();
        drop(back);
        Ok(result)
    }
}

/// Returns the thread to its former namespace when dropped.
struct Back {
    home: File,
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(errno) = enter_fd(self.home.as_fd()) {
            eprintln!("cannot return to the thread's own network namespace: {errno}; aborting");
            std::process::abort();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that enters a namespace; Netns::enter goes back"
)]
fn enter_fd(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    nix::sched::setns(fd, CloneFlags::CLONE_NEWNET)
}
