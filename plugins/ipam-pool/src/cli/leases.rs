use serde::Serialize;

use super::cluster_part::{self, ClusterPart};
use super::pool_files::PoolFiles;
use super::pool_or_network::PoolOrNetwork;
use super::{CommandContext, CommandError, format_age, seconds_since, table};
use crate::store::{HostStore, PoolKey, Store};
use crate::{
    Addr, AddressState, Allocator, LeaseHolder, Millis, PoolFile, Refusal, Rules, find_address,
    list_addresses,
};

/// The state of an address that can be given to any owner.
const FREE: &str = "free";
/// The state of an address that is free, but that no pod gets.
const REFUSED: &str = "refused";
const UNREADABLE: &str = "the pool's file cannot be read";

/// One line of `leases` and `show`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    address: String,
    #[serde(flatten)]
    of: PoolOrNetwork,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    sticky: bool,
    holders: Vec<LeaseHolder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// How long the quarantine still lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The state of an address that is not given out.
fn state(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Gateway => "gateway",
        Refusal::Excluded => "excluded",
        Refusal::Reserved(_) => "reserved",
        Refusal::OtherNode(_) | Refusal::NoNode | Refusal::BlockNotHeld => "elsewhere",
    }
}

/// One line of `release`.
#[derive(Debug, Serialize)]
struct Released {
    address: String,
    #[serde(flatten)]
    of: PoolOrNetwork,
}

/// A pool or a network, and the pool's file if it is valid.
struct Pool<'a> {
    key: &'a PoolKey,
    file: Option<PoolFile>,
}

impl<'a> Pool<'a> {
    fn load(key: &'a PoolKey, context: &CommandContext) -> Self {
        let file = match key {
            PoolKey::Named(name) => PoolFile::find(&context.paths, name).ok(),
            PoolKey::Network(_) => None,
        };
        Self { key, file }
    }
}

fn row(address: Addr, pool: &Pool<'_>, state: AddressState) -> Row {
    let mut row = Row {
        address: address.to_string(),
        of: pool.key.into(),
        state: "leased",
        owner: None,
        sticky: false,
        holders: Vec::new(),
        mac: None,
        age_seconds: None,
        quarantine_seconds: None,
        note: None,
    };
    match state {
        AddressState::Leased(lease) => {
            row.age_seconds = Some(seconds_since(lease.since));
            row.owner = lease.owner.map(|owner| owner.to_string());
            row.sticky = lease.sticky;
            if lease.holders.is_empty() {
                row.state = "kept";
            }
            row.holders = lease.holders;
            row.note = outside(address, pool);
        }
        AddressState::Resting { since, last, cooldown, .. } => {
            row.state = if rests(pool.file.as_ref(), since, cooldown) { "resting" } else { FREE };
            row.note = match (pool.key, &pool.file) {
                (PoolKey::Network(_), _) => {
                    cooldown.is_none().then(|| "rests for the network's cooldown, if it has one".to_owned())
                }
                (PoolKey::Named(_), None) => Some(UNREADABLE.to_owned()),
                (PoolKey::Named(_), Some(_)) => None,
            };
            row.age_seconds = Some(seconds_since(since));
            row.owner = last;
        }
        AddressState::Quarantined { since, until, mac, .. } => {
            row.state = "quarantined";
            row.age_seconds = Some(seconds_since(since));
            row.quarantine_seconds = Some(until.0.saturating_sub(Millis::now().0) / 1000);
            row.mac = Some(mac);
        }
    }
    row
}

/// Whether the cooldown of an address that was released at `since` is not over: as the pool's file says it now, or as
/// the network said it at the last ADD.
pub(super) fn rests(file: Option<&PoolFile>, since: Millis, cooldown: Option<u64>) -> bool {
    let cooldown = file.map(|file| file.cooldown.millis()).or(cooldown);
    cooldown.is_some_and(|cooldown| since.after(cooldown) > Millis::now())
}

