//! The locks that prevent a second daemon on a node.

use std::time::Duration;

use anyhow::{Result, bail};
use node::{Lock, LockError, NodeConfig, SafeDir};

/// How long the cluster's part waits for an earlier one that is ending.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// The lock of the node's part, in the run folder.
pub const DAEMON_LOCK: &str = "daemon.lock";

/// Takes the lock of the node's part: two daemons on one node would undo each other's work.
///
/// # Errors
/// Another daemon still holds the lock after `timeout`.
pub fn lock_daemon(run: &SafeDir, lock: &str, timeout: Duration) -> Result<Lock> {
    held_by_another(Lock::acquire(run, lock, timeout))
}

/// Takes the lock of the cluster's part: two of them would write the same reports. It is on the folder of the link's
/// socket, which that part can only read, and which nobody else locks.
///
/// # Errors
/// Another one runs, or the folder cannot be used.
pub fn lock_cluster_part() -> Result<Lock> {
    let folder = SafeDir::create(&NodeConfig::load()?.paths().controller())?;
    held_by_another(Lock::folder(&folder, HANDOVER_TIMEOUT))
}

fn held_by_another(lock: Result<Lock, LockError>) -> Result<Lock> {
    match lock {
        Err(LockError::Held { path, .. }) => {
            bail!("another k8slan-device-plugin runs on this node: it holds {}", path.display())
        }
        lock => Ok(lock?),
    }
}
