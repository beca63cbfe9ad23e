use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

/// Why ADD could not write its records.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// Every write would fail with ENOSPC.
    #[error("no space is left on the file system of {0:?}, where every attachment has a record: free some")]
    Full(PathBuf),
    /// Every write would fail with EROFS.
    #[error("{0:?}, where every attachment has a record, is on a file system that is read-only")]
    ReadOnly(PathBuf),
}

/// Checks, without writing anything, that files can be made in a folder, or where it would be made.
///
/// # Errors
/// The file system has no space, or is read-only.
pub fn check_room(folder: &Path) -> Result<(), NoRoom> {
    let found = folder.ancestors().find_map(|folder| match statvfs(folder) {
        Err(Errno::ENOENT) => None,
        other => Some(other),
    });
    match found {
        Some(Ok(state)) if state.flags().contains(FsFlags::ST_RDONLY) => {
            Err(NoRoom::ReadOnly(folder.to_owned()))
        }
        // A file system without a limit has 0 of 0.
        Some(Ok(state))
            if (state.blocks() > 0 && state.blocks_available() == 0)
                || (state.files() > 0 && state.files_available() == 0) =>
        {
            Err(NoRoom::Full(folder.to_owned()))
        }
        // Nothing is known; ADD will say it.
        Some(Ok(_) | Err(_)) | None => Ok(()),
    }
}
