use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use node::SafeDirError;
use serde::{Deserialize, Serialize};

use super::pool_or_network::PoolOrNetwork;
use super::{CommandContext, CommandError, table};
use crate::store::{HostStore, Store};
use crate::{AddressState, Allocator, Attachment, LeaseHolder, Millis, Rules, list_addresses, unused_stores};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LiveList {
    /// When it was made, before the daemon read anything: `CLOCK_BOOTTIME` in milliseconds. It says nothing about
    /// later leases.
    as_of: Millis,
    attachments: Vec<LiveAttachment>,
    /// The owners that exist; without it no sticky lease is ended.
    owners: Option<BTreeSet<String>>,
}

#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
struct LiveAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The largest list, in bytes: enough for a hundred times the attachments of a node.
const MAX_LIST: u64 = 64 << 20;

/// How far `asOf` may be ahead of the clock, in milliseconds.
const MAX_CLOCK_SKEW: u64 = 1000;

/// Reads the list if only root may write it and it was written in this boot.
fn read_live_list(path: &Path) -> Result<LiveList, CommandError> {
    let failed = |source| CommandError::Read { path: path.to_owned(), source };
    // O_NONBLOCK: opening a pipe would wait for a writer.
    let options = OFlag::O_NONBLOCK.bits();
    let file = std::fs::File::options().read(true).custom_flags(options).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(SafeDirError::NotAFile(path.to_owned()).into());
    }
    let mode = meta.mode() & 0o7777;
    if meta.uid() != 0 || mode & 0o022 != 0 {
        return Err(SafeDirError::Untrusted { path: path.to_owned(), uid: meta.uid(), mode }.into());
    }
    let mut text = Vec::new();
    file.take(MAX_LIST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LIST {
        return Err(SafeDirError::TooLarge { path: path.to_owned(), len: meta.len(), max: MAX_LIST }.into());
    }
    let live: LiveList = serde_json::from_slice(&text)
        .map_err(|error| CommandError::LiveList { path: path.to_owned(), message: error.to_string() })?;
    let old = |why: String| CommandError::OldList { path: path.to_owned(), why };
    let (as_of, now) = (live.as_of.0, Millis::now().0);
    if as_of > now.saturating_add(MAX_CLOCK_SKEW) {
        return Err(old(format!("asOf is {as_of} ms after the boot, but this boot is {now} ms old")));
    }
    let written = meta.modified().map_err(failed)?;
    let booted = SystemTime::now().checked_sub(Duration::from_millis(now));
    if booted.is_some_and(|booted| written < booted) {
        return Err(old("the file was written before the machine was booted".to_owned()));
    }
    Ok(live)
}

/// One line of `sweep`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Freed {
    address: String,
    #[serde(flatten)]
    of: PoolOrNetwork,
    was_held_by: String,
}

/// `ipam-pool sweep [--live FILE]`
pub(super) fn sweep(context: &CommandContext, live: Option<&Path>) -> Result<(), CommandError> {
    let freed = live.map(|path| free(context, &read_live_list(path)?)).transpose()?.unwrap_or_default();
    for key in unused_stores::remove(&context.dirs, &context.pools) {
        eprintln!("ipam-pool: removed the store of {key}, which had nothing in it");
    }
    table::print(context.json, &["ADDRESS", "POOL", "WAS HELD BY"], &freed, "nothing to free", |row| {
        vec![row.address.clone(), row.of.to_string(), row.was_held_by.clone()]
    })
}

/// Frees what the list does not have.
fn free(context: &CommandContext, live: &LiveList) -> Result<Vec<Freed>, CommandError> {
    let attachments: HashSet<&LiveAttachment> = live.attachments.iter().collect();
    let is_listed = |attachment: &Attachment| {
        attachments.contains(&LiveAttachment {
            container_id: attachment.container.clone(),
            ifname: attachment.interface.clone(),
        })
    };
    let mut freed = Vec::new();
    for key in context.dirs.list()? {
        let Some(mut store) = HostStore::open_existing(&context.dirs, &key)? else { continue };
        let states = store.dry_run(|txn| list_addresses(txn))?;
        let gone = store.change_in_batches(&states, |txn, (address, state)| {
            let mut allocator = Allocator::new(txn, &[], Rules::default(), Millis::now());
            let mut gone = Vec::new();
            let AddressState::Leased(lease) = state else { return Ok(gone) };
            let dead = |holder: &LeaseHolder| {
                // The daemon's list has only attachments with a pod UID (D4).
                holder.uid.is_some() && holder.since < live.as_of && !is_listed(&holder.attachment)
            };
            let mut held = false;
            for holder in &lease.holders {
                if !dead(holder) {
                    held = true;
                } else if holder.is_live() {
                    held = true;
                    eprintln!(
                        "ipam-pool: {address} is not in the list, but the network namespace of {holder} exists: not freed"
                    );
                } else {
                    allocator.release(&holder.attachment)?;
                    gone.push(Freed {
                        address: address.to_string(),
                        of: (&key).into(),
                        was_held_by: holder.to_string(),
                    });
                }
            }
            if let (Some(owners), Some(owner), true) = (&live.owners, &lease.owner, lease.sticky)
                && !held
                && lease.since < live.as_of
                && !owners.iter().any(|name| owner.is_named(name))
            {
                allocator.revoke(*address)?;
                let was_held_by = format!("owner {owner}, which is gone");
                gone.push(Freed { address: address.to_string(), of: (&key).into(), was_held_by });
            }
            Ok::<_, CommandError>(gone)
        })?;
        store.give_back_reserve_if_idle();
        freed.extend(gone.into_iter().flatten());
    }
    Ok(freed)
}
