use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::store::StoreError;

/// The lock of one pool, released when it is dropped or the process ends. flock(2) works across PID namespaces.
#[derive(Debug)]
pub(crate) struct PoolLock {
    _file: File,
}

impl PoolLock {
    /// Waits for the lock, for `lock_timeout` at most, in the order of requests.
    ///
    /// The file is created if it is missing, with mode 0600, since whoever can open it can hold the lock. It is never
    /// removed.
    pub(crate) fn acquire(path: &Path, lock_timeout: Duration) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(path)
            .map_err(|source| StoreError::io("open the lock", path, source))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", path, source)),
        }
        // flock has no time limit, and polling would be unfair and slow: a thread waits. After a time-out the
        // process ends, and the thread with it.
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let result = file.lock().map(|()| file);
            // After a time-out, the file and its lock are dropped here.
            let _ = sender.send(result);
        });
        match receiver.recv_timeout(lock_timeout) {
            Ok(Ok(file)) => Ok(Self { _file: file }),
            Ok(Err(source)) => Err(StoreError::io("lock", path, source)),
            Err(_) => Err(StoreError::Locked { path: path.to_owned(), waited: lock_timeout }),
        }
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
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| PoolLock::acquire(&path, Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            waiter.join().unwrap().unwrap();
        });
    }
}
