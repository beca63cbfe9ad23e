use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::book::Book;
use crate::slot::Kept;
use crate::store::journal::{Contents, Journal, Mark, Origin, Sync};
use crate::store::lmdb::{Table, TableFile};
use crate::store::lock::PoolLock;
use crate::store::place::{Place, PoolKey, ensure_folder, ensure_lasting_folder};
use crate::store::records::{Meta, Records};
use crate::store::{Guard, Ledger, Store, StoreError};
use crate::{Addr, Slot, Spans};

/// The store of a single host: a journal of this boot and an LMDB file that is its index, and a journal of what is kept
/// over a reboot.
///
/// A change becomes visible by the last write to the index, which also knows the lines that the change adds to the
/// journals. They are added right after it, before anybody hears of the change, or else by whoever opens the store next.
/// An index can be made from its journal at any time, and is where the two do not belong together, as in a copy.
#[derive(Debug)]
pub struct HostStore {
    index: Option<Table>,
    /// `None` while the disk is too full for one.
    journal: Option<Journal>,
    /// `None` where nothing is kept.
    kept: Option<Journal>,
    /// Why the journal of what is kept is behind the index: until its disk has room, nothing is done that belongs there.
    behind: Option<Errno>,
    files: Files,
    _lock: PoolLock,
}

/// The files of one pool.
#[derive(Debug)]
struct Files {
    index: PathBuf,
    journal: PathBuf,
    kept: PathBuf,
}

impl Files {
    fn of(place: &Place, key: &PoolKey) -> Self {
        Self {
            index: place.file(&place.run, key, "mdb"),
            journal: place.file(&place.run, key, "journal"),
            kept: place.file(&place.state, key, "journal"),
        }
    }
}

impl HostStore {
    /// Waits for the pool and opens its store, which is made where there is none.
    ///
    /// # Errors
    /// Another process has it for too long, the store is damaged or of a newer version, or the kernel's
    /// refusal.
    pub fn open(place: &Place, key: &PoolKey) -> Result<Self, StoreError> {
        ensure_folder(&place.run.join(key.folder()))?;
        let lock = PoolLock::acquire(&place.file(&place.run, key, "lock"), place.patience)?;
        let files = Files::of(place, key);
        let journal = Journal::open(&files.journal, Sync::Never)?;
        let kept = Journal::open(&files.kept, Sync::Always)?;
        let mut store = Self { index: None, journal, kept, behind: None, files, _lock: lock };
        store.settle()?;
        Ok(store)
    }

    /// As [`HostStore::open`], but `None` where the pool has no store yet.
    ///
    /// # Errors
    /// As [`HostStore::open`].
    pub fn open_existing(place: &Place, key: &PoolKey) -> Result<Option<Self>, StoreError> {
        let Files { index, journal, kept } = Files::of(place, key);
        if ![index, journal, kept].iter().any(|file| file.exists()) {
            return Ok(None);
        }
        Self::open(place, key).map(Some)
    }

    /// Sees to it that index and journals say the same.
    fn settle(&mut self) -> Result<(), StoreError> {
        let boot = boot_id()?;
        Guard::touching(&self.files.index);
        let file = TableFile::open(&self.files.index)?;
        let origin = self.journal.as_ref().map(Journal::origin).transpose()?.flatten();
        let of_this_boot = origin.as_ref().is_some_and(|origin| origin.boot == boot);
        // LMDB does not get to see a copy: its pages may be of different moments.
        let index = match (file, &origin) {
            (Some(file), Some(origin)) if !of_this_boot || origin.index != file.identity() => None,
            (file, _) => file.map(TableFile::table).transpose()?,
        };
        let meta = index.as_ref().map(|index| Ok::<_, StoreError>(Records::of(index)?.meta().clone()));
        let meta = meta.transpose()?.filter(|meta| meta.boot == boot);
        self.index = index.filter(|_| meta.is_some());
        match meta {
            Some(meta) => {
                self.check_moment(&meta)?;
                if is_of(&self.journal, &meta.journal) && is_whole(&self.kept, &meta.kept) {
                    self.follow_both(&meta)
                } else {
                    self.settle_alone(&boot, &meta)
                }
            }
            // Leases of an earlier boot, on a disk, are nobody's any more: their pods are gone.
            None => {
                let journal = self.journal.as_ref().filter(|_| of_this_boot);
                let contents = journal.map(Journal::read::<Slot>).transpose()?;
                let mut slots = contents.map(|all| all.entries).unwrap_or_default();
                let kept = match self.keep(&mut slots) {
                    Err(error) => {
                        self.behind = Some(waits_for_the_disk(error)?);
                        Some(Mark::of_none())
                    }
                    Ok(kept) => kept,
                };
                self.write_index(&boot, &slots, kept)
            }
        }
    }

