//! A LAN's status, aggregated from the reports of all nodes. Pure: the leader reads the objects, calls this, and
//! writes the result.

use std::collections::{BTreeMap, BTreeSet};

use lan::ConditionStatus::Unknown;
use lan::{
    ACCEPTED, Condition, LanNode, LanNodeSpec, LanStatus, MtuRise, READY, SpokeUse, set_transition_times,
};

/// Keeps a deleted LAN until its last attachment is gone. It is set only while something is attached, so that the
/// deletion of an unused LAN waits for no daemon.
pub const FINALIZER: &str = "lan.k8slan.io/in-use";

/// All nodes have room for the LAN's MTU, and none for more.
pub(super) const MTU_UNIFORM: &str = "MtuUniform";
/// The definitions that the LAN asks for are there.
pub(super) const NETWORK_ATTACHMENTS: &str = "NetworkAttachments";
/// A spoke is held on several nodes.
const SPOKES_SHARED: &str = "SpokesShared";
/// Pods use spokes that the LAN no longer has.
pub(super) const SPOKES_REMOVED: &str = "SpokesRemoved";
/// The LAN was deleted, and its object is still there.
pub(super) const DELETING: &str = "Deleting";

/// Whether a condition of this kind is a problem when it is true; of all others, when it is false.
pub(super) fn is_bad_when_true(kind: &str) -> bool {
    kind == DELETING || kind == SPOKES_REMOVED
}

/// How many nodes or pods a message names.
const NAMED: usize = 5;

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
    let accepted = accepted(&nodes);
    let readiness = readiness(&nodes, ready);
    let uniform = uniform(&nodes, input);
    let mut users: Vec<String> = nodes
        .iter()
        .flat_map(|node| {
            let LanNodeSpec { node, attachments, .. } = &node.spec;
            attachments.iter().map(move |a| format!("{} on {node} (spoke {})", a.by, a.spoke))
        })
        .collect();
    users.sort();
    let mut conditions = vec![accepted, readiness, uniform];
    if let Some(problems) = &input.definitions {
        conditions.push(match problems.as_slice() {
            [] => Condition::new(NETWORK_ATTACHMENTS, true, "Kept", ""),
            problems => Condition::new(NETWORK_ATTACHMENTS, false, "Incomplete", join_some(problems)),
        });
    }
    conditions.extend(spokes_shared(&nodes));
    let cut_off_users = cut_off_users(&nodes);
    conditions.extend(spokes_removed(&cut_off_users));
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
    if input.deleting {
        let (reason, message) = match (users.len(), input.force) {
            (0, _) => ("Unused", "nothing is attached: the LAN goes".to_owned()),
            (_, true) => ("Forced", "deletionPolicy is Force: the LAN goes, and cuts pods off".to_owned()),
            (count, false) => (
                "InUse",
                format!(
                    "waits for {}: {}; delete those pods, stop the virtual machines among them, which make their pods anew, or set \
                     deletionPolicy: Force{}",
                    if count == 1 { "one attachment".to_owned() } else { format!("{count} attachments") },
                    join_some(&users),
                    if input.unreported.is_empty() {
                        ""
                    } else {
                        "; a node's daemon writes a deleted LANNode object again when its pods change, and when it starts"
                    }
                ),
            ),
        };
        conditions.push(Condition::new(DELETING, true, reason, message));
    }
    let asks_for_somebody = |condition: &&Condition| condition.is_true() == is_bad_when_true(&condition.kind);
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

