use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::StickyLease;
use crate::lease_table::LeaseTable;
use crate::store::dirs::{PoolKey, StoreDirs, ensure_folder, ensure_lasting_folder};
use crate::store::index_txn::{IndexMeta, IndexTxn};
use crate::store::journal::{Journal, JournalContents, JournalEnd, Origin, SyncPolicy};
use crate::store::lmdb::{Lmdb, LmdbFile};
use crate::store::lock::PoolLock;
use crate::store::{CrashHandler, KvTxn, Store, StoreError};
use crate::{Addr, AddrSet, AddressState};

/// The store of a single host: a journal of this boot and an LMDB file that is its index, and a journal of what is kept
/// over a reboot.
///
/// A change becomes visible by the last write to the index, which also knows the lines that the change adds to the
/// journals. They are added right after it, before anybody hears of the change, or else by whoever opens the store next.
/// An index can be made from its journal at any time, and is where the two do not belong together, as in a copy.
#[derive(Debug)]
pub struct HostStore {
    index: Option<Lmdb>,
    /// `None` while the disk is too full for one.
    journal: Option<Journal>,
    /// `None` where nothing is kept.
    kept: Option<Journal>,
    /// Why the journal of what is kept is behind the index: until its disk has room, nothing is done that belongs there.
    kept_blocked_by: Option<Errno>,
    files: PoolFiles,
    _lock: PoolLock,
}

/// The files of one pool.
#[derive(Debug)]
struct PoolFiles {
    index: PathBuf,
    journal: PathBuf,
    kept: PathBuf,
}

impl PoolFiles {
    fn new(dirs: &StoreDirs, key: &PoolKey) -> Self {
        Self {
            index: dirs.file(&dirs.run, key, "mdb"),
            journal: dirs.file(&dirs.run, key, "journal"),
            kept: dirs.file(&dirs.state, key, "journal"),
        }
    }
}

impl HostStore {
    /// Waits for the pool and opens its store, which is made where there is none.
    ///
    /// # Errors
    /// Another process has it for too long, the store is damaged or of a newer version, or the kernel's
    /// refusal.
    pub fn open(dirs: &StoreDirs, key: &PoolKey) -> Result<Self, StoreError> {
        ensure_folder(&dirs.run.join(key.folder()))?;
        let lock = PoolLock::acquire(&dirs.file(&dirs.run, key, "lock"), dirs.lock_timeout)?;
        let files = PoolFiles::new(dirs, key);
        let journal = Journal::find(&files.journal, SyncPolicy::Never)?;
        let kept = Journal::find(&files.kept, SyncPolicy::Always)?;
        let mut store = Self { index: None, journal, kept, kept_blocked_by: None, files, _lock: lock };
        store.reconcile()?;
        Ok(store)
    }

    /// As [`HostStore::open`], but `None` where the pool has no store yet.
    ///
    /// # Errors
    /// As [`HostStore::open`].
    pub fn open_existing(dirs: &StoreDirs, key: &PoolKey) -> Result<Option<Self>, StoreError> {
        let PoolFiles { index, journal, kept } = PoolFiles::new(dirs, key);
        if ![index, journal, kept].iter().any(|file| file.exists()) {
            return Ok(None);
        }
        Self::open(dirs, key).map(Some)
    }

