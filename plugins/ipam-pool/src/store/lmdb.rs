use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RwTxn, WithoutTls};

use crate::store::disk_space::{DiskSpace, FileId};
use crate::store::regular_file::open_regular;
use crate::store::{CrashHandler, Entry, StoreError};

/// The address space for a file, and its largest size: 1 GiB, about three million leases. It costs nothing until it
/// is used.
const MAP_SIZE: usize = 1 << 30;

/// Reserved disk space for releasing addresses, in bytes. A change rewrites about ten pages, and the pages that it frees
/// are used by the change after the next.
pub(crate) const RESERVE: u64 = 128 << 10;

/// The two meta pages at the beginning of the file; the newer one is valid.
const META_PAGES: usize = 2;

/// An open LMDB file of this boot.
///
/// LMDB's own lock file is not used: its reader table has process IDs, which mean nothing in another PID namespace.
/// Every user, also a reader, holds the pool's lock while the file is open, so there is only one at a time.
pub(crate) struct Lmdb {
    env: Env<WithoutTls>,
    /// The same file, for what LMDB does not do.
    file: File,
    path: PathBuf,
    /// The space when it was opened.
    space: DiskSpace,
    identity: FileId,
}

/// A transaction of an [`Lmdb`] that is not committed yet.
pub(crate) struct LmdbTxn<'a> {
    table: &'a Lmdb,
    entries: Database<'a, Bytes, Bytes>,
    txn: RwTxn<'a>,
}

/// A file that was found, and not yet read by LMDB.
pub(crate) struct LmdbFile {
    file: File,
    path: PathBuf,
    metadata: Metadata,
}

impl LmdbFile {
    /// `None` if there is none.
    pub(crate) fn find(path: &Path) -> Result<Option<Self>, StoreError> {
        let (file, metadata) = match open_regular(File::options().read(true).write(true), path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::io("open", path, source)),
        };
        Ok(Some(Self { file, path: path.to_owned(), metadata }))
    }

    pub(crate) fn identity(&self) -> FileId {
        FileId::of(&self.metadata)
    }

    pub(crate) fn open_table(self) -> Result<Lmdb, StoreError> {
        check_header(&self.file, self.metadata.len(), &self.path)?;
        Lmdb::open_map(self)
    }
}

impl Lmdb {
    /// Creates a new file.
    pub(crate) fn create(path: &Path) -> Result<Self, StoreError> {
        let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let made = made.and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = made.map_err(|source| StoreError::io("make", path, source))?;
        Self::open_map(LmdbFile { file, path: path.to_owned(), metadata })
    }

    pub(crate) fn identity(&self) -> FileId {
        self.identity
    }

    /// Reserves disk space for later changes: releasing addresses writes, too, and must not fail on a full disk.
    pub(crate) fn reserve(&self) -> Result<(), StoreError> {
        // Unused space inside the file serves as well.
        let reserve = |bytes| self.space.reserve(&self.file, &self.path, bytes);
        reserve(RESERVE).or_else(|_| reserve(RESERVE.saturating_sub(self.unused_bytes())))
    }

    /// The inverse of [`Lmdb::reserve`].
    pub(crate) fn give_back_reserve(&self) -> std::io::Result<()> {
        DiskSpace::give_back(&self.file)
    }

    /// Unused space inside the file, in bytes; some pages too many, since LMDB's own list of free pages counts as
    /// unused.
    fn unused_bytes(&self) -> u64 {
        let _inside = CrashHandler::inside();
        let stat = self.env.unnamed_database_stat();
        let used = META_PAGES + stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        let all = self.env.info().last_page_number + 1;
        (all.saturating_sub(used) * page_size()) as u64
    }

    fn open_map(LmdbFile { file, path, metadata }: LmdbFile) -> Result<Self, StoreError> {
        let _inside = CrashHandler::inside();
        let flags = EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | EnvFlags::NO_READ_AHEAD | EnvFlags::NO_SYNC;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_SIZE);
        #[expect(unsafe_code, reason = "a memory map is only sound while nobody else changes the file")]
        // SAFETY: the folder is root's own, and the caller holds the pool's exclusive lock, which every
        // user of this file takes before it opens it; NO_LOCK needs just that. NO_SYNC may be used since the
        // file does not outlive the kernel. A damaged file that makes LMDB touch what is not there ends
        // the process (see `CrashHandler`), it does not corrupt another.
        let env = unsafe { options.flags(flags).open(&path) }
            .map_err(|error| to_store_error("open", &path, error))?;
        let (space, identity) = (DiskSpace::of(&metadata), FileId::of(&metadata));
        Ok(Self { env, file, path, space, identity })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn begin(&self) -> Result<LmdbTxn<'_>, StoreError> {
        let _inside = CrashHandler::inside();
        let failed = |error| to_store_error("open", &self.path, error);
        let opened = self.env.open_databases_and_commit(
            self.env.read_txn().map_err(failed)?,
            |opener, txn| -> Result<_, heed::Error> {
                Ok(CommitOrAbort::<_, ()>::Commit(opener.open_database::<Bytes, Bytes>(txn, None)?))
            },
        );
        let entries = match opened.map_err(failed)? {
            CommitOrAbort::Commit(Some(entries)) => entries,
            CommitOrAbort::Commit(None) | CommitOrAbort::Abort(()) => {
                return Err(StoreError::damaged(&self.path, "its root is missing"));
            }
        };
        let txn = self.env.write_txn().map_err(failed)?;
        Ok(LmdbTxn { table: self, entries, txn })
    }
}

