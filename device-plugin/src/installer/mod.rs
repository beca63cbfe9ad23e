//! Puts the CNI plugins into a node's CNI folder, and takes away what k8slan left on a node.
//!
//! What was put there is known by its checksum, kept in `/var/lib/k8slan/install.json` and written before the first
//! file takes its name. So a program that dies anywhere leaves a folder in which every plugin is whole, the old
//! one or the new one, and in which the next run knows which files are its own.

mod cni_folder;
mod install;
mod manifest;
mod purge;
mod removal_plan;
mod uninstall;

pub(crate) use cni_folder::aside_name;
pub(crate) use install::{InstallOptions, install};
pub(crate) use uninstall::{UninstallOptions, uninstall};

use std::time::Duration;

use anyhow::Result;
use node::{Lock, SafeDir};

/// The plugins that a node needs, as they are called in the CNI folder.
const PLUGINS: [&str; 3] = ["ipam-pool", "macvtap", "vlan-bridge"];

/// The name that k8slan (Go) has for what `macvtap` does for its pods, where that is asked for: one program under two names.
const K8SLANVETH: &str = "k8slanveth";

/// The file that a plugin is made of, in the folder that has them all.
fn program_file(name: &str) -> &str {
    if name == K8SLANVETH { "macvtap" } else { name }
}

/// How long one installer waits for another.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// One installer at a time.
fn lock_installer(state: &SafeDir) -> Result<Lock> {
    Ok(Lock::acquire(state, "install.lock", LOCK_TIMEOUT)?)
}
