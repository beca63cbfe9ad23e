mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub(crate) use reconcile::boot_id;

use crate::StickyLease;
use crate::lease_table::LeaseTable;
use crate::store::dirs::{PoolKey, StoreDirs, ensure_lasting_folder};
use crate::store::index_txn::IndexTxn;
use crate::store::journal::{Journal, JournalEnd, SyncPolicy};
use crate::store::lmdb::Lmdb;
use crate::store::lock::PoolLock;
use crate::store::regular_file::{remove_if_there, temporary_of};
use crate::store::{KvTxn, Store, StoreError};
use crate::{Addr, AddressState};

/// The store of a pool: a journal of this boot, an LMDB file that is its index, and a journal of what sticky owners
/// keep over a reboot.
///
/// A change becomes visible by the last write to the index, which also contains the lines that the change adds to the
/// journals. The lines are appended before the call answers; if the process was killed, the next process that opens
/// the store appends them. An index can be written from its journal at any time. That is done if index and journal do
/// not belong together, as in a copy.
#[derive(Debug)]
pub struct HostStore {
    index: Option<Lmdb>,
    /// `None` while the disk is full.
    journal: Option<Journal>,
    /// `None` if nothing is kept.
    kept: Option<Journal>,
    /// Why the last lines could not be written to the journal of what is kept: until its disk has room, changes of
    /// sticky leases fail.
    kept_blocked_by: Option<Errno>,
    files: PoolFiles,
    lock: PoolLock,
}

/// The files of one pool.
#[derive(Debug)]
pub(crate) struct PoolFiles {
    pub(crate) index: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) kept: PathBuf,
}

impl PoolFiles {
    pub(crate) fn new(dirs: &StoreDirs, key: &PoolKey) -> Self {
        Self {
            index: dirs.file(&dirs.run, key, "mdb"),
            journal: dirs.file(&dirs.run, key, "journal"),
            kept: dirs.file(&dirs.state, key, "journal"),
        }
    }

    pub(crate) fn exist(&self) -> bool {
        [&self.index, &self.journal, &self.kept].into_iter().any(|file| file.exists())
    }

    /// Removes the store. What is left when the process is killed meanwhile is a whole store: an index is written again
    /// from its journal, and what is kept goes last.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        for file in [&self.index, &self.journal, &self.kept] {
            let removed = remove_if_there(file).and_then(|()| remove_if_there(&temporary_of(file)));
            removed.map_err(|source| StoreError::io("remove", file, source))?;
        }
        Ok(())
    }
}

impl HostStore {
    /// Waits for the pool's lock and opens its store, which is created if it does not exist.
    ///
    /// # Errors
    /// The lock was not released in time, the store is damaged or of a newer version, or a system call failed.
    pub fn open(dirs: &StoreDirs, key: &PoolKey) -> Result<Self, StoreError> {
        let mut store = Self::find(dirs, key, dirs.lock(key)?)?;
        if !store.is_there() {
            dirs.make_room_for(key);
        }
        store.reconcile()?;
        Ok(store)
    }

    /// As [`HostStore::open`], but `None` if the pool has no store.
    pub fn open_existing(dirs: &StoreDirs, key: &PoolKey) -> Result<Option<Self>, StoreError> {
        if !PoolFiles::new(dirs, key).exist() {
            return Ok(None);
        }
        Self::open_locked(dirs, key, dirs.lock(key)?)
    }

    /// As [`HostStore::open_existing`], under a lock that is held. If the pool has no store, the lock goes, too.
    pub(crate) fn open_locked(
        dirs: &StoreDirs,
        key: &PoolKey,
        lock: PoolLock,
    ) -> Result<Option<Self>, StoreError> {
        let mut store = Self::find(dirs, key, lock)?;
        if !store.is_there() {
            // It was removed while this process waited.
            return store.lock.remove().map(|()| None);
        }
        store.reconcile()?;
        Ok(Some(store))
    }

    fn find(dirs: &StoreDirs, key: &PoolKey, lock: PoolLock) -> Result<Self, StoreError> {
        let files = PoolFiles::new(dirs, key);
        let journal = Journal::find(&files.journal, SyncPolicy::Never)?;
        let kept = Journal::find(&files.kept, SyncPolicy::Always)?;
        Ok(Self { index: None, journal, kept, kept_blocked_by: None, files, lock })
    }

