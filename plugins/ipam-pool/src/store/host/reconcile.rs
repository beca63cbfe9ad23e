//! What is done when a store is opened: index and journals are made to agree.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use nix::errno::Errno;

use super::{HostStore, sticky_leases_in, to_json};
use crate::lease_table::LeaseTable;
use crate::store::dirs::ensure_lasting_folder;
use crate::store::index_txn::{IndexMeta, IndexTxn};
use crate::store::journal::{Journal, JournalContents, JournalEnd, Origin, SyncPolicy};
use crate::store::lmdb::{Lmdb, LmdbFile};
use crate::store::regular_file::{remove_if_there, temporary_of};
use crate::store::{CrashHandler, StoreError};
use crate::{Addr, AddressState, StickyLease};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl HostStore {
    /// Makes index and journals agree.
    pub(super) fn reconcile(&mut self) -> Result<(), StoreError> {
        let boot = boot_id().map_err(|source| StoreError::io("read", Path::new(BOOT_ID), source))?;
        CrashHandler::set_current_file(&self.files.index);
        let file = LmdbFile::find(&self.files.index)?;
        let origin = self.journal.as_ref().map(Journal::origin).transpose()?.flatten();
        let of_this_boot = origin.as_ref().is_some_and(|origin| origin.boot == boot);
        // LMDB must not open a copy: its pages may be of different moments.
        let index = match (file, &origin) {
            (Some(file), Some(origin)) if !of_this_boot || origin.index != file.identity() => None,
            (file, _) => file.map(LmdbFile::open_table).transpose()?,
        };
        let meta = index.as_ref().map(|index| Ok::<_, StoreError>(IndexTxn::begin(index)?.meta().clone()));
        let meta = meta.transpose()?.filter(|meta| meta.boot == boot);
        self.index = index.filter(|_| meta.is_some());
        match meta {
            Some(meta) => {
                self.check_same_moment(&meta)?;
                if is_same_journal(&self.journal, &meta.journal) && is_complete(&self.kept, &meta.kept) {
                    self.append_missing_lines(&meta)
                } else {
                    self.reconcile_other_journals(&boot, &meta)
                }
            }
            // Leases of an earlier boot have ended: their pods are gone.
            None => {
                let journal = self.journal.as_ref().filter(|_| of_this_boot);
                let contents = journal.map(Journal::read::<AddressState>).transpose()?;
                let mut states = contents.map(|all| all.entries).unwrap_or_default();
                let kept = match self.merge_kept(&mut states) {
                    Err(error) => {
                        self.kept_blocked_by = Some(full_or_read_only(error)?);
                        Some(JournalEnd::none())
                    }
                    Ok(kept) => kept,
                };
                self.write_index(&boot, &states, kept)
            }
        }
    }

    /// Refuses an index that was replaced by an older one, or whose journal was: which of the two is right cannot be
    /// known. An index that is not a copy has every answered change.
    fn check_same_moment(&self, meta: &IndexMeta) -> Result<(), StoreError> {
        let what = match (&self.journal, &meta.journal) {
            (Some(journal), Some(journal_end)) if journal.is_of(journal_end) => {
                journal.is_ahead_of(journal_end)
            }
            // A process wrote the journal again and was killed before the index recorded it.
            (Some(journal), Some(_)) => {
                let states =
                    crate::list_addresses(&mut IndexTxn::begin(self.index()?)?)?.into_iter().collect();
                let differs = journal.read::<AddressState>()?.entries != states;
                differs.then(|| {
                    "it and its journal are from different moments; if the journal was replaced, remove that instead"
                        .to_owned()
                })
            }
            _ => None,
        };
        what.map_or(Ok(()), |what| Err(StoreError::damaged(&self.files.index, &what)))
    }

    /// Appends to both journals what the index says is missing: the usual case.
    fn append_missing_lines(&mut self, meta: &IndexMeta) -> Result<(), StoreError> {
        if let (Some(kept), Some(journal_end)) = (&mut self.kept, &meta.kept) {
            match kept.append_missing(journal_end) {
                // The missing line is written with the next change of a sticky lease: other leases must not wait for
                // that disk.
                Err(StoreError::Full { .. } | StoreError::ReadOnly { .. }) => {}
                followed => followed?,
            }
        }
        match &meta.journal {
            Some(journal_end) => self.append_missing_line(journal_end)?,
            None => return self.write_journal(),
        }
        if meta.journal.as_ref().is_some_and(JournalEnd::needs_compaction) {
            self.write_journal()
        } else {
            Ok(())
        }
    }

    /// Handles a journal that is missing or is not the one that the index knows: the disk was full, someone removed
    /// or replaced the journal, or a process was killed while it wrote it again.
    fn reconcile_other_journals(&mut self, boot: &str, meta: &IndexMeta) -> Result<(), StoreError> {
        let mut txn = IndexTxn::begin(self.index()?)?;
        txn.verify()?;
        if is_complete(&self.kept, &meta.kept) {
            drop(txn);
            if self.journal.is_some() {
                self.remove_journal()?;
            }
            return self.append_missing_lines(&IndexMeta { journal: None, ..meta.clone() });
        }
        let mut states: BTreeMap<Addr, AddressState> = crate::list_addresses(&mut txn)?.into_iter().collect();
        drop(txn);
        // A restored kept lease takes precedence over a release.
        if let Some(kept) = self.kept.as_ref().map(Journal::read::<StickyLease>).transpose()? {
            states.retain(|address, state| {
                !(matches!(state, AddressState::Resting { .. }) && kept.entries.contains_key(address))
            });
        }
        match self.merge_kept(&mut states) {
            // Until its disk has room, only changes of sticky leases fail.
            Err(error) => {
                self.kept_blocked_by = Some(full_or_read_only(error)?);
                if is_same_journal(&self.journal, &meta.journal) {
                    return self.append_missing_lines(&IndexMeta { kept: None, ..meta.clone() });
                }
                if self.journal.is_some() {
                    self.remove_journal()?;
                }
                self.append_missing_lines(&IndexMeta { journal: None, kept: None, ..meta.clone() })
            }
            Ok(kept) => self.write_index(boot, &states, kept),
        }
    }

    /// Makes `states` and the journal of what is kept agree, and returns the end of that journal.
    fn merge_kept(
        &mut self,
        states: &mut BTreeMap<Addr, AddressState>,
    ) -> Result<Option<JournalEnd>, StoreError> {
        let kept = self.kept.as_ref().map(Journal::read::<StickyLease>).transpose()?;
        for (address, kept) in kept.iter().flat_map(|kept| &kept.entries) {
            states.entry(*address).or_insert_with(|| kept.state());
        }
        match (sticky_leases_in(states), kept) {
            (all, Some(JournalContents { entries, journal_end: Some(journal_end) })) if all == entries => {
                self.adopt_kept_journal(&all, journal_end).map(Some)
            }
            (all, None) if all.is_empty() => Ok(None),
            (all, _) => self.write_kept(&all).map(Some),
        }
    }

    /// Writes the index and the journal of this boot, each by rename.
    fn write_index(
        &mut self,
        boot: &str,
        states: &BTreeMap<Addr, AddressState>,
        kept: Option<JournalEnd>,
    ) -> Result<(), StoreError> {
        // Closes the old file before it is replaced.
        self.index = None;
        let path = &self.files.index;
        let texts = to_json(states).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        let temporary = temporary_of(path);
        let remove =
            || remove_if_there(&temporary).map_err(|source| StoreError::io("remove", &temporary, source));
        // A killed process left it: this process has the lock now.
        remove()?;
        let made = (|| {
            let lmdb = Lmdb::create(&temporary)?;
            let origin = Origin { boot: boot.to_owned(), index: lmdb.identity() };
            let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
            // From here on, the existing index belongs to no journal.
            let (journal, journal_end) =
                Journal::write(&self.files.journal, SyncPolicy::Never, Some(&origin), entries)?;
            let mut txn = IndexTxn::begin_first(&lmdb, boot.to_owned())?;
            let mut table = LeaseTable::new(&mut txn);
            states.iter().try_for_each(|(address, state)| table.restore(*address, state))?;
            txn.edit_meta(|meta| (meta.journal, meta.kept) = (Some(journal_end), kept));
            txn.commit()?;
            drop(lmdb);
            std::fs::rename(&temporary, path).map_err(|source| StoreError::io("rename", path, source))?;
            Ok(journal)
        })();
        // The first error is reported; the next process removes a file that is left.
        self.journal = Some(made.inspect_err(|_: &StoreError| drop(remove()))?);
        self.index = LmdbFile::find(path)?.map(LmdbFile::open_table).transpose()?;
        Ok(())
    }

    /// Writes the journal again from the index. On a full disk there is no journal.
    pub(super) fn write_journal(&mut self) -> Result<(), StoreError> {
        let mut txn = IndexTxn::begin(self.index()?)?;
        let states = txn.states()?;
        let entries = states.iter().map(|(address, text)| (*address, text.as_slice()));
        let origin = Origin { boot: txn.meta().boot.clone(), index: self.index()?.identity() };
        match Journal::write(&self.files.journal, SyncPolicy::Never, Some(&origin), entries) {
            Ok((journal, journal_end)) => {
                txn.edit_meta(|meta| meta.journal = Some(journal_end));
                txn.commit()?;
                self.journal = Some(journal);
                Ok(())
            }
            Err(StoreError::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Appends to the journal of this boot the line that the index has and the journal lacks. If the disk is full,
    /// the journal is removed and the index is used without one: releasing addresses must work.
    pub(super) fn append_missing_line(&mut self, journal_end: &JournalEnd) -> Result<(), StoreError> {
        match self.journal.as_mut().map(|journal| journal.append_missing(journal_end)) {
            Some(Err(StoreError::Full { .. })) => self.remove_journal(),
            followed => followed.unwrap_or(Ok(())),
        }
    }

    pub(super) fn remove_journal(&mut self) -> Result<(), StoreError> {
        let mut txn = IndexTxn::begin(self.index()?)?;
        txn.edit_meta(|meta| meta.journal = None);
        txn.commit()?;
        self.journal = None;
        let path = &self.files.journal;
        remove_if_there(path).map_err(|source| StoreError::io("remove", path, source))
    }

    /// Uses a journal whose contents are these kept leases: compacts it if it is long, and syncs it.
    fn adopt_kept_journal(
        &mut self,
        kept: &BTreeMap<Addr, StickyLease>,
        journal_end: JournalEnd,
    ) -> Result<JournalEnd, StoreError> {
        if journal_end.needs_compaction() {
            match self.write_kept(kept) {
                Err(StoreError::Full { .. }) => {}
                written => return written,
            }
        }
        // The process that wrote it may have been killed before it synced it.
        self.kept.as_ref().map_or(Ok(()), Journal::sync_all)?;
        Ok(journal_end)
    }

    /// Writes the whole journal of what is kept.
    fn write_kept(&mut self, kept: &BTreeMap<Addr, StickyLease>) -> Result<JournalEnd, StoreError> {
        let path = &self.files.kept;
        if let Some(folder) = path.parent() {
            ensure_lasting_folder(folder)?;
        }
        let texts = to_json(kept).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
        let (journal, journal_end) = Journal::write(path, SyncPolicy::Always, None, entries)?;
        self.kept = Some(journal);
        Ok(journal_end)
    }
}

/// The error number of a full or read-only disk; any other error is returned.
fn full_or_read_only(error: StoreError) -> Result<Errno, StoreError> {
    match error {
        StoreError::Full { .. } => Ok(Errno::ENOSPC),
        StoreError::ReadOnly { .. } => Ok(Errno::EROFS),
        error => Err(error),
    }
}

fn is_same_journal(journal: &Option<Journal>, journal_end: &Option<JournalEnd>) -> bool {
    match (journal, journal_end) {
        (Some(journal), Some(journal_end)) => journal.is_of(journal_end),
        (None, None) => true,
        _ => false,
    }
}

/// As [`is_same_journal`], and as long as the index knows: it was not overwritten by a copy.
fn is_complete(journal: &Option<Journal>, journal_end: &Option<JournalEnd>) -> bool {
    let fits = journal
        .as_ref()
        .zip(journal_end.as_ref())
        .is_none_or(|(journal, journal_end)| journal.fits(journal_end));
    is_same_journal(journal, journal_end) && fits
}

/// This boot, as Linux names it.
pub(crate) fn boot_id() -> std::io::Result<String> {
    // One read returns all of it.
    let mut text = [0; 64];
    let len = std::fs::File::open(BOOT_ID).and_then(|mut file| file.read(&mut text))?;
    Ok(String::from_utf8_lossy(text.get(..len).unwrap_or_default()).trim().to_owned())
}