    /// Sees to it that index and journals say the same.
    fn reconcile(&mut self) -> Result<(), StoreError> {
        let boot = boot_id()?;
        CrashHandler::set_current_file(&self.files.index);
        let file = LmdbFile::find(&self.files.index)?;
        let origin = self.journal.as_ref().map(Journal::origin).transpose()?.flatten();
        let of_this_boot = origin.as_ref().is_some_and(|origin| origin.boot == boot);
        // LMDB does not get to see a copy: its pages may be of different moments.
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
            // Leases of an earlier boot, on a disk, are nobody's any more: their pods are gone.
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

    /// An index that is no copy has all that was answered, unless somebody put an older one in its place, or an older
    /// journal: nobody can say which of the two counts.
    fn check_same_moment(&self, meta: &IndexMeta) -> Result<(), StoreError> {
        let what = match (&self.journal, &meta.journal) {
            (Some(journal), Some(journal_end)) if journal.is_of(journal_end) => {
                journal.is_ahead_of(journal_end)
            }
            // Written anew by a process that was killed before the index knew it.
            (Some(journal), Some(_)) => {
                let states =
                    crate::list_addresses(&mut IndexTxn::begin(self.index()?)?)?.into_iter().collect();
                let differs = journal.read::<AddressState>()?.entries != states;
                differs.then(|| {
                    "it and its journal are of different moments; if it is the journal that was put there, remove that one"
                        .to_owned()
                })
            }
            _ => None,
        };
        what.map_or(Ok(()), |what| Err(StoreError::damaged(&self.files.index, &what)))
    }

    /// The ordinary case.
    fn append_missing_lines(&mut self, meta: &IndexMeta) -> Result<(), StoreError> {
        if let (Some(kept), Some(journal_end)) = (&mut self.kept, &meta.kept) {
            match kept.append_missing(journal_end) {
                // It waits until something else is to be kept: what is not must not wait for that disk.
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

    /// Where a journal is another one than the index knows, or missing: there was no room for it, somebody took it away or
    /// put a copy in its place, or a process was killed while it wrote it anew.
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
        // Who puts back what is kept means also what was released since.
        if let Some(kept) = self.kept.as_ref().map(Journal::read::<StickyLease>).transpose()? {
            states.retain(|address, state| {
                !(matches!(state, AddressState::Resting { .. }) && kept.entries.contains_key(address))
            });
        }
        match self.merge_kept(&mut states) {
            // It waits for room, and whoever keeps nothing goes on.
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

    /// Makes slots and the journal of what is kept say the same, and says where that ends.
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

    /// Makes the index and the journal of this boot: whoever finds a name finds all of it.
    fn write_index(
        &mut self,
        boot: &str,
        states: &BTreeMap<Addr, AddressState>,
        kept: Option<JournalEnd>,
    ) -> Result<(), StoreError> {
        // Closed before another one gets its name.
        self.index = None;
        let path = &self.files.index;
        let texts = to_json(states).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        let temporary =
            path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
        let remove = || match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &temporary, error))
            }
            _ => Ok(()),
        };
        // Left behind by a process that was killed: the lock is ours now.
        remove()?;
        let made = (|| {
            let lmdb = Lmdb::create(&temporary)?;
            let origin = Origin { boot: boot.to_owned(), index: lmdb.identity() };
            let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
            // From here on, what index there is belongs to no journal.
            let (journal, journal_end) =
                Journal::write(&self.files.journal, SyncPolicy::Never, Some(&origin), entries)?;
            let mut txn = IndexTxn::begin_first(&lmdb, boot.to_owned())?;
            let mut table = LeaseTable::new(&mut txn);
            states.iter().try_for_each(|(address, state)| table.restore(*address, state))?;
            txn.edit_meta(|meta| (meta.journal, meta.kept) = (Some(journal_end), kept));
            txn.commit()?;
            drop(lmdb);
            std::fs::rename(&temporary, path)
                .map_err(|source| StoreError::io("put in place", path, source))?;
            Ok(journal)
        })();
        // The error is what matters; a file that stays is removed by the next one.
        self.journal = Some(made.inspect_err(|_: &StoreError| drop(remove()))?);
        self.index = LmdbFile::find(path)?.map(LmdbFile::open_table).transpose()?;
        Ok(())
    }

    /// Writes the journal anew from the index; does without where the disk is full.
    fn write_journal(&mut self) -> Result<(), StoreError> {
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

    /// Adds to the journal of this boot what the index knows of it. Where the disk has no room for a line, the index goes on
    /// without a journal: it must be possible to give addresses back.
    fn append_missing_line(&mut self, journal_end: &JournalEnd) -> Result<(), StoreError> {
        match self.journal.as_mut().map(|journal| journal.append_missing(journal_end)) {
            Some(Err(StoreError::Full { .. })) => self.remove_journal(),
            followed => followed.unwrap_or(Ok(())),
        }
    }

    fn remove_journal(&mut self) -> Result<(), StoreError> {
        let mut txn = IndexTxn::begin(self.index()?)?;
        txn.edit_meta(|meta| meta.journal = None);
        txn.commit()?;
        self.journal = None;
        let path = &self.files.journal;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Goes on with a journal of what is kept that says just that.
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
        // Whoever wrote it may have been killed before it was synced.
        self.kept.as_ref().map_or(Ok(()), Journal::sync_all)?;
        Ok(journal_end)
    }

    /// Writes the journal of what is kept as a whole.
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

    /// Sees to it that the disk has room for what ADD writes and for DELs after it.
    ///
    /// # Errors
    /// It has not.
    pub fn reserve(&mut self) -> Result<(), StoreError> {
        self.index()?.reserve()?;
        if self.journal.as_ref().is_none_or(|journal| journal.reserve().is_err()) {
            // Without its history it may find room.
            self.remove_journal()?;
            self.write_journal()?;
        }
        match &self.journal {
            Some(journal) => journal.reserve(),
            None => Err(StoreError::Full { path: self.files.journal.clone(), source: Errno::ENOSPC.into() }),
        }
    }

    /// Sees to it that what is kept outlives a loss of power, also what a process wrote that was killed before it could
    /// sync and answer: whoever asks again gets that answer without a change.
    ///
    /// # Errors
    /// The kernel's refusal.
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

    /// What would be left after a reboot.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn kept(&self) -> Result<BTreeMap<Addr, StickyLease>, StoreError> {
        Ok(read_kept_journal(&self.files.kept)?.unwrap_or_default())
    }

    /// Reads everything and compares it: what does not fit, for people.
    ///
    /// # Errors
    /// A record that cannot be read at all, or records that are not those of one moment.
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

    /// Keeps the file mapped and the pool locked until the process ends, which is about to: taking both
    /// apart would only cost time.
    pub fn leave_open_until_exit(self) {
        std::mem::forget(self);
    }

    /// Whether what is kept can be changed.
    fn check_kept_is_current(&self) -> Result<(), StoreError> {
        let why = self.kept_blocked_by.map(|errno| StoreError::io("write", &self.files.kept, errno.into()));
        why.map_or(Ok(()), Err)
    }

    fn index(&self) -> Result<&Lmdb, StoreError> {
        self.index.as_ref().ok_or_else(|| StoreError::damaged(&self.files.index, "it was closed"))
    }
}

impl Drop for HostStore {
    fn drop(&mut self) {
        // heed closes the file here, and the lock is given back after it.
        self.index = None;
    }
}

impl std::fmt::Debug for Lmdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.path()).finish()
    }
}

