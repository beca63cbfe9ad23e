//! What programs that were killed left in k8slan's folders, taken away when a daemon starts.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use netplumb::Netlink;
use node::{Lock, Paths, SafeDir};

/// Records that the node's part alone writes, in the run folder and in the state folder.
const OF_THE_NODE: [&str; 6] =
    ["status.json", "node-name", "underlays.json", "live.json", "kept-vms.json", "taps.json"];

/// How long a plugin that is at work on a minor is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of the node's part, while its lock is held, and of the plugins.
pub(crate) fn tidy_node(paths: &Paths) {
    let own = |of: &str| OF_THE_NODE.contains(&of);
    let (run, state) = (paths.run(), paths.state());
    for folder in [run, state, &paths.told()] {
        told(folder, in_folder(folder, |dir| Ok(dir.remove_temporaries(own)?)));
    }
    for folder in [run.join("netns"), paths.spokes()] {
        told(&folder, in_folder(&folder, |dir| Ok(dir.remove_temporaries(|_| true)?)));
    }
    // A plugin writes there under the folder's lock.
    let taps = paths.taps();
    let removed = in_folder(&taps, |dir| {
        let _lock = Lock::folder(dir, PATIENCE)?;
        Ok(dir.remove_temporaries(|_| true)?)
    });
    told(&taps, removed);
    // And here under locks of many.
    let leases = paths.leases();
    let kept = state.join("ipam");
    let stores =
        [&leases, &kept].into_iter().flat_map(|root| ["pools", "networks"].map(|part| root.join(part)));
    for folder in stores.chain([run.join("ports")]) {
        told(&folder, in_folder(&folder, |dir| Ok(dir.remove_old_temporaries()?)));
    }
    let spokes = paths.spokes();
    let unknown = |spoke: &str| matches!(std::fs::exists(spokes.join(format!("{spoke}.json"))), Ok(false));
    told(&spokes, in_folder(&spokes, |dir| Ok(dir.remove_locks(unknown)?)));
    let bridges = run.join("bridges");
    told(&bridges, in_folder(&bridges, locks_of_bridges));
}

/// Of the cluster's part, while its lock is held.
pub(crate) fn tidy_cluster(folders: &[&Path]) {
    for folder in folders {
        told(folder, in_folder(folder, |dir| Ok(dir.remove_temporaries(|_| true)?)));
    }
}

/// Of bridges that are gone. Names with a `:` are no bridge's, and stay.
fn locks_of_bridges(dir: &SafeDir) -> Result<usize> {
    let links: BTreeSet<String> =
        Netlink::open_current()?.links()?.into_iter().map(|link| link.name).collect();
    Ok(dir.remove_locks(|bridge| !bridge.contains(':') && !links.contains(bridge))?)
}

fn in_folder(path: &Path, tidy: impl FnOnce(&SafeDir) -> Result<usize>) -> Result<usize> {
    SafeDir::open(path)?.as_ref().map_or(Ok(0), tidy)
}

/// Nothing of this keeps a daemon from its work.
fn told(folder: &Path, removed: Result<usize>) {
    match removed {
        Ok(0) => {}
        Ok(files) => tracing::info!(folder = %folder.display(), files, "removed what killed programs left"),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), "cannot remove what killed programs left: {error:#}");
        }
    }
}
