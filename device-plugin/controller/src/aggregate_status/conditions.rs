//! The conditions of a LAN, each from the reports of all nodes.

use std::collections::BTreeMap;

use lan::ConditionStatus::Unknown;
use lan::{ACCEPTED, Condition, LanNode, READY, SpokeUse};

use super::AggregateInput;

/// All nodes have room for the LAN's MTU, and none for more.
pub(crate) const MTU_UNIFORM: &str = "MtuUniform";
/// The definitions that the LAN asks for are there.
pub(crate) const NETWORK_ATTACHMENTS: &str = "NetworkAttachments";
/// A spoke is held on several nodes.
const SPOKES_SHARED: &str = "SpokesShared";
/// Pods use spokes that the LAN no longer has.
pub(crate) const SPOKES_REMOVED: &str = "SpokesRemoved";
/// The LAN was deleted, and its object is still there.
pub(crate) const DELETING: &str = "Deleting";

/// Whether a condition of this kind is a problem when it is true; of all others, when it is false.
pub(crate) fn is_bad_when_true(kind: &str) -> bool {
    kind == DELETING || kind == SPOKES_REMOVED
}

/// How many nodes or pods a message names.
const NAMED: usize = 5;

/// The conditions of every LAN, whether it is being deleted or not; `ready` is the number of nodes on which it is ready.
pub(super) fn all(
    input: &AggregateInput<'_>,
    nodes: &[&LanNode],
    ready: usize,
    cut_off_users: &[String],
) -> Vec<Condition> {
    let mut conditions = vec![accepted(nodes), readiness(nodes, ready), uniform(nodes, input)];
    conditions.extend(input.definitions.as_deref().map(network_attachments));
    conditions.extend(spokes_shared(nodes));
    conditions.extend(spokes_removed(cut_off_users));
    conditions
}

fn network_attachments(problems: &[String]) -> Condition {
    match problems {
        [] => Condition::new(NETWORK_ATTACHMENTS, true, "Kept", ""),
        problems => Condition::new(NETWORK_ATTACHMENTS, false, "Incomplete", join_some(problems)),
    }
}

/// What the deletion of a LAN waits for: `users` are its attachments.
pub(super) fn deleting(input: &AggregateInput<'_>, users: &[String]) -> Condition {
    let (reason, message) = match (users.len(), input.force) {
        (0, _) => ("Unused", "nothing is attached: the LAN goes".to_owned()),
        (_, true) => ("Forced", "deletionPolicy is Force: the LAN goes, and cuts pods off".to_owned()),
        (count, false) => (
            "InUse",
            format!(
                "waits for {}: {}; delete those pods, stop the virtual machines among them, which make their pods anew, or set \
                 deletionPolicy: Force{}",
                if count == 1 { "one attachment".to_owned() } else { format!("{count} attachments") },
                join_some(users),
                if input.unreported.is_empty() {
                    ""
                } else {
                    "; a node's daemon writes a deleted LANNode object again when its pods change, and when it starts"
                }
            ),
        ),
    };
    Condition::new(DELETING, true, reason, message)
}

/// The node's condition of that kind, if it is not `True`.
pub(super) fn not_true<'a>(node: &'a LanNode, kind: &str) -> Option<&'a Condition> {
    node.condition(kind).filter(|condition| !condition.is_true())
}

fn accepted(nodes: &[&LanNode]) -> Condition {
    match nodes.iter().find_map(|node| not_true(node, ACCEPTED)) {
        Some(refused) => Condition::new(ACCEPTED, false, refused.reason.clone(), refused.message.clone()),
        None if nodes.is_empty() => no_node(ACCEPTED),
        None => Condition::new(ACCEPTED, true, "Accepted", ""),
    }
}

fn no_node(kind: &str) -> Condition {
    Condition::new(kind, Unknown, "NoNode", "no node has looked at it yet")
}