impl Store for HostStore {
    fn held(&self, wanted: &AddrSet) -> Result<AddrSet, StoreError> {
        Ok(wanted.clone())
    }

    fn claim(&mut self, _wanted: &AddrSet) -> Result<bool, StoreError> {
        Ok(false)
    }

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
            // Whatever can be wrong with the other file or its disk is found before anything is given.
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
        // A kept address must be on the disk before anybody hears of it.
        if let Some((journal, journal_end)) = kept {
            journal.append_missing(&journal_end)?;
        }
        if let Some(journal_end) = &journaled {
            self.append_missing_line(journal_end)?;
        }
        Ok(result)
    }
}

/// What the disk lacks, if it is that.
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

/// As [`is_same_journal`], and not one that was copied over the same file.
fn is_complete(journal: &Option<Journal>, journal_end: &Option<JournalEnd>) -> bool {
    let fits = journal
        .as_ref()
        .zip(journal_end.as_ref())
        .is_none_or(|(journal, journal_end)| journal.fits(journal_end));
    is_same_journal(journal, journal_end) && fits
}

/// The journal of what is kept, and where it ends; it is made where it is missing.
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
            .map(|address| format!("{address}: the index and the journal of what is {what} disagree")),
    );
}

/// What the journal of a pool keeps over a reboot; `None` where there is none.
pub(crate) fn read_kept_journal(path: &Path) -> Result<Option<BTreeMap<Addr, StickyLease>>, StoreError> {
    let journal = Journal::find(path, SyncPolicy::Always)?;
    Ok(journal.map(|journal| journal.read()).transpose()?.map(|contents| contents.entries))
}

