//! What the node's status means to the cluster.

use std::collections::BTreeMap;

use lan::{Report, SpokeUse};
use proto::published::{LanStatus, NodeStatus, condition};

use super::lan_node_writer::{LanReport, Reports};

/// What the node says of its LANs to the cluster.
pub fn reports(status: &NodeStatus) -> Reports {
    let report = |lan: &LanStatus, kind| {
        let condition = condition(lan, kind);
        Report {
            holds: condition.is_some_and(|condition| condition.status == "True"),
            reason: condition.map(|condition| condition.reason.to_string()).unwrap_or_default(),
            message: condition.map(|condition| condition.message.clone()).unwrap_or_default(),
        }
    };
    let mut reports: BTreeMap<_, LanReport> = BTreeMap::new();
    for lan in &status.lans {
        let uses = lan.spokes.iter().filter_map(|spoke| {
            Some(SpokeUse { spoke: spoke.name.to_string(), by: spoke.used_by.clone()?, removed: false })
        });
        let left = lan.removed_spokes.iter().map(|spoke| SpokeUse {
            spoke: spoke.name.to_string(),
            by: spoke.used_by.clone(),
            removed: true,
        });
        let report = LanReport {
            generation: lan.observed_generation,
            accepted: report(lan, "Accepted"),
            ready: report(lan, "Ready"),
            underlay: lan.underlay.clone(),
            mtu: lan.mtu.map(net_types::Mtu::get),
            room: lan.room.map(net_types::Mtu::get),
            takes_part: !lan.elsewhere,
            attachments: uses.chain(left).collect(),
        };
        // What is left of a LAN in a former namespace stands beside it under the same key.
        reports.entry(lan.lan.clone()).or_insert(report);
    }
    reports
}

/// The same, when the node's part has been away for long: what it built stands, but nobody looks after it. What
/// is attached stays in the reports, since it holds a deleted LAN.
pub fn reports_of_an_absent_node(status: &NodeStatus) -> Reports {
    let mut reports = reports(status);
    for report in reports.values_mut().filter(|report| report.ready.holds) {
        report.ready = Report {
            holds: false,
            reason: "NodePartAway".to_owned(),
            message: "what stands stays, but changes wait: k8slan's process that builds LANs does not run here; see \
                      the log of its container"
                .to_owned(),
        };
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_is_told_of_a_lan_of_other_nodes_and_of_a_spoke_that_is_gone() {
        let text = r#"{"node":"worker3","lans":[{"lan":"a/b","elsewhere":true,"conditions":[
            {"type":"Accepted","status":"False","reason":"Conflict","message":"ns"},
            {"type":"Ready","status":"False","reason":"Refused","message":"refused"}]},
            {"lan":"a/c","conditions":[],"removedSpokes":[{"name":"pod1","usedBy":"default/web"}]}]}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        let reports = reports(&status);
        assert!(!reports[&"a/b".parse().unwrap()].takes_part);
        let other = &reports[&"a/c".parse().unwrap()];
        let left = SpokeUse { spoke: "pod1".into(), by: "default/web".into(), removed: true };
        assert!(other.takes_part && other.attachments == [left], "{other:?}");
    }

    #[test]
    fn an_absent_nodes_lans_are_not_ready_and_stay_in_use() {
        let text = r#"{"node":"worker1","lans":[{"lan":"a/b","observedGeneration":3,"conditions":[
            {"type":"Accepted","status":"True","reason":"Accepted","message":""},
            {"type":"Ready","status":"True","reason":"Built","message":"built"}],
            "spokes":[{"name":"pod1","attach":"macvtap","tapIndex":1073741824,"ready":true,"usedBy":"pod x"}]}]}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        let here = reports(&status).into_values().next().unwrap();
        assert!(here.ready.holds && here.generation == Some(3), "{here:?}");
        let away = reports_of_an_absent_node(&status).into_values().next().unwrap();
        assert_eq!((away.ready.holds, &*away.ready.reason), (false, "NodePartAway"));
        assert_eq!((away.attachments, away.accepted), (here.attachments, here.accepted));
    }
}