fn readiness(nodes: &[&LanNode], ready: usize) -> Condition {
    let waiting: Vec<_> =
        nodes.iter().filter_map(|node| Some((&node.spec.node, not_true(node, READY)?))).collect();
    let Some((_, first)) = waiting.first() else {
        return match ready {
            0 => no_node(READY),
            1 => Condition::new(READY, true, "Built", "built on one node"),
            _ => Condition::new(READY, true, "Built", format!("built on {ready} nodes")),
        };
    };
    let told: Vec<_> = waiting.iter().map(|(node, ready)| format!("{node}: {}", ready.message)).collect();
    Condition::new(READY, false, first.reason.clone(), join_some(&told))
}

/// Whether all nodes have room for the same MTU. If the author asks for one that a node has no room for, that node's
/// report says so.
fn uniform(nodes: &[&LanNode], input: &AggregateInput<'_>) -> Condition {
    let room = |node: &&LanNode| node.spec.room.or(node.spec.mtu);
    let rooms: Vec<_> =
        nodes.iter().filter_map(|node| Some((node.spec.node.as_str(), room(node)?))).collect();
    let (least, most) = (rooms.iter().min_by_key(|(_, mtu)| mtu), rooms.iter().max_by_key(|(_, mtu)| mtu));
    match (least, most, input.mtu) {
        (Some((small, least)), Some((large, most)), Some(mtu))
            if least != most && !input.mtu_is_asked_for =>
        {
            let waits = if mtu < *least {
                "; it rises when all have had room for more for ten minutes".to_owned()
            } else {
                format!(
                    "; raise the underlay's MTU on {small} for more, or set spec.mtu to {mtu} if that is enough"
                )
            };
            Condition::new(
                MTU_UNIFORM,
                false,
                "UnequalMtu",
                format!(
                    "{small} has room for {least}, {large} for {most}: the LAN has {mtu} on every node{waits}"
                ),
            )
        }
        (Some((_, least)), _, Some(mtu)) if mtu < *least && !input.mtu_is_asked_for => Condition::new(
            MTU_UNIFORM,
            true,
            "Rising",
            format!(
                "all nodes have room for {least}: the LAN's MTU rises when they have had it for ten minutes"
            ),
        ),
        _ => Condition::new(MTU_UNIFORM, true, "Uniform", ""),
    }
}

/// The spokes that are held on several nodes at once: by a virtual machine that migrates, or by two pods that should
/// have one each. Each node gives a spoke to one pod, and does not know about the other nodes.
fn spokes_shared(nodes: &[&LanNode]) -> Option<Condition> {
    let mut holders: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        for used in &node.spec.attachments {
            holders.entry(&used.spoke).or_default().push(format!("{} on {}", used.by, node.spec.node));
        }
    }
    let shared: Vec<String> = holders
        .into_iter()
        .filter(|(_, holders)| holders.len() > 1)
        .map(|(spoke, holders)| format!("spoke {spoke} is held by {}", holders.join(" and ")))
        .collect();
    (!shared.is_empty()).then(|| {
        let what = format!(
            "{}: a spoke is one attachment on each node, and a virtual machine that migrates holds it on two",
            join_some(&shared)
        );
        Condition::new(SPOKES_SHARED, true, "OnSeveralNodes", what)
    })
}

/// The users of spokes that the LAN no longer has.
pub(super) fn cut_off_users(nodes: &[&LanNode]) -> Vec<String> {
    let of = |node: &&LanNode| {
        let left = node.spec.attachments.iter().filter(|used| used.removed);
        let told = |used: &SpokeUse| format!("{} on {} (spoke {})", used.by, node.spec.node, used.spoke);
        left.map(told).collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of).collect()
}

fn spokes_removed(cut_off_users: &[String]) -> Option<Condition> {
    let what = format!(
        "{}: the LAN does not have the spoke any more, so that nothing reaches the pod; put the spoke back, or delete the pod, \
         and give it another spoke",
        join_some(cut_off_users)
    );
    (!cut_off_users.is_empty()).then(|| Condition::new(SPOKES_REMOVED, true, "RemovedInUse", what))
}

/// The first of these.
pub(crate) fn join_some(texts: &[String]) -> String {
    let mut text = texts.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if texts.len() > NAMED {
        text.push_str(&format!("; and {} more", texts.len() - NAMED));
    }
    text
}
