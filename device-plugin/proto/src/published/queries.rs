use std::collections::BTreeMap;

use lan::{Condition, find_condition};
use net_types::SpokeName;

use super::{LanStatus, NodeStatus};

/// The pod that uses each spoke, also of spokes that their LANs no longer have.
pub fn users(status: &NodeStatus) -> BTreeMap<&SpokeName, &str> {
    let listed = status.lans.iter().flat_map(|lan| &lan.spokes);
    let listed = listed.filter_map(|spoke| Some((&spoke.name, spoke.used_by.as_deref()?)));
    let removed = status.lans.iter().flat_map(|lan| &lan.removed_spokes);
    removed.map(|spoke| (&spoke.name, spoke.used_by.as_str())).chain(listed).collect()
}

/// The condition of that kind.
pub fn condition<'a>(lan: &'a LanStatus, kind: &str) -> Option<&'a Condition> {
    find_condition(&lan.conditions, kind)
}

/// Whether a condition of a LAN is `True`.
pub fn holds(lan: &LanStatus, kind: &str) -> bool {
    condition(lan, kind).is_some_and(Condition::is_true)
}
