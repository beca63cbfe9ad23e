use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat};
use nix::sys::statfs::{DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC, TRACEFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};

/// A folder that only root can write, opened once and used by its descriptor.
///
/// No component of its path and none of its files may be a symbolic link; the folder and every file read from it
/// belong to root and are not writable by others. A file that a tenant can create somewhere is therefore never read
/// as a record.
#[derive(Debug)]
pub struct SafeDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Whether a written file must survive a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// For files under `/run`: atomic, not synced.
    UntilReboot,
    /// The file is synced before it gets its name, and its folder afterwards.
    Kept,
}

/// Why a folder or a file in it cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum SafeDirError {
    #[error("{operation} {path:?}")]
    Io {
        /// The operation as a verb and its object.
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{0:?} is reached through a symbolic link, which k8slan does not follow: put a real folder or file there"
    )]
    Symlink(PathBuf),
    #[error(
        "{path:?} could be written by others than root (owner {uid}, mode {mode:04o}), so it is not trusted: \
         chown root and chmod go-w it"
    )]
    Untrusted { path: PathBuf, uid: u32, mode: u32 },
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    #[error("{path:?} has {len} bytes, more than the {max} that it can have")]
    TooLarge { path: PathBuf, len: u64, max: u64 },
}

impl SafeDirError {
    /// Whether the error is about what exists there, not a refusal of the operating system.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// The size in bytes of the largest file that is read.
const MAX_LEN: u64 = 1 << 20;

impl SafeDir {
    /// Opens an existing folder; `None` if it does not exist.
    ///
    /// # Errors
    /// A symbolic link in the path, a foreign owner or a loose mode, or the kernel's refusal.
    pub fn open(path: &Path) -> Result<Option<Self>, SafeDirError> {
        let how = OpenHow::new()
            .flags(OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let fd = match openat2(AT_FDCWD, path, how) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(SafeDirError::Symlink(path.to_owned())),
            Err(errno) => return Err(io("open the folder", path, errno)),
        };
        let file = File::from(fd);
        let meta = file.metadata().map_err(|e| io("look at the folder", path, e))?;
        trusted(path, &meta)?;
        Ok(Some(Self { fd: file.into(), path: path.to_owned() }))
    }

    /// Opens a folder, and creates it with its parents (mode 0755) if it is missing. What is new is synced: a file in it that
    /// is kept must not be lost with its folder.
    ///
    /// # Errors
    /// As [`SafeDir::open`].
    pub fn create(path: &Path) -> Result<Self, SafeDirError> {
        if let Some(dir) = Self::open(path)? {
            return Ok(dir);
        }
        let parents = parents_of_missing(path);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|e| io("make the folder", path, e))?;
        for parent in parents {
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(|e| io("sync the folder", parent, e))?;
        }
        Self::open(path)?.ok_or_else(|| io("open the folder", path, Errno::ENOENT))
    }

    /// Keeps everybody but root out of the folder, whatever the modes of the files in it.
    ///
    /// # Errors
    /// The kernel refuses the new mode.
    pub fn make_private(&self) -> Result<(), SafeDirError> {
        let failed = |e| io("set the mode of", &self.path, e);
        let mode = fstat(self.fd.as_fd()).map_err(failed)?.st_mode;
        match mode & 0o077 {
            0 => Ok(()),
            _ => fchmod(self.fd.as_fd(), Mode::S_IRWXU).map_err(failed),
        }
    }

