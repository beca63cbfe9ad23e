//! For the daemon's node part: what is used of the cluster's pools, and what may be handed out of them.

use std::collections::{BTreeMap, BTreeSet};

use clap::Subcommand;
use net_types::{Addr, AddrRange, AddrSet};
use node::{ClusterPool, Grants, SafeDir};
use serde_json::json;

use super::leases::rests;
use super::{CommandContext, CommandError};
use crate::replacement::FileBeside;
use crate::store::{HostStore, PoolKey, Store};
use crate::{AddressState, Millis, Owner, PoolFile, list_addresses};

#[derive(Debug, Subcommand)]
pub(super) enum BlocksCommand {
    /// The addresses of the cluster's pools that are held, kept, resting or quarantined, as JSON
    Usage,
    /// Replace what may be handed out of a pool, which is JSON on standard input
    Grant {
        /// The pool
        pool: String,
        /// Change nothing if something is used that would not be granted any more
        #[arg(long)]
        unless_used: bool,
    },
}

/// The longest text on standard input, in bytes.
const MAX_INPUT: u64 = Grants::MAX_LEN;

pub(super) fn run(context: &CommandContext, command: &BlocksCommand) -> Result<(), CommandError> {
    let answer = match command {
        BlocksCommand::Usage => usage(context)?,
        BlocksCommand::Grant { pool, unless_used } => grant(context, pool, *unless_used)?,
    };
    node::print(&format!("{answer}\n")).map_err(CommandError::Output)
}

