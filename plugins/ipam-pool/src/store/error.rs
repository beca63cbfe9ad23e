use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of a store. No lease was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes that are not leases, or contradict one another.
    #[error("the leases in {path:?} are damaged ({what}): nothing was changed; {}", remedy(path))]
    Damaged { path: PathBuf, what: String },
    #[error(
        "the leases in {path:?} are of version {found}, this ipam-pool knows up to {known}: install the newer one again"
    )]
    Newer {
        path: PathBuf,
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    #[error("disk full at {path:?}: free disk space; no lease was changed")]
    Full { path: PathBuf, source: std::io::Error },
    #[error("{path:?} cannot be written: leases need a writable folder that belongs to root")]
    ReadOnly { path: PathBuf, source: std::io::Error },
    #[error(
        "{path:?} has been locked by another process for {waited:?}: try again, or find the process with \
         'fuser'"
    )]
    Locked {
        path: PathBuf,
        /// How long this process waited.
        waited: Duration,
    },
    /// Any other error of the operating system.
    #[error("cannot {operation} {path:?}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// The folder does not belong to root, others may write it, or it is a link.
    #[error("cannot use the folder of the leases")]
    Folder(#[from] node::SafeDirError),
}

/// What to do about a damaged file: an index can be written from its journal, and the reverse.
pub(crate) fn remedy(path: &Path) -> &'static str {
    if path.extension().is_some_and(|extension| extension == "journal") {
        "if the pool's index exists (.mdb in /run/k8slan/ipam), move this file away and run 'ipam-pool \
         check', which writes it again from the index; without an index, stop the pool's containers first"
    } else {
        "remove this file and run 'ipam-pool check', which writes it again from the journal beside it"
    }
}

impl StoreError {
    /// A damaged record; the store fills in `path`.
    pub(crate) fn record(what: impl Into<String>) -> Self {
        Self::Damaged { path: PathBuf::new(), what: what.into() }
    }

    pub(crate) fn damaged(path: &Path, what: &str) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.to_owned() }
    }

    /// An error of the operating system: a full or read-only disk has its own variant, since the remedy differs.
    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind;

        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { path, source }
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Self::ReadOnly { path, source },
            _ => Self::Io { operation, path, source },
        }
    }

    /// Sets the path of the damaged file, if it is not set.
    pub(crate) fn at(self, file: &Path) -> Self {
        match self {
            Self::Damaged { path, what } if path.as_os_str().is_empty() => {
                Self::Damaged { path: file.to_owned(), what }
            }
            other => other,
        }
    }
}