    /// The folder's path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole of one file; `None` if it does not exist. `name` is one path component.
    ///
    /// # Errors
    /// A symbolic link, anything but a regular file, a foreign owner or a loose mode, more than 1 MiB, or the
    /// kernel's refusal.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, SafeDirError> {
        self.read_up_to(name, MAX_LEN)
    }

    /// The same for a file that is not a record and may have up to `max` bytes.
    ///
    /// # Errors
    /// As [`SafeDir::read`].
    pub fn read_up_to(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, SafeDirError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        read_at(self.fd.as_fd(), name, flags, self.path.join(name), max, trusted)
    }

    /// The same for a file that others may have written, and whose contents are not trusted.
    ///
    /// # Errors
    /// As [`SafeDir::read`], except for foreign owners and loose modes.
    pub fn read_untrusted(&self, name: &str) -> Result<Option<Vec<u8>>, SafeDirError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        read_at(self.fd.as_fd(), name, flags, self.path.join(name), MAX_LEN, |_, _| Ok(()))
    }

    /// Writes a file so that a reader finds either the whole old text or the whole new one (mode 0644).
    ///
    /// # Errors
    /// The kernel's refusal; the old file then still exists.
    pub fn write(&self, name: &str, bytes: &[u8], durability: Durability) -> Result<(), SafeDirError> {
        // Each file has one writer; if two break this rule, the process ID keeps their files apart.
        let temporary = format!(".{name}.{}", std::process::id());
        let path = self.path.join(name);
        let result = self.write_temporary(&temporary, bytes, durability).and_then(|()| {
            renameat(self.fd.as_fd(), temporary.as_str(), self.fd.as_fd(), name)
                .map_err(|e| io("put in place", &path, e))
        });
        if let Err(error) = result {
            let _ = unlinkat(self.fd.as_fd(), temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            return Err(error);
        }
        if durability == Durability::Kept {
            fsync(self.fd.as_fd()).map_err(|e| io("sync the folder", &self.path, e))?;
        }
        Ok(())
    }

    fn write_temporary(&self, name: &str, bytes: &[u8], durability: Durability) -> Result<(), SafeDirError> {
        let path = self.path.join(name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        let fd = openat(self.fd.as_fd(), name, flags, mode).map_err(|e| io("create", &path, e))?;
        // Independent of the caller's umask.
        fchmod(fd.as_fd(), mode).map_err(|e| io("set the mode of", &path, e))?;
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(|e| io("write", &path, e))?;
        if durability == Durability::Kept {
            file.sync_all().map_err(|e| io("sync", &path, e))?;
        }
        Ok(())
    }

    /// Creates a file that must not exist yet (mode 0644 less the umask, not synced); `false` if it exists.
    ///
    /// The file has no name until it is complete (`O_TMPFILE`), so that a writer that dies leaves nothing.
    ///
    /// # Errors
    /// The kernel's refusal, EOPNOTSUPP on a file system without such files; no part of the file is left.
    pub fn create_new(&self, name: &str, bytes: &[u8]) -> Result<bool, SafeDirError> {
        let path = self.path.join(name);
        let flags = OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let fd = openat(self.fd.as_fd(), ".", flags, Mode::from_bits_truncate(0o644))
            .map_err(|e| io("create", &path, e))?;
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(|e| io("write", &path, e))?;
        match linkat(file.as_fd(), "", self.fd.as_fd(), name, AtFlags::AT_EMPTY_PATH) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(io("put in place", &path, errno)),
        }
    }

    /// Removes a file; a missing file is success.
    ///
    /// # Errors
    /// The kernel refuses the removal.
    pub fn remove(&self, name: &str) -> Result<(), SafeDirError> {
        match unlinkat(self.fd.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // On a read-only file system the kernel refuses before it checks whether the file exists.
            Err(Errno::EROFS) if !self.has(name) => Ok(()),
            Err(errno) => Err(io("remove", &self.path.join(name), errno)),
        }
    }

    fn has(&self, name: &str) -> bool {
        fstatat(self.fd.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) != Err(Errno::ENOENT)
    }

    /// Removes a file as [`SafeDir::remove`] does, and the temporary files of writers that died.
    ///
    /// # Errors
    /// The kernel refuses a removal.
    pub fn remove_with_leftovers(&self, name: &str) -> Result<(), SafeDirError> {
        self.remove(name)?;
        let prefix = format!(".{name}.");
        for leftover in self.list(|other| other.starts_with(&prefix))? {
            self.remove(&leftover)?;
        }
        Ok(())
    }

    /// The names of the folder's files in no order; names that begin with `.` are left out.
    ///
    /// # Errors
    /// The kernel refuses to list them.
    pub fn names(&self) -> Result<Vec<String>, SafeDirError> {
        self.list(|name| !name.starts_with('.'))
    }

    pub(crate) fn list(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, SafeDirError> {
        let failed = |e| io("list the folder", &self.path, e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
                && wanted(&name)
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The folder itself, opened once more: a lock belongs to one open file description.
    pub(crate) fn reopen(&self) -> Result<File, SafeDirError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        openat(self.fd.as_fd(), ".", flags, Mode::empty())
            .map(File::from)
            .map_err(|e| io("open the folder", &self.path, e))
    }

    pub(crate) fn open_lock(&self, name: &str) -> Result<File, SafeDirError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self.fd.as_fd(), name, flags, Mode::from_bits_truncate(0o600))
            .map(File::from)
            .map_err(|e| io("open the lock", &self.path.join(name), e))
    }
}

