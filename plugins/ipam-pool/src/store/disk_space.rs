use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// What a file may hold more than its length without a reserve, in bytes.
const BLOCK: u64 = 4096;

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

    /// Allocates `bytes` beyond the end of the file if fewer are allocated, or twice as much where there is room:
    /// releasing addresses writes, too, and must not fail on a full disk.
    pub(crate) fn reserve(self, file: &File, path: &Path, bytes: u64) -> Result<(), StoreError> {
        if self.held >= self.len + bytes {
            return Ok(());
        }
        let allocate = |bytes: u64| {
            let bytes = i64::try_from(self.len + bytes).map_err(std::io::Error::other)?;
            let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(file, flags, 0, bytes).map_err(std::io::Error::from)
        };
        let reserved = match allocate(2 * bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => allocate(bytes),
            allocated => allocated,
        };
        match reserved {
            // The file system cannot allocate in advance.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
            Err(source) => Err(StoreError::io("reserve space for", path, source)),
            Ok(()) => Ok(()),
        }
    }

    /// Whether `bytes` were reserved: half of them may be written by now.
    pub(crate) fn has_reserve(self, bytes: u64) -> bool {
        self.held > self.len + bytes / 2
    }

    /// Gives back what is allocated beyond the end of a file. Nobody else may write it.
    pub(crate) fn give_back(file: &File) -> std::io::Result<()> {
        let space = Self::of(&file.metadata()?);
        // ftruncate(2) to the length that a file has frees what is behind it.
        if space.held > space.len + BLOCK { file.set_len(space.len) } else { Ok(()) }
    }
}
