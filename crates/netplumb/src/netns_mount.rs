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

/// How often to start over when others create and remove the same path meanwhile.
const ATTEMPTS: usize = 16;

impl Netns {
    /// Makes a namespace that has no name: it lives as long as this value, or what is put into it.
    ///
    /// # Errors
    /// The kernel refuses: no CAP_SYS_ADMIN, no memory, `user.max_net_namespaces` reached.
    pub fn new() -> Result<Self> {
        // unshare changes the calling thread, so a thread of its own pays for it and ends.
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

    /// Makes a namespace and bind-mounts it at `path` (usually `/run/netns/<name>`), where
    /// `ip -n <name>` finds it.
    ///
    /// `prepare` runs on the calling thread, with a netlink socket inside, *before* the namespace is
    /// mounted: whatever marks it as the caller's is set there, so a crash at any moment leaves either
    /// nothing or a marked namespace. An error of `prepare` is returned and nothing is left.
    ///
    /// The folder is made if missing and becomes a shared mount of its own, as `ip netns add` does, so
    /// that the mount reaches the other mount namespaces of the node. An empty file at `path` on which
    /// nothing is mounted is a leftover and is used. Of several callers at once exactly one wins.
    ///
    /// # Errors
    /// [`Error::NetnsExists`] if a namespace is mounted there already, [`Error::NotANetns`] if
    /// something else is at the path; else what the kernel refused.
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
            // The lock is still held, so this is the leftover of nobody else.
            let _ = fs::remove_file(path);
        }
        drop(place);
        made
    }

    /// Gives a namespace that is held a name: bind-mounts it at `path`, with the folder as for
    /// [`Self::create_at`].
    ///
    /// # Errors
    /// [`Error::NetnsExists`] if a namespace is mounted there already, [`Error::NotANetns`] if
    /// something else is at the path; else what the kernel refused.
    pub fn mount_at(&self, path: &Path) -> Result<()> {
        let folder = path
            .parent()
            .ok_or_else(|| Error::reply("mount network namespace at", path, "the path has no folder"))?;
        share_folder(folder)?;
        let place = claim(path)?;
        let mounted = self.bind(path);
        if mounted.is_err() {
            // The lock is still held, so this is the leftover of nobody else.
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

    /// Takes the name of a namespace away: unmounts `path` and removes the file. The namespace dies
    /// when nothing else holds it. Nothing there is success.
    ///
    /// # Errors
    /// [`Error::NotANetns`] if something else is at the path (it is left alone), or what the kernel
    /// refused.
    pub fn remove_at(path: &Path) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match look(path)? {
                Place::Absent => return Ok(()),
                Place::Netns => match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                    Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                    Err(errno) => {
                        return Err(Error::system("unmount network namespace at", path, errno));
                    }
                },
                Place::EmptyFile => match fs::remove_file(path) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    // Someone mounted between look and here.
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                    Err(error) => return Err(Error::io("remove", path, &error)),
                },
                Place::Other(hint) => {
                    return Err(Error::NotANetns { path: path.into(), hint: Some(hint) });
                }
            }
        }
        Err(Error::reply("remove network namespace", path, "someone else keeps making it again"))
    }

    /// Whether a namespace is mounted at the path (of any kind: [`Netns::open`] tells which).
    ///
    /// # Errors
    /// The path cannot be looked at for another reason than that it is not there.
    pub fn is_mounted(path: &Path) -> Result<bool> {
        match statfs(path) {
            Ok(stat) => Ok(stat.filesystem_type() == NSFS_MAGIC),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(Error::system("look at network namespace", path, errno)),
        }
    }
}

enum Place {
    Absent,
    Netns,
    EmptyFile,
    Other(&'static str),
}

/// What is at the path, without following a link.
fn look(path: &Path) -> Result<Place> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Absent),
        Err(error) => return Err(Error::io("look at network namespace", path, &error)),
    };
    if !meta.is_file() {
        return Ok(Place::Other("it is a directory, a symbolic link or a device"));
    }
    Ok(if Netns::is_mounted(path)? {
        Place::Netns
    } else if meta.len() == 0 {
        Place::EmptyFile
    } else {
        Place::Other("it is a file with content")
    })
}

/// Opens, or makes, the file that the namespace is mounted on, and locks it against other creators.
fn claim(path: &Path) -> Result<File> {
    for _ in 0..ATTEMPTS {
        match look(path)? {
            Place::Netns => return Err(Error::NetnsExists { path: path.into() }),
            Place::Other(hint) => {
                return Err(Error::NotANetns { path: path.into(), hint: Some(hint) });
            }
            Place::Absent | Place::EmptyFile => {}
        }
        let failed = |error: io::Error| Error::io("create network namespace", path, &error);
        let file = OpenOptions::new()
            .read(true)
            .mode(0o444)
            .custom_flags(libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        // Given back when it is closed, which cannot fail as an unlocking can.
        file.lock().map_err(|error| Error::io("lock", path, &error))?;
        // Another creator or remover may have been quicker than the lock.
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
