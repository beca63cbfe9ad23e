use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::store::regular_file::open_regular;

/// Device and inode. A copy of a file has others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    /// Matches no file.
    pub(crate) const NONE: Self = Self(0, 0);

    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// A file's length and the disk blocks allocated for it, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskSpace {
    pub(crate) len: u64,
    /// The allocated blocks, which may be more than the length.
    pub(crate) held: u64,
}

impl DiskSpace {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self { len: metadata.len(), held: metadata.blocks() * 512 }
    }

    /// Allocates `bytes` beyond the end of the file, or twice as much if fewer are allocated: releasing addresses
    /// writes, too, and must not fail on a full disk.
    pub(crate) fn reserve(self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        if self.held >= self.len + bytes {
            return Ok(());
        }
        let reserved = open_regular(File::options().write(true), path).and_then(|(file, _)| {
            let bytes = i64::try_from(self.len + 2 * bytes).map_err(std::io::Error::other)?;
            Ok(fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes)?)
        });
        match reserved {
            // The file system cannot allocate in advance.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
            Err(source) => Err(StoreError::io("reserve space for", path, source)),
            Ok(()) => Ok(()),
        }
    }
}
