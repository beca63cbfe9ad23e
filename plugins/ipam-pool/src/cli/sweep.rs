use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use node::SafeDirError;
use serde::{Deserialize, Serialize};

use super::leases::is_live;
use super::of::Of;
use super::{Failure, Scene, table};
use crate::plugin::now;
use crate::store::{HostStore, Store};
use crate::{Allocator, Attachment, Holder, Millis, Rules, Slot, list};

/// The node daemon's list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Live {
    /// When it was made, before anything was looked at: `CLOCK_BOOTTIME` in milliseconds. What was
    /// leased later is not judged by it.
    as_of: Millis,
    attachments: Vec<LiveAttachment>,
    /// The owners that exist; without it no owner loses what it keeps.
    #[serde(default)]
    owners: Option<BTreeSet<String>>,
}

#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
struct LiveAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The longest list, in bytes: for a hundred times more attachments than a node has.
const MAX_LIST: u64 = 64 << 20;

/// How far a list may be ahead: none, but for a clock that was read roughly.
const AHEAD: u64 = 1000;

/// Reads the list, if only root can have written it, and in this boot.
fn read(path: &Path) -> Result<Live, Failure> {
    let failed = |source| Failure::Read { path: path.to_owned(), source };
    // A pipe would wait for somebody to write.
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
    let live: Live = serde_json::from_slice(&text)
        .map_err(|error| Failure::Live { path: path.to_owned(), message: error.to_string() })?;
    let old = |why: String| Failure::OldList { path: path.to_owned(), why };
    let (as_of, now) = (live.as_of.0, now().0);
    if as_of > now.saturating_add(AHEAD) {
        return Err(old(format!("it is as of {as_of} ms after the boot, and this boot is {now} ms old")));
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
    of: Of,
    was_held_by: String,
}

/// `ipam-pool sweep --live FILE`
pub(super) fn sweep(scene: &Scene, path: &Path) -> Result<(), Failure> {
    let live = read(path)?;
    let attachments: HashSet<&LiveAttachment> = live.attachments.iter().collect();
    let is_listed = |attachment: &Attachment| {
        attachments.contains(&LiveAttachment {
            container_id: attachment.container.clone(),
            ifname: attachment.interface.clone(),
        })
    };
    let mut freed = Vec::new();
    for key in scene.place.list()? {
        let Some(mut store) = HostStore::open_existing(&scene.place, &key)? else { continue };
        let slots = store.try_out(|ledger| list(ledger))?;
        let gone = store.change_each(&slots, |ledger, (address, slot)| {
            let mut allocator = Allocator::new(ledger, &[], Rules::default(), now());
            let mut gone = Vec::new();
            let Slot::Leased(lease) = slot else { return Ok(gone) };
            let dead = |holder: &Holder| {
                // What has no pod's UID is not the daemon's to judge (D4).
                holder.uid.is_some() && holder.since < live.as_of && !is_listed(&holder.attachment)
            };
            let mut held = false;
            for holder in &lease.holders {
                if !dead(holder) {
                    held = true;
                } else if is_live(holder) {
                    held = true;
                    eprintln!(
                        "ipam-pool: {address} is not in the list, but the namespace of {holder} exists: kept"
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
                allocator.withdraw(*address)?;
                let was_held_by = format!("owner {owner}, which is gone");
                gone.push(Freed { address: address.to_string(), of: (&key).into(), was_held_by });
            }
            Ok::<_, Failure>(gone)
        })?;
        freed.extend(gone.into_iter().flatten());
    }
    table::print(scene.json, &["ADDRESS", "POOL", "WAS HELD BY"], &freed, "nothing to free", |row| {
        vec![row.address.clone(), row.of.to_string(), row.was_held_by.clone()]
    })
}
