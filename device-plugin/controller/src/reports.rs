//! The node's status as reports for the cluster.

use k8s_openapi::jiff::Timestamp;
use lan::{Condition, READY, SpokeUse, set_transition_times};
use proto::published::{LanStatus, NodeStatus};

use super::lan_node_writer::{LanReport, Reports};

/// The reports on the node's LANs; `before` are the last ones. `away`: the node's part has been away for long. Its
/// LANs stay built then, but are not repaired; attachments stay in the reports, because they keep a deleted LAN.
pub fn reports(status: &NodeStatus, away: bool, before: &Reports) -> Reports {
    reports_at(status, away, before, &format!("{:.0}", Timestamp::now()))
}

fn reports_at(status: &NodeStatus, away: bool, before: &Reports, now: &str) -> Reports {
    let mut reports = Reports::new();
    for lan in &status.lans {
        // The rest of a LAN in a former namespace has the same key in the status.
        reports.entry(lan.lan.clone()).or_insert_with(|| report(lan));
    }
    for (key, report) in &mut reports {
        if away {
            let built = |condition: &&mut Condition| condition.kind == READY && condition.is_true();
            report.conditions.iter_mut().filter(built).for_each(|ready| *ready = node_part_away());
        }
        let before = before.get(key).map_or(&[][..], |before| &before.conditions);
        set_transition_times(&mut report.conditions, before, now);
    }
    reports
}

fn report(lan: &LanStatus) -> LanReport {
    let uses = lan.spokes.iter().filter_map(|spoke| {
        Some(SpokeUse { spoke: spoke.name.to_string(), by: spoke.used_by.clone()?, removed: false })
    });
    let left = lan.removed_spokes.iter().map(|spoke| SpokeUse {
        spoke: spoke.name.to_string(),
        by: spoke.used_by.clone(),
        removed: true,
    });
    LanReport {
        generation: lan.observed_generation,
        conditions: lan.conditions.clone(),
        underlay: lan.underlay.clone(),
        mtu: lan.mtu.map(net_types::Mtu::get),
        room: lan.room.map(net_types::Mtu::get),
        takes_part: !lan.elsewhere,
        attachments: uses.chain(left).collect(),
    }
}

fn node_part_away() -> Condition {
    Condition::new(
        READY,
        false,
        "NodePartAway",
        "what stands stays, but changes wait: k8slan's process that builds LANs does not run here; see the log of its \
         container",
    )
}

#[cfg(test)]
mod tests {
    use lan::ACCEPTED;

    use super::*;

    const NOW: &str = "2026-11-29T12:00:00Z";

    fn reports_of(text: &str) -> Reports {
        reports_at(&serde_json::from_str(text).unwrap(), false, &Reports::new(), NOW)
    }

    #[test]
    fn what_the_cluster_is_told_of_a_lan_of_other_nodes_and_of_a_spoke_that_is_gone() {
        let text = r#"{"node":"worker3","lans":[{"lan":"a/b","elsewhere":true,"conditions":[
            {"type":"Accepted","status":"False","reason":"Conflict","message":"ns"},
            {"type":"Ready","status":"False","reason":"Refused","message":"refused"}]},
            {"lan":"a/c","conditions":[],"removedSpokes":[{"name":"pod1","usedBy":"default/web"}]}]}"#;
        let reports = reports_of(text);
        assert!(!reports[&"a/b".parse().unwrap()].takes_part);
        let other = &reports[&"a/c".parse().unwrap()];
        let left = SpokeUse { spoke: "pod1".into(), by: "default/web".into(), removed: true };
        assert!(other.takes_part && other.attachments == [left], "{other:?}");
    }

    fn built() -> NodeStatus {
        let text = r#"{"node":"worker1","lans":[{"lan":"a/b","observedGeneration":3,"conditions":[
            {"type":"Accepted","status":"True","reason":"Accepted","message":"","lastTransitionTime":"2026-11-21T08:00:00Z"},
            {"type":"Ready","status":"True","reason":"Built","message":"built","lastTransitionTime":"2026-11-21T08:00:00Z"}],
            "spokes":[{"name":"pod1","attach":"macvtap","tapIndex":1073741824,"ready":true,"usedBy":"pod x"}]}]}"#;
        serde_json::from_str(text).unwrap()
    }

    fn first(reports: &Reports) -> LanReport {
        reports.values().next().unwrap().clone()
    }

    fn time(report: &LanReport, kind: &str) -> String {
        report.condition(kind).unwrap().last_transition_time.clone().unwrap()
    }

    #[test]
    fn an_absent_nodes_lans_are_not_ready_and_stay_in_use() {
        let here = first(&reports_at(&built(), false, &Reports::new(), NOW));
        assert!(here.condition(READY).unwrap().is_true() && here.generation == Some(3), "{here:?}");
        let away = first(&reports_at(&built(), true, &Reports::new(), NOW));
        let ready = away.condition(READY).unwrap();
        assert_eq!((ready.is_true(), &*ready.reason), (false, "NodePartAway"));
        assert_eq!(away.attachments, here.attachments);
        assert_eq!(away.condition(ACCEPTED), here.condition(ACCEPTED));
    }

    #[test]
    fn a_report_says_since_when_and_says_it_once() {
        let (then, later, again) = ("2026-11-21T08:00:00Z", "2026-11-29T12:00:30Z", "2026-11-29T12:01:00Z");
        let here = reports_at(&built(), false, &Reports::new(), NOW);
        assert_eq!(time(&first(&here), READY), then, "as the node's part says");
        let away = reports_at(&built(), true, &here, later);
        assert_eq!((&*time(&first(&away), READY), &*time(&first(&away), ACCEPTED)), (later, then));
        assert_eq!(reports_at(&built(), true, &away, again), away, "nothing to write");
        // The node's part is back. In its own status the LANs were ready all the time.
        let back = reports_at(&built(), false, &away, again);
        assert_eq!((&*time(&first(&back), READY), &*time(&first(&back), ACCEPTED)), (again, then));
    }

    #[test]
    fn what_a_nodes_part_of_the_version_before_wrote_has_a_time_too() {
        let text = r#"{"node":"worker1","lans":[{"lan":"a/b","conditions":[
            {"type":"Accepted","status":"True","reason":"Accepted","message":""},
            {"type":"Ready","status":"True","reason":"Built","message":"built"}]}]}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        let report = reports_of(text);
        assert_eq!(time(&first(&report), READY), NOW);
        assert_eq!(reports_at(&status, false, &report, "2026-11-29T13:00:00Z"), report, "nothing to write");
    }
}
