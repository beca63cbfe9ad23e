//! What all nodes together say of a LAN. Pure: the leader reads objects, asks here, and writes.

use std::collections::{BTreeMap, BTreeSet};

use lan::{Condition, LanNodeSpec, LanStatus, MtuRise, SpokeUse};

/// A deleted LAN waits for its last attachment only while this stands on it, and it stands only while something is attached: who
/// deletes a LAN that nobody uses waits for no daemon.
pub const FINALIZER: &str = "lan.k8slan.io/in-use";

/// Pods use spokes that the LAN does not have any more.
pub(super) const SPOKES_REMOVED: &str = "SpokesRemoved";

/// Whether a condition of this kind asks for somebody when it holds, and not when it does not.
pub(super) fn is_bad_when_true(kind: &str) -> bool {
    kind == "Deleting" || kind == SPOKES_REMOVED
}

/// How many nodes or pods a message names.
const NAMED: usize = 5;

/// A LAN as the leader sees it.
#[derive(Clone, Debug, Default)]
pub struct AggregateInput<'a> {
    /// The generation of its specification.
    pub generation: i64,
    /// Whether somebody deleted it.
    pub deleting: bool,
    /// Whether it goes without waiting.
    pub force: bool,
    /// What its status says now.
    pub status: Option<&'a LanStatus>,
    /// What is wrong with the NetworkAttachmentDefinitions that it asks for; `None`: it asks for none.
    pub definitions: Option<Vec<String>>,
    /// The MTU that it has on every node.
    pub mtu: Option<i64>,
    /// The larger one that is waited for.
    pub mtu_rise: Option<MtuRise>,
    /// Whether its author asks for that one.
    pub mtu_is_asked_for: bool,
    /// What the nodes say of it. A node that is not alive speaks no more.
    pub nodes: Vec<&'a LanNodeSpec>,
    /// Whether something was attached on a node that is silent at the moment, when it was last heard.
    pub used_where_silent: bool,
}

/// What the leader makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedStatus {
    /// The status to write.
    pub status: LanStatus,
    /// Whether it waits for its last attachment, or would wait if it were deleted now. A silent node counts until then and not
    /// after: it may come back with its pods, or never.
    pub hold: bool,
    /// What a condition that does not hold is about, by its kind: nodes, or texts.
    pub details: BTreeMap<&'static str, BTreeSet<String>>,
}

/// Sums up. `now` is the time of conditions that change, RFC 3339.
#[must_use]
pub fn aggregate_status(input: &AggregateInput<'_>, now: &str) -> AggregatedStatus {
    let mut nodes = input.nodes.clone();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    // A node that refuses the LAN, or has no part in it, is not one that it should be ready on.
    let ready = nodes.iter().filter(|node| node.ready.holds).count();
    let accepted = accepted(&nodes);
    let readiness = readiness(&nodes, ready);
    let uniform = uniform(&nodes, input);
    let mut users: Vec<String> = nodes
        .iter()
        .flat_map(|node| {
            node.attachments.iter().map(move |a| format!("{} on {} (spoke {})", a.by, node.node, a.spoke))
        })
        .collect();
    users.sort();
    let mut conditions = vec![("Accepted", accepted), ("Ready", readiness), ("MtuUniform", uniform)];
    if let Some(problems) = &input.definitions {
        conditions.push((
            "NetworkAttachments",
            match problems.as_slice() {
                [] => condition_state("True", "Kept", String::new()),
                problems => condition_state("False", "Incomplete", join_some(problems)),
            },
        ));
    }
    conditions.extend(spokes_shared(&nodes).map(|shared| ("SpokesShared", shared)));
    let cut_off_users = cut_off_users(&nodes);
    conditions.extend(spokes_removed(&cut_off_users).map(|removed| (SPOKES_REMOVED, removed)));
    let hold = !input.force && (!users.is_empty() || (input.used_where_silent && !input.deleting));
    if input.deleting {
        let waits = match (users.len(), input.force) {
            (0, _) => condition_state("True", "Unused", "nothing is attached: the LAN goes".into()),
            (_, true) => condition_state(
                "True",
                "Forced",
                "deletionPolicy is Force: the LAN goes, and cuts pods off".into(),
            ),
            (count, false) => condition_state(
                "True",
                "InUse",
                format!(
                    "waits for {}: {}; delete those pods, stop the virtual machines among them, which make their pods anew, or set \
                     deletionPolicy: Force",
                    if count == 1 { "one attachment".to_owned() } else { format!("{count} attachments") },
                    join_some(&users)
                ),
            ),
        };
        conditions.push(("Deleting", waits));
    }
    let reason = conditions
        .iter()
        .find(
            |(kind, state)| {
                if is_bad_when_true(kind) { state.status == "True" } else { state.status != "True" }
            },
        )
        .map(|(_, state)| state.reason.to_owned());
    // A node that has not looked at the newest specification speaks of an older one: whoever waits for the LAN
    // to be built as it is now (kubectl wait) goes by this.
    let spoken_of = nodes.iter().filter_map(|node| node.observed_generation).fold(input.generation, i64::min);
    let conditions = conditions
        .into_iter()
        .map(|(kind, state)| {
            let last = input.status.and_then(|status| status.conditions.iter().find(|c| c.kind == kind));
            let since =
                last.filter(|last| last.status == state.status).map(|last| last.last_transition_time.clone());
            Condition {
                kind: kind.to_owned(),
                status: state.status.to_owned(),
                reason: state.reason.to_owned(),
                message: state.message,
                last_transition_time: since.unwrap_or_else(|| now.to_owned()),
                observed_generation: Some(if kind == "Ready" { spoken_of } else { input.generation }),
            }
        })
        .collect();
    let status = LanStatus {
        observed_generation: Some(input.generation),
        conditions,
        nodes: Some(format!("{ready}/{}", nodes.len())),
        reason,
        mtu: input.mtu,
        mtu_rise: input.mtu_rise.clone(),
        attachments: Some(i64::try_from(users.len()).unwrap_or(i64::MAX)),
        waiting_for: if input.deleting && hold { users } else { Vec::new() },
    };
    let failing = nodes.iter().filter(|node| !node.ready.holds).map(|node| node.node.clone()).collect();
    let refusal = nodes.iter().find(|node| !node.accepted.holds).map(|node| node.accepted.message.clone());
    let details = BTreeMap::from([
        ("Ready", failing),
        ("Accepted", refusal.into_iter().collect()),
        ("NetworkAttachments", input.definitions.iter().flatten().cloned().collect()),
        (SPOKES_REMOVED, cut_off_users.into_iter().collect()),
    ]);
    AggregatedStatus { status, hold, details }
}