/// All addresses in a journal of leases.
pub(crate) fn read_lease_journal(path: &Path) -> Result<BTreeMap<Addr, AddressState>, StoreError> {
    let journal = Journal::find(path, SyncPolicy::Never)?;
    let journal = journal.ok_or_else(|| StoreError::damaged(path, "it is not there"))?;
    Ok(journal.read()?.entries)
}

fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let failed = |source| StoreError::io("read", path, source);
    // The kernel gives all of it at once: no need to ask for its size, nor for more.
    let mut text = [0; 64];
    let len = std::fs::File::open(path).and_then(|mut file| file.read(&mut text)).map_err(failed)?;
    Ok(String::from_utf8_lossy(text.get(..len).unwrap_or_default()).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::version::VERSION;

    fn store_dirs(temp: &tempfile::TempDir) -> StoreDirs {
        let (run, state) = (temp.path().join("run"), temp.path().join("state"));
        StoreDirs { run, state, lock_timeout: Duration::from_millis(10) }
    }

    fn edit_meta(store: &HostStore, edit: impl FnOnce(&mut IndexMeta)) {
        let mut txn = IndexTxn::begin(store.index().unwrap()).unwrap();
        txn.edit_meta(edit);
        txn.commit().unwrap();
    }

    fn address(last: u8) -> Addr {
        std::net::IpAddr::from([10, 0, 0, last]).into()
    }

    fn kept(name: &str) -> StickyLease {
        StickyLease { owner: crate::Owner::pod("default", name, "n"), interface: "net1".to_owned(), queue: 0 }
    }

    fn set(store: &mut HostStore, last: u8, state: &AddressState) {
        store.change(|txn| LeaseTable::new(txn).restore(address(last), state)).unwrap();
    }

    fn resting(since: u64) -> AddressState {
        AddressState::Resting { since: crate::Millis(since), queue: 0, last: None }
    }

    fn states(store: &mut HostStore) -> Vec<(Addr, AddressState)> {
        assert_eq!(store.verify().unwrap(), [""; 0]);
        store.dry_run(|txn| crate::list_addresses(txn)).unwrap()
    }

    #[test]
    fn a_newer_store_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        edit_meta(&HostStore::open(&dirs, &key).unwrap(), |meta| meta.version = VERSION + 1);
        let before = std::fs::read(dirs.run.join("pools/p.mdb")).unwrap();
        let error = HostStore::open(&dirs, &key).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
        assert_eq!(std::fs::read(dirs.run.join("pools/p.mdb")).unwrap(), before);
    }

    #[test]
    fn leases_of_another_boot_are_gone_and_what_is_kept_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Network("n".to_owned()));
        let mut store = HostStore::open(&dirs, &key).unwrap();
        set(&mut store, 6, &resting(1));
        set(&mut store, 7, &kept("db-0").state());
        edit_meta(&store, |meta| meta.boot = "another".to_owned());
        drop(store);
        // The journal says so, too.
        let journal = dirs.run.join("networks/n.journal");
        let texts = [(address(6), serde_json::to_vec(&resting(1)).unwrap())];
        let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
        let file = LmdbFile::find(&dirs.run.join("networks/n.mdb")).unwrap().unwrap();
        let origin = Origin { boot: "another".to_owned(), index: file.identity() };
        Journal::write(&journal, SyncPolicy::Never, Some(&origin), entries).unwrap();
        let mut store = HostStore::open(&dirs, &key).unwrap();
        assert_eq!(states(&mut store), [(address(7), kept("db-0").state())]);
    }

    #[test]
    fn an_index_is_made_from_its_journal_and_a_journal_from_its_index() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&dirs, &key).unwrap();
        for last in 1..20 {
            set(&mut store, last, &if last % 2 == 0 { resting(last.into()) } else { kept("db-0").state() });
        }
        store.change(|txn| LeaseTable::new(txn).remove_state(address(2))).unwrap();
        let all = states(&mut store);
        assert_eq!(all.len(), 18);
        let files: Vec<PathBuf> = vec![
            dirs.run.join("pools/p.mdb"),
            dirs.run.join("pools/p.journal"),
            dirs.state.join("pools/p.journal"),
        ];
        let mut left = Some(store);
        for gone in [vec![0], vec![1], vec![2], vec![1, 2], vec![0, 2]] {
            drop(left.take());
            for file in gone {
                std::fs::remove_file(&files[file]).unwrap();
            }
            let mut store = HostStore::open(&dirs, &key).unwrap();
            assert_eq!(states(&mut store), all);
            left = Some(store);
        }
    }

    #[test]
    fn a_line_that_was_not_written_is_written_by_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&dirs, &key).unwrap();
        set(&mut store, 1, &kept("db-0").state());
        let files = [dirs.run.join("pools/p.journal"), dirs.state.join("pools/p.journal")];
        let before = files.each_ref().map(|file| std::fs::metadata(file).unwrap().len());
        set(&mut store, 2, &kept("db-1").state());
        let all = states(&mut store);
        drop(store);
        // As if the process had been killed in the middle of the second one.
        for (file, before) in files.iter().zip(before) {
            std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(before + 9).unwrap();
        }
        let mut store = HostStore::open(&dirs, &key).unwrap();
        assert_eq!(states(&mut store), all);
        drop(store);
        // More is missing than that.
        std::fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(before[0] - 1).unwrap();
        assert!(matches!(HostStore::open(&dirs, &key), Err(StoreError::Damaged { .. })));
    }

    /// Writes what was read before into the same file, as `cp` does.
    fn copy_over(file: &Path, bytes: &[u8]) {
        let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(file).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
    }

    /// Puts another file of these bytes in place: one that was removed first may leave it its inode.
    fn replace_file(file: &Path, bytes: &[u8]) {
        let other = file.with_extension("other");
        std::fs::write(&other, bytes).unwrap();
        std::fs::rename(&other, file).unwrap();
    }

    #[test]
    fn what_is_put_back_counts_from_the_next_call_on() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let file = dirs.state.join("pools/p.journal");
        for in_place in [true, false] {
            let mut store = HostStore::open(&dirs, &key).unwrap();
            set(&mut store, 1, &kept("db-0").state());
            set(&mut store, 2, &kept("db-1").state());
            let backup = std::fs::read(&file).unwrap();
            set(&mut store, 3, &kept("db-2").state());
            // Released by mistake; the other one's address is somebody else's by now.
            set(&mut store, 1, &resting(1));
            set(&mut store, 2, &kept("web").state());
            drop(store);
            if in_place {
                copy_over(&file, &backup)
            } else {
                replace_file(&file, &backup)
            }
            let mut store = HostStore::open(&dirs, &key).unwrap();
            let all = [(1, "db-0"), (2, "web"), (3, "db-2")];
            let all = all.map(|(last, name)| (address(last), kept(name).state()));
            assert_eq!(states(&mut store), all);
            drop(store);
            std::fs::remove_dir_all(&dirs.run).unwrap();
            let mut store = HostStore::open(&dirs, &key).unwrap();
            assert_eq!(states(&mut store), all, "after a reboot, too");
            for last in 1..4 {
                store.change(|txn| LeaseTable::new(txn).remove_state(address(last))).unwrap();
            }
        }
    }

    #[test]
    fn no_copy_of_a_journal_takes_anything_from_its_index() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let file = dirs.run.join("pools/p.journal");
        let mut store = HostStore::open(&dirs, &key).unwrap();
        set(&mut store, 1, &resting(1));
        let older = std::fs::read(&file).unwrap();
        set(&mut store, 2, &resting(2));
        let all = states(&mut store);
        drop(store);
        replace_file(&file, &older);
        let error = HostStore::open(&dirs, &key).unwrap_err().to_string();
        assert!(error.contains("of different moments"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let mut store = HostStore::open(&dirs, &key).unwrap();
        assert_eq!(states(&mut store), all);
        // Written anew by a process that was killed before the index knew it.
        let copy = std::fs::read(&file).unwrap();
        drop(store);
        replace_file(&file, &copy);
        let mut store = HostStore::open(&dirs, &key).unwrap();
        assert_eq!(states(&mut store), all);
        // One that was given up by a process which was killed before it removed it.
        edit_meta(&store, |meta| meta.journal = None);
        set_index_only(&store, 3);
        drop(store);
        let mut store = HostStore::open(&dirs, &key).unwrap();
        assert_eq!(states(&mut store).len(), 3);
    }

    fn set_index_only(store: &HostStore, last: u8) {
        let mut txn = IndexTxn::begin(store.index().unwrap()).unwrap();
        LeaseTable::new(&mut txn).restore(address(last), &resting(last.into())).unwrap();
        txn.commit().unwrap();
    }

    #[test]
    fn an_older_index_is_told_from_a_damaged_journal() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let index = dirs.run.join("pools/p.mdb");
        let mut store = HostStore::open(&dirs, &key).unwrap();
        set(&mut store, 1, &kept("db-0").state());
        for state in [resting(2), kept("db-1").state()] {
            let older = std::fs::read(&index).unwrap();
            set(&mut store, 2, &state);
            let all = states(&mut store);
            drop(store);
            copy_over(&index, &older);
            let error = HostStore::open(&dirs, &key).unwrap_err().to_string();
            // The journal has more, so it must not be what is taken away.
            assert!(error.contains("p.mdb") && error.contains("remove this file"), "{error}");
            std::fs::remove_file(&index).unwrap();
            store = HostStore::open(&dirs, &key).unwrap();
            assert_eq!(states(&mut store), all);
        }
    }

    #[test]
    fn a_long_history_is_cut_off() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&dirs, &key).unwrap();
        for round in 0..600 {
            set(&mut store, 1, &resting(round));
            store.change(|txn| LeaseTable::new(txn).remove_state(address(1))).unwrap();
        }
        set(&mut store, 1, &resting(1000));
        let all = states(&mut store);
        drop(store);
        let journal = dirs.run.join("pools/p.journal");
        let before = std::fs::metadata(&journal).unwrap().len();
        let mut store = HostStore::open(&dirs, &key).unwrap();
        assert_eq!(states(&mut store), all);
        assert!(std::fs::metadata(&journal).unwrap().len() < before / 100);
    }

    #[test]
    fn records_that_are_not_of_one_moment_are_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&dirs, &key).unwrap();
        set(&mut store, 1, &resting(1));
        let before = IndexTxn::begin(store.index().unwrap()).unwrap().meta().tally;
        set(&mut store, 2, &resting(2));
        assert_eq!(store.verify().unwrap(), [""; 0]);
        // As in an index of which one page is older than the others.
        edit_meta(&store, |meta| meta.tally = before);
        let error = store.verify().unwrap_err().to_string();
        assert!(error.contains("do not add up"), "{error}");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
        let _first = HostStore::open(&dirs, &key).unwrap();
        assert!(matches!(HostStore::open(&dirs, &key), Err(StoreError::Locked { .. })));
    }
}