    /// Removes the store and its lock.
    pub(crate) fn remove(mut self) -> Result<(), StoreError> {
        self.index = None;
        self.files.remove()?;
        self.lock.remove()
    }

    fn is_there(&self) -> bool {
        self.journal.is_some() || self.kept.is_some() || self.files.index.exists()
    }

    /// Reserves disk space for what this ADD writes, and for later DELs.
    ///
    /// # Errors
    /// The disk is full.
    pub fn reserve(&mut self) -> Result<(), StoreError> {
        self.index()?.reserve()?;
        if self.journal.as_ref().is_none_or(|journal| journal.reserve().is_err()) {
            // Without its history it may fit.
            self.remove_journal()?;
            self.write_journal()?;
        }
        match &self.journal {
            Some(journal) => journal.reserve(),
            None => Err(StoreError::Full { path: self.files.journal.clone(), source: Errno::ENOSPC.into() }),
        }
    }

    /// Gives back what [`HostStore::reserve`] reserved if nobody holds an address: so that a network that is gone leaves
    /// as little as possible. A store without a reserve is one that nobody holds anything in.
    pub fn give_back_reserve_if_idle(&self) {
        // Whatever fails here leaves a reserve, which harms nothing.
        let held = || -> Result<bool, StoreError> {
            Ok(LeaseTable::new(&mut IndexTxn::begin(self.index()?)?)
                .indexed::<crate::Attachment>()
                .next()
                .is_some())
        };
        if held().unwrap_or(true) {
            return;
        }
        let _ = self.index.as_ref().map(Lmdb::give_back_reserve);
        let _ = [&self.journal, &self.kept].map(|journal| journal.as_ref().map(Journal::give_back_reserve));
    }

    /// Syncs the journal of what is kept. Also when this call changed nothing: a killed process may have changed it
    /// before it could sync and answer.
    pub fn sync_kept(&mut self) -> Result<(), StoreError> {
        self.check_kept_is_current()?;
        let journal_end = IndexTxn::begin(self.index()?)?.meta().kept.clone();
        match (&mut self.kept, journal_end) {
            (Some(kept), Some(journal_end)) => {
                kept.append_missing(&journal_end)?;
                kept.sync()
            }
            _ => Ok(()),
        }
    }

    /// The kept leases: what a reboot leaves.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn kept(&self) -> Result<BTreeMap<Addr, StickyLease>, StoreError> {
        Ok(read_kept_journal(&self.files.kept)?.unwrap_or_default())
    }

    /// Reads and compares all records and both journals, and describes inconsistencies.
    ///
    /// # Errors
    /// A record cannot be parsed, or records are of different moments.
    pub fn verify(&mut self) -> Result<Vec<String>, StoreError> {
        let mut txn = IndexTxn::begin(self.index()?)?;
        txn.verify()?;
        let mut problems = crate::verify(&mut txn)?;
        let states = crate::list_addresses(&mut txn)?.into_iter().collect();
        if let Some(journal) = &self.journal {
            compare_entries(&states, &journal.read()?.entries, "leased", &mut problems);
        }
        compare_entries(&sticky_leases_in(&states), &self.kept()?, "kept", &mut problems);
        Ok(problems)
    }

    /// Skips closing the file and the lock, since the process ends now: closing them takes time.
    pub fn leave_open_until_exit(self) {
        std::mem::forget(self);
    }

    /// Checks that sticky leases can be changed.
    fn check_kept_is_current(&self) -> Result<(), StoreError> {
        let why = self.kept_blocked_by.map(|errno| StoreError::io("write", &self.files.kept, errno.into()));
        why.map_or(Ok(()), Err)
    }

    pub(crate) fn index(&self) -> Result<&Lmdb, StoreError> {
        self.index.as_ref().ok_or_else(|| StoreError::damaged(&self.files.index, "it was closed"))
    }
}

impl Drop for HostStore {
    fn drop(&mut self) {
        // heed closes the file here; the lock is released after it.
        self.index = None;
    }
}

impl std::fmt::Debug for Lmdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.path()).finish()
    }
}

