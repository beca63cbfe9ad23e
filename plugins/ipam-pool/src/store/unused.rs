//! Which stores go. Nobody says that a network is gone, and who may write networks can make up as many names as there
//! is time: so a store goes when it has nothing in it, and of those that nobody holds an address in only so many stay.

use crate::lease_table::LeaseTable;
use crate::store::dirs::ensure_folder;
use crate::store::disk_space::DiskSpace;
use crate::store::host::{PoolFiles, read_kept_journal};
use crate::store::index_txn::IndexTxn;
use crate::store::lmdb;
use crate::store::lock::PoolLock;
use crate::store::{HostStore, PoolKey, StoreDirs, StoreError};
use crate::{AddressState, Millis};

/// How many networks' stores may be idle before a new one looks for such as have nothing in them. What they have until
/// then is the order in which addresses were released.
const MAX_IDLE: usize = 32;

/// How many may be idle before one of them goes for each new one, whatever is kept or rests in it.
const MAX_REMEMBERED: usize = 512;

/// How many idle stores a new one looks into: bounds the time of an ADD. They begin anywhere, so that none of them is
/// never looked into.
const LOOKS: usize = 8;

/// What a store has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    Nothing,
    /// Nobody holds an address, but some are kept, rest or are quarantined, the latest since then.
    Remembered(Millis),
    /// An attachment holds an address.
    Held,
}

/// A store that was to be removed, and why it was not.
pub(crate) type RemovalOutcome = (PoolKey, Result<(), StoreError>);

impl StoreDirs {
    /// Removes all stores that have nothing in them and are not `wanted`, and what killed processes left of them. One
    /// that another process uses stays. Returns what was removed, or why not.
    ///
    /// # Errors
    /// The folders cannot be listed.
    pub fn remove_unused(
        &self,
        wanted: impl Fn(&PoolKey) -> bool,
    ) -> Result<Vec<RemovalOutcome>, StoreError> {
        let mut outcomes = Vec::new();
        for key in self.list_files(&[".mdb", ".journal", ".lock"])?.into_iter().filter(|key| !wanted(key)) {
            match self.remove_if(&key, |contents| contents == Contents::Nothing) {
                Ok(false) => {}
                Ok(true) => outcomes.push((key, Ok(()))),
                Err(error) => outcomes.push((key, Err(error))),
            }
        }
        Ok(outcomes)
    }

    /// Removes idle stores of networks where there are many, before a new one is made.
    pub(crate) fn make_room_for(&self, key: &PoolKey) {
        if matches!(key, PoolKey::Network(_)) {
            // The network's ADD fails by itself where there is no room.
            let _ = self.remove_surplus(Millis::now(), MAX_REMEMBERED);
        }
    }

    fn remove_surplus(&self, now: Millis, max_remembered: usize) -> Result<(), StoreError> {
        let mut idle = self.list()?;
        idle.retain(|key| matches!(key, PoolKey::Network(_)));
        if idle.len() <= MAX_IDLE {
            return Ok(());
        }
        idle.retain(|key| self.looks_idle(key));
        if idle.len() <= MAX_IDLE {
            return Ok(());
        }
        let start = usize::try_from(now.0).unwrap_or_default() % idle.len();
        let (mut removed, mut oldest): (_, Option<(Millis, &PoolKey)>) = (false, None);
        for key in idle.iter().cycle().skip(start).take(LOOKS) {
            removed |= self.remove_if(key, |contents| {
                if let Contents::Remembered(since) = contents {
                    oldest = oldest.into_iter().chain([(since, key)]).min();
                }
                contents == Contents::Nothing
            })?;
        }
        if let Some((_, key)) = oldest.filter(|_| !removed && idle.len() > max_remembered) {
            self.remove_if(key, |contents| contents != Contents::Held)?;
        }
        Ok(())
    }

    /// Whether nobody holds an address in a store, as far as can be seen without opening it: its reserve was given back.
    fn looks_idle(&self, key: &PoolKey) -> bool {
        let metadata = std::fs::symlink_metadata(PoolFiles::new(self, key).index);
        metadata.map_or(true, |metadata| !DiskSpace::of(&metadata).has_reserve(lmdb::RESERVE))
    }

    /// Removes a store that no other process uses, if its contents may go; says whether it did.
    fn remove_if(&self, key: &PoolKey, may_go: impl FnOnce(Contents) -> bool) -> Result<bool, StoreError> {
        ensure_folder(&self.run.join(key.folder()))?;
        let Some(lock) = PoolLock::try_acquire(&self.file(&self.run, key, "lock"))? else { return Ok(false) };
        let files = PoolFiles::new(self, key);
        if !files.index.exists() && !files.journal.exists() {
            // Before its first use after a boot: not worth an index.
            let there = files.kept.exists();
            let is_kept = read_kept_journal(&files.kept)?.is_some_and(|kept| !kept.is_empty());
            let contents = if is_kept { Contents::Remembered(Millis(0)) } else { Contents::Nothing };
            let goes = may_go(contents);
            if goes {
                files.remove()?;
            }
            lock.remove()?;
            return Ok(there && goes);
        }
        let Some(store) = HostStore::open_locked(self, key, lock)? else { return Ok(false) };
        if may_go(store.contents(Millis::now())?) { store.remove().map(|()| true) } else { Ok(false) }
    }
}

