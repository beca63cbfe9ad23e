//! The folder of pool files.

use std::collections::BTreeSet;
use std::path::Path;

use node::SafeDir;

use crate::pool_file::{SHORT_SUFFIX, SUFFIX};
use crate::{PoolFile, PoolFileError};

impl PoolFile {
    /// # Errors
    /// The folder cannot be read, or is not trusted.
    pub fn names(folder: &Path) -> Result<Vec<String>, PoolFileError> {
        let files = files(folder)?;
        let names: BTreeSet<_> = files.iter().filter_map(|file| pool_name(file)).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    /// The names of pools that have both a `.yaml` and a `.yml` file.
    pub fn find_duplicates(folder: &Path) -> Result<Vec<String>, PoolFileError> {
        let files = files(folder)?;
        let short = files.iter().filter_map(|file| file.strip_suffix(SHORT_SUFFIX));
        Ok(short.filter(|name| files.contains(&format!("{name}{SUFFIX}"))).map(str::to_owned).collect())
    }

    /// The names of files in the folder that are not pool files.
    pub fn ignored(folder: &Path) -> Result<Vec<String>, PoolFileError> {
        Ok(files(folder)?.into_iter().filter(|file| pool_name(file).is_none()).collect())
    }
}

/// The names of all files in the folder; none if it does not exist.
fn files(folder: &Path) -> Result<BTreeSet<String>, PoolFileError> {
    let names = SafeDir::open(folder).and_then(|dir| dir.map_or(Ok(Vec::new()), |dir| dir.names()));
    Ok(names.map_err(|error| PoolFileError::Read("*".to_owned(), error))?.into_iter().collect())
}

/// The name of the pool of a file.
fn pool_name(file: &str) -> Option<&str> {
    file.strip_suffix(SUFFIX).or_else(|| file.strip_suffix(SHORT_SUFFIX))
}