fn outside(address: Addr, pool: &Pool<'_>) -> Option<String> {
    let PoolKey::Named(_) = pool.key else { return None };
    match &pool.file {
        Some(file) if file.addresses().contains(address) => None,
        Some(_) => Some("outside the pool, whose ranges were reduced".to_owned()),
        None => Some(UNREADABLE.to_owned()),
    }
}

fn print(context: &CommandContext, rows: &[Row]) -> Result<(), CommandError> {
    table::print(
        context.json,
        &["ADDRESS", "POOL", "STATE", "OWNER", "HELD BY", "AGE", "NOTE"],
        rows,
        "no leases",
        |row| {
            let holders: Vec<_> = row
                .holders
                .iter()
                .map(|holder| {
                    let id: String = holder.attachment.container.chars().take(13).collect();
                    format!("{id}/{}", holder.attachment.interface)
                })
                .collect();
            let owner = row.owner.clone().unwrap_or_else(|| "-".to_owned());
            let mut note: Vec<String> = row.mac.iter().map(|mac| format!("used by {mac}")).collect();
            note.extend(row.quarantine_seconds.map(|seconds| format!("for another {seconds} s")));
            note.extend(row.note.clone());
            vec![
                row.address.clone(),
                row.of.to_string(),
                row.state.to_owned(),
                if row.sticky { format!("{owner} (sticky)") } else { owner },
                if holders.is_empty() { "-".to_owned() } else { holders.join(", ") },
                row.age_seconds.map_or_else(|| "-".to_owned(), format_age),
                note.join(", "),
            ]
        },
    )
}

/// `ipam-pool leases [NAME]`
pub(super) fn leases(context: &CommandContext, name: Option<&str>) -> Result<(), CommandError> {
    let mut rows = Vec::new();
    let is_meant = |key: &PoolKey| name.is_none_or(|name| key.name() == name);
    let keys: Vec<_> = context.dirs.list()?.into_iter().filter(is_meant).collect();
    if let Some(name) = name
        && keys.is_empty()
        && !PoolFile::all_names(&context.paths)?.contains(name)
    {
        return Err(CommandError::NoPool(name.to_owned()));
    }
    for key in keys {
        let Some(mut store) = HostStore::open_existing(&context.dirs, &key)? else { continue };
        let states = store.dry_run(|txn| list_addresses(txn))?;
        drop(store);
        // Reads the pool's file once, not once per address.
        let pool = Pool::load(&key, context);
        let of_pool = states.into_iter().map(|(address, state)| row(address, &pool, state));
        // A released address without a cooldown is not a lease.
        rows.extend(of_pool.filter(|row| row.state != FREE));
    }
    print(context, &rows)?;
    context.print_below(&cluster_part::lines(context, name)?)
}

