//! Removing files that programs left in a folder when they died.
//!
//! A process ID in a file's name says nothing, since containers have process IDs of their own. That no writer uses a
//! file is known from a lock of the caller's, or from the file's age; a slower writer finds its file removed and
//! reports it.

use std::time::{Duration, SystemTime};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use crate::{Lock, LockError, SafeDir, SafeDirError};

/// A new file gets its name within milliseconds.
const OLD: Duration = Duration::from_secs(10 * 60);

impl SafeDir {
    /// Removes temporary files of [`SafeDir::write`] for the files that `of` selects; returns how many.
    ///
    /// The caller makes sure that no program writes such a file now.
    ///
    /// # Errors
    /// The kernel refuses a removal.
    pub fn remove_temporaries(&self, of: impl Fn(&str) -> bool) -> Result<usize, SafeDirError> {
        self.remove_all(|name| temporary_of(name).is_some_and(&of))
    }

    /// The same while programs may write: removes files older than ten minutes, also those named `.<name>.new`, as
    /// stores have them.
    ///
    /// # Errors
    /// The kernel refuses a removal.
    pub fn remove_old_temporaries(&self) -> Result<usize, SafeDirError> {
        let now = SystemTime::now();
        self.remove_all(|name| {
            let is_one = temporary_of(name).is_some() || (name.starts_with('.') && name.ends_with(".new"));
            is_one && self.age(name, now).is_some_and(|age| age > OLD)
        })
    }

    /// Removes locks (`<name>.lock`) of what does not exist any more; returns how many. A lock that is held stays.
    ///
    /// A program that waits for such a lock finds that the file lost its name, and acquires a new one.
    ///
    /// # Errors
    /// The kernel refuses a removal.
    pub fn remove_locks(&self, is_gone: impl Fn(&str) -> bool) -> Result<usize, SafeDirError> {
        let mut removed = 0;
        for name in self.names()? {
            let Some(of) = name.strip_suffix(".lock").filter(|of| is_gone(of)) else { continue };
            match Lock::acquire(self, &name, Duration::ZERO) {
                // Another program may have created it meanwhile, under the lock.
                Ok(_lock) if is_gone(of) => {
                    self.remove(&name)?;
                    removed += 1;
                }
                Ok(_) | Err(LockError::Held { .. }) => {}
                Err(LockError::Open(error)) => return Err(error),
                Err(LockError::Flock { path, source }) => {
                    return Err(SafeDirError::Io { operation: "lock", path, source });
                }
            }
        }
        Ok(removed)
    }

    fn remove_all(&self, which: impl Fn(&str) -> bool) -> Result<usize, SafeDirError> {
        let names = self.list(which)?;
        names.iter().try_for_each(|name| self.remove(name))?;
        Ok(names.len())
    }

    /// The time between now and a regular file's last write, in either direction, since the clock may have jumped.
    fn age(&self, name: &str, now: SystemTime) -> Option<Duration> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = std::fs::File::from(openat(self.as_fd(), name, flags, Mode::empty()).ok()?);
        let written = file.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok()?;
        Some(now.duration_since(written).unwrap_or_else(|ahead| ahead.duration()))
    }

    /// Whether the name still leads to this open file.
    pub(crate) fn still_names(&self, name: &str, file: &std::fs::File) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        match (fstatat(self.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW), file.metadata()) {
            (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) == (open.dev(), open.ino()),
            _ => false,
        }
    }
}

/// The file that a temporary file `.<name>.<process ID>` is for.
fn temporary_of(name: &str) -> Option<&str> {
    let (of, process) = name.strip_prefix('.')?.rsplit_once('.')?;
    let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !of.is_empty()).then_some(of)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn names(folder: &std::path::Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_writer_left_is_known_by_its_name() {
        for (name, of) in [
            (".status.json.1", Some("status.json")),
            (".knl1.4711", Some("knl1")),
            (".a.b.2", Some("a.b")),
            ("status.json.1", None),
            (".status.json", None),
            (".status.json.", None),
            (".status.json.1x", None),
            ("..7", None),
            (".7", None),
        ] {
            assert_eq!(temporary_of(name), of, "{name}");
        }
    }

    #[test]
    fn temporaries_go_by_name_or_by_age() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(temp.path()).unwrap();
        for name in [".a.json.1", ".a.json.22", ".b.json.1", ".c.journal.new", ".hidden", "a.json"] {
            fs::write(temp.path().join(name), "x").unwrap();
        }
        assert_eq!(dir.remove_temporaries(|of| of == "a.json").unwrap(), 2);
        assert_eq!(dir.remove_old_temporaries().unwrap(), 0);
        let (past, future) = (SystemTime::now() - 2 * OLD, SystemTime::now() + 2 * OLD);
        for (name, at) in
            [(".b.json.1", past), (".c.journal.new", future), (".hidden", past), ("a.json", past)]
        {
            File::options().write(true).open(temp.path().join(name)).unwrap().set_modified(at).unwrap();
        }
        assert_eq!(dir.remove_old_temporaries().unwrap(), 2);
        assert_eq!(names(temp.path()), [".hidden", "a.json"]);
    }

    #[test]
    fn a_lock_goes_with_what_it_is_for_unless_it_is_held() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(temp.path()).unwrap();
        for name in ["br0.lock", "br1.lock", "br2.lock"] {
            drop(Lock::acquire(&dir, name, Duration::ZERO).unwrap());
        }
        let held = Lock::acquire(&dir, "br2.lock", Duration::ZERO).unwrap();
        assert_eq!(dir.remove_locks(|of| of != "br0").unwrap(), 1);
        assert_eq!(names(temp.path()), ["br0.lock", "br2.lock"]);
        drop(held);
        assert_eq!(dir.remove_locks(|of| of != "br0").unwrap(), 1);
    }

    /// A program that waited for a removed lock must hold the one that the next program acquires.
    #[test]
    fn a_lock_that_is_removed_under_a_waiter_keeps_holders_apart() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(temp.path()).unwrap();
        let first = Lock::acquire(&dir, "x.lock", Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::acquire(&dir, "x.lock", Duration::from_secs(10)).unwrap());
            std::thread::sleep(Duration::from_millis(30));
            dir.remove("x.lock").unwrap();
            drop(first);
            let second = waiter.join().unwrap();
            let third = Lock::acquire(&dir, "x.lock", Duration::ZERO);
            assert!(matches!(third, Err(LockError::Held { .. })), "two have it");
            drop(second);
        });
    }
}
