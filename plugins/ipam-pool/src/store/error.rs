use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why leases could not be read or changed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes that are no leases, or that contradict one another.
    #[error("the leases in {path:?} are damaged ({what}): nothing was changed; {}", remedy(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "the leases in {path:?} are of version {found}, this ipam-pool knows up to {known}: install the newer one again"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest that this program reads.
        known: u32,
    },
    /// No space for another page.
    #[error("there is no space for the leases in {path:?}: free some, nothing was changed")]
    Full {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The folder or the file cannot be written.
    #[error("{path:?} cannot be written: leases need a writable folder that belongs to root")]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Another process holds the pool for too long.
    #[error("{path:?} has been locked by another process for {waited:?}: try again, or find it with 'fuser'")]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// How long this process waited.
        waited: Duration,
    },
    /// Anything else that the operating system says.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The folder is not root's own, or a link.
    #[error("cannot use the folder of the leases")]
    Folder(#[from] node::SafeDirError),
}

/// What to do about a damaged file: an index and its journals can be made from one another.
pub(crate) fn remedy(path: &Path) -> &'static str {
    if path.extension().is_some_and(|extension| extension == "journal") {
        "while the pool's index is there (.mdb in /run/k8slan/ipam), move this file away and 'ipam-pool check' makes it \
         anew from the index; without an index only after the pool's containers have been stopped"
    } else {
        "remove this file, and 'ipam-pool check' makes it anew from the journal beside it"
    }
}

impl StoreError {
    /// A record that cannot be what was written; `path` is filled in by the store.
    pub(crate) fn record(what: impl Into<String>) -> Self {
        Self::Damaged { path: PathBuf::new(), what: what.into() }
    }

    pub(crate) fn damaged(path: &Path, what: &str) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.to_owned() }
    }

    /// The operating system's refusal, told apart where a person has to do different things.
    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind;

        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path, source },
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Self::ReadOnly { path, source },
            _ => Self::Io { operation, path, source },
        }
    }

    /// Says which file it is about, where that was not known below.
    pub(crate) fn at(self, file: &Path) -> Self {
        match self {
            Self::Damaged { path, what } if path.as_os_str().is_empty() => {
                Self::Damaged { path: file.to_owned(), what }
            }
            other => other,
        }
    }
}
