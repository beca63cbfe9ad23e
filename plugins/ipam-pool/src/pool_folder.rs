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
        let failed = |error| PoolFileError::Read("*".to_owned(), error);
        let Some(dir) = SafeDir::open(folder).map_err(failed)? else { return Ok(Vec::new()) };
        let files = dir.names().map_err(failed)?;
        let names: BTreeSet<_> = files.iter().filter_map(|file| pool_name(file)).map(str::to_owned).collect();
        Ok(names.into_iter().collect())
    }

    /// The names of pools that have both a `.yaml` and a `.yml` file.
    pub fn find_duplicates(folder: &Path) -> Result<Vec<String>, PoolFileError> {
        let failed = |error| PoolFileError::Read("*".to_owned(), error);
        let Some(dir) = SafeDir::open(folder).map_err(failed)? else { return Ok(Vec::new()) };
        let files: BTreeSet<String> = dir.names().map_err(failed)?.into_iter().collect();
        let short = files.iter().filter_map(|file| file.strip_suffix(SHORT_SUFFIX));
        Ok(short.filter(|name| files.contains(&format!("{name}{SUFFIX}"))).map(str::to_owned).collect())
    }

    /// The names of files in the folder that are not pool files.
    pub fn ignored(folder: &Path) -> Result<Vec<String>, PoolFileError> {
        let failed = |error| PoolFileError::Read("*".to_owned(), error);
        let Some(dir) = SafeDir::open(folder).map_err(failed)? else { return Ok(Vec::new()) };
        let mut files = dir.names().map_err(failed)?;
        files.retain(|file| pool_name(file).is_none());
        files.sort();
        Ok(files)
    }
}

/// The name of the pool of a file.
fn pool_name(file: &str) -> Option<&str> {
    file.strip_suffix(SUFFIX).or_else(|| file.strip_suffix(SHORT_SUFFIX))
}