impl Store for HostStore {
    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(index) = &self.index else {
            return Err(StoreError::damaged(&self.files.index, "it was closed").into());
        };
        let mut txn = IndexTxn::begin(index)?;
        let result = work(&mut txn)?;
        if !txn.is_changed() {
            return Ok(result);
        }
        let journaled = match (&self.journal, &txn.meta().journal) {
            (Some(_), Some(journal_end)) => Some(journal_end.append_line(txn.state_changes())),
            _ => None,
        };
        let kept = txn.sticky_changes()?;
        let kept = if kept.is_empty() {
            None
        } else {
            self.check_kept_is_current()?;
            // Errors of the journal of what is kept and its disk must occur before the commit.
            let (journal, journal_end) =
                open_or_create_kept(&mut self.kept, &self.files.kept, txn.meta().kept.clone())?;
            journal.check_writable()?;
            journal.append_missing(&journal_end)?;
            let texts =
                to_json(&kept).map_err(|error| StoreError::damaged(&self.files.kept, &error.to_string()))?;
            let journal_end = journal_end
                .append_line(texts.iter().map(|(address, text)| (*address, Some(text.as_slice()))));
            if kept.values().any(Option::is_some) {
                journal.reserve()?;
            } else {
                journal.reserve_line(&journal_end)?;
            }
            Some((journal, journal_end))
        };
        txn.edit_meta(|meta| {
            meta.journal.clone_from(&journaled);
            if let Some((_, journal_end)) = &kept {
                meta.kept = Some(journal_end.clone());
            }
        });
        txn.commit().map_err(|error| error.at(&self.files.index))?;
        // The lease must be on the disk before the call answers.
        if let Some((journal, journal_end)) = kept {
            journal.append_missing(&journal_end)?;
        }
        if let Some(journal_end) = &journaled {
            self.append_missing_line(journal_end)?;
        }
        Ok(result)
    }
}

/// The journal of what is kept and its end; creates the journal if it is missing.
fn open_or_create_kept<'a>(
    open: &'a mut Option<Journal>,
    path: &Path,
    journal_end: Option<JournalEnd>,
) -> Result<(&'a mut Journal, JournalEnd), StoreError> {
    let journal_end = match journal_end {
        Some(journal_end) => journal_end,
        None => {
            if let Some(folder) = path.parent() {
                ensure_lasting_folder(folder)?;
            }
            let (journal, journal_end) = Journal::write(path, SyncPolicy::Always, None, std::iter::empty())?;
            *open = Some(journal);
            journal_end
        }
    };
    let journal = open.as_mut().ok_or_else(|| StoreError::damaged(path, "it was closed"))?;
    Ok((journal, journal_end))
}

fn sticky_leases_in(states: &BTreeMap<Addr, AddressState>) -> BTreeMap<Addr, StickyLease> {
    states.iter().filter_map(|(address, state)| Some((*address, StickyLease::from_state(state)?))).collect()
}

fn to_json<T: serde::Serialize>(
    entries: &BTreeMap<Addr, T>,
) -> Result<Vec<(Addr, Vec<u8>)>, serde_json::Error> {
    entries.iter().map(|(address, entry)| Ok((*address, serde_json::to_vec(entry)?))).collect()
}

fn compare_entries<T: PartialEq>(
    index: &BTreeMap<Addr, T>,
    journal: &BTreeMap<Addr, T>,
    what: &str,
    problems: &mut Vec<String>,
) {
    let differs = |address: &&Addr| index.get(address) != journal.get(address);
    let addresses = index.keys().chain(journal.keys().filter(|address| !index.contains_key(address)));
    problems.extend(
        addresses
            .filter(differs)
            .map(|address| format!("{address}: the index and the journal of {what} addresses differ")),
    );
}

/// Reads the journal of what is kept; `None` if it does not exist.
pub(crate) fn read_kept_journal(path: &Path) -> Result<Option<BTreeMap<Addr, StickyLease>>, StoreError> {
    let journal = Journal::find(path, SyncPolicy::Always)?;
    Ok(journal.map(|journal| journal.read()).transpose()?.map(|contents| contents.entries))
}

/// Reads the states in a journal of leases.
pub(crate) fn read_lease_journal(path: &Path) -> Result<BTreeMap<Addr, AddressState>, StoreError> {
    let journal = Journal::find(path, SyncPolicy::Never)?;
    let journal = journal.ok_or_else(|| StoreError::damaged(path, "it does not exist"))?;
    Ok(journal.read()?.entries)
}
