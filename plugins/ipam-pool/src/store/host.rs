use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::SafeDir;
use sha2::{Digest, Sha256};

use crate::slot::{self, Kept};
use crate::store::lmdb::{Sync, Table};
use crate::store::lock::PoolLock;
use crate::store::records::Records;
use crate::store::{Entry, Guard, Ledger, Store, StoreError};
use crate::{Addr, Allocator, Millis, Rules, Slot, Spans};

const KEPT: u8 = b'a';

/// A name of up to this many bytes is a file's name as it is.
const MAX_NAME: usize = 200;

/// Which pool a store is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolKey {
    /// A pool file's.
    Named(String),
    /// The ranges that a network's configuration holds itself.
    Network(String),
}

/// Where the stores of a node are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Ephemeral leases: `/run/k8slan/ipam`.
    pub run: PathBuf,
    /// What outlives a reboot: `/var/lib/k8slan/ipam`.
    pub state: PathBuf,
    /// How long to wait for another process.
    pub patience: Duration,
}

/// The store of a single host: an LMDB file for this boot, and one for what is kept over it.
///
/// The file for this boot holds everything, also what is kept, so that an ordinary call touches no
/// other. The order of the two makes a kill at any point harmless: an address is first taken here and
/// then kept, and first no longer kept and then free here.
#[derive(Debug)]
pub struct HostStore {
    leases: Option<Table>,
    state: PathBuf,
    _lock: PoolLock,
}

impl PoolKey {
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Self::Named(_) => "pools",
            Self::Network(_) => "networks",
        }
    }

    /// The name alone.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) | Self::Network(name) => name,
        }
    }

    fn file(&self, suffix: &str) -> String {
        let name = self.name();
        if name.len() <= MAX_NAME {
            return format!("{name}.{suffix}");
        }
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        // '+' cannot occur in a name.
        format!("+{hex}.{suffix}")
    }
}

impl std::fmt::Display for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => write!(f, "pool {name}"),
            Self::Network(name) => write!(f, "network {name}"),
        }
    }
}

impl Place {
    /// The stores that are there, by the names of their files.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn list(&self) -> Result<Vec<PoolKey>, StoreError> {
        let mut keys = std::collections::BTreeSet::new();
        for (folder, of) in [
            ("pools", PoolKey::Named as fn(String) -> PoolKey),
            ("networks", PoolKey::Network as fn(String) -> PoolKey),
        ] {
            for root in [&self.run, &self.state] {
                let Some(dir) = SafeDir::open(&root.join(folder))? else { continue };
                for name in dir.names()? {
                    keys.extend(name.strip_suffix(".mdb").map(|name| of(name.to_owned())));
                }
            }
        }
        Ok(keys.into_iter().collect())
    }

    pub(crate) fn file(&self, root: &Path, key: &PoolKey, suffix: &str) -> PathBuf {
        root.join(key.folder()).join(key.file(suffix))
    }
}

impl HostStore {
    /// Waits for the pool and opens its store, which is made where there is none.
    ///
    /// # Errors
    /// Another process has it for too long, the store is damaged or of a newer version, or the kernel's
    /// refusal.
    pub fn open(place: &Place, key: &PoolKey) -> Result<Self, StoreError> {
        let folder = place.run.join(key.folder());
        ensure_folder(&folder)?;
        Self::open_locked(place, key).map(|(store, _)| store)
    }

    /// As [`HostStore::open`], but `None` where the pool has no store yet.
    ///
    /// # Errors
    /// As [`HostStore::open`].
    pub fn open_existing(place: &Place, key: &PoolKey) -> Result<Option<Self>, StoreError> {
        let there = [&place.run, &place.state].map(|root| place.file(root, key, "mdb").exists());
        if there == [false, false] {
            return Ok(None);
        }
        Self::open(place, key).map(Some)
    }

    fn open_locked(place: &Place, key: &PoolKey) -> Result<(Self, bool), StoreError> {
        let lock = PoolLock::acquire(&place.file(&place.run, key, "lock"), place.patience)?;
        let path = place.file(&place.run, key, "mdb");
        let state = place.file(&place.state, key, "mdb");
        Guard::touching(&path);
        let boot = boot_id()?;
        if let Some(table) = Table::open(&path, Sync::Never)? {
            let of_this_boot = Records::of(&table)?.meta().boot.as_deref() == Some(boot.as_str());
            if of_this_boot {
                return Ok((Self { leases: Some(table), state, _lock: lock }, false));
            }
            // Leases of an earlier boot on a disk: their pods are gone.
        }
        let table = create(&path, Sync::Never, Some(boot), Some(&state))?;
        Ok((Self { leases: Some(table), state, _lock: lock }, true))
    }

    /// Sees to it that the disk has room for what ADD writes and for DELs after it.
    ///
    /// # Errors
    /// It has not.
    pub fn reserve(&self) -> Result<(), StoreError> {
        self.leases()?.reserve()
    }

