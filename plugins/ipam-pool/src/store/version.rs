use std::path::Path;

use serde::Deserialize;

use crate::store::StoreError;

/// The version of stores that this program writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// The part of a store's first record that every version has.
#[derive(Deserialize)]
pub(crate) struct Version {
    version: u32,
}

impl Version {
    /// Refuses a store of a newer version.
    pub(crate) fn check(&self, path: &Path) -> Result<(), StoreError> {
        if self.version > VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found: self.version, known: VERSION });
        }
        Ok(())
    }
}