struct ConditionState {
    status: &'static str,
    reason: String,
    message: String,
}

fn condition_state(status: &'static str, reason: &str, message: String) -> ConditionState {
    ConditionState { status, reason: reason.to_owned(), message }
}

fn accepted(nodes: &[&LanNodeSpec]) -> ConditionState {
    match nodes.iter().find(|node| !node.accepted.holds) {
        Some(node) => condition_state("False", &node.accepted.reason, node.accepted.message.clone()),
        None if nodes.is_empty() => {
            condition_state("Unknown", "NoNode", "no node has looked at it yet".into())
        }
        None => condition_state("True", "Accepted", String::new()),
    }
}

fn readiness(nodes: &[&LanNodeSpec], ready: usize) -> ConditionState {
    let Some(first) = nodes.iter().find(|node| !node.ready.holds) else {
        return match ready {
            0 => condition_state("Unknown", "NoNode", "no node has looked at it yet".into()),
            1 => condition_state("True", "Built", "built on one node".to_owned()),
            _ => condition_state("True", "Built", format!("built on {ready} nodes")),
        };
    };
    let waiting: Vec<_> = nodes
        .iter()
        .filter(|node| !node.ready.holds)
        .map(|node| format!("{}: {}", node.node, node.ready.message))
        .collect();
    condition_state("False", &first.ready.reason, join_some(&waiting))
}

/// Whether one MTU suits all nodes. What the author asks for and a node has no room for, that node says itself.
fn uniform(nodes: &[&LanNodeSpec], input: &AggregateInput<'_>) -> ConditionState {
    let rooms: Vec<_> =
        nodes.iter().filter_map(|node| Some((node.node.as_str(), node.room.or(node.mtu)?))).collect();
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
            condition_state(
                "False",
                "UnequalMtu",
                format!(
                    "{small} has room for {least}, {large} for {most}: the LAN has {mtu} on every node{waits}"
                ),
            )
        }
        (Some((_, least)), _, Some(mtu)) if mtu < *least && !input.mtu_is_asked_for => condition_state(
            "True",
            "Rising",
            format!(
                "all nodes have room for {least}: the LAN's MTU rises when they have had it for ten minutes"
            ),
        ),
        _ => condition_state("True", "Uniform", String::new()),
    }
}

/// Which spokes are held on several nodes at once: by a virtual machine that migrates, or by two that should have one each.
/// Each node gives a spoke to one pod, and none knows of the others.
fn spokes_shared(nodes: &[&LanNodeSpec]) -> Option<ConditionState> {
    let mut holders: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        for used in &node.attachments {
            holders.entry(&used.spoke).or_default().push(format!("{} on {}", used.by, node.node));
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
        condition_state("True", "OnSeveralNodes", what)
    })
}

/// Who uses a spoke that the LAN does not have any more.
fn cut_off_users(nodes: &[&LanNodeSpec]) -> Vec<String> {
    let of = |node: &&LanNodeSpec| {
        let left = node.attachments.iter().filter(|used| used.removed);
        let told = |used: &SpokeUse| format!("{} on {} (spoke {})", used.by, node.node, used.spoke);
        left.map(told).collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of).collect()
}