    /// What would be left after a reboot.
    ///
    /// # Errors
    /// The file is damaged, or is not all that was written to it.
    pub fn kept(&self) -> Result<BTreeMap<Addr, Kept>, StoreError> {
        read_kept(&self.state)
    }

    /// Reads everything and compares it: what does not fit, for people.
    ///
    /// # Errors
    /// A record that cannot be read at all, or records that are not those of one moment.
    pub fn verify(&mut self) -> Result<Vec<String>, StoreError> {
        Records::of(self.leases()?)?.verify()?;
        let kept = self.kept()?;
        self.try_out(|ledger| {
            let mut problems = crate::verify(ledger)?;
            // Not the other way round: an ADD that is cut off holds what it does not keep yet.
            for (address, kept) in kept {
                let held = crate::look_up(ledger, address)?;
                if !matches!(held, Some(Slot::Leased(lease)) if lease.sticky && lease.owner.as_ref() == Some(&kept.owner))
                {
                    problems.push(format!("{address} is kept for {}, who does not have it", kept.owner));
                }
            }
            Ok(problems)
        })
    }

    /// Keeps the file mapped and the pool locked until the process ends, which is about to: taking both
    /// apart would only cost time.
    pub fn leave_open(self) {
        std::mem::forget(self);
    }

    fn leases(&self) -> Result<&Table, StoreError> {
        self.leases.as_ref().ok_or_else(|| StoreError::damaged(&self.state, "it was closed"))
    }
}

impl Drop for HostStore {
    fn drop(&mut self) {
        // heed closes the file here, and the lock is given back after it.
        self.leases = None;
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
        let leases = self.leases()?;
        let path = leases.path();
        let mut ledger = HostLedger { records: Records::of(leases)?, kept: Vec::new() };
        let result = work(&mut ledger)?;
        let HostLedger { records, kept } = ledger;
        let (forgotten, kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, kept)| kept.is_none());
        if !forgotten.is_empty()
            && let Some(table) = open_kept(&self.state, false)?
        {
            write_kept(&table, &forgotten)?;
        }
        // Whatever can be wrong with the other file or its disk is found before anything is given.
        let table = if kept.is_empty() { None } else { open_kept(&self.state, true)? };
        if let Some(table) = &table {
            table.reserve()?;
        }
        Guard::touching(path);
        records.commit().map_err(|error| error.at(path))?;
        if let Some(table) = &table {
            write_kept(table, &kept)?;
        }
        Ok(result)
    }
}

/// The file of this boot within a change, and what has to be kept beyond it.
struct HostLedger<'a> {
    records: Records<'a>,
    kept: Vec<(Addr, Option<Kept>)>,
}

impl Ledger for HostLedger<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.records.get(key)
    }

    fn last_until(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.records.last_until(key)
    }

    fn first_from(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.records.first_from(key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.records.put(key, value)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.records.remove(key)
    }

    fn keep(&mut self, address: Addr, kept: &Kept) -> Result<(), StoreError> {
        self.kept.retain(|(other, _)| *other != address);
        self.kept.push((address, Some(kept.clone())));
        Ok(())
    }

    fn forget(&mut self, address: Addr) -> Result<(), StoreError> {
        self.kept.retain(|(other, _)| *other != address);
        self.kept.push((address, None));
        Ok(())
    }
}

/// The file of what is kept over a reboot; it is made where it is missing, if that is wanted.
fn open_kept(path: &Path, make: bool) -> Result<Option<Table>, StoreError> {
    Guard::touching(path);
    if let Some(table) = Table::open(path, Sync::Always)? {
        Records::of(&table)?;
        return Ok(Some(table));
    }
    if !make {
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        ensure_folder(folder)?;
    }
    create(path, Sync::Always, None, None).map(Some)
}

/// Writes what is kept over a reboot, synced, if it is not there already.
fn write_kept(table: &Table, changes: &[(Addr, Option<Kept>)]) -> Result<(), StoreError> {
    let path = table.path();
    Guard::touching(path);
    let mut records = Records::of(table)?;
    for (address, kept) in changes {
        let key = kept_key(*address);
        match kept {
            Some(kept) => {
                let bytes = slot::encode(&key, kept)
                    .map_err(|error| StoreError::damaged(path, &error.to_string()))?;
                records.put(&key, &bytes)?;
            }
            None => records.remove(&key)?,
        }
    }
    records.commit()
}

/// What the file of a pool keeps over a reboot; whether it is all that was written to it, too.
pub(crate) fn read_kept(path: &Path) -> Result<BTreeMap<Addr, Kept>, StoreError> {
    Guard::touching(path);
    let mut all = BTreeMap::new();
    let Some(table) = Table::open(path, Sync::Always)? else { return Ok(all) };
    let records = Records::of(&table)?;
    records.verify()?;
    let mut next = vec![KEPT];
    while let Some((key, value)) = records.first_from(&next)? {
        let Some(address) = key.strip_prefix(&[KEPT]) else { break };
        let address = Addr::from_key(address)
            .ok_or_else(|| StoreError::damaged(path, "a record's key is no address"))?;
        let kept =
            slot::decode(&key, &value).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        all.insert(address, kept);
        next = key;
        next.push(0);
    }
    Ok(all)
}