/// The node's condition of that kind, if it is not `True`.
fn not_true<'a>(node: &'a LanNode, kind: &str) -> Option<&'a Condition> {
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
fn cut_off_users(nodes: &[&LanNode]) -> Vec<String> {
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

fn join_some(texts: &[String]) -> String {
    let mut text = texts.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if texts.len() > NAMED {
        text.push_str(&format!("; and {} more", texts.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use lan::LanNodeStatus;

    use super::*;

    fn node(name: &str, mtu: i64) -> LanNode {
        let spec = LanNodeSpec {
            lan: "lan-test".into(),
            node: name.into(),
            observed_generation: Some(1),
            accepted: None,
            ready: None,
            underlay: Some("eth1".into()),
            mtu: Some(mtu),
            room: Some(mtu),
            attachments: Vec::new(),
        };
        let conditions =
            vec![Condition::new(ACCEPTED, true, "Accepted", ""), Condition::new(READY, true, "Built", "")];
        LanNode { status: Some(LanNodeStatus { conditions }), ..LanNode::new(name, spec) }
    }

    /// The node says that it is not so.
    fn deny(node: &mut LanNode, kind: &str, reason: &str, message: &str) {
        for condition in &mut node.status.as_mut().unwrap().conditions {
            if condition.kind == kind {
                *condition = Condition::new(kind, false, reason, message);
            }
        }
    }

    fn build(nodes: &[LanNode], edit: impl FnOnce(&mut AggregateInput<'_>)) -> AggregatedStatus {
        let mtu = nodes.iter().filter_map(|node| node.spec.room).min();
        let mut input =
            AggregateInput { generation: 1, nodes: nodes.iter().collect(), mtu, ..AggregateInput::default() };
        edit(&mut input);
        aggregate_status(&input, "2026-11-21T08:00:00Z")
    }

    fn condition<'a>(aggregated: &'a AggregatedStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = aggregated.status.conditions.iter().find(|c| c.kind == kind).unwrap();
        let status = match found.status {
            lan::ConditionStatus::True => "True",
            lan::ConditionStatus::False => "False",
            Unknown => "Unknown",
        };
        (status, &found.reason, &found.message)
    }

    #[test]
    fn all_is_well() {
        let aggregated = build(&[node("worker1", 1426), node("worker2", 1426)], |_| {});
        assert_eq!(aggregated.status.nodes.as_deref(), Some("2/2"));
        assert_eq!((aggregated.status.mtu, aggregated.status.reason.as_deref()), (Some(1426), None));
        assert_eq!(condition(&aggregated, "Ready"), ("True", "Built", "built on 2 nodes"));
        assert!(!aggregated.hold && aggregated.status.waiting_for.is_empty());
    }

    #[test]
    fn a_spoke_that_two_nodes_gave_away_is_told() {
        let held = |name: &str, by: &str, spoke: &str| {
            let mut node = node(name, 1426);
            node.spec.attachments = vec![SpokeUse { spoke: spoke.into(), by: by.into(), removed: false }];
            node
        };
        let two = [held("worker1", "default/a", "pod1"), held("worker2", "default/b", "pod1")];
        let aggregated = build(&two, |_| {});
        let (status, reason, message) = condition(&aggregated, "SpokesShared");
        assert_eq!((status, reason), ("True", "OnSeveralNodes"));
        let held_by = "spoke pod1 is held by default/a on worker1 and default/b on worker2";
        assert!(message.starts_with(held_by), "{message}");
        assert_eq!(aggregated.status.reason, None, "nothing is broken");
        let apart = [held("worker1", "default/a", "pod1"), held("worker2", "default/b", "pod2")];
        assert!(build(&apart, |_| {}).status.conditions.iter().all(|c| c.kind != "SpokesShared"));
    }

    #[test]
    fn a_spoke_that_was_removed_in_use_is_told_with_its_pod() {
        let mut used = node("worker1", 1426);
        let left = |removed| SpokeUse { spoke: "pod1".into(), by: "default/web".into(), removed };
        used.spec.attachments = vec![left(true)];
        let aggregated = build(&[used.clone(), node("worker2", 1426)], |_| {});
        let (status, reason, message) = condition(&aggregated, SPOKES_REMOVED);
        assert_eq!((status, reason), ("True", "RemovedInUse"));
        assert!(
            message.starts_with("default/web on worker1 (spoke pod1): the LAN does not have"),
            "{message}"
        );
        assert_eq!(condition(&aggregated, "Ready").0, "True");
        assert_eq!(aggregated.status.reason.as_deref(), Some("RemovedInUse"), "kubectl get lans shows it");
        assert!(aggregated.hold && aggregated.status.attachments == Some(1));
        used.spec.attachments = vec![left(false)];
        assert!(build(&[used], |_| {}).status.conditions.iter().all(|c| c.kind != SPOKES_REMOVED));
    }

    #[test]
    fn no_node_yet_is_unknown() {
        assert_eq!(condition(&build(&[], |_| {}), "Accepted").0, "Unknown");
        assert_eq!(condition(&build(&[], |_| {}), "Ready").0, "Unknown");
    }

    #[test]
    fn what_nodes_say_of_an_older_specification_does_not_pass_for_the_newest() {
        let (mut late, on_time) = (node("worker1", 1426), node("worker2", 1426));
        late.spec.observed_generation = Some(3);
        let mut on_time = on_time;
        on_time.spec.observed_generation = Some(4);
        let speaks_of = |nodes: &[LanNode]| {
            let status = build(nodes, |input| input.generation = 4).status;
            let ready = status.conditions.into_iter().find(|c| c.kind == "Ready").unwrap();
            ready.observed_generation
        };
        assert_eq!(speaks_of(&[late.clone(), on_time.clone()]), Some(3));
        late.spec.observed_generation = Some(4);
        assert_eq!(speaks_of(&[late, on_time]), Some(4));
    }

    #[test]
    fn a_node_that_cannot_is_named() {
        let mut bad = node("worker2", 1426);
        deny(&mut bad, READY, "UnderlayMissing", "underlay eth2 is missing");
        let aggregated = build(&[bad, node("worker1", 1426)], |_| {});
        assert_eq!(
            condition(&aggregated, "Ready"),
            ("False", "UnderlayMissing", "worker2: underlay eth2 is missing")
        );
        assert_eq!(aggregated.status.nodes.as_deref(), Some("1/2"));
        assert_eq!(aggregated.status.reason.as_deref(), Some("UnderlayMissing"));
    }

    #[test]
    fn many_nodes_that_cannot_fit_into_a_message() {
        let nodes: Vec<_> = (0..200)
            .map(|n| {
                let mut node = node(&format!("worker{n:03}"), 1426);
                deny(&mut node, READY, "UnderlayMissing", "underlay eth2 is missing");
                node
            })
            .collect();
        let aggregated = build(&nodes, |_| {});
        let (_, _, message) = condition(&aggregated, "Ready");
        assert!(message.ends_with("; and 195 more") && message.len() < 1000, "{message}");
    }

    #[test]
    fn unequal_mtus_are_told_with_whose_they_are() {
        let nodes = [node("a", 8926), node("b", 1426), node("c", 8926)];
        let aggregated = build(&nodes, |_| {});
        assert_eq!(aggregated.status.mtu, Some(1426));
        let (status, reason, message) = condition(&aggregated, "MtuUniform");
        assert_eq!((status, reason), ("False", "UnequalMtu"));
        assert!(
            message.contains("b has room for 1426") && message.contains("the LAN has 1426 on every node"),
            "{message}"
        );
        let asked = build(&nodes, |input| input.mtu_is_asked_for = true);
        assert_eq!(condition(&asked, "MtuUniform").0, "True");
        let rising = build(&nodes[..1], |input| input.mtu = Some(1426));
        assert_eq!(condition(&rising, "MtuUniform").1, "Rising");
    }

    #[test]
    fn a_conflict_is_the_lans_and_not_the_nodes() {
        let mut loser = node("a", 1426);
        deny(&mut loser, ACCEPTED, "Conflict", "VNI 222 belongs to LAN x/first");
        deny(&mut loser, READY, "NotAccepted", "VNI 222 belongs to LAN x/first");
        let aggregated = build(&[loser], |_| {});
        assert_eq!(
            condition(&aggregated, "Accepted"),
            ("False", "Conflict", "VNI 222 belongs to LAN x/first")
        );
        assert_eq!(aggregated.status.reason.as_deref(), Some("Conflict"));
    }

    #[test]
    fn times_change_with_the_status_only() {
        let bad = || {
            let mut node = node("a", 1426);
            deny(&mut node, READY, "UnderlayMissing", "underlay eth1 is missing");
            node
        };
        let first = build(&[bad()], |_| {}).status;
        let mut other = bad();
        deny(&mut other, READY, "UnderlayMissing", "underlay eth1 is missing, still");
        let nodes = [other];
        let input = AggregateInput {
            generation: 1,
            status: Some(&first),
            nodes: nodes.iter().collect(),
            ..AggregateInput::default()
        };
        let same = aggregate_status(&input, "2027-01-01T00:00:00Z").status;
        assert!(
            same.conditions.iter().all(|c| c.last_transition_time.as_deref() == Some("2026-11-21T08:00:00Z"))
        );
        let nodes = [node("a", 1426)];
        let input = AggregateInput {
            generation: 1,
            status: Some(&first),
            nodes: nodes.iter().collect(),
            ..AggregateInput::default()
        };
        let next = aggregate_status(&input, "2027-01-01T00:00:00Z").status;
        let ready = next.conditions.iter().find(|c| c.kind == "Ready").unwrap();
        assert_eq!(ready.last_transition_time.as_deref(), Some("2027-01-01T00:00:00Z"));
    }

    #[test]
    fn a_deleted_lan_waits_for_its_last_pod() {
        let mut used = node("worker1", 1426);
        used.spec.attachments =
            vec![SpokeUse { spoke: "pod1".into(), by: "default/vm".into(), removed: false }];
        let nodes = [used, node("worker2", 1426)];
        assert!(build(&nodes, |_| {}).hold, "it would wait if it were deleted now");
        let waits = build(&nodes, |input| input.deleting = true);
        assert!(waits.hold);
        assert_eq!(waits.status.waiting_for, ["default/vm on worker1 (spoke pod1)"]);
        assert_eq!(condition(&waits, "Deleting").1, "InUse");
        assert_eq!(waits.status.reason.as_deref(), Some("InUse"));
        // The reports of a dead node are not passed in.
        assert!(!build(&nodes[1..], |input| input.deleting = true).hold);
        let forced = build(&nodes, |input| (input.deleting, input.force) = (true, true));
        assert!(!forced.hold && forced.status.waiting_for.is_empty());
        assert!(!build(&nodes, |input| input.force = true).hold, "nobody waits for it");
    }

    #[test]
    fn a_silent_node_holds_a_lan_that_stands_and_none_that_is_deleted() {
        let nodes = [node("worker1", 1426)];
        let silent = |input: &mut AggregateInput<'_>| input.attached_where_silent = names(&["worker2"]);
        let stands = build(&nodes, silent);
        assert!(stands.hold && stands.status.attached_on == ["worker2"], "{stands:?}");
        let deleted = build(&nodes, |input| {
            silent(input);
            input.deleting = true;
        });
        assert!(!deleted.hold, "{deleted:?}");
    }

    fn names(nodes: &[&str]) -> BTreeSet<String> {
        nodes.iter().map(|&node| node.to_owned()).collect()
    }

    #[test]
    fn a_report_that_was_deleted_holds_its_lan() {
        let mut used = node("worker1", 1426);
        used.spec.attachments =
            vec![SpokeUse { spoke: "pod1".into(), by: "default/vm".into(), removed: false }];
        let nodes = [used, node("worker2", 1426)];
        let unreported = |input: &mut AggregateInput<'_>| input.unreported = names(&["worker3"]);
        let stands = build(&nodes[1..], unreported);
        assert!(stands.hold && stands.status.attached_on == ["worker3"], "{stands:?}");
        let waits = build(&nodes, |input| {
            unreported(input);
            input.deleting = true;
        });
        assert!(waits.hold);
        assert_eq!(waits.status.attached_on, ["worker1", "worker3"]);
        assert_eq!(
            waits.status.waiting_for,
            [
                "default/vm on worker1 (spoke pod1)",
                "what is attached on worker3, whose LANNode object was deleted"
            ]
        );
        assert_eq!(waits.status.attachments, Some(1), "what is known");
        let (_, reason, message) = condition(&waits, "Deleting");
        assert!(
            reason == "InUse" && message.starts_with("waits for 2 attachments") && message.contains("again"),
            "{message}"
        );
        let forced = build(&nodes, |input| {
            unreported(input);
            (input.deleting, input.force) = (true, true);
        });
        assert!(!forced.hold && forced.status.waiting_for.is_empty());
    }
}
