use serde::Serialize;

use super::cluster_part::{self, ClusterPart};
use super::leases::rests;
use super::pool_files::{PoolFiles, for_nobody};
use super::pool_or_network::PoolOrNetwork;
use super::{CommandContext, CommandError, chain, format_count, table};
use crate::replacement::FileBeside;
use crate::store::{HostStore, PoolKey, Store};
use crate::{AddressState, PoolFile, PoolFileError, list_addresses};

/// What to do about a file whose kind is read for those that have it.
const OLD_KIND_NOTE: &str = "its file has the old kind IPPool: write kind: LANPool, with sticky and order in its words (None, Pod, VM; Oldest, \
                             Lowest) and cooldown where 1m is not meant";

/// One line of `pools`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    of: PoolOrNetwork,
    ranges: String,
    leased: u64,
    kept: u64,
    resting: u64,
    quarantined: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterPart>,
    notes: Vec<String>,
}

/// `ipam-pool pools`
pub(super) fn pools(context: &CommandContext) -> Result<(), CommandError> {
    let mut keys: std::collections::BTreeSet<PoolKey> = context.dirs.list()?.into_iter().collect();
    keys.extend(PoolFile::all_names(&context.paths)?.into_iter().map(PoolKey::Named));
    let files = PoolFiles::load(context)?;
    let mut rows = Vec::new();
    for key in keys {
        rows.push(row(context, &key, &files)?);
    }
    let heading = ["POOL", "RANGES", "LEASED", "KEPT", "RESTING", "QUARANTINED", "FREE", "NOTES"];
    table::print(context.json, &heading, &rows, "no pools", |row| {
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

fn row(context: &CommandContext, key: &PoolKey, files: &PoolFiles) -> Result<Row, CommandError> {
    let mut row = Row {
        of: key.into(),
        ranges: String::new(),
        leased: 0,
        kept: 0,
        resting: 0,
        quarantined: 0,
        free: None,
        cluster: None,
        notes: Vec::new(),
    };
    let states = match HostStore::open_existing(&context.dirs, key)? {
        Some(mut store) => store.dry_run(|txn| list_addresses(txn))?,
        None => Vec::new(),
    };
    let file = match key {
        PoolKey::Named(name) => Some(PoolFile::find(&context.paths, name)),
        PoolKey::Network(_) => None,
    };
    let pool_file = file.as_ref().and_then(|file| file.as_ref().ok());
    for (_, state) in &states {
        match state {
            AddressState::Leased(lease) if lease.holders.is_empty() => row.kept += 1,
            AddressState::Leased(_) => row.leased += 1,
            AddressState::Resting { since, cooldown, .. } => {
                row.resting += u64::from(rests(pool_file, *since, *cooldown));
            }
            AddressState::Quarantined { .. } => row.quarantined += 1,
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
    row.notes.extend(file.is_old_kind.then(|| OLD_KIND_NOTE.to_owned()));
    row.cluster = ClusterPart::read(context, &file)?;
    match file.sets_for_node(context.node.as_deref(), None) {
        Ok(mut sets) => {
            if context.limit_to_blocks(&file, &mut sets)? {
                row.notes.push("of the cluster: free is what this node may hand out now".to_owned());
            }
            let open = sets.iter().fold(0u128, |sum, set| sum.saturating_add(set.allocatable().len()));
            let in_use = states.iter().filter(|(address, state)| {
                !matches!(state, AddressState::Resting { .. })
                    && sets.iter().any(|set| set.allocatable().contains(*address))
            });
            row.free = Some(open.saturating_sub(in_use.count() as u128));
        }
        Err(error) => row.notes.push(chain(&error)),
    }
    row.notes.extend(beside(context, &file));
    let refused = files.why_every_add_fails(&file);
    if !refused.is_empty() {
        row.free = Some(0);
        row.notes.extend(refused);
    }
    row.notes.extend(outside(&file, &states));
    Ok(row)
}

/// How a file and the cluster's pool of its name stand to one another; `None`: there is one of them.
fn beside(context: &CommandContext, file: &PoolFile) -> Option<String> {
    let found = FileBeside::read(&context.paths, &file.name, context.node.as_deref())?;
    let object = PoolFile::object(&context.paths, &file.name).ok()??;
    Some(match (object.is_in_charge(), found.differs) {
        (true, None) => {
            "by the LANPool: the file of this name is not read any more, and can be removed".to_owned()
        }
        (true, Some(differs)) => {
            format!(
                "by the LANPool: the file of this name is not read any more: remove it; it differs: {differs}"
            )
        }
        (false, None) => {
            "by the file: the LANPool of this name says the same, and is to take its place".to_owned()
        }
        (false, Some(differs)) => format!("by the file: the LANPool of this name waits, since {differs}"),
    })
}

fn outside(file: &PoolFile, states: &[(crate::Addr, AddressState)]) -> Option<String> {
    let all = file.addresses();
    let live = states
        .iter()
        .filter(|(address, state)| matches!(state, AddressState::Leased(_)) && !all.contains(*address));
    match live.count() {
        0 => None,
        count => Some(format!("{count} leased addresses are outside the pool, whose ranges were reduced")),
    }
}

/// What `check` found.
#[derive(Debug, Serialize)]
struct Problem {
    #[serde(flatten)]
    of: PoolOrNetwork,
    problem: String,
}

/// `ipam-pool check`
pub(super) fn check(context: &CommandContext) -> Result<(), CommandError> {
    let files = PoolFiles::load(context)?;
    let mut problems = Vec::new();
    let mut add = |key: &PoolKey, problem: String| problems.push(Problem { of: key.into(), problem });
    for (name, error) in &files.invalid {
        add(&PoolKey::Named(name.clone()), chain(error));
    }
    for name in &files.twice {
        add(&PoolKey::Named(name.clone()), chain(&PoolFileError::Twice(name.clone())));
    }
    for other in PoolFile::ignored(&context.pools)? {
        eprintln!(
            "ipam-pool: {:?} is ignored: the name of a pool's file ends in .yaml or .yml",
            context.pools.join(other)
        );
    }
    for file in files.valid.iter().filter(|file| file.is_old_kind) {
        eprintln!("ipam-pool: warning: pool {:?}: {OLD_KIND_NOTE}", file.name);
    }
    // A valid file may still give this node no address.
    for file in files.valid.iter().filter(|file| !file.inventory) {
        let key = PoolKey::Named(file.name.clone());
        if let Some(nobody) = for_nobody(file) {
            add(&key, nobody);
        }
        match file.sets_for_node(context.node.as_deref(), None) {
            Err(error) => add(&key, chain(&error)),
            Ok(sets) => {
                for set in sets.iter().filter(|set| set.allocatable().is_empty() && set.reserved().is_empty())
                {
                    add(
                        &key,
                        format!(
                            "every address of {} is a gateway or excluded: no address can be given out",
                            set.node_part()
                        ),
                    );
                }
            }
        }
    }
    for (i, file) in files.valid.iter().enumerate() {
        for other in files.valid.iter().take(i) {
            if let Err(error) = file.check_overlap(other) {
                add(&PoolKey::Named(file.name.clone()), chain(&error));
            }
        }
    }
    let keys = context.dirs.list()?;
    for key in &keys {
        let checked = HostStore::open_existing(&context.dirs, key).and_then(|store| match store {
            Some(mut store) => Ok((store.verify()?, store.dry_run(|txn| list_addresses(txn))?)),
            None => Ok((Vec::new(), Vec::new())),
        });
        match checked {
            Ok((found, states)) => {
                found.into_iter().for_each(|problem| add(key, problem));
                let file = files.valid.iter().find(|file| PoolKey::Named(file.name.clone()) == *key);
                if let Some(note) = file.and_then(|file| outside(file, &states)) {
                    add(key, note);
                }
            }
            Err(error) => add(key, chain(&error)),
        }
    }
    if problems.is_empty() {
        table::write(if context.json {
            "[]".to_owned()
        } else {
            format!(
                "{} and {} are in order",
                format_count(files.valid.len(), "pool"),
                format_count(keys.len(), "store")
            )
        })?;
        return context.print_below(&cluster_part::lines(context, None)?);
    }
    table::print(context.json, &["POOL", "PROBLEM"], &problems, "", |row| {
        vec![row.of.to_string(), row.problem.clone()]
    })?;
    context.print_below(&cluster_part::lines(context, None)?)?;
    Err(CommandError::Problems(problems.len()))
}