/// All addresses in a file of leases, if it is in order.
pub(crate) fn read_leases(path: &Path) -> Result<Vec<(Addr, Slot)>, StoreError> {
    let table =
        Table::open(path, Sync::Never)?.ok_or_else(|| StoreError::damaged(path, "it is not there"))?;
    let records = Records::of(&table)?;
    records.verify()?;
    let mut ledger = HostLedger { records, kept: Vec::new() };
    match crate::verify(&mut ledger).map_err(|error| error.at(path))?.first() {
        Some(problem) => Err(StoreError::damaged(path, problem)),
        None => crate::list(&mut ledger).map_err(|error| error.at(path)),
    }
}

/// Puts back, after a reboot, what was kept.
fn restore<'a>(records: Records<'a>, state: &Path) -> Result<Records<'a>, StoreError> {
    let mut ledger = HostLedger { records, kept: Vec::new() };
    // An owner has its address from before this boot.
    for (address, kept) in read_kept(state)? {
        let mut allocator = Allocator::new(&mut ledger, &[], Rules::default(), Millis(0));
        allocator.restore(address, &kept).map_err(|error| match error {
            crate::AllocError::Store(error) => error.at(state),
            other => StoreError::damaged(state, &other.to_string()),
        })?;
    }
    Ok(ledger.records)
}

/// Makes a table under another name, fills it with what `state` kept, and gives it its name: whoever finds the name finds a
/// whole table.
fn create(path: &Path, sync: Sync, boot: Option<String>, state: Option<&Path>) -> Result<Table, StoreError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let remove = |operation| match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(operation, &temporary, error))
        }
        _ => Ok(()),
    };
    // Left behind by a process that was killed: the lock is ours now.
    remove("remove")?;
    let made = (|| {
        let table = Table::create(&temporary, sync)?;
        let records = Records::new(&table, boot)?;
        let records = match state {
            Some(state) => restore(records, state)?,
            None => records,
        };
        records.commit()
    })();
    let named = made.and_then(|()| {
        std::fs::rename(&temporary, path).map_err(|source| StoreError::io("put in place", path, source))
    });
    if let Err(error) = named {
        // The error is what matters; a file that stays is removed by the next one.
        let _ = remove("remove");
        return Err(error);
    }
    if let (Sync::Always, Some(folder)) = (sync, path.parent()) {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| StoreError::io("sync the folder", folder, source))?;
    }
    Table::open(path, sync)?.ok_or_else(|| StoreError::damaged(path, "it vanished while it was made"))
}

fn kept_key(address: Addr) -> Vec<u8> {
    let mut key = vec![KEPT];
    key.extend_from_slice(&address.key());
    key
}

/// The folder, made where it is missing (mode 0700), and trusted.
pub(crate) fn ensure_folder(folder: &Path) -> Result<(), StoreError> {
    if SafeDir::open(folder)?.is_some() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StoreError::io("make the folder", folder, source))?;
    SafeDir::open(folder)?;
    Ok(())
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
    use super::*;
    use crate::store::records::{Meta, VERSION};

    fn place(temp: &tempfile::TempDir) -> Place {
        let (run, state) = (temp.path().join("run"), temp.path().join("state"));
        Place { run, state, patience: Duration::from_millis(10) }
    }

    fn say(store: &HostStore, edit: impl FnOnce(&mut Meta)) {
        let mut records = Records::of(store.leases().unwrap()).unwrap();
        records.say(edit);
        records.commit().unwrap();
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
        let address = Addr::from(std::net::IpAddr::from([10, 0, 0, 7]));
        let kept =
            Kept { owner: crate::Owner::pod("default", "db-0", "n"), interface: "net1".to_owned(), queue: 0 };
        let mut store = HostStore::open(&place, &key).unwrap();
        store.change(|ledger| ledger.put(b"x", b"of this boot")).unwrap();
        store.change(|ledger| ledger.keep(address, &kept)).unwrap();
        say(&store, |meta| meta.boot = Some("another".to_owned()));
        drop(store);
        let mut store = HostStore::open(&place, &key).unwrap();
        store
            .change(|ledger| -> Result<(), StoreError> {
                assert_eq!(ledger.get(b"x")?, None);
                let slot = crate::look_up(ledger, address)?;
                assert!(matches!(slot, Some(Slot::Leased(lease)) if lease.owner == Some(kept.owner)));
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn records_that_are_not_of_one_moment_are_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let mut store = HostStore::open(&place, &key).unwrap();
        store.change(|ledger| ledger.put(b"x", b"1")).unwrap();
        assert_eq!(store.verify().unwrap(), [""; 0]);
        let before = Records::of(store.leases().unwrap()).unwrap().meta().clone();
        store.change(|ledger| ledger.put(b"x", b"2")).unwrap();
        assert_eq!(store.verify().unwrap(), [""; 0]);
        // As in a copy of which one page is older than the others.
        say(&store, |meta| *meta = before);
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
