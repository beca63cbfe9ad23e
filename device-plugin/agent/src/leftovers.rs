//! Removes what killed programs left in k8slan's folders, when a daemon starts.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use netplumb::Netlink;
use node::{Lock, Paths, SafeDir};

use crate::attachments::PluginPrograms;

/// Files that only the node's part writes, in the run folder and in the state folder.
const NODE_FILES: [&str; 5] = ["status.json", "node-name", "underlays.json", "live.json", "taps.json"];

/// Folders in the run folder in which the two parts of the version before exchanged files.
const FORMER_FOLDERS: [&str; 2] = ["told", "cluster"];

/// How long to wait for a plugin that holds the lock of the minors.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Removes leftovers of the node's part, while its lock is held, and of the plugins.
pub fn remove_node_leftovers(paths: &Paths) {
    let own = |of: &str| NODE_FILES.contains(&of);
    let (run, state) = (paths.run(), paths.state());
    for folder in [run, state] {
        log_removed(folder, with_folder(folder, |dir| Ok(dir.remove_temporaries(own)?)));
    }
    for folder in [run.join("netns"), paths.spokes()] {
        log_removed(&folder, with_folder(&folder, |dir| Ok(dir.remove_temporaries(|_| true)?)));
    }
    // Plugins write there under the folder's lock.
    let taps = paths.taps();
    let removed = with_folder(&taps, |dir| {
        let _lock = Lock::folder(dir, LOCK_TIMEOUT)?;
        Ok(dir.remove_temporaries(|_| true)?)
    });
    log_removed(&taps, removed);
    // Plugins write there under several locks.
    let leases = paths.leases();
    let kept = state.join("ipam");
    let stores =
        [&leases, &kept].into_iter().flat_map(|root| ["pools", "networks"].map(|part| root.join(part)));
    for folder in stores.chain([run.join("ports")]) {
        log_removed(&folder, with_folder(&folder, |dir| Ok(dir.remove_old_temporaries()?)));
    }
    if let Err(error) = PluginPrograms::new(run.to_owned()).remove_unused_stores(paths) {
        tracing::warn!("cannot remove stores without leases: {error:#}");
    }
    let spokes = paths.spokes();
    let unknown = |spoke: &str| matches!(std::fs::exists(spokes.join(format!("{spoke}.json"))), Ok(false));
    log_removed(&spokes, with_folder(&spokes, |dir| Ok(dir.remove_locks(unknown)?)));
    for folder in FORMER_FOLDERS.map(|name| run.join(name)) {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove what the version before left");
            }
            _ => {}
        }
    }
    let bridges = run.join("bridges");
    log_removed(&bridges, with_folder(&bridges, remove_locks_of_gone_bridges));
}

/// Removes locks of deleted bridges. A name with a `:` is not a bridge's, and stays.
fn remove_locks_of_gone_bridges(dir: &SafeDir) -> Result<usize> {
    let links: BTreeSet<String> =
        Netlink::open_current()?.links()?.into_iter().map(|link| link.name).collect();
    Ok(dir.remove_locks(|bridge| !bridge.contains(':') && !links.contains(bridge))?)
}

fn with_folder(path: &Path, tidy: impl FnOnce(&SafeDir) -> Result<usize>) -> Result<usize> {
    SafeDir::open(path)?.as_ref().map_or(Ok(0), tidy)
}

/// Logs the result; an error does not stop the daemon.
fn log_removed(folder: &Path, removed: Result<usize>) {
    match removed {
        Ok(0) => {}
        Ok(files) => tracing::info!(folder = %folder.display(), files, "removed what killed programs left"),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), "cannot remove what killed programs left: {error:#}");
        }
    }
}