/// The whole of one file, whose path may have symbolic links; `None` if it does not exist.
///
/// # Errors
/// As [`SafeDir::read`], except for symbolic links.
pub fn read_through_links(path: &Path, max: u64) -> Result<Option<Vec<u8>>, SafeDirError> {
    read_at(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, path.to_owned(), max, trusted)
}

/// The whole of one file of any owner, whose path may have symbolic links; `None` if it does not exist. Pipes,
/// devices and folders are not opened, and the number of bytes is limited.
///
/// # Errors
/// Anything but a regular file, more than `max` bytes, or the kernel's refusal.
pub fn read_regular(path: &Path, max: u64) -> Result<Option<Vec<u8>>, SafeDirError> {
    let anybodys = |_: &Path, _: &std::fs::Metadata| Ok(());
    read_at(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, path.to_owned(), max, anybodys)
}

/// File systems whose files the kernel generates on each read.
const KERNELS: [FsType; 3] = [PROC_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC];

/// Checks the file's type before it opens it: opening a device uses it, and a watchdog's resets the machine.
fn read_at<P: ?Sized + NixPath>(
    dir: impl AsFd,
    name: &P,
    look: OFlag,
    path: PathBuf,
    max: u64,
    judge: impl FnOnce(&Path, &std::fs::Metadata) -> Result<(), SafeDirError>,
) -> Result<Option<Vec<u8>>, SafeDirError> {
    let place = match openat(dir, name, look, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(io("look at", &path, errno)),
    };
    let meta = place.metadata().map_err(|e| io("look at", &path, e))?;
    if meta.is_symlink() {
        return Err(SafeDirError::Symlink(path));
    }
    // The kernel's own files have no length, and reading one may take its contents from other readers (`/proc/kmsg`).
    let is_the_kernels = || fstatfs(&place).is_ok_and(|on| KERNELS.contains(&on.filesystem_type()));
    if !meta.is_file() || meta.len() == 0 && is_the_kernels() {
        return Err(SafeDirError::NotAFile(path));
    }
    judge(&path, &meta)?;
    // The file that was checked, even if another one has its name by now.
    let same = format!("/proc/self/fd/{}", place.as_raw_fd());
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(same);
    let file = file.map_err(|e| io("open", &path, e))?;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(max)).unwrap_or(0));
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| io("read", &path, e))?;
    match bytes.len() as u64 {
        len if len > max => Err(SafeDirError::TooLarge { path, len: len.max(meta.len()), max }),
        _ => Ok(Some(bytes)),
    }
}

/// The folders that get a new entry when `path` is created with its parents.
fn parents_of_missing(path: &Path) -> Vec<&Path> {
    let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let named = |parent: &&Path| !parent.as_os_str().is_empty();
    missing.map(|folder| folder.parent().filter(named).unwrap_or(Path::new("."))).collect()
}

/// Refuses a file that is not root's, or that others may write.
fn trusted(path: &Path, meta: &std::fs::Metadata) -> Result<(), SafeDirError> {
    let mode = meta.mode() & 0o7777;
    if meta.uid() != 0 || mode & 0o022 != 0 {
        return Err(SafeDirError::Untrusted { path: path.to_owned(), uid: meta.uid(), mode });
    }
    Ok(())
}

fn io(operation: &'static str, path: &Path, source: impl Into<std::io::Error>) -> SafeDirError {
    SafeDirError::Io { operation, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests;
