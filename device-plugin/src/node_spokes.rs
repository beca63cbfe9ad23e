//! What the node's status means to those who ask: the kubelet, the cluster, operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use lan::{Report, SpokeUse};
use net_types::SpokeName;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::cluster::{LanReport, Reports};
use crate::health::{Metrics, Overview};
use crate::k8slan_go::{self, HandedOut};
use crate::kubelet::{self, Catalog, Grant, Handed, Health, Offer, Refusal, Spokes};
use crate::status::{Condition, LanStatus, NodeStatus};

/// The spokes of the node, for the kubelet.
pub(crate) struct NodeSpokes {
    status: watch::Receiver<Arc<NodeStatus>>,
    catalog: watch::Sender<Arc<Catalog>>,
    metrics: Arc<Metrics>,
    /// By which of its names each spoke was handed out, where there are several, and whether there still are.
    k8slan_go: Option<(HandedOut, bool)>,
    /// Something was handed out.
    handed_out: Notify,
}

impl NodeSpokes {
    pub(crate) fn new(
        status: watch::Receiver<Arc<NodeStatus>>,
        metrics: Arc<Metrics>,
        k8slan_go: Option<(HandedOut, bool)>,
    ) -> Self {
        Self {
            status,
            catalog: watch::channel(Arc::default()).0,
            metrics,
            k8slan_go,
            handed_out: Notify::new(),
        }
    }

    /// Keeps the catalog as the status says.
    pub(crate) async fn keep(&self) {
        let mut status = self.status.clone();
        loop {
            let now = status.borrow_and_update().clone();
            let again = self.look(&now).await;
            let due = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                () = self.handed_out.notified() => {}
                () = due => {}
            }
        }
    }

    /// Brings the catalog up to date, and says when to do so again although nothing changes.
    pub(crate) async fn look(&self, status: &NodeStatus) -> Option<Instant> {
        let (next, again) = match self.k8slan_go.as_ref().filter(|_| status.looked) {
            None => (catalog(status), None),
            Some((handed_out, offered)) => {
                let mut holders = handed_out.holders();
                let uses = users(status);
                let again = holders.follow(|spoke| uses.contains_key(spoke));
                match *offered {
                    true => (k8slan_go::catalog(catalog(status), status, &holders), again),
                    false => (catalog(status), again),
                }
            }
        };
        self.catalog.send_if_modified(|catalog| {
            let changed = **catalog != next;
            if changed {
                *catalog = Arc::new(next);
            }
            changed
        });
        if let Some((handed_out, _)) = &self.k8slan_go {
            handed_out.save().await;
        }
        again
    }

    fn find(&self, handed: &Handed) -> Result<Grant, Refusal> {
        let spoke = &handed.spoke;
        let status = Arc::clone(&self.status.borrow());
        let found =
            status.lans.iter().find_map(|lan| Some((lan, lan.spokes.iter().find(|s| s.name == *spoke)?)));
        let (lan, found) = found.ok_or_else(|| Refusal::Unknown(spoke.clone()))?;
        match (lan.mtu, &found.reason) {
            (Some(mtu), None) => {
                let attach = handed.attach.unwrap_or(found.attach);
                if let Some((handed_out, true)) = &self.k8slan_go {
                    handed_out.holders().hand_out(handed, found.used_by.is_some());
                    self.handed_out.notify_one();
                }
                Ok(Grant { attach, tap_index: found.tap_index, mtu })
            }
            (_, reason) => {
                let reason = reason.clone().unwrap_or_else(|| "its MTU is not known yet".to_owned());
                Err(Refusal::NotReady { spoke: spoke.clone(), reason })
            }
        }
    }
}

impl Spokes for NodeSpokes {
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    /// The status follows the kernel's events: what it says is built is built.
    async fn grant(&self, handed: &Handed) -> Result<Grant, Refusal> {
        let start = Instant::now();
        let answer = self.find(handed);
        // Before the pod can be there.
        if let (Ok(_), Some((handed_out, true))) = (&answer, &self.k8slan_go) {
            handed_out.save().await;
        }
        self.metrics.allocate.observe(start.elapsed());
        match answer {
            Ok(_) => self.metrics.allocations.increment(),
            Err(_) => self.metrics.allocations_refused.increment(),
        }
        answer
    }
}

fn catalog(status: &NodeStatus) -> Catalog {
    let spokes = status.lans.iter().flat_map(|lan| &lan.spokes);
    spokes
        .map(|spoke| {
            let health = match &spoke.reason {
                None => Health::Healthy,
                Some(reason) => Health::Unhealthy { reason: reason.clone() },
            };
            let handed = Handed::from(spoke.name.clone());
            (handed.resource.clone(), Offer { handed, health })
        })
        .collect()
}

/// Who uses each spoke, those that their LANs do not have any more too.
pub(crate) fn users(status: &NodeStatus) -> BTreeMap<&SpokeName, &str> {
    let listed = status.lans.iter().flat_map(|lan| &lan.spokes);
    let listed = listed.filter_map(|spoke| Some((&spoke.name, spoke.used_by.as_deref()?)));
    let removed = status.lans.iter().flat_map(|lan| &lan.removed_spokes);
    removed.map(|spoke| (&spoke.name, spoke.used_by.as_str())).chain(listed).collect()
}

pub(crate) fn condition<'a>(lan: &'a LanStatus, kind: &str) -> Option<&'a Condition> {
    lan.conditions.iter().find(|condition| condition.kind == kind)
}

pub(crate) fn holds(lan: &LanStatus, kind: &str) -> bool {
    condition(lan, kind).is_some_and(|condition| condition.status == "True")
}

/// What the node says of its LANs to the cluster.
pub(crate) fn reports(status: &NodeStatus) -> Reports {
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
pub(crate) fn reports_of_an_absent_node(status: &NodeStatus) -> Reports {
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

/// How the node is, in numbers, and what it waits for.
pub(crate) fn overview(
    status: &NodeStatus,
    kubelet: Option<&kubelet::Status>,
    waiting: Vec<String>,
) -> Overview {
    let spokes = || status.lans.iter().flat_map(|lan| &lan.spokes);
    Overview {
        lans: status.lans.len(),
        lans_ready: status.lans.iter().filter(|lan| holds(lan, "Ready")).count(),
        spokes: spokes().count(),
        attachments: spokes().filter(|spoke| spoke.used_by.is_some()).count(),
        resources_wanted: kubelet.map_or(0, |kubelet| kubelet.wanted),
        resources_registered: kubelet.map_or(0, |kubelet| kubelet.registered),
        waiting,
    }
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
