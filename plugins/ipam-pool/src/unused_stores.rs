use std::path::Path;

use crate::PoolFile;
use crate::store::{PoolKey, StoreDirs};

/// Removes the stores that have nothing in them, but for those of pools that have a file. Returns whose they were; what
/// could not be removed is told on stderr, and is no error: it is tried again.
pub(crate) fn remove(dirs: &StoreDirs, pools: &Path) -> Vec<PoolKey> {
    // Where the folder of the pools cannot be read, each of them may have a file.
    let files = PoolFile::names(pools).ok();
    let wanted = |key: &PoolKey| match (key, &files) {
        (PoolKey::Network(_), _) => false,
        (PoolKey::Named(name), Some(files)) => files.contains(name),
        (PoolKey::Named(_), None) => true,
    };
    let mut removed = Vec::new();
    match dirs.remove_unused(wanted) {
        Ok(outcomes) => {
            for (key, outcome) in outcomes {
                match outcome {
                    Ok(()) => removed.push(key),
                    Err(error) => eprintln!("ipam-pool: the store of {key} stays: {error}"),
                }
            }
        }
        Err(error) => eprintln!("ipam-pool: cannot look for stores without leases: {error}"),
    }
    removed
}
