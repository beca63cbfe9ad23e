//! A LAN's status, aggregated from the reports of all nodes. Pure: the leader reads the objects, calls this, and
//! writes the result.

mod conditions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use lan::{ACCEPTED, LanNode, LanNodeSpec, LanStatus, MtuRise, READY, set_transition_times};

use conditions::{cut_off_users, not_true};

pub(super) use conditions::{
    DELETING, MTU_UNIFORM, NETWORK_ATTACHMENTS, SPOKES_REMOVED, is_bad_when_true, join_some,
};

/// Keeps a deleted LAN until its last attachment is gone. It is set only while something is attached, so that the
/// deletion of an unused LAN waits for no daemon.
pub const FINALIZER: &str = "lan.k8slan.io/in-use";

/// A LAN, as the leader reads it.
#[derive(Clone, Debug, Default)]
pub struct AggregateInput<'a> {
    /// `metadata.generation`.
    pub generation: i64,
    pub deleting: bool,
    /// Whether it is deleted without waiting for attachments.
    pub force: bool,
    /// Its present status.
    pub status: Option<&'a LanStatus>,
    /// The problems of the NetworkAttachmentDefinitions that it asks for; `None`: it asks for none.
    pub definitions: Option<Vec<String>>,
    /// The MTU that it has on every node.
    pub mtu: Option<i64>,
    /// The larger MTU that will be set if all nodes keep room for it.
    pub mtu_rise: Option<MtuRise>,
    /// Whether the MTU is set by its author.
    pub mtu_is_asked_for: bool,
    /// The reports of the nodes whose kubelet is heard.
    pub nodes: Vec<&'a LanNode>,
    /// The silent nodes on which something was attached, by their last report.
    pub attached_where_silent: BTreeSet<String>,
    /// The nodes that are heard, and on which something was attached by their last report, which was deleted since: by
    /// hand, or with its definition or namespace. Deleting a report detaches nothing.
    pub unreported: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedStatus {
    pub status: LanStatus,
    /// Whether the finalizer is needed: it waits for its last attachment, or would wait if it were deleted now. A
    /// silent node counts before the deletion and not after it: it may come back with its pods, or never.
    pub hold: bool,
    /// By kind of a condition that does not hold: the nodes or texts that it is about.
    pub details: BTreeMap<&'static str, BTreeSet<String>>,
}

/// `now` is the time of conditions that change, RFC 3339.
#[must_use]
pub fn aggregate_status(input: &AggregateInput<'_>, now: &str) -> AggregatedStatus {
    let mut nodes = input.nodes.clone();
    nodes.sort_by(|a, b| a.spec.node.cmp(&b.spec.node));
    // Nodes that refuse the LAN, or have no part in it, are not counted.
    let ready = nodes.iter().filter(|node| node.is_true(READY)).count();
    let mut users: Vec<String> = nodes
        .iter()
        .flat_map(|node| {
            let LanNodeSpec { node, attachments, .. } = &node.spec;
            attachments.iter().map(move |a| format!("{} on {node} (spoke {})", a.by, a.spoke))
        })
        .collect();
    users.sort();
    let cut_off_users = cut_off_users(&nodes);
    let attached_on: BTreeSet<String> = nodes
        .iter()
        .filter(|node| !node.spec.attachments.is_empty())
        .map(|node| node.spec.node.clone())
        .chain(input.unreported.iter().cloned())
        .chain(input.attached_where_silent.iter().cloned())
        .collect();
    let known = users.len();
    let unreported = |node| format!("what is attached on {node}, whose LANNode object was deleted");
    users.extend(input.unreported.iter().map(unreported));
    let hold =
        !input.force && (!users.is_empty() || (!input.attached_where_silent.is_empty() && !input.deleting));
    let mut conditions = conditions::all(input, &nodes, ready, &cut_off_users);
    if input.deleting {
        conditions.push(conditions::deleting(input, &users));
    }
    let asks_for_somebody =
        |condition: &&lan::Condition| condition.is_true() == is_bad_when_true(&condition.kind);
    let reason = conditions.iter().find(asks_for_somebody).map(|condition| condition.reason.clone());
    // The generation that every node has seen: `kubectl wait` uses it to find out whether the LAN is built as it is
    // specified now.
    let spoken_of =
        nodes.iter().filter_map(|node| node.spec.observed_generation).fold(input.generation, i64::min);
    for condition in &mut conditions {
        let generation = if condition.kind == READY { spoken_of } else { input.generation };
        condition.observed_generation = Some(generation);
    }
    set_transition_times(&mut conditions, input.status.map_or(&[], |status| &status.conditions), now);
    let status = LanStatus {
        observed_generation: Some(input.generation),
        conditions,
        nodes: Some(format!("{ready}/{}", nodes.len())),
        reason,
        mtu: input.mtu,
        mtu_rise: input.mtu_rise.clone(),
        attachments: Some(i64::try_from(known).unwrap_or(i64::MAX)),
        attached_on: attached_on.into_iter().collect(),
        waiting_for: if input.deleting && hold { users } else { Vec::new() },
    };
    let failing =
        nodes.iter().filter(|node| !node.is_true(READY)).map(|node| node.spec.node.clone()).collect();
    let refusal =
        nodes.iter().find_map(|node| not_true(node, ACCEPTED)).map(|accepted| accepted.message.clone());
    let details = BTreeMap::from([
        (READY, failing),
        (ACCEPTED, refusal.into_iter().collect()),
        (NETWORK_ATTACHMENTS, input.definitions.iter().flatten().cloned().collect()),
        (SPOKES_REMOVED, cut_off_users.into_iter().collect()),
    ]);
    AggregatedStatus { status, hold, details }
}