impl LmdbTxn<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let _inside = CrashHandler::inside();
        let found = self.entries.get(&self.txn, key);
        Ok(found.map_err(|error| self.to_store_error("read", error))?.map(<[u8]>::to_vec))
    }

    pub(crate) fn last_at_or_before(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let _inside = CrashHandler::inside();
        let found = self.entries.get_lower_than_or_equal_to(&self.txn, key);
        let found = found.map_err(|error| self.to_store_error("read", error))?;
        self.in_order(found, |found| found <= key)
    }

    pub(crate) fn first_at_or_after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let _inside = CrashHandler::inside();
        let found = self.entries.get_greater_than_or_equal_to(&self.txn, key);
        let found = found.map_err(|error| self.to_store_error("read", error))?;
        self.in_order(found, |found| found >= key)
    }

    /// A page with a wrong pointer gives keys that are out of order, and an iteration would never end.
    fn in_order(
        &self,
        found: Option<(&[u8], &[u8])>,
        asked_for: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Entry>, StoreError> {
        match found {
            Some((key, _)) if !asked_for(key) => {
                Err(StoreError::damaged(&self.table.path, "its records are out of order"))
            }
            found => Ok(found.map(owned)),
        }
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let _inside = CrashHandler::inside();
        let done = self.entries.put(&mut self.txn, key, value);
        done.map_err(|error| self.to_store_error("change", error))
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let _inside = CrashHandler::inside();
        let done = self.entries.delete(&mut self.txn, key);
        done.map(drop).map_err(|error| self.to_store_error("change", error))
    }

    pub(crate) fn commit(self) -> Result<(), StoreError> {
        let _inside = CrashHandler::inside();
        self.txn.commit().map_err(|error| to_store_error("write", &self.table.path, error))
    }

    fn to_store_error(&self, operation: &'static str, error: heed::Error) -> StoreError {
        to_store_error(operation, &self.table.path, error)
    }
}

fn owned((key, value): (&[u8], &[u8])) -> Entry {
    (key.to_vec(), value.to_vec())
}

/// Refuses a file that would crash LMDB, or that it would take for a new one, by the beginning of its two meta pages
/// (`struct MDB_page` and `MDB_meta` in LMDB's mdb.c).
fn check_header(file: &File, len: u64, path: &Path) -> Result<(), StoreError> {
    const MAGIC: u32 = 0xBEEF_C0DE;
    const VERSION: u32 = 1;
    const IS_META: u16 = 0x08;
    const HEAD: usize = 48;
    let page = page_size();
    if len < (META_PAGES * page) as u64 {
        return Err(StoreError::damaged(path, &format!("it has only {len} bytes")));
    }
    let mut heads = vec![0; page + HEAD];
    file.read_exact_at(&mut heads, 0).map_err(|source| StoreError::io("read", path, source))?;
    for meta in 0..META_PAGES {
        let head = heads.get(meta * page..).unwrap_or_default();
        let word = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_ne_bytes(bytes.unwrap_or_default())
        };
        // pgno(8) pad(2) flags(2) bounds(4) | magic(4) version(4) address(8) mapsize(8) page size(4)
        let flags = head.get(10..12).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
        if flags & IS_META == 0 || word(16) != MAGIC || word(40) != page as u32 {
            return Err(StoreError::damaged(path, "it has no LMDB header"));
        }
        if word(20) != VERSION {
            return Err(StoreError::damaged(path, &format!("unknown LMDB format {}", word(20))));
        }
    }
    Ok(())
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096)
}

/// Converts LMDB's errors.
fn to_store_error(operation: &'static str, path: &Path, error: heed::Error) -> StoreError {
    use heed::MdbError;

    match error {
        heed::Error::Io(source) => {
            // LMDB reports a short write, as on a full disk, as a general failure.
            if source.raw_os_error() == Some(nix::errno::Errno::EIO as i32) && is_full(path) {
                return StoreError::io(operation, path, nix::errno::Errno::ENOSPC.into());
            }
            StoreError::io(operation, path, source)
        }
        heed::Error::Mdb(MdbError::MapFull) => StoreError::Full {
            path: path.to_owned(),
            source: std::io::Error::other(format!("the maximum size of a pool's file is {MAP_SIZE} bytes")),
        },
        other => StoreError::damaged(path, &other.to_string()),
    }
}

fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|fs| fs.blocks_available() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_there_or_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.mdb");
        assert!(LmdbFile::find(&path).unwrap().is_none());
        let table = Lmdb::create(&path).unwrap();
        let mut change = table.begin().unwrap();
        change.put(b"b", b"1").unwrap();
        change.commit().unwrap();
        let mut change = table.begin().unwrap();
        change.put(b"d", b"2").unwrap();
        assert_eq!(change.first_at_or_after(b"c").unwrap(), Some((b"d".to_vec(), b"2".to_vec())));
        assert_eq!(change.last_at_or_before(b"c").unwrap(), Some((b"b".to_vec(), b"1".to_vec())));
        assert_eq!(change.last_at_or_before(b"a").unwrap(), None);
        drop(change);
        drop(table);
        let table = LmdbFile::find(&path).unwrap().unwrap().open_table().unwrap();
        let change = table.begin().unwrap();
        assert_eq!(change.get(b"d").unwrap(), None);
        assert_eq!(change.get(b"b").unwrap(), Some(b"1".to_vec()));
    }

    #[test]
    fn what_is_no_table_is_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.mdb");
        for bytes in [Vec::new(), b"hello".to_vec(), vec![0; 3 * page_size()]] {
            std::fs::write(&path, &bytes).unwrap();
            let table = LmdbFile::find(&path).unwrap().unwrap().open_table();
            assert!(matches!(table, Err(StoreError::Damaged { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }
}
