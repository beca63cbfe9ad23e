use std::fs::File;
use std::path::Path;
use std::time::Duration;

use net_types::IfName;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest, Sha256};

use crate::lock::wait_for;
use crate::{LockError, SafeDir};

/// The file of these locks, below the run directory.
const FILE: &str = "attachments.lock";

/// How long a program waits for another one that works on the same attachment.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A lock that serialises ADD, DEL and GC of one attachment, from the first read to the last lease. It is released
/// when dropped, and by the kernel when its holder dies.
///
/// It is one byte of a file that all attachments share (`F_OFD_SETLK` of `fcntl(2)`), so that an attachment leaves no
/// file behind.
#[derive(Debug)]
pub struct AttachmentLock {
    _file: File,
}

impl AttachmentLock {
    /// Acquires the lock of an attachment; `None` if the run directory cannot be used, as on a read-only file system:
    /// a removal works without the lock too. `run`: the run directory.
    ///
    /// # Errors
    /// [`LockError::Held`] if another program has it for longer than ten seconds.
    pub fn hold(run: &Path, container_id: &str, ifname: &IfName) -> Result<Option<Self>, LockError> {
        match Self::acquire(run, container_id, ifname, TIMEOUT) {
            Ok(lock) => Ok(Some(lock)),
            Err(held @ LockError::Held { .. }) => Err(held),
            Err(LockError::Open(_) | LockError::Flock { .. }) => Ok(None),
        }
    }

    fn acquire(
        run: &Path,
        container_id: &str,
        ifname: &IfName,
        timeout: Duration,
    ) -> Result<Self, LockError> {
        let dir = SafeDir::create(run)?;
        let file = dir.open_lock(FILE)?;
        let byte = place(container_id, ifname);
        wait_for(
            || run.join(FILE),
            timeout,
            || match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
                Ok(_) => Ok(true),
                Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) => Ok(false),
                Err(errno) => Err(errno.into()),
            },
        )?;
        Ok(Self { _file: file })
    }
}

/// The byte of an attachment. Two attachments with the same byte only wait for each other.
fn place(container_id: &str, ifname: &IfName) -> libc::flock {
    let mut hash = Sha256::new();
    hash.update(container_id);
    hash.update([0]);
    hash.update(ifname.as_str());
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    let at = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 2;
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at.cast_signed(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(run: &Path, container: &str, timeout: u64) -> Result<AttachmentLock, LockError> {
        let ifname = "net1".parse().unwrap();
        AttachmentLock::acquire(run, container, &ifname, Duration::from_millis(timeout))
    }

    #[test]
    fn one_holder_of_each_attachment() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("k8slan");
        let first = lock(&run, "a", 0).unwrap();
        // A second open in the same process counts like another program's.
        assert!(matches!(lock(&run, "a", 5), Err(LockError::Held { .. })));
        let _other = lock(&run, "b", 0).unwrap();
        drop(first);
        lock(&run, "a", 0).unwrap();
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_does_not_serve_is_no_obstacle() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(AttachmentLock::hold(&file, "a", &"net1".parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn a_waiter_gets_it_when_it_is_given_back() {
        let temp = tempfile::tempdir().unwrap();
        let first = lock(temp.path(), "a", 0).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock(temp.path(), "a", 10_000));
            std::thread::sleep(Duration::from_millis(30));
            drop(first);
            assert!(waiter.join().unwrap().is_ok());
        });
    }
}
