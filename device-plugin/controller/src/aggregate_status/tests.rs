use lan::ConditionStatus::Unknown;
use lan::{Condition, LanNodeStatus, SpokeUse};

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
    assert!(message.starts_with("default/web on worker1 (spoke pod1): the LAN does not have"), "{message}");
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
    assert_eq!(condition(&aggregated, "Accepted"), ("False", "Conflict", "VNI 222 belongs to LAN x/first"));
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
    used.spec.attachments = vec![SpokeUse { spoke: "pod1".into(), by: "default/vm".into(), removed: false }];
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
    used.spec.attachments = vec![SpokeUse { spoke: "pod1".into(), by: "default/vm".into(), removed: false }];
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
