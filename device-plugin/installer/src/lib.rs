//! Puts the CNI plugins into a node's CNI folder, and takes away what k8slan left on a node.
//!
//! What was put there is known by its checksum, kept in `/var/lib/k8slan/install.json` and written before the first
//! file takes its name. So a program that dies anywhere leaves a folder in which every plugin is whole, the old
//! one or the new one, and in which the next run knows which files are its own.

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

/// One installer at a time.
fn lock_installer(state: &SafeDir) -> Result<Lock> {
    Ok(Lock::acquire(state, "install.lock", LOCK_TIMEOUT)?)
}