impl HostStore {
    fn contents(&self, now: Millis) -> Result<Contents, StoreError> {
        let mut txn = IndexTxn::begin(self.index()?)?;
        let mut latest = None;
        for entry in LeaseTable::new(&mut txn).states() {
            let since = match entry?.1 {
                AddressState::Leased(lease) if !lease.holders.is_empty() => return Ok(Contents::Held),
                AddressState::Leased(lease) => lease.away.unwrap_or_default(),
                state if state.is_over(now) => continue,
                AddressState::Resting { since, .. } | AddressState::Quarantined { since, .. } => since,
            };
            latest = latest.max(Some(since));
        }
        // A page that leads astray must not hide a lease.
        txn.verify()?;
        Ok(latest.map_or(Contents::Nothing, Contents::Remembered))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Store;
    use crate::{
        Allocator, Attachment, LeaseHolder, LeaseRequest, Owner, RangeSet, RangeSpec, Rules, list_addresses,
    };

    const HOUR: u64 = 3_600_000;

    fn store_dirs(temp: &tempfile::TempDir) -> StoreDirs {
        let (run, state) = (temp.path().join("run"), temp.path().join("state"));
        StoreDirs { run, state, lock_timeout: Duration::from_millis(10) }
    }

    fn network(name: &str) -> PoolKey {
        PoolKey::Network(name.to_owned())
    }

    fn attachment(name: &str) -> Attachment {
        Attachment { container: "c".to_owned(), interface: "net1".to_owned(), network: name.to_owned() }
    }

    fn add(dirs: &StoreDirs, key: &PoolKey, cooldown: u64, sticky: bool) {
        let spec = RangeSpec { subnet: "10.0.0.0/28".to_owned(), ..RangeSpec::default() };
        let sets = [RangeSet::new(0, vec![spec.parse().unwrap()]).unwrap()];
        let rules = Rules { cooldown, ..Rules::default() };
        let (since, name) = (Millis::now(), key.name());
        let attachment = attachment(name);
        let holder = LeaseHolder { attachment, pod: None, uid: None, netns: None, launcher: None, since };
        let owner = Some(Owner::pod("default", "db-0", name));
        let request = LeaseRequest {
            holder,
            owner,
            floating: None,
            further: None,
            sticky,
            migrating: false,
            beside_source: false,
        };
        let mut store = HostStore::open(dirs, key).unwrap();
        store.reserve().unwrap();
        store.change(|txn| Allocator::new(txn, &sets, rules, since).allocate(&request, &[None])).unwrap();
    }

    fn del(dirs: &StoreDirs, key: &PoolKey) {
        let mut store = HostStore::open_existing(dirs, key).unwrap().unwrap();
        let attachment = attachment(key.name());
        store
            .change(|txn| Allocator::new(txn, &[], Rules::default(), Millis::now()).release(&attachment))
            .unwrap();
        store.give_back_reserve_if_idle();
    }

    fn files(dirs: &StoreDirs) -> Vec<String> {
        let mut all = Vec::new();
        for folder in [dirs.run.join("networks"), dirs.run.join("pools"), dirs.state.join("networks")] {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            all.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        all.sort();
        all
    }

    fn remove_unused(dirs: &StoreDirs) -> Vec<String> {
        let outcomes = dirs.remove_unused(|key| *key == PoolKey::Named("file".to_owned())).unwrap();
        outcomes
            .into_iter()
            .map(|(key, outcome)| {
                outcome.unwrap();
                key.name().to_owned()
            })
            .collect()
    }

    #[test]
    fn a_store_goes_when_it_has_nothing_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = store_dirs(&temp);
        for (name, cooldown, sticky) in
            [("a-gone", 0, false), ("b-held", 0, false), ("c-rests", HOUR, false), ("d-kept", 0, true)]
        {
            add(&dirs, &network(name), cooldown, sticky);
            if name != "b-held" {
                del(&dirs, &network(name));
            }
        }
        let named = ["file", "no-file"].map(|name| PoolKey::Named(name.to_owned()));
        for key in &named {
            add(&dirs, key, 0, false);
            del(&dirs, key);
        }
        assert_eq!(remove_unused(&dirs), ["no-file", "a-gone"]);
        let left: Vec<PoolKey> = dirs.list().unwrap();
        assert_eq!(left, [named[0].clone(), network("b-held"), network("c-rests"), network("d-kept")]);
        assert!(!files(&dirs).iter().any(|file| file.contains("gone") || file.contains("no-file")));
        assert_eq!(remove_unused(&dirs), [""; 0]);
        // What is kept or rests is as it was, and so is what a reboot leaves of it.
        for name in ["b-held", "c-rests", "d-kept"] {
            let mut store = HostStore::open(&dirs, &network(name)).unwrap();
            assert_eq!(store.verify().unwrap(), [""; 0]);
            assert_eq!(store.dry_run(|txn| list_addresses(txn)).unwrap().len(), 1, "{name}");
        }
        std::fs::remove_dir_all(&dirs.run).unwrap();
        assert_eq!(remove_unused(&dirs), [""; 0]);
        assert_eq!(files(&dirs), ["d-kept.journal"]);
        // Its owner is gone.
        let mut store = HostStore::open(&dirs, &network("d-kept")).unwrap();
        let released = store.change(|txn| {
            let (address, _) = list_addresses(txn)?[0];
            Allocator::new(txn, &[], Rules::default(), Millis::now()).revoke(address)
        });
        assert!(released.unwrap());
        drop(store);
        assert_eq!(remove_unused(&dirs), ["d-kept"]);
        assert_eq!(files(&dirs), [""; 0]);
    }

    #[test]
    fn the_cooldown_of_a_kept_address_is_known_after_a_reboot() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = store_dirs(&temp);
        for (name, cooldown) in [("long", HOUR), ("none", 0)] {
            add(&dirs, &network(name), cooldown, true);
        }
        std::fs::remove_dir_all(&dirs.run).unwrap();
        for name in ["long", "none"] {
            let mut store = HostStore::open(&dirs, &network(name)).unwrap();
            store
                .change(|txn| {
                    let (address, _) = list_addresses(txn)?[0];
                    Allocator::new(txn, &[], Rules::default(), Millis::now()).revoke(address)
                })
                .unwrap();
        }
        assert_eq!(remove_unused(&dirs), ["none"]);
    }