fn spokes_removed(cut_off_users: &[String]) -> Option<ConditionState> {
    let what = format!(
        "{}: the LAN does not have the spoke any more, so that nothing reaches the pod; put the spoke back, or delete the pod, \
         and give it another spoke",
        join_some(cut_off_users)
    );
    (!cut_off_users.is_empty()).then(|| condition_state("True", "RemovedInUse", what))
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
    use lan::Report;

    use super::*;

    fn report(holds: bool, reason: &str, message: &str) -> Report {
        Report { holds, reason: reason.into(), message: message.into() }
    }

    fn node(name: &str, mtu: i64) -> LanNodeSpec {
        LanNodeSpec {
            lan: "lan-test".into(),
            node: name.into(),
            observed_generation: Some(1),
            accepted: report(true, "Accepted", ""),
            ready: report(true, "Built", ""),
            underlay: Some("eth1".into()),
            mtu: Some(mtu),
            room: Some(mtu),
            attachments: Vec::new(),
        }
    }

    fn build(nodes: &[LanNodeSpec], edit: impl FnOnce(&mut AggregateInput<'_>)) -> AggregatedStatus {
        let mtu = nodes.iter().filter_map(|node| node.room).min();
        let mut input =
            AggregateInput { generation: 1, nodes: nodes.iter().collect(), mtu, ..AggregateInput::default() };
        edit(&mut input);
        aggregate_status(&input, "2026-11-21T08:00:00Z")
    }

    fn condition<'a>(aggregated: &'a AggregatedStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = aggregated.status.conditions.iter().find(|c| c.kind == kind).unwrap();
        (&found.status, &found.reason, &found.message)
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
            node.attachments = vec![SpokeUse { spoke: spoke.into(), by: by.into(), removed: false }];
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
        used.attachments = vec![left(true)];
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
        used.attachments = vec![left(false)];
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
        late.observed_generation = Some(3);
        let on_time = LanNodeSpec { observed_generation: Some(4), ..on_time };
        let speaks_of = |nodes: &[LanNodeSpec]| {
            let status = build(nodes, |input| input.generation = 4).status;
            let ready = status.conditions.into_iter().find(|c| c.kind == "Ready").unwrap();
            ready.observed_generation
        };
        assert_eq!(speaks_of(&[late.clone(), on_time.clone()]), Some(3));
        late.observed_generation = Some(4);
        assert_eq!(speaks_of(&[late, on_time]), Some(4));
    }

    #[test]
    fn a_node_that_cannot_is_named() {
        let mut bad = node("worker2", 1426);
        bad.ready = report(false, "UnderlayMissing", "underlay eth2 is missing");
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
                node.ready = report(false, "UnderlayMissing", "underlay eth2 is missing");
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
        loser.accepted = report(false, "Conflict", "VNI 222 belongs to LAN x/first");
        loser.ready = report(false, "NotAccepted", "VNI 222 belongs to LAN x/first");
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
            node.ready = report(false, "UnderlayMissing", "underlay eth1 is missing");
            node
        };
        let first = build(&[bad()], |_| {}).status;
        let mut other = bad();
        other.ready.message = "underlay eth1 is missing, still".into();
        let nodes = [other];
        let input = AggregateInput {
            generation: 1,
            status: Some(&first),
            nodes: nodes.iter().collect(),
            ..AggregateInput::default()
        };
        let same = aggregate_status(&input, "2027-01-01T00:00:00Z").status;
        assert!(same.conditions.iter().all(|c| c.last_transition_time == "2026-11-21T08:00:00Z"));
        let nodes = [node("a", 1426)];
        let input = AggregateInput {
            generation: 1,
            status: Some(&first),
            nodes: nodes.iter().collect(),
            ..AggregateInput::default()
        };
        let next = aggregate_status(&input, "2027-01-01T00:00:00Z").status;
        let ready = next.conditions.iter().find(|c| c.kind == "Ready").unwrap();
        assert_eq!(ready.last_transition_time, "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_deleted_lan_waits_for_its_last_pod() {
        let mut used = node("worker1", 1426);
        used.attachments = vec![SpokeUse { spoke: "pod1".into(), by: "default/vm".into(), removed: false }];
        let nodes = [used, node("worker2", 1426)];
        assert!(build(&nodes, |_| {}).hold, "it would wait if it were deleted now");
        let waits = build(&nodes, |input| input.deleting = true);
        assert!(waits.hold);
        assert_eq!(waits.status.waiting_for, ["default/vm on worker1 (spoke pod1)"]);
        assert_eq!(condition(&waits, "Deleting").1, "InUse");
        assert_eq!(waits.status.reason.as_deref(), Some("InUse"));
        // A dead node's reports are not among those that are looked at.
        assert!(!build(&nodes[1..], |input| input.deleting = true).hold);
        let forced = build(&nodes, |input| (input.deleting, input.force) = (true, true));
        assert!(!forced.hold && forced.status.waiting_for.is_empty());
        assert!(!build(&nodes, |input| input.force = true).hold, "nobody waits for it");
    }

    #[test]
    fn a_silent_node_holds_a_lan_that_stands_and_none_that_is_deleted() {
        let nodes = [node("worker1", 1426)];
        assert!(build(&nodes, |input| input.used_where_silent = true).hold);
        assert!(!build(&nodes, |input| (input.used_where_silent, input.deleting) = (true, true)).hold);
    }
}
