use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use crate::store::StoreError;
use crate::store::regular_file::remove_if_there;

/// The lock of one pool, released when it is dropped or the process ends. flock(2) works across PID namespaces.
#[derive(Debug)]
pub(crate) struct PoolLock {
    _file: File,
    path: PathBuf,
}

impl PoolLock {
    /// Waits for the lock, for `lock_timeout` at most, in the order of requests.
    ///
    /// The file is created if it is missing, with mode 0600, since whoever can open it can hold the lock.
    pub(crate) fn acquire(path: &Path, lock_timeout: Duration) -> Result<Self, StoreError> {
        let start = Instant::now();
        loop {
            let file = open(path)?;
            let file = match file.try_lock() {
                Ok(()) => file,
                Err(TryLockError::WouldBlock) => {
                    wait_for(file, path, lock_timeout.saturating_sub(start.elapsed()), lock_timeout)?
                }
                Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", path, source)),
            };
            if let Some(lock) = Self::of_file(file, path)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Self::of_file(file, path),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StoreError::io("lock", path, source)),
        }
    }

    /// `None` if the file lost its name while this process waited ([`PoolLock::remove`]): who comes later takes the lock
    /// on another file, so this one is no lock any more.
    fn of_file(file: File, path: &Path) -> Result<Option<Self>, StoreError> {
        let metadata = file.metadata().map_err(|source| StoreError::io("stat", path, source))?;
        Ok((metadata.nlink() > 0).then(|| Self { _file: file, path: path.to_owned() }))
    }

    /// Removes the file; the lock is held until it is dropped. Processes that wait for it find that it lost its name and
    /// take the next one: whatever the lock is for must be gone before.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        remove_if_there(&self.path).map_err(|source| StoreError::io("remove", &self.path, source))
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|source| StoreError::io("open the lock", path, source))
}

/// flock has no time limit, and polling would be unfair and slow: a thread waits. After a time-out the process ends, and
/// the thread with it.
fn wait_for(file: File, path: &Path, left: Duration, lock_timeout: Duration) -> Result<File, StoreError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let result = file.lock().map(|()| file);
        // After a time-out, the file and its lock are dropped here.
        let _ = sender.send(result);
    });
    match receiver.recv_timeout(left) {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(source)) => Err(StoreError::io("lock", path, source)),
        Err(_) => Err(StoreError::Locked { path: path.to_owned(), waited: lock_timeout }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_next_one_follows() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let first = PoolLock::acquire(&path, Duration::ZERO).unwrap();
        let second = PoolLock::acquire(&path, Duration::from_millis(5));
        assert!(matches!(second, Err(StoreError::Locked { .. })));
        assert!(PoolLock::try_acquire(&path).unwrap().is_none());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| PoolLock::acquire(&path, Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn whoever_waits_for_a_lock_that_is_removed_takes_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let first = PoolLock::acquire(&path, Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| PoolLock::acquire(&path, Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(20));
            first.remove().unwrap();
            drop(first);
            let second = waiter.join().unwrap().unwrap();
            assert!(path.exists());
            let third = PoolLock::acquire(&path, Duration::from_millis(5));
            assert!(matches!(third, Err(StoreError::Locked { .. })));
            drop(second);
        });
        PoolLock::acquire(&path, Duration::ZERO).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
