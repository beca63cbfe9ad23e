use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Durability, SafeDir, SafeDirError};

/// What the node daemon records of a pod for the plugins: a file `<run>/owners/<pod UID>.<suffix>` in the folder of
/// [`crate::Paths::owners`].
pub trait PodRecord: Serialize + DeserializeOwned {
    /// What the file's name ends with, behind the UID.
    const SUFFIX: &str;
    /// What is in the file, for messages.
    const SHAPE: &str;

    /// The file name of the record of the pod with this UID; `None` for an invalid UID.
    #[must_use]
    fn file_name(uid: &str) -> Option<String> {
        let good = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        good.then(|| format!("{uid}{}", Self::SUFFIX))
    }

    /// The UID of whose record a file of this name is.
    #[must_use]
    fn uid_of(file: &str) -> Option<&str> {
        file.strip_suffix(Self::SUFFIX)
    }

    /// Writes the record; a UID that is not a path component has none.
    ///
    /// # Errors
    /// The file cannot be written.
    fn write(&self, owners: &SafeDir, uid: &str) -> Result<(), SafeDirError> {
        let Some(name) = Self::file_name(uid) else { return Ok(()) };
        let text = serde_json::to_vec(self).unwrap_or_default();
        owners.write(&name, &text, Durability::UntilReboot)
    }

    /// Removes the record, if there is one.
    ///
    /// # Errors
    /// The file cannot be removed.
    fn remove(owners: &SafeDir, uid: &str) -> Result<(), SafeDirError> {
        Self::file_name(uid).map_or(Ok(()), |name| owners.remove(&name))
    }

    /// Reads the record; `None`: there is none.
    ///
    /// # Errors
    /// Others than root may write the record, or it is not one of the daemon's.
    fn read(owners: &SafeDir, uid: &str) -> Result<Option<Self>, PodRecordError> {
        let Some(name) = Self::file_name(uid) else { return Ok(None) };
        let Some(text) = owners.read(&name)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| PodRecordError::Syntax {
            path: owners.path().join(name),
            shape: Self::SHAPE,
            message: error.to_string(),
        })
    }
}

/// Why the record of a pod is not known.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum PodRecordError {
    /// The record cannot be read, or others than root may write it.
    #[error(transparent)]
    Read(#[from] SafeDirError),
    #[error("{path:?} is not {shape}: {message}; are the daemon and the plugins of one version?")]
    Syntax {
        path: PathBuf,
        /// What it should be.
        shape: &'static str,
        /// What is wrong, with line and column.
        message: String,
    },
}

/// Whether the API server gives such UIDs: a static pod's is a hash.
pub(crate) fn is_of_api_server(uid: &str) -> bool {
    uid.len() == 36 && uid.bytes().filter(|b| *b == b'-').count() == 4
}
