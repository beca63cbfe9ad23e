use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::leases::is_live;
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

/// `ipam-pool sweep --live FILE`
pub(super) fn sweep(scene: &Scene, path: &Path) -> Result<(), Failure> {
    let text = std::fs::read(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    let live: Live = serde_json::from_slice(&text)
        .map_err(|error| Failure::Live { path: path.to_owned(), message: error.to_string() })?;
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
        let gone = store.change(|ledger| {
            let slots = list(ledger)?;
            let mut allocator = Allocator::new(ledger, &[], Rules::default(), now());
            let mut gone = Vec::new();
            for (address, slot) in slots {
                let Slot::Leased(mut lease) = slot else { continue };
                let dead = |holder: &Holder| {
                    // What has no pod's UID is not the daemon's to judge (D4).
                    holder.uid.is_some() && holder.since < live.as_of && !is_listed(&holder.attachment)
                };
                for holder in lease.holders.iter().filter(|holder| dead(holder)) {
                    if is_live(holder) {
                        eprintln!("ipam-pool: {address} is not in the list, but the namespace of {holder} exists: kept");
                        continue;
                    }
                    allocator.release(&holder.attachment)?;
                    gone.push((address.to_string(), key.to_string(), holder.to_string()));
                }
                lease.holders.retain(|holder| !dead(holder) || is_live(holder));
                if let (Some(owners), Some(owner), true) = (&live.owners, &lease.owner, lease.sticky)
                    && lease.holders.is_empty()
                    && lease.since < live.as_of
                    && !owners.iter().any(|name| owner.is_named(name))
                {
                    allocator.withdraw(address)?;
                    gone.push((address.to_string(), key.to_string(), format!("owner {owner}, which is gone")));
                }
            }
            Ok::<_, Failure>(gone)
        })?;
        freed.extend(gone);
    }
    table::print(scene.json, &["ADDRESS", "POOL", "WAS HELD BY"], &freed, |(address, pool, holder)| {
        vec![address.clone(), pool.clone(), holder.clone()]
    })
}