    /// An index that is no copy has all that was answered, unless somebody put an older one in its place, or an older
    /// journal: nobody can say which of the two counts.
    fn check_moment(&self, meta: &Meta) -> Result<(), StoreError> {
        let what = match (&self.journal, &meta.journal) {
            (Some(journal), Some(mark)) if journal.is_of(mark) => journal.is_ahead_of(mark),
            // Written anew by a process that was killed before the index knew it.
            (Some(journal), Some(_)) => {
                let slots = crate::list(&mut Records::of(self.index()?)?)?.into_iter().collect();
                let differs = journal.read::<Slot>()?.entries != slots;
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
    fn follow_both(&mut self, meta: &Meta) -> Result<(), StoreError> {
        if let (Some(kept), Some(mark)) = (&mut self.kept, &meta.kept) {
            match kept.follow(mark) {
                // It waits until something else is to be kept: what is not must not wait for that disk.
                Err(StoreError::Full { .. } | StoreError::ReadOnly { .. }) => {}
                followed => followed?,
            }
        }
        match &meta.journal {
            Some(mark) => self.follow(mark)?,
            None => return self.write_journal(),
        }
        if meta.journal.as_ref().is_some_and(Mark::is_long) { self.write_journal() } else { Ok(()) }
    }

    /// Where a journal is another one than the index knows, or missing: there was no room for it, somebody took it away or
    /// put a copy in its place, or a process was killed while it wrote it anew.
    fn settle_alone(&mut self, boot: &str, meta: &Meta) -> Result<(), StoreError> {
        let mut records = Records::of(self.index()?)?;
        records.verify()?;
        if is_whole(&self.kept, &meta.kept) {
            drop(records);
            if self.journal.is_some() {
                self.remove_journal()?;
            }
            return self.follow_both(&Meta { journal: None, ..meta.clone() });
        }
        let mut slots: BTreeMap<Addr, Slot> = crate::list(&mut records)?.into_iter().collect();
        drop(records);
        // Who puts back what is kept means also what was released since.
        if let Some(kept) = self.kept.as_ref().map(Journal::read::<Kept>).transpose()? {
            slots.retain(|address, slot| {
                !(matches!(slot, Slot::Resting { .. }) && kept.entries.contains_key(address))
            });
        }
        match self.keep(&mut slots) {
            // It waits for room, and whoever keeps nothing goes on.
            Err(error) => {
                self.behind = Some(waits_for_the_disk(error)?);
                if is_of(&self.journal, &meta.journal) {
                    return self.follow_both(&Meta { kept: None, ..meta.clone() });
                }
                if self.journal.is_some() {
                    self.remove_journal()?;
                }
                self.follow_both(&Meta { journal: None, kept: None, ..meta.clone() })
            }
            Ok(kept) => self.write_index(boot, &slots, kept),
        }
    }

    /// Makes slots and the journal of what is kept say the same, and says where that ends.
    fn keep(&mut self, slots: &mut BTreeMap<Addr, Slot>) -> Result<Option<Mark>, StoreError> {
        let kept = self.kept.as_ref().map(Journal::read::<Kept>).transpose()?;
        for (address, kept) in kept.iter().flat_map(|kept| &kept.entries) {
            slots.entry(*address).or_insert_with(|| kept.slot());
        }
        match (kept_of(slots), kept) {
            (all, Some(Contents { entries, mark: Some(mark) })) if all == entries => {
                self.settle_kept(&all, mark).map(Some)
            }
            (all, None) if all.is_empty() => Ok(None),
            (all, _) => self.write_kept(&all).map(Some),
        }
    }

    /// Makes the index and the journal of this boot: whoever finds a name finds all of it.
    fn write_index(
        &mut self,
        boot: &str,
        slots: &BTreeMap<Addr, Slot>,
        kept: Option<Mark>,
    ) -> Result<(), StoreError> {
        // Closed before another one gets its name.
        self.index = None;
        let path = &self.files.index;
        let texts = texts(slots).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
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
            let table = Table::create(&temporary)?;
            let origin = Origin { boot: boot.to_owned(), index: table.identity() };
            let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
            // From here on, what index there is belongs to no journal.
            let (journal, mark) = Journal::write(&self.files.journal, Sync::Never, Some(&origin), entries)?;
            let mut records = Records::new(&table, boot.to_owned())?;
            let mut book = Book::new(&mut records);
            slots.iter().try_for_each(|(address, slot)| book.put_back(*address, slot))?;
            records.say(|meta| (meta.journal, meta.kept) = (Some(mark), kept));
            records.commit()?;
            drop(table);
            std::fs::rename(&temporary, path)
                .map_err(|source| StoreError::io("put in place", path, source))?;
            Ok(journal)
        })();
        // The error is what matters; a file that stays is removed by the next one.
        self.journal = Some(made.inspect_err(|_: &StoreError| drop(remove()))?);
        self.index = TableFile::open(path)?.map(TableFile::table).transpose()?;
        Ok(())
    }

    /// Writes the journal anew from the index; does without where the disk is full.
    fn write_journal(&mut self) -> Result<(), StoreError> {
        let mut records = Records::of(self.index()?)?;
        let slots = records.slots()?;
        let entries = slots.iter().map(|(address, text)| (*address, text.as_slice()));
        let origin = Origin { boot: records.meta().boot.clone(), index: self.index()?.identity() };
        match Journal::write(&self.files.journal, Sync::Never, Some(&origin), entries) {
            Ok((journal, mark)) => {
                records.say(|meta| meta.journal = Some(mark));
                records.commit()?;
                self.journal = Some(journal);
                Ok(())
            }
            Err(StoreError::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds to the journal of this boot what the index knows of it. Where the disk has no room for a line, the index goes on
    /// without a journal: it must be possible to give addresses back.
    fn follow(&mut self, mark: &Mark) -> Result<(), StoreError> {
        match self.journal.as_mut().map(|journal| journal.follow(mark)) {
            Some(Err(StoreError::Full { .. })) => self.remove_journal(),
            followed => followed.unwrap_or(Ok(())),
        }
    }

    fn remove_journal(&mut self) -> Result<(), StoreError> {
        let mut records = Records::of(self.index()?)?;
        records.say(|meta| meta.journal = None);
        records.commit()?;
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
    fn settle_kept(&mut self, kept: &BTreeMap<Addr, Kept>, mark: Mark) -> Result<Mark, StoreError> {
        if mark.is_long() {
            match self.write_kept(kept) {
                Err(StoreError::Full { .. }) => {}
                written => return written,
            }
        }
        // Whoever wrote it may have been killed before it was synced.
        self.kept.as_ref().map_or(Ok(()), Journal::sync_all)?;
        Ok(mark)
    }

    /// Writes the journal of what is kept as a whole.
    fn write_kept(&mut self, kept: &BTreeMap<Addr, Kept>) -> Result<Mark, StoreError> {
        let path = &self.files.kept;
        if let Some(folder) = path.parent() {
            ensure_lasting_folder(folder)?;
        }
        let texts = texts(kept).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
        let (journal, mark) = Journal::write(path, Sync::Always, None, entries)?;
        self.kept = Some(journal);
        Ok(mark)
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
        self.has_caught_up()?;
        let mark = Records::of(self.index()?)?.meta().kept.clone();
        match (&mut self.kept, mark) {
            (Some(kept), Some(mark)) => {
                kept.follow(&mark)?;
                kept.sync()
            }
            _ => Ok(()),
        }
    }

    /// What would be left after a reboot.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn kept(&self) -> Result<BTreeMap<Addr, Kept>, StoreError> {
        Ok(read_kept(&self.files.kept)?.unwrap_or_default())
    }

    /// Reads everything and compares it: what does not fit, for people.
    ///
    /// # Errors
    /// A record that cannot be read at all, or records that are not those of one moment.
    pub fn verify(&mut self) -> Result<Vec<String>, StoreError> {
        let mut records = Records::of(self.index()?)?;
        records.verify()?;
        let mut problems = crate::verify(&mut records)?;
        let slots = crate::list(&mut records)?.into_iter().collect();
        if let Some(journal) = &self.journal {
            compare(&slots, &journal.read()?.entries, "leased", &mut problems);
        }
        compare(&kept_of(&slots), &self.kept()?, "kept", &mut problems);
        Ok(problems)
    }

    /// Keeps the file mapped and the pool locked until the process ends, which is about to: taking both
    /// apart would only cost time.
    pub fn leave_open(self) {
        std::mem::forget(self);
    }

    /// Whether what is kept can be changed.
    fn has_caught_up(&self) -> Result<(), StoreError> {
        let why = self.behind.map(|errno| StoreError::io("write", &self.files.kept, errno.into()));
        why.map_or(Ok(()), Err)
    }

    fn index(&self) -> Result<&Table, StoreError> {
        self.index.as_ref().ok_or_else(|| StoreError::damaged(&self.files.index, "it was closed"))
    }
}

impl Drop for HostStore {
    fn drop(&mut self) {
        // heed closes the file here, and the lock is given back after it.
        self.index = None;
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.path()).finish()
    }
}

impl Store for HostStore {
    fn held(&self, wanted: &Spans) -> Result<Spans, StoreError> {
        Ok(wanted.clone())
    }

    fn claim(&mut self, _wanted: &Spans) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn Ledger) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(index) = &self.index else {
            return Err(StoreError::damaged(&self.files.index, "it was closed").into());
        };
        let mut records = Records::of(index)?;
        let result = work(&mut records)?;
        if !records.is_changed() {
            return Ok(result);
        }
        let journaled = match (&self.journal, &records.meta().journal) {
            (Some(_), Some(mark)) => Some(mark.next(records.changes())),
            _ => None,
        };
        let kept = records.kept()?;
        let kept = if kept.is_empty() {
            None
        } else {
            self.has_caught_up()?;
            // Whatever can be wrong with the other file or its disk is found before anything is given.
            let (journal, mark) = open_kept(&mut self.kept, &self.files.kept, records.meta().kept.clone())?;
            journal.check_writable()?;
            journal.follow(&mark)?;
            let texts =
                texts(&kept).map_err(|error| StoreError::damaged(&self.files.kept, &error.to_string()))?;
            let mark = mark.next(texts.iter().map(|(address, text)| (*address, Some(text.as_slice()))));
            if kept.values().any(Option::is_some) {
                journal.reserve()?;
            } else {
                journal.make_room(&mark)?;
            }
            Some((journal, mark))
        };
        records.say(|meta| {
            meta.journal.clone_from(&journaled);
            if let Some((_, mark)) = &kept {
                meta.kept = Some(mark.clone());
            }
        });
        records.commit().map_err(|error| error.at(&self.files.index))?;
        // A kept address must be on the disk before anybody hears of it.
        if let Some((journal, mark)) = kept {
            journal.follow(&mark)?;
        }
        if let Some(mark) = &journaled {
            self.follow(mark)?;
        }
        Ok(result)
    }
}

/// What the disk lacks, if it is that.
fn waits_for_the_disk(error: StoreError) -> Result<Errno, StoreError> {
    match error {
        StoreError::Full { .. } => Ok(Errno::ENOSPC),
        StoreError::ReadOnly { .. } => Ok(Errno::EROFS),
        error => Err(error),
    }
}

fn is_of(journal: &Option<Journal>, mark: &Option<Mark>) -> bool {
    match (journal, mark) {
        (Some(journal), Some(mark)) => journal.is_of(mark),
        (None, None) => true,
        _ => false,
    }
}

/// As [`is_of`], and not one that was copied over the same file.
fn is_whole(journal: &Option<Journal>, mark: &Option<Mark>) -> bool {
    let fits = journal.as_ref().zip(mark.as_ref()).is_none_or(|(journal, mark)| journal.fits(mark));
    is_of(journal, mark) && fits
}

/// The journal of what is kept, and where it ends; it is made where it is missing.
fn open_kept<'a>(
    open: &'a mut Option<Journal>,
    path: &Path,
    mark: Option<Mark>,
) -> Result<(&'a mut Journal, Mark), StoreError> {
    let mark = match mark {
        Some(mark) => mark,
        None => {
            if let Some(folder) = path.parent() {
                ensure_lasting_folder(folder)?;
            }
            let (journal, mark) = Journal::write(path, Sync::Always, None, std::iter::empty())?;
            *open = Some(journal);
            mark
        }
    };
    let journal = open.as_mut().ok_or_else(|| StoreError::damaged(path, "it was closed"))?;
    Ok((journal, mark))
}

