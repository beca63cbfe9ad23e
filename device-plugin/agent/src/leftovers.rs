//! Removes what killed programs left in k8slan's folders, when a daemon starts.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use netplumb::Netlink;
use node::{Lock, Paths, SafeDir};

use crate::attachments::PluginPrograms;

/// Files that only the node's part writes, in the run folder and in the state folder.
const NODE_FILES: [&str; 6] =
    ["status.json", "node-name", "underlays.json", "live.json", "kept-vms.json", "taps.json"];

/// How long to wait for a plugin that holds the lock of the minors.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Removes leftovers of the node's part, while its lock is held, and of the plugins.
pub fn remove_node_leftovers(paths: &Paths) {
    let own = |of: &str| NODE_FILES.contains(&of);
    let (run, state) = (paths.run(), paths.state());
    for folder in [run, state, &paths.told()] {
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
    let bridges = run.join("bridges");
    log_removed(&bridges, with_folder(&bridges, remove_locks_of_gone_bridges));
}

/// Removes leftovers of the cluster's part, while its lock is held.
pub fn remove_cluster_leftovers(folders: &[&Path]) {
    for folder in folders {
        log_removed(folder, with_folder(folder, |dir| Ok(dir.remove_temporaries(|_| true)?)));
    }
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