/// `unreadable`: pools of which it is not known, and why. The others are told. `files`: the files that pools of the cluster may replace.
fn usage(context: &CommandContext) -> Result<serde_json::Value, CommandError> {
    let (mut pools, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    for name in names(context)? {
        match usage_of(context, &name) {
            Ok(Some(found)) => drop(pools.insert(name, found)),
            Ok(None) => {}
            Err(error) => drop(unreadable.insert(name, cni::chain(&error))),
        }
    }
    let files: BTreeMap<String, serde_json::Value> = file_names(context)
        .into_iter()
        .filter_map(|name| Some((name.clone(), file(context, &name)?)))
        .collect();
    Ok(json!({ "pools": pools, "unreadable": unreadable, "files": files }))
}

/// The pool files whose names an object can have.
fn file_names(context: &CommandContext) -> Vec<String> {
    let mut names = PoolFile::names(&context.pools).unwrap_or_else(|error| {
        eprintln!("ipam-pool: {}", cni::chain(&error));
        Vec::new()
    });
    names.retain(|name| ClusterPool::file_name(name).is_some());
    names
}

/// What this node hands out by a file, or pods have of it, and how the cluster's pool of its name differs.
fn file(context: &CommandContext, name: &str) -> Option<serde_json::Value> {
    let FileBeside { addresses, domain, differs } =
        FileBeside::read(&context.paths, name, context.node.as_deref())?;
    let in_use = usage_of(context, name).and_then(|found| match found {
        Some(found) => serde_json::from_value::<AddrSet>(found["used"].clone())
            .map_err(|error| CommandError::Grants(error.to_string())),
        None => Ok(AddrSet::default()),
    });
    Some(match in_use {
        Ok(in_use) => {
            let addresses = AddrSet::union(addresses.iter().chain(in_use.iter()));
            json!({ "addresses": addresses, "domain": domain, "differs": differs })
        }
        Err(error) => json!({ "addresses": addresses, "domain": domain, "differs": cni::chain(&error) }),
    })
}

/// The pools of the cluster, and those that this node does not know any more, or not yet: all that are not a file's.
fn names(context: &CommandContext) -> Result<BTreeSet<String>, CommandError> {
    let mut names: BTreeSet<String> = PoolFile::names_of_cluster(&context.paths)?.into_iter().collect();
    let files = PoolFile::names(&context.paths.pools()).unwrap_or_default();
    for key in context.dirs.list()? {
        if let PoolKey::Named(name) = key
            && !files.contains(&name)
            && ClusterPool::file_name(&name).is_some()
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// How much of a pool is used; `None`: it has no store.
fn usage_of(context: &CommandContext, pool: &str) -> Result<Option<serde_json::Value>, CommandError> {
    let key = PoolKey::Named(pool.to_owned());
    let Some(mut store) = HostStore::open_existing(&context.dirs, &key)? else { return Ok(None) };
    let states = store.dry_run(|txn| Ok::<_, CommandError>(list_addresses(txn)?))?;
    let floating: BTreeMap<Addr, &String> =
        states.iter().filter_map(|(address, state)| Some((*address, floating(state)?))).collect();
    Ok(Some(json!({ "used": used(context, pool, &states), "floating": floating })))
}

fn used(context: &CommandContext, pool: &str, states: &[(Addr, AddressState)]) -> AddrSet {
    let file = PoolFile::find(&context.paths, pool).ok();
    let used = states.iter().filter(|(_, state)| match state {
        AddressState::Leased(_) => true,
        // It ends by itself, though no ADD comes that says so.
        AddressState::Quarantined { since, until, cooldown, .. } => {
            *until > Millis::now() || rests(file.as_ref(), *since, *cooldown)
        }
        AddressState::Resting { since, cooldown, .. } => rests(file.as_ref(), *since, *cooldown),
    });
    AddrSet::union(used.map(|(address, _)| AddrRange::single(*address)))
}

/// Whose address it is on every node.
fn floating(state: &AddressState) -> Option<&String> {
    match state {
        AddressState::Leased(lease) => lease.floating.as_ref(),
        _ => None,
    }
}

/// Whether an address that its block gives up is its owner's already, so that nothing is taken from it.
fn becomes_floating(state: &AddressState, address: Addr, grants: &Grants) -> bool {
    let AddressState::Leased(lease) = state else { return false };
    let named = |name: &str| match (&lease.floating, &lease.owner) {
        (Some(floating), _) => floating == name,
        (None, Some(owner)) => {
            name == owner.floating_name() || name == Owner::from_text(owner.in_any_network()).floating_name()
        }
        (None, None) => false,
    };
    grants.floating.iter().any(|grant| grant.address == address && named(&grant.owner))
}

fn grant(context: &CommandContext, pool: &str, unless_used: bool) -> Result<serde_json::Value, CommandError> {
    let name = ClusterPool::file_name(pool).map(|_| pool.to_owned());
    let name = name.ok_or_else(|| CommandError::NoPool(pool.to_owned()))?;
    let mut text = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), MAX_INPUT), &mut text);
    read.map_err(|source| CommandError::Read { path: "standard input".into(), source })?;
    let grants: Grants =
        serde_json::from_slice(&text).map_err(|error| CommandError::Grants(error.to_string()))?;
    let folder = SafeDir::create(&context.paths.grants())?;
    // Its lock is held until this process ends: no address is handed out meanwhile.
    let mut store = HostStore::open(&context.dirs, &PoolKey::Named(name))?;
    if unless_used {
        let of = |grants: &Grants| {
            let floating = grants.floating.iter().filter(|grant| grant.until > 0);
            let floating = floating.map(|grant| AddrRange::single(grant.address));
            AddrSet::union(grants.grants.iter().flat_map(|grant| grant.addresses.iter()).chain(floating))
        };
        let before = Grants::read(&folder, pool)?.unwrap_or_default();
        let gone = of(&before).without(&of(&grants));
        let mut states = store.dry_run(|txn| Ok::<_, CommandError>(list_addresses(txn)?))?;
        states.retain(|(address, state)| !becomes_floating(state, *address, &grants));
        let used = used(context, pool, &states).intersection(&gone);
        if !used.is_empty() {
            return Ok(json!({ "written": false, "used": used }));
        }
    }
    grants.write(&folder, pool)?;
    Ok(json!({ "written": true }))
}
