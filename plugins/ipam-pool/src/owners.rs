//! Which VM a pod runs, as the node daemon found it: `/run/k8slan/owners/<pod UID>.json`.

use std::path::{Path, PathBuf};

use node::{SafeDir, SafeDirError};
use serde::Deserialize;

/// The whole of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    vm: String,
}

/// Why the daemon's word about a pod is not taken.
#[derive(Debug, thiserror::Error)]
pub enum VmRecordError {
    /// It cannot be read, or somebody else than root could have written it.
    #[error(transparent)]
    Read(#[from] SafeDirError),
    /// It does not say what it has to.
    #[error(
        "{path:?} is not {{\"vm\": \"<name>\"}}: {message}; are the daemon and ipam-pool of one version?"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

/// The VM of the pod with this UID; `None` where the daemon says nothing. `uid` is one path component.
pub(crate) fn vm_of(folder: &Path, uid: &str) -> Result<Option<String>, VmRecordError> {
    let name = format!("{uid}.json");
    let Some(dir) = SafeDir::open(folder)? else { return Ok(None) };
    let Some(text) = dir.read(&name)? else { return Ok(None) };
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) => Ok(Some(record.vm)),
        Err(error) => Err(VmRecordError::Syntax { path: folder.join(name), message: error.to_string() }),
    }
}