fn kept_of(slots: &BTreeMap<Addr, Slot>) -> BTreeMap<Addr, Kept> {
    slots.iter().filter_map(|(address, slot)| Some((*address, Kept::of(slot)?))).collect()
}

fn texts<T: serde::Serialize>(
    entries: &BTreeMap<Addr, T>,
) -> Result<Vec<(Addr, Vec<u8>)>, serde_json::Error> {
    entries.iter().map(|(address, entry)| Ok((*address, serde_json::to_vec(entry)?))).collect()
}

fn compare<T: PartialEq>(
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
pub(crate) fn read_kept(path: &Path) -> Result<Option<BTreeMap<Addr, Kept>>, StoreError> {
    let journal = Journal::open(path, Sync::Always)?;
    Ok(journal.map(|journal| journal.read()).transpose()?.map(|contents| contents.entries))
}

/// All addresses in a journal of leases.
pub(crate) fn read_leases(path: &Path) -> Result<BTreeMap<Addr, Slot>, StoreError> {
    let journal = Journal::open(path, Sync::Never)?;
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
    use crate::store::VERSION;

    fn place(temp: &tempfile::TempDir) -> Place {
        let (run, state) = (temp.path().join("run"), temp.path().join("state"));
        Place { run, state, patience: Duration::from_millis(10) }
    }

    fn say(store: &HostStore, edit: impl FnOnce(&mut Meta)) {
        let mut records = Records::of(store.index().unwrap()).unwrap();
        records.say(edit);
        records.commit().unwrap();
    }

    fn address(last: u8) -> Addr {
        std::net::IpAddr::from([10, 0, 0, last]).into()
    }

    fn kept(name: &str) -> Kept {
        Kept { owner: crate::Owner::pod("default", name, "n"), interface: "net1".to_owned(), queue: 0 }
    }

    fn set(store: &mut HostStore, last: u8, slot: &Slot) {
        store.change(|ledger| Book::new(ledger).put_back(address(last), slot)).unwrap();
    }

    fn resting(since: u64) -> Slot {
        Slot::Resting { since: crate::Millis(since), queue: 0, last: None }
    }

    fn slots(store: &mut HostStore) -> Vec<(Addr, Slot)> {
        assert_eq!(store.verify().unwrap(), [""; 0]);
        store.try_out(|ledger| crate::list(ledger)).unwrap()
    }

    #[test]
    fn a_newer_store_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        say(&HostStore::open(&place, &key).unwrap(), |meta| meta.version = VERSION + 1);
        let before = std::fs::read(place.run.join("pools/p.mdb")).unwrap();
        let error = HostStore::open(&place, &key).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
        assert_eq!(std::fs::read(place.run.join("pools/p.mdb")).unwrap(), before);
    }

    #[test]
    fn leases_of_another_boot_are_gone_and_what_is_kept_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Network("n".to_owned()));
        let mut store = HostStore::open(&place, &key).unwrap();
        set(&mut store, 6, &resting(1));
        set(&mut store, 7, &kept("db-0").slot());
        say(&store, |meta| meta.boot = "another".to_owned());
        drop(store);
        // The journal says so, too.
        let journal = place.run.join("networks/n.journal");
        let texts = [(address(6), serde_json::to_vec(&resting(1)).unwrap())];
        let entries = texts.iter().map(|(address, text)| (*address, text.as_slice()));
        let file = TableFile::open(&place.run.join("networks/n.mdb")).unwrap().unwrap();
        let origin = Origin { boot: "another".to_owned(), index: file.identity() };
        Journal::write(&journal, Sync::Never, Some(&origin), entries).unwrap();
        let mut store = HostStore::open(&place, &key).unwrap();
        assert_eq!(slots(&mut store), [(address(7), kept("db-0").slot())]);
    }

    #[test]
    fn an_index_is_made_from_its_journal_and_a_journal_from_its_index() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&place, &key).unwrap();
        for last in 1..20 {
            set(&mut store, last, &if last % 2 == 0 { resting(last.into()) } else { kept("db-0").slot() });
        }
        store.change(|ledger| Book::new(ledger).clear_slot(address(2))).unwrap();
        let all = slots(&mut store);
        assert_eq!(all.len(), 18);
        let files: Vec<PathBuf> = vec![
            place.run.join("pools/p.mdb"),
            place.run.join("pools/p.journal"),
            place.state.join("pools/p.journal"),
        ];
        let mut left = Some(store);
        for gone in [vec![0], vec![1], vec![2], vec![1, 2], vec![0, 2]] {
            drop(left.take());
            for file in gone {
                std::fs::remove_file(&files[file]).unwrap();
            }
            let mut store = HostStore::open(&place, &key).unwrap();
            assert_eq!(slots(&mut store), all);
            left = Some(store);
        }
    }

    #[test]
    fn a_line_that_was_not_written_is_written_by_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&place, &key).unwrap();
        set(&mut store, 1, &kept("db-0").slot());
        let files = [place.run.join("pools/p.journal"), place.state.join("pools/p.journal")];
        let before = files.each_ref().map(|file| std::fs::metadata(file).unwrap().len());
        set(&mut store, 2, &kept("db-1").slot());
        let all = slots(&mut store);
        drop(store);
        // As if the process had been killed in the middle of the second one.
        for (file, before) in files.iter().zip(before) {
            std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(before + 9).unwrap();
        }
        let mut store = HostStore::open(&place, &key).unwrap();
        assert_eq!(slots(&mut store), all);
        drop(store);
        // More is missing than that.
        std::fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(before[0] - 1).unwrap();
        assert!(matches!(HostStore::open(&place, &key), Err(StoreError::Damaged { .. })));
    }

    /// Writes what was read before into the same file, as `cp` does.
    fn copy_over(file: &Path, bytes: &[u8]) {
        let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(file).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
    }

    /// Puts another file of these bytes in place: one that was removed first may leave it its inode.
    fn put(file: &Path, bytes: &[u8]) {
        let other = file.with_extension("other");
        std::fs::write(&other, bytes).unwrap();
        std::fs::rename(&other, file).unwrap();
    }

    #[test]
    fn what_is_put_back_counts_from_the_next_call_on() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let file = place.state.join("pools/p.journal");
        for in_place in [true, false] {
            let mut store = HostStore::open(&place, &key).unwrap();
            set(&mut store, 1, &kept("db-0").slot());
            set(&mut store, 2, &kept("db-1").slot());
            let backup = std::fs::read(&file).unwrap();
            set(&mut store, 3, &kept("db-2").slot());
            // Released by mistake; the other one's address is somebody else's by now.
            set(&mut store, 1, &resting(1));
            set(&mut store, 2, &kept("web").slot());
            drop(store);
            if in_place {
                copy_over(&file, &backup)
            } else {
                put(&file, &backup)
            }
            let mut store = HostStore::open(&place, &key).unwrap();
            let all = [(1, "db-0"), (2, "web"), (3, "db-2")];
            let all = all.map(|(last, name)| (address(last), kept(name).slot()));
            assert_eq!(slots(&mut store), all);
            drop(store);
            std::fs::remove_dir_all(&place.run).unwrap();
            let mut store = HostStore::open(&place, &key).unwrap();
            assert_eq!(slots(&mut store), all, "after a reboot, too");
            for last in 1..4 {
                store.change(|ledger| Book::new(ledger).clear_slot(address(last))).unwrap();
            }
        }
    }

    #[test]
    fn no_copy_of_a_journal_takes_anything_from_its_index() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let file = place.run.join("pools/p.journal");
        let mut store = HostStore::open(&place, &key).unwrap();
        set(&mut store, 1, &resting(1));
        let older = std::fs::read(&file).unwrap();
        set(&mut store, 2, &resting(2));
        let all = slots(&mut store);
        drop(store);
        put(&file, &older);
        let error = HostStore::open(&place, &key).unwrap_err().to_string();
        assert!(error.contains("of different moments"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let mut store = HostStore::open(&place, &key).unwrap();
        assert_eq!(slots(&mut store), all);
        // Written anew by a process that was killed before the index knew it.
        let copy = std::fs::read(&file).unwrap();
        drop(store);
        put(&file, &copy);
        let mut store = HostStore::open(&place, &key).unwrap();
        assert_eq!(slots(&mut store), all);
        // One that was given up by a process which was killed before it removed it.
        say(&store, |meta| meta.journal = None);
        set_index_only(&store, 3);
        drop(store);
        let mut store = HostStore::open(&place, &key).unwrap();
        assert_eq!(slots(&mut store).len(), 3);
    }

    fn set_index_only(store: &HostStore, last: u8) {
        let mut records = Records::of(store.index().unwrap()).unwrap();
        Book::new(&mut records).put_back(address(last), &resting(last.into())).unwrap();
        records.commit().unwrap();
    }

    #[test]
    fn an_older_index_is_told_from_a_damaged_journal() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let index = place.run.join("pools/p.mdb");
        let mut store = HostStore::open(&place, &key).unwrap();
        set(&mut store, 1, &kept("db-0").slot());
        for slot in [resting(2), kept("db-1").slot()] {
            let older = std::fs::read(&index).unwrap();
            set(&mut store, 2, &slot);
            let all = slots(&mut store);
            drop(store);
            copy_over(&index, &older);
            let error = HostStore::open(&place, &key).unwrap_err().to_string();
            // The journal has more, so it must not be what is taken away.
            assert!(error.contains("p.mdb") && error.contains("remove this file"), "{error}");
            std::fs::remove_file(&index).unwrap();
            store = HostStore::open(&place, &key).unwrap();
            assert_eq!(slots(&mut store), all);
        }
    }

    #[test]
    fn a_long_history_is_cut_off() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&place, &key).unwrap();
        for round in 0..600 {
            set(&mut store, 1, &resting(round));
            store.change(|ledger| Book::new(ledger).clear_slot(address(1))).unwrap();
        }
        set(&mut store, 1, &resting(1000));
        let all = slots(&mut store);
        drop(store);
        let journal = place.run.join("pools/p.journal");
        let before = std::fs::metadata(&journal).unwrap().len();
        let mut store = HostStore::open(&place, &key).unwrap();
        assert_eq!(slots(&mut store), all);
        assert!(std::fs::metadata(&journal).unwrap().len() < before / 100);
    }

    #[test]
    fn records_that_are_not_of_one_moment_are_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&place, &key).unwrap();
        set(&mut store, 1, &resting(1));
        let before = Records::of(store.index().unwrap()).unwrap().meta().tally;
        set(&mut store, 2, &resting(2));
        assert_eq!(store.verify().unwrap(), [""; 0]);
        // As in an index of which one page is older than the others.
        say(&store, |meta| meta.tally = before);
        let error = store.verify().unwrap_err().to_string();
        assert!(error.contains("do not add up"), "{error}");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let _first = HostStore::open(&place, &key).unwrap();
        assert!(matches!(HostStore::open(&place, &key), Err(StoreError::Locked { .. })));
    }
}
