use std::fs::metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Error;

/// The namespace that this thread is in.
const OWN: &str = "/proc/thread-self/ns/net";

/// Refuses a target that is the plugin's own namespace or does not exist.
///
/// Otherwise links of the host would be treated as the container's.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let given = metadata(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Error::NamespaceMissing { path: path.to_owned(), source }
        }
        _ => Error::Namespace { path: path.to_owned(), source },
    })?;
    let own = identity(OWN.as_ref()).map_err(|source| Error::Namespace { path: OWN.into(), source })?;
    if own == (given.dev(), given.ino()) { Err(Error::OwnNamespace(path.to_owned())) } else { Ok(()) }
}

/// Whether a path leads to the plugin's own namespace.
pub(crate) fn is_own(path: &Path) -> bool {
    matches!((identity(path), identity(OWN.as_ref())), (Ok(given), Ok(own)) if given == own)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    metadata(path).map(|found| (found.dev(), found.ino()))
}
