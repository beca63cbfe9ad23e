//! Installs the CNI plugins into a node's CNI folder, and removes what k8slan left on a node.
//!
//! Installed files are recognised by their checksums, which are in `/var/lib/k8slan/install.json` before the first
//! file gets its name. A program that dies at any moment therefore leaves a folder in which every plugin is complete,
//! old or new, and in which the next run knows its own files.

mod cni_folder;
mod install;
mod manifest;
mod options;
mod programs;
mod purge;
mod removal_plan;
mod uninstall;

pub use install::install;
pub use options::{InstallOptions, UninstallOptions};
pub use uninstall::uninstall;

use std::time::Duration;

use anyhow::Result;
use node::{Lock, SafeDir};

/// How long one installer waits for another.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Acquires the lock that only one installer may have.
fn lock_installer(state: &SafeDir) -> Result<Lock> {
    Ok(Lock::acquire(state, "install.lock", LOCK_TIMEOUT)?)
}
