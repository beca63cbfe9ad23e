use serde::Serialize;

use super::of::Of;
use super::{Failure, Scene, chain, counted, table};
use crate::store::{HostStore, PoolKey, Store};
use crate::{PoolFile, PoolFileError, Slot, list};

/// One line of `pools`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    of: Of,
    ranges: String,
    leased: u64,
    kept: u64,
    resting: u64,
    quarantined: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<u128>,
    notes: Vec<String>,
}

/// `ipam-pool pools`
pub(super) fn pools(scene: &Scene) -> Result<(), Failure> {
    let mut keys: std::collections::BTreeSet<PoolKey> = scene.place.list()?.into_iter().collect();
    keys.extend(PoolFile::names(&scene.pools)?.into_iter().map(PoolKey::Named));
    let mut rows = Vec::new();
    for key in keys {
        rows.push(row(scene, &key)?);
    }
    let heading = ["POOL", "RANGES", "LEASED", "KEPT", "RESTING", "QUARANTINED", "FREE", "NOTES"];
    table::print(scene.json, &heading, &rows, "no pools", |row| {
        vec![
            row.of.to_string(),
            row.ranges.clone(),
            row.leased.to_string(),
            row.kept.to_string(),
            row.resting.to_string(),
            row.quarantined.to_string(),
            row.free.map_or_else(|| "-".to_owned(), |free| free.to_string()),
            row.notes.join("; "),
        ]
    })
}

fn row(scene: &Scene, key: &PoolKey) -> Result<Row, Failure> {
    let mut row = Row {
        of: key.into(),
        ranges: String::new(),
        leased: 0,
        kept: 0,
        resting: 0,
        quarantined: 0,
        free: None,
        notes: Vec::new(),
    };
    let slots = match HostStore::open_existing(&scene.place, key)? {
        Some(mut store) => store.try_out(|ledger| list(ledger))?,
        None => Vec::new(),
    };
    let file = match key {
        PoolKey::Named(name) => Some(PoolFile::load(&scene.pools, name)),
        PoolKey::Network(_) => None,
    };
    let rests = |since| matches!(&file, Some(Ok(file)) if super::leases::rests(file, since));
    for (_, slot) in &slots {
        match slot {
            Slot::Leased(lease) if lease.holders.is_empty() => row.kept += 1,
            Slot::Leased(_) => row.leased += 1,
            Slot::Resting { since, .. } => row.resting += u64::from(rests(*since)),
            Slot::Quarantined { .. } => row.quarantined += 1,
        }
    }
    let file = match file {
        None => {
            row.notes.push("ranges are in the network's configuration".to_owned());
            return Ok(row);
        }
        Some(Err(error)) => {
            row.notes.push(chain(&error));
            return Ok(row);
        }
        Some(Ok(file)) => file,
    };
    row.ranges = file.addresses().to_string();
    match file.sets_of(scene.node.as_deref(), None) {
        Ok(sets) => {
            let open = sets.iter().fold(0u128, |sum, set| sum.saturating_add(set.open().len()));
            let in_use = slots.iter().filter(|(address, slot)| {
                !matches!(slot, Slot::Resting { .. }) && sets.iter().any(|set| set.open().contains(*address))
            });
            row.free = Some(open.saturating_sub(in_use.count() as u128));
        }
        Err(error) => row.notes.push(chain(&error)),
    }
    row.notes.extend(outside(&file, &slots));
    Ok(row)
}

fn outside(file: &PoolFile, slots: &[(crate::Addr, Slot)]) -> Option<String> {
    let all = file.addresses();
    let live =
        slots.iter().filter(|(address, slot)| matches!(slot, Slot::Leased(_)) && !all.contains(*address));
    match live.count() {
        0 => None,
        count => Some(format!("{count} leased addresses are outside of the pool, which shrank")),
    }
}

/// What `check` found.
#[derive(Debug, Serialize)]
struct Problem {
    #[serde(flatten)]
    of: Of,
    problem: String,
}

/// `ipam-pool check`
pub(super) fn check(scene: &Scene) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let mut add = |key: &PoolKey, problem: String| problems.push(Problem { of: key.into(), problem });
    let mut files = Vec::new();
    for name in PoolFile::names(&scene.pools)? {
        match PoolFile::load(&scene.pools, &name) {
            Ok(file) => files.push(file),
            Err(error) => add(&PoolKey::Named(name), chain(&error)),
        }
    }
    for name in PoolFile::written_twice(&scene.pools)? {
        add(&PoolKey::Named(name.clone()), chain(&PoolFileError::Twice(name)));
    }
    for other in PoolFile::ignored(&scene.pools)? {
        eprintln!(
            "ipam-pool: {:?} is no pool's file, which ends in .yaml or .yml: it is ignored",
            scene.pools.join(other)
        );
    }
    // What a file says may be sound, and give this node nothing.
    for file in files.iter().filter(|file| !file.inventory) {
        let key = PoolKey::Named(file.name.clone());
        match file.sets_of(scene.node.as_deref(), None) {
            Err(error) => add(&key, chain(&error)),
            Ok(sets) => {
                for set in sets.iter().filter(|set| set.open().is_empty() && set.reserved().is_empty()) {
                    add(
                        &key,
                        format!("all of {} are gateways or excluded: nobody gets an address", set.part()),
                    );
                }
            }
        }
    }
    for (i, file) in files.iter().enumerate() {
        for other in files.iter().take(i) {
            if let Err(error) = file.check_beside(other) {
                add(&PoolKey::Named(file.name.clone()), chain(&error));
            }
        }
    }
    let keys = scene.place.list()?;
    for key in &keys {
        let checked = HostStore::open_existing(&scene.place, key).and_then(|store| match store {
            Some(mut store) => Ok((store.verify()?, store.try_out(|ledger| list(ledger))?)),
            None => Ok((Vec::new(), Vec::new())),
        });
        match checked {
            Ok((found, slots)) => {
                found.into_iter().for_each(|problem| add(key, problem));
                let file = files.iter().find(|file| PoolKey::Named(file.name.clone()) == *key);
                if let Some(note) = file.and_then(|file| outside(file, &slots)) {
                    add(key, note);
                }
            }
            Err(error) => add(key, chain(&error)),
        }
    }
    if problems.is_empty() {
        if scene.json {
            println!("[]");
        } else {
            println!(
                "{} and {} are in order",
                counted(files.len(), "pool file"),
                counted(keys.len(), "store")
            );
        }
        return Ok(());
    }
    table::print(scene.json, &["POOL", "PROBLEM"], &problems, "", |row| {
        vec![row.of.to_string(), row.problem.clone()]
    })?;
    Err(Failure::Problems(problems.len()))
}
