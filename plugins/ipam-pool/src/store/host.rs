use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::SafeDir;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::slot::{self, Kept};
use crate::store::lmdb::{Change, Sync, Table};
use crate::store::lock::PoolLock;
use crate::store::{Entry, Guard, Ledger, Store, StoreError};
use crate::{Addr, Allocator, Millis, Rules, Spans};

/// What this program writes, and the newest that it reads.
const VERSION: u32 = 1;

const META: &[u8] = b"m";
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

/// What a store says about itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    version: u32,
    /// The boot that ephemeral leases are of; `None` for what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
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
    fn folder(&self) -> &'static str {
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

    fn file(&self, root: &Path, key: &PoolKey, suffix: &str) -> PathBuf {
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
            let meta = read_meta(&table.change()?, &path)?;
            if meta.boot.as_deref() == Some(boot.as_str()) {
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
        let mut ledger = HostLedger { change: leases.change()?, kept: Vec::new() };
        let result = work(&mut ledger)?;
        let HostLedger { change, kept } = ledger;
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
        change.commit().map_err(|error| error.at(path))?;
        if let Some(table) = &table {
            write_kept(table, &kept)?;
        }
        Ok(result)
    }
}

/// The file of this boot within a change, and what has to be kept beyond it.
struct HostLedger<'a> {
    change: Change<'a>,
    kept: Vec<(Addr, Option<Kept>)>,
}

impl Ledger for HostLedger<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.change.get(key)
    }

    fn last_until(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.change.last_until(key)
    }

    fn first_from(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.change.first_from(key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.change.put(key, value)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.change.remove(key)
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
        read_meta(&table.change()?, path)?;
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
    let mut change = table.change()?;
    let mut changed = false;
    for (address, kept) in changes {
        let key = kept_key(*address);
        let old = change.get(&key)?;
        let new = kept.as_ref().map(|kept| slot::encode(&key, kept)).transpose();
        let new = new.map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        if old == new {
            continue;
        }
        changed = true;
        match new {
            Some(bytes) => change.put(&key, &bytes)?,
            None => change.remove(&key)?,
        }
    }
    if changed { change.commit() } else { Ok(()) }
}

/// Puts back, after a reboot, what was kept.
fn restore<'a>(change: Change<'a>, state: &Path) -> Result<Change<'a>, StoreError> {
    Guard::touching(state);
    let Some(table) = Table::open(state, Sync::Always)? else { return Ok(change) };
    let kept = table.change()?;
    read_meta(&kept, state)?;
    let mut ledger = Restoring { ledger: HostLedger { change, kept: Vec::new() } };
    let mut next = vec![KEPT];
    while let Some((key, value)) = kept.first_from(&next)? {
        let Some(address) = key.strip_prefix(&[KEPT]) else { break };
        let address = Addr::from_key(address)
            .ok_or_else(|| StoreError::damaged(state, "a record's key is no address"))?;
        let record: Kept =
            slot::decode(&key, &value).map_err(|error| StoreError::damaged(state, &error.to_string()))?;
        ledger.restore(address, &record).map_err(|error| error.at(state))?;
        next = key;
        next.push(0);
    }
    Ok(ledger.ledger.change)
}

struct Restoring<'a> {
    ledger: HostLedger<'a>,
}

impl Restoring<'_> {
    fn restore(&mut self, address: Addr, kept: &Kept) -> Result<(), StoreError> {
        // An owner has its address from before this boot.
        let mut allocator = Allocator::new(&mut self.ledger, &[], Rules::default(), Millis(0));
        match allocator.restore(address, kept) {
            Ok(()) => Ok(()),
            Err(crate::AllocError::Store(error)) => Err(error),
            Err(other) => Err(StoreError::record(other.to_string())),
        }
    }
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
        let mut change = match state {
            Some(state) => restore(table.change()?, state)?,
            None => table.change()?,
        };
        let meta = slot::encode(META, &Meta { version: VERSION, boot })
            .map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        change.put(META, &meta)?;
        change.commit()
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

fn read_meta(change: &Change<'_>, path: &Path) -> Result<Meta, StoreError> {
    let bytes = change.get(META)?.ok_or_else(|| StoreError::damaged(path, "it does not say what it is"))?;
    let meta: Meta =
        slot::decode(META, &bytes).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
    if meta.version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: meta.version, known: VERSION });
    }
    Ok(meta)
}

fn kept_key(address: Addr) -> Vec<u8> {
    let mut key = vec![KEPT];
    key.extend_from_slice(&address.key());
    key
}

/// The folder, made where it is missing (mode 0700), and trusted.
fn ensure_folder(folder: &Path) -> Result<(), StoreError> {
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
    let text = std::fs::read_to_string(path).map_err(|source| StoreError::io("read", path, source))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(temp: &tempfile::TempDir) -> Place {
        let (run, state) = (temp.path().join("run"), temp.path().join("state"));
        Place { run, state, patience: Duration::from_millis(10) }
    }

    fn say(store: &mut HostStore, meta: &Meta) {
        let bytes = slot::encode(META, meta).unwrap();
        store.change(|ledger| ledger.put(META, &bytes)).unwrap();
    }

    #[test]
    fn a_newer_store_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        say(
            &mut HostStore::open(&place, &key).unwrap(),
            &Meta { version: VERSION + 1, boot: Some(boot_id().unwrap()) },
        );
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
        say(&mut store, &Meta { version: VERSION, boot: Some("another".to_owned()) });
        drop(store);
        let mut store = HostStore::open(&place, &key).unwrap();
        store
            .change(|ledger| -> Result<(), StoreError> {
                assert_eq!(ledger.get(b"x")?, None);
                let slot = crate::look_up(ledger, address)?;
                assert!(matches!(slot, Some(crate::Slot::Leased(lease)) if lease.owner == Some(kept.owner)));
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn nobody_waits_for_ever() {
        let temp = tempfile::tempdir().unwrap();
        let (place, key) = (place(&temp), PoolKey::Named("p".to_owned()));
        let _first = HostStore::open(&place, &key).unwrap();
        assert!(matches!(HostStore::open(&place, &key), Err(StoreError::Locked { .. })));
    }
}
