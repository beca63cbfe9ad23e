//! Checks that a pool does not overlap others.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::record;
use crate::store::{KvTxn, PoolKey, StoreError};
use crate::{Error, PoolFile, PoolFileError};

const STAMP_KEY: &[u8] = b"d";

/// The pool's file and the folder when the pools were last compared.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    file: (u64, i64, i64, u64),
    folder: (i64, i64),
}

/// Compares a named pool's file with all others, unless neither it nor the folder changed since the last time: the
/// duration of ADD must not depend on the number of pools.
pub(crate) fn check(txn: &mut dyn KvTxn, key: &PoolKey, pools: &Path) -> Result<(), Error> {
    let PoolKey::Named(name) = key else { return Ok(()) };
    let stamp = read_stamp(pools, name)?;
    let text = record::encode(STAMP_KEY, &stamp).map_err(|error| StoreError::record(error.to_string()))?;
    if txn.get(STAMP_KEY)?.as_ref() == Some(&text) {
        return Ok(());
    }
    if PoolFile::find_duplicates(pools)?.contains(name) {
        return Err(PoolFileError::Twice(name.clone()).into());
    }
    let own = PoolFile::load(pools, name)?;
    for other in PoolFile::names(pools)?.iter().filter(|other| *other != name) {
        match PoolFile::load(pools, other) {
            Ok(other) => own.check_overlap(&other)?,
            // The other pool hands out nothing while its file is invalid.
            Err(error) => eprintln!("ipam-pool: {error}"),
        }
    }
    txn.put(STAMP_KEY, &text)?;
    Ok(())
}

fn read_stamp(pools: &Path, name: &str) -> Result<Stamp, PoolFileError> {
    let path = pools.join(format!("{name}.yaml"));
    let unknown = |_| PoolFileError::Unknown { name: name.to_owned(), path: path.clone() };
    let file = std::fs::metadata(&path).or_else(|_| std::fs::metadata(pools.join(format!("{name}.yml"))));
    let file = file.map_err(unknown)?;
    let folder = std::fs::metadata(pools).map_err(unknown)?;
    Ok(Stamp {
        file: (file.ino(), file.mtime(), file.mtime_nsec(), file.len()),
        folder: (folder.mtime(), folder.mtime_nsec()),
    })
}
