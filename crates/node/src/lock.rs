use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::{SafeDir, SafeDirError};

/// An exclusive lock between programs, given back when dropped and by the kernel when its holder
/// dies (`flock(2)`).
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error("{path:?} has been locked by another program for {waited:?}: try again, or find it with 'fuser'")]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// How long this program waited.
        waited: Duration,
    },
    /// The lock file could not be opened.
    #[error("cannot lock")]
    Open(#[from] SafeDirError),
    /// The kernel refused.
    #[error("lock {path:?}")]
    Flock {
        /// The lock's file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Lock {
    /// Takes the lock `name` in `dir`, waiting for `patience` at most.
    ///
    /// The file is made where it is missing (mode 0600). It goes when nothing needs it any more
    /// ([`SafeDir::remove_locks`]), so whoever has it looks whether it still has its name: there could be two
    /// holders of two files otherwise.
    ///
    /// # Errors
    /// [`LockError::Held`] when patience ends.
    pub fn acquire(dir: &SafeDir, name: &str, patience: Duration) -> Result<Self, LockError> {
        let start = Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let lock = Self::of_file(dir.open_lock(name)?, || dir.path().join(name), left)?;
            if dir.still_names(name, &lock.file) {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock on the folder itself, which needs no file: for what is done to several of its files, or
    /// after reading one.
    ///
    /// # Errors
    /// [`LockError::Held`] when patience ends.
    pub fn folder(dir: &SafeDir, patience: Duration) -> Result<Self, LockError> {
        Self::of_file(dir.reopen()?, || dir.path().to_owned(), patience)
    }

    fn of_file(file: File, path: impl Fn() -> PathBuf, patience: Duration) -> Result<Self, LockError> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            // flock cannot wait for a limited time, so it is asked again.
            match file.try_lock() {
                // Closing the file gives it back, and cannot fail as an unlocking can.
                Ok(()) => return Ok(Self { file }),
                Err(TryLockError::Error(source)) => return Err(LockError::Flock { path: path(), source }),
                Err(TryLockError::WouldBlock) if start.elapsed() >= patience => {
                    return Err(LockError::Held { path: path(), waited: patience });
                }
                Err(TryLockError::WouldBlock) => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
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
