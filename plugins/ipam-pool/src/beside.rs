//! Whether a pool may be used beside the others.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::slot;
use crate::store::{Ledger, PoolKey, StoreError};
use crate::{Error, PoolFile, PoolFileError};

const KEY: &[u8] = b"d";

/// What the pool files were when they were last compared.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    file: (u64, i64, i64, u64),
    folder: (i64, i64),
}

/// Compares a named pool's file with all others, unless that was done since it and their folder were
/// changed: a call must not cost more because there are many pools.
pub(crate) fn check(ledger: &mut dyn Ledger, key: &PoolKey, pools: &Path) -> Result<(), Error> {
    let PoolKey::Named(name) = key else { return Ok(()) };
    let stamp = stamp(pools, name)?;
    let text = slot::encode(KEY, &stamp).map_err(|error| StoreError::record(error.to_string()))?;
    if ledger.get(KEY)?.as_ref() == Some(&text) {
        return Ok(());
    }
    if PoolFile::written_twice(pools)?.contains(name) {
        return Err(PoolFileError::Twice(name.clone()).into());
    }
    let own = PoolFile::load(pools, name)?;
    for other in PoolFile::names(pools)?.iter().filter(|other| *other != name) {
        match PoolFile::load(pools, other) {
            Ok(other) => own.check_beside(&other)?,
            // That is the other pool's trouble; it hands out nothing while it is so.
            Err(error) => eprintln!("ipam-pool: {error}"),
        }
    }
    ledger.put(KEY, &text)?;
    Ok(())
}

fn stamp(pools: &Path, name: &str) -> Result<Stamp, PoolFileError> {
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
