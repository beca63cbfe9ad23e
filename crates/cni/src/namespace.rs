use std::fs::metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Verb};

/// The namespace that this thread is in.
const OWN: &str = "/proc/thread-self/ns/net";

/// Refuses the plugin's own namespace as target, and for ADD and CHECK one that does not exist.
///
/// Links of the host would otherwise be taken for the container's; DEL would remove them.
pub(crate) fn check(verb: Verb, path: &Path) -> Result<(), Error> {
    let given = match metadata(path) {
        Ok(given) => given,
        // For DEL it may be gone, and a path that cannot be looked at is nothing that can be deleted from.
        Err(_) if verb == Verb::Del => return Ok(()),
        Err(source) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(Error::NamespaceMissing { path: path.to_owned(), source });
        }
        Err(source) => return Err(Error::Namespace { path: path.to_owned(), source }),
    };
    let own = metadata(OWN).map_err(|source| Error::Namespace { path: OWN.into(), source })?;
    if (own.dev(), own.ino()) == (given.dev(), given.ino()) {
        return Err(Error::OwnNamespace(path.to_owned()));
    }
    Ok(())
}