/// `ipam-pool show ADDRESS`
pub(super) fn show(context: &CommandContext, address: Addr) -> Result<(), CommandError> {
    let files = PoolFiles::load(context)?;
    let mut rows = Vec::new();
    for key in context.dirs.list()? {
        let Some(mut store) = HostStore::open_existing(&context.dirs, &key)? else { continue };
        if let Some(state) = store.dry_run(|txn| find_address(txn, address))? {
            let pool = Pool::load(&key, context);
            let mut row = row(address, &pool, state);
            if let Some(file) = pool.file.filter(|_| row.state == FREE) {
                let refused = files.why_every_add_fails(&file);
                if !refused.is_empty() {
                    (row.state, row.note) = (REFUSED, Some(refused.join("; ")));
                }
            }
            rows.push(row);
        }
    }
    // An address without a state may still be in a pool.
    for name in PoolFile::all_names(&context.paths)? {
        let key = PoolKey::Named(name.clone());
        let Ok(file) = PoolFile::find(&context.paths, &name) else { continue };
        if rows.iter().any(|row| row.of == PoolOrNetwork::from(&key)) {
            continue;
        }
        let refused = files.why_every_add_fails(&file);
        let mut sets = file.sets_as_divided(context.node.as_deref())?;
        context.limit_to_blocks(&file, &mut sets)?;
        let part = ClusterPart::read(context, &file)?;
        for set in sets.iter().filter(|set| set.pool().contains(address)) {
            let (state, note) = match set.check_allowed(address, None) {
                _ if file.inventory => ("inventory", "in an inventory".to_owned()),
                Ok(()) if !refused.is_empty() => (REFUSED, refused.join("; ")),
                Ok(()) => (FREE, "never used".to_owned()),
                Err(refusal) => (
                    state(&refusal),
                    describe_refusal(&refusal, part.as_ref().map(|part| part.elsewhere(address))),
                ),
            };
            rows.push(Row {
                address: address.to_string(),
                of: (&key).into(),
                state,
                owner: None,
                sticky: false,
                holders: Vec::new(),
                mac: None,
                age_seconds: None,
                quarantine_seconds: None,
                note: Some(note),
            });
        }
    }
    if rows.is_empty() {
        return Err(CommandError::NothingThere(address.to_string()));
    }
    print(context, &rows)?;
    for row in &rows {
        if let PoolOrNetwork::Pool(name) = &row.of {
            context.print_below(&cluster_part::lines(context, Some(name))?)?;
        }
    }
    Ok(())
}

/// `ipam-pool release ADDRESS|OWNER`
pub(super) fn release(context: &CommandContext, what: &str, force: bool) -> Result<(), CommandError> {
    let address = what.parse::<std::net::IpAddr>().ok().map(Addr::from);
    let mut released = Vec::new();
    for key in context.dirs.list()? {
        let Some(mut store) = HostStore::open_existing(&context.dirs, &key)? else { continue };
        let mut found = store.change(|txn| {
            let mut mine = Vec::new();
            for (candidate, state) in list_addresses(txn)? {
                let meant = match (&address, &state) {
                    (Some(address), _) => *address == candidate,
                    (None, AddressState::Leased(lease)) => {
                        lease.owner.as_ref().is_some_and(|o| o.is_named(what))
                    }
                    (None, _) => false,
                };
                if !meant {
                    continue;
                }
                if let (AddressState::Leased(lease), false) = (&state, force)
                    && let Some(holder) = lease.holders.iter().find(|holder| holder.is_live())
                {
                    return Err(CommandError::InUse { address: candidate, holder: holder.to_string() });
                }
                mine.push(candidate);
            }
            let mut allocator = Allocator::new(txn, &[], Rules::default(), Millis::now());
            for candidate in &mine {
                allocator.revoke(*candidate)?;
            }
            Ok(mine)
        })?;
        store.give_back_reserve_if_idle();
        for candidate in found.drain(..) {
            released.push(Released { address: candidate.to_string(), of: (&key).into() });
        }
    }
    if released.is_empty() {
        return Err(CommandError::NothingThere(what.to_owned()));
    }
    table::print(context.json, &["RELEASED", "POOL"], &released, "", |row| {
        vec![row.address.clone(), row.of.to_string()]
    })
}

/// Describes a refusal in a few words, for tables; `elsewhere`: where an address is that is in none of this node's blocks.
fn describe_refusal(refusal: &Refusal, elsewhere: Option<String>) -> String {
    match refusal {
        Refusal::Gateway => "gateway".to_owned(),
        Refusal::Excluded => "excluded".to_owned(),
        Refusal::Reserved(owner) => format!("reserved for {owner}"),
        Refusal::OtherNode(node) => format!("handed out by {node}"),
        Refusal::NoNode => "in no node's part of the pool".to_owned(),
        Refusal::BlockNotHeld => {
            elsewhere.unwrap_or_else(|| "in a block that this node does not hold".to_owned())
        }
    }
}
