use std::time::Duration;

use super::*;
use crate::lease_table::LeaseTable;
use crate::store::index_txn::IndexMeta;
use crate::store::journal::Origin;
use crate::store::lmdb::LmdbFile;
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
    StickyLease {
        owner: crate::Owner::pod("default", name, "n"),
        interface: "net1".to_owned(),
        queue: 0,
        cooldown: None,
    }
}

fn set(store: &mut HostStore, last: u8, state: &AddressState) {
    store.change(|txn| LeaseTable::new(txn).restore(address(last), state)).unwrap();
}

fn resting(since: u64) -> AddressState {
    AddressState::Resting { since: crate::Millis(since), queue: 0, last: None, cooldown: None }
}

fn states(store: &mut HostStore) -> Vec<(Addr, AddressState)> {
    assert_eq!(store.verify().unwrap(), [""; 0]);
    store.dry_run(|txn| crate::list_addresses(txn)).unwrap()
}

/// Journals of the programs before this version (`tests/tests/daemon/upgrade.rs`), of this boot and over a reboot.
#[test]
fn journals_of_the_version_before_read() {
    let before = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/version-before");
    let (run, kept) = (before.join("run/k8slan/ipam/pools"), before.join("var/lib/k8slan/ipam/pools"));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for (pool, owner, address, same_boot) in [
        ("vms", "vm:default/vyos/flat", "10.3.0.2", true),
        ("vms", "vm:default/vyos/flat", "10.3.0.2", false),
        ("pods", "default/web-0/kept", "10.2.0.2", false),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let (dirs, key) = (store_dirs(&temp), PoolKey::Named(pool.to_owned()));
        for folder in [&dirs.run, &dirs.state] {
            std::fs::create_dir_all(folder.join("pools")).unwrap();
        }
        std::fs::copy(kept.join(format!("{pool}.journal")), dirs.state.join(format!("pools/{pool}.journal")))
            .unwrap();
        if same_boot {
            let text = std::fs::read_to_string(run.join(format!("{pool}.journal"))).unwrap();
            let (head, rest) = text.split_once('\n').unwrap();
            let header = head.splitn(3, ' ').nth(2).unwrap();
            let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
            header["of"]["boot"] = boot.trim().into();
            let head = crate::store::journal::line(0, &header.to_string());
            std::fs::write(dirs.run.join(format!("pools/{pool}.journal")), head + rest).unwrap();
        }
        let found = states(&mut HostStore::open(&dirs, &key).unwrap());
        let [(at, AddressState::Leased(lease))] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(at.to_string(), address);
        assert_eq!(lease.owner.as_ref().map(crate::Owner::as_str), Some(owner));
        assert!(lease.sticky && lease.holders.is_empty(), "{lease:?}");
        assert_eq!(lease.since == crate::Millis(0), !same_boot, "{lease:?}");
    }
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
    // The journal has the same boot.
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
    // Truncated as if the process had been killed while it wrote the second line.
    for (file, before) in files.iter().zip(before) {
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(before + 9).unwrap();
    }
    let mut store = HostStore::open(&dirs, &key).unwrap();
    assert_eq!(states(&mut store), all);
    drop(store);
    // More than the last line is missing.
    std::fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(before[0] - 1).unwrap();
    assert!(matches!(HostStore::open(&dirs, &key), Err(StoreError::Damaged { .. })));
}

/// Overwrites the file, as `cp` does.
fn copy_over(file: &Path, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
}

/// Replaces the file by rename: if it were removed first, the new file could get its inode.
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
        // Released by mistake; the second address belongs to another owner by now.
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
    assert!(error.contains("from different moments"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let mut store = HostStore::open(&dirs, &key).unwrap();
    assert_eq!(states(&mut store), all);
    // A process wrote the journal again and was killed before the index recorded it.
    let copy = std::fs::read(&file).unwrap();
    drop(store);
    replace_file(&file, &copy);
    let mut store = HostStore::open(&dirs, &key).unwrap();
    assert_eq!(states(&mut store), all);
    // A process gave the journal up and was killed before it removed it.
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
        // The journal has more than the index, so it must not be the one to remove.
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
    // As if one page of the index were older than the others.
    edit_meta(&store, |meta| meta.tally = before);
    let error = store.verify().unwrap_err().to_string();
    assert!(error.contains("do not match their checksum"), "{error}");
}

#[test]
fn nobody_waits_for_ever() {
    let temp = tempfile::tempdir().unwrap();
    let (dirs, key) = (store_dirs(&temp), PoolKey::Named("p".to_owned()));
    let _first = HostStore::open(&dirs, &key).unwrap();
    assert!(matches!(HostStore::open(&dirs, &key), Err(StoreError::Locked { .. })));
}
