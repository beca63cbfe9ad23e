//! Checks that a pool does not overlap others.

use std::os::unix::fs::MetadataExt;

use node::Paths;
use serde::{Deserialize, Serialize};

use crate::store::record;
use crate::store::{KvTxn, PoolKey, StoreError};
use crate::{Error, PoolFile, PoolFileError};

const STAMP_KEY: &[u8] = b"d";

/// The pool's file, the folder and that of the cluster's pools when the pools were last compared.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    file: (u64, i64, i64, u64),
    folder: (i64, i64),
    cluster: Option<(i64, i64)>,
}

/// Compares a named pool's file with all other pools, unless neither it nor a folder changed since the last time: the
/// duration of ADD must not depend on the number of pools.
pub(crate) fn check(txn: &mut dyn KvTxn, key: &PoolKey, paths: &Paths) -> Result<(), Error> {
    let PoolKey::Named(name) = key else { return Ok(()) };
    let pools = paths.pools();
    let stamp = read_stamp(paths, name)?;
    let text = record::encode(STAMP_KEY, &stamp).map_err(|error| StoreError::record(error.to_string()))?;
    if txn.get(STAMP_KEY)?.as_ref() == Some(&text) {
        return Ok(());
    }
    if PoolFile::find_duplicates(&pools)?.contains(name) {
        return Err(PoolFileError::Twice(name.clone()).into());
    }
    let own = PoolFile::load(&pools, name)?;
    for other in PoolFile::all_names(paths)?.iter().filter(|other| *other != name) {
        match PoolFile::find(paths, other) {
            Ok(other) => own.check_overlap(&other)?,
            // The other pool hands out nothing while it is invalid.
            Err(error) => eprintln!("ipam-pool: {error}"),
        }
    }
    txn.put(STAMP_KEY, &text)?;
    Ok(())
}

fn read_stamp(paths: &Paths, name: &str) -> Result<Stamp, PoolFileError> {
    let pools = paths.pools();
    let path = pools.join(format!("{name}.yaml"));
    let unknown = |_| PoolFileError::Unknown { name: name.to_owned(), path: path.clone() };
    let file = std::fs::metadata(&path).or_else(|_| std::fs::metadata(pools.join(format!("{name}.yml"))));
    let file = file.map_err(unknown)?;
    let folder = std::fs::metadata(&pools).map_err(unknown)?;
    let cluster = std::fs::metadata(paths.cluster_pools()).ok();
    Ok(Stamp {
        file: (file.ino(), file.mtime(), file.mtime_nsec(), file.len()),
        folder: (folder.mtime(), folder.mtime_nsec()),
        cluster: cluster.map(|folder| (folder.mtime(), folder.mtime_nsec())),
    })
}
