use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::{SafeDir, SafeDirError};

/// An exclusive lock between programs, released when dropped and by the kernel when its holder dies (`flock(2)`).
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a lock was not acquired.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum LockError {
    #[error("{path:?} has been locked by another program for {waited:?}: try again, or find it with 'fuser'")]
    Held {
        path: PathBuf,
        /// How long this program waited.
        waited: Duration,
    },
    #[error("cannot lock")]
    Open(#[from] SafeDirError),
    #[error("lock {path:?}")]
    Flock { path: PathBuf, source: std::io::Error },
}

impl Lock {
    /// Acquires the lock `name` in `dir`, waiting for `timeout` at most.
    ///
    /// The file is created if it is missing (mode 0600). It is removed when nothing needs it any more
    /// ([`SafeDir::remove_locks`]), so the holder checks that the file still has its name: otherwise there could be
    /// two holders of two files.
    ///
    /// # Errors
    /// [`LockError::Held`] after the timeout.
    pub fn acquire(dir: &SafeDir, name: &str, timeout: Duration) -> Result<Self, LockError> {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let lock = Self::of_file(dir.open_lock(name)?, || dir.path().join(name), left)?;
            if dir.still_names(name, &lock.file) {
                return Ok(lock);
            }
        }
    }

    /// Acquires a lock on the folder itself, without a lock file: for changes of several of its files, or after
    /// reading one.
    ///
    /// # Errors
    /// [`LockError::Held`] after the timeout.
    pub fn folder(dir: &SafeDir, timeout: Duration) -> Result<Self, LockError> {
        Self::of_file(dir.reopen()?, || dir.path().to_owned(), timeout)
    }

    fn of_file(file: File, path: impl Fn() -> PathBuf, timeout: Duration) -> Result<Self, LockError> {
        wait_for(path, timeout, || match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(source)) => Err(source),
        })?;
        // Closing the file releases the lock; unlike an unlock, that cannot fail.
        Ok(Self { file })
    }
}

/// Tries to get a lock repeatedly, since the kernel cannot wait with a timeout. `attempt` returns whether it has the lock.
pub(crate) fn wait_for(
    path: impl Fn() -> PathBuf,
    timeout: Duration,
    attempt: impl Fn() -> std::io::Result<bool>,
) -> Result<(), LockError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt() {
            Ok(true) => return Ok(()),
            Ok(false) if start.elapsed() >= timeout => {
                return Err(LockError::Held { path: path(), waited: timeout });
            }
            Ok(false) => {}
            Err(source) => return Err(LockError::Flock { path: path(), source }),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(temp.path()).unwrap();
        let first = Lock::acquire(&dir, "x.lock", Duration::ZERO).unwrap();
        let second = Lock::acquire(&dir, "x.lock", Duration::from_millis(5));
        assert!(matches!(second, Err(LockError::Held { .. })));
        drop(first);
        Lock::acquire(&dir, "x.lock", Duration::ZERO).unwrap();
    }

    #[test]
    fn a_folder_is_locked_apart_from_its_files() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(temp.path()).unwrap();
        let first = Lock::folder(&dir, Duration::ZERO).unwrap();
        assert!(matches!(Lock::folder(&dir, Duration::ZERO), Err(LockError::Held { .. })));
        Lock::acquire(&dir, "x.lock", Duration::ZERO).unwrap();
        drop(first);
        Lock::folder(&dir, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_waiter_gets_it_when_it_is_given_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(temp.path()).unwrap();
        let first = Lock::acquire(&dir, "x.lock", Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::acquire(&dir, "x.lock", Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(30));
            drop(first);
            assert!(waiter.join().unwrap().is_ok());
        });
    }
}
