//! Namespaces that have a name: bind mounts below `/run/netns`, as `ip netns` makes and finds them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::statfs::{fstatfs, statfs};

use crate::netns::NSFS_MAGIC;
use crate::{Error, Netlink, Netns, Result};

/// How often to start over while others create and remove the same path.
const ATTEMPTS: usize = 16;

impl Netns {
    /// Creates a namespace without a name: it lives as long as this value and what is opened in it.
    ///
    /// # Errors
    /// The kernel refuses: no CAP_SYS_ADMIN, no memory, `user.max_net_namespaces` reached.
    pub fn new() -> Result<Self> {
        // unshare changes the calling thread, so a thread of its own does it and ends.
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(64 * 1024)
            .spawn(|| {
                unshare_net()
                    .map_err(|errno| Error::system("create", "a network namespace", errno))
                    .and_then(|()| Self::current())
            })
            .map_err(|error| Error::io("start a thread for", "a network namespace", &error))?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::reply("create", "a network namespace", "the thread that made it panicked"))
        })
    }

    /// Creates a namespace and bind-mounts it at `path` (usually `/run/netns/<name>`), where `ip -n <name>` finds it.
    ///
    /// `prepare` runs on the calling thread, with a netlink socket inside, *before* the namespace is mounted: it sets
    /// what marks the namespace as the caller's, so that a crash at any moment leaves either nothing or a marked
    /// namespace. If `prepare` fails, its error is returned and nothing is left.
    ///
    /// The folder is created if missing and becomes a shared mount, as `ip netns add` does it, so that the mount
    /// reaches the node's other mount namespaces. An empty file at `path` on which nothing is mounted is a leftover
    /// and is reused. Of several concurrent callers exactly one succeeds.
    ///
    /// # Errors
    /// [`Error::NetnsExists`] if a namespace is mounted there already, [`Error::NotANetns`] if something else is at
    /// the path; otherwise the kernel's refusal.
    pub fn create_at(path: &Path, prepare: impl FnOnce(&Self, &Netlink) -> Result<()>) -> Result<Self> {
        let folder = path
            .parent()
            .ok_or_else(|| Error::reply("create network namespace", path, "the path has no folder"))?;
        share_folder(folder)?;
        let place = claim(path)?;
        let made = (|| {
            let netns = Self::new()?;
            prepare(&netns, &Netlink::open(&netns)?)?;
            netns.bind(path)?;
            Ok(netns)
        })();
        if made.is_err() {
            // The lock is still held, so the leftover file is this call's own.
            let _ = fs::remove_file(path);
        }
        drop(place);
        made
    }

    /// Gives this namespace a name: bind-mounts it at `path`, with the folder as for [`Self::create_at`].
    ///
    /// # Errors
    /// [`Error::NetnsExists`] if a namespace is mounted there already, [`Error::NotANetns`] if something else is at
    /// the path; otherwise the kernel's refusal.
    pub fn mount_at(&self, path: &Path) -> Result<()> {
        let folder = path
            .parent()
            .ok_or_else(|| Error::reply("mount network namespace at", path, "the path has no folder"))?;
        share_folder(folder)?;
        let place = claim(path)?;
        let mounted = self.bind(path);
        if mounted.is_err() {
            // The lock is still held, so the leftover file is this call's own.
            let _ = fs::remove_file(path);
        }
        drop(place);
        mounted
    }

    fn bind(&self, path: &Path) -> Result<()> {
        let source = format!("/proc/self/fd/{}", self.as_fd().as_raw_fd());
        mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| Error::system("mount network namespace at", path, errno))
    }

    /// Removes the name of a namespace: unmounts `path` and removes the file. The kernel deletes the namespace when
    /// nothing else holds it. A missing path is success.
    ///
    /// # Errors
    /// [`Error::NotANetns`] if something else is at the path (it is left alone), or the kernel's refusal.
    pub fn remove_at(path: &Path) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match content_of(path)? {
                PathContent::Absent => return Ok(()),
                PathContent::Netns => match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                    Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                    Err(errno) => {
                        return Err(Error::system("unmount network namespace at", path, errno));
                    }
                },
                PathContent::EmptyFile => match fs::remove_file(path) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    // Somebody mounted a namespace after the check.
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                    Err(error) => return Err(Error::io("remove", path, &error)),
                },
                PathContent::Other(hint) => {
                    return Err(Error::NotANetns { path: path.into(), hint: Some(hint) });
                }
            }
        }
        Err(Error::reply("remove network namespace", path, "someone else keeps making it again"))
    }

    /// Whether a namespace is mounted at the path (of any kind: [`Netns::open`] tells which).
    ///
    /// # Errors
    /// The path cannot be examined, for another reason than that it does not exist.
    pub fn is_mounted(path: &Path) -> Result<bool> {
        match statfs(path) {
            Ok(stat) => Ok(stat.filesystem_type() == NSFS_MAGIC),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(Error::system("look at network namespace", path, errno)),
        }
    }
}

enum PathContent {
    Absent,
    Netns,
    EmptyFile,
    Other(&'static str),
}

/// What is at the path; symbolic links are not followed.
fn content_of(path: &Path) -> Result<PathContent> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PathContent::Absent),
        Err(error) => return Err(Error::io("look at network namespace", path, &error)),
    };
    if !meta.is_file() {
        return Ok(PathContent::Other("it is a directory, a symbolic link or a device"));
    }
    Ok(if Netns::is_mounted(path)? {
        PathContent::Netns
    } else if meta.len() == 0 {
        PathContent::EmptyFile
    } else {
        PathContent::Other("it is a file with content")
    })
}

/// Opens or creates the file that the namespace is mounted on, and locks it against other creators.
fn claim(path: &Path) -> Result<File> {
    for _ in 0..ATTEMPTS {
        match content_of(path)? {
            PathContent::Netns => return Err(Error::NetnsExists { path: path.into() }),
            PathContent::Other(hint) => {
                return Err(Error::NotANetns { path: path.into(), hint: Some(hint) });
            }
            PathContent::Absent | PathContent::EmptyFile => {}
        }
        let failed = |error: io::Error| Error::io("create network namespace", path, &error);
        let file = OpenOptions::new()
            .read(true)
            .mode(0o444)
            .custom_flags(libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        // Closing the file releases the lock; unlike an unlock, that cannot fail.
        file.lock().map_err(|error| Error::io("lock", path, &error))?;
        // Another process may have mounted or removed it before the lock.
        let nsfs = fstatfs(&file)
            .map_err(|errno| Error::system("look at network namespace", path, errno))?
            .filesystem_type()
            == NSFS_MAGIC;
        if nsfs {
            continue;
        }
        let ours = file.metadata().map_err(failed)?;
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Error::reply("create network namespace", path, "others keep making and removing it"))
}

/// Makes the folder a shared mount point, so that mounts below reach other mount namespaces.
fn share_folder(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| Error::io("create folder", folder, &error))?;
    let share =
        || mount(None::<&str>, folder, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => return Ok(()),
        // EINVAL: the folder is no mount point yet.
        Err(Errno::EINVAL) => {}
        Err(errno) => return Err(Error::system("share the mount", folder, errno)),
    }
    mount(Some(folder), folder, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .and_then(|()| share())
        .map_err(|errno| Error::system("make a shared mount of", folder, errno))
}

#[expect(clippy::disallowed_methods, reason = "only in the thread that Netns::new makes for it")]
fn unshare_net() -> Result<(), Errno> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
}