    #[test]
    fn what_an_earlier_version_released_rests_as_long_as_it_may() {
        let text = r#"{"resting":{"since":5,"queue":0}}"#;
        let state: AddressState = serde_json::from_str(text).unwrap();
        let longest = 30 * 24 * HOUR;
        assert!(!state.is_over(Millis(5 + longest - 1)) && state.is_over(Millis(5 + longest)));
        let quarantined = |until, cooldown| AddressState::Quarantined {
            since: Millis(5),
            until: Millis(until),
            mac: String::new(),
            queue: 0,
            cooldown: Some(cooldown),
        };
        for (until, cooldown, over) in [(7, 0, 7), (7, 10, 15)] {
            let state = quarantined(until, cooldown);
            assert!(!state.is_over(Millis(over - 1)) && state.is_over(Millis(over)));
        }
    }

    #[test]
    fn a_lock_and_what_a_killed_process_left_of_a_new_store_go() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = store_dirs(&temp);
        ensure_folder(&dirs.run.join("networks")).unwrap();
        for file in ["a.lock", ".a.mdb.new", "b.lock"] {
            std::fs::write(dirs.run.join("networks").join(file), "").unwrap();
        }
        let held = PoolLock::acquire(&dirs.run.join("networks/b.lock"), Duration::ZERO).unwrap();
        assert_eq!(remove_unused(&dirs), [""; 0]);
        assert_eq!(files(&dirs), ["b.lock"]);
        drop(held);
        remove_unused(&dirs);
        assert_eq!(files(&dirs), [""; 0]);
    }

    /// How many stores of networks there are.
    fn count(dirs: &StoreDirs) -> usize {
        dirs.list().unwrap().len()
    }

    #[test]
    fn names_that_are_made_up_take_only_so_much() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = store_dirs(&temp);
        // Many that stay are in the way of nobody.
        for i in 0..8 {
            add(&dirs, &network(&format!("held{i}")), 0, false);
            add(&dirs, &network(&format!("kept{i}")), 0, true);
            del(&dirs, &network(&format!("kept{i}")));
        }
        for i in 0..150 {
            let key = network(&format!("made-up{i}"));
            add(&dirs, &key, 0, false);
            del(&dirs, &key);
        }
        assert!(count(&dirs) <= 16 + MAX_IDLE + LOOKS, "{}", count(&dirs));
        let names: Vec<String> = dirs.list().unwrap().iter().map(|key| key.name().to_owned()).collect();
        for i in 0..8 {
            assert!(names.contains(&format!("held{i}")) && names.contains(&format!("kept{i}")), "{names:?}");
        }
    }

    #[test]
    fn so_do_names_under_which_something_is_kept_or_rests() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = store_dirs(&temp);
        add(&dirs, &network("held"), 0, false);
        for i in 0..60 {
            let key = network(&format!("made-up{i}"));
            add(&dirs, &key, HOUR, i % 2 == 0);
            del(&dirs, &key);
            dirs.remove_surplus(Millis::now().after(i), 40).unwrap();
        }
        assert_eq!(count(&dirs), 1 + 40);
        assert!(dirs.list().unwrap().contains(&network("held")));
        let kept = std::fs::read_dir(dirs.state.join("networks")).unwrap().count();
        assert_eq!(files(&dirs).len(), 3 * 41 + kept, "nothing is left of those that went");
        assert!((10..30).contains(&kept), "{kept}");
    }
}
