//! This node's report on its LANs: one `LANNode` object per LAN.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use lan::{
    ACCEPTED, Condition, LanKey, LanNode, LanNodeSpec, LanNodeStatus, OlderCondition, READY, SpokeUse,
    find_condition,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain;
use super::lan_object::MirroredLan;
use super::mirror::MirrorState;

/// One LAN on this node, as the rest of the daemon reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanReport {
    /// The generation of its object that this is about.
    pub generation: Option<i64>,
    /// `Accepted` and `Ready`.
    pub conditions: Vec<Condition>,
    /// The name of the underlay device.
    pub underlay: Option<String>,
    /// The MTU that it has on this node.
    pub mtu: Option<u32>,
    /// The largest MTU that its underlay has room for.
    pub room: Option<u32>,
    /// Whether the LAN is to be built on this node.
    pub takes_part: bool,
    pub attachments: Vec<SpokeUse>,
}

impl LanReport {
    /// Its condition of that kind.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        find_condition(&self.conditions, kind)
    }

    /// Whether the cluster has an object with this. A node that has no part in the LAN any more keeps it while something is
    /// attached, and until the leader has read that nothing is: a report that vanishes says nothing.
    fn is_told_of(&self, lan: &MirroredLan, node: &str) -> bool {
        self.takes_part || !self.attachments.is_empty() || lan.attached_on.iter().any(|on| on == node)
    }
}

/// This node's reports, by LAN.
pub type Reports = BTreeMap<LanKey, LanReport>;

/// The field manager of the node's objects.
const MANAGER: &str = "k8slan-node";

/// Changes come in bursts; each object is written once per burst.
const DEBOUNCE: Duration = Duration::from_millis(200);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

pub struct LanNodeWriter {
    client: Client,
    node: String,
    reports: watch::Receiver<Arc<Reports>>,
    state: watch::Receiver<MirrorState>,
}

impl LanNodeWriter {
    /// Reports for `node`, on the LANs that the API server has.
    #[must_use]
    pub fn new(
        client: Client,
        node: String,
        reports: watch::Receiver<Arc<Reports>>,
        state: watch::Receiver<MirrorState>,
    ) -> Self {
        Self { client, node, reports, state }
    }

    /// Writes what changed, without end. The objects are dependents of their LAN, and are deleted with it.
    pub async fn run(mut self) {
        // The last report on each LAN; `None`: there is no object.
        let mut written: BTreeMap<(LanKey, String), Option<Value>> = BTreeMap::new();
        let mut retry = FIRST_RETRY;
        loop {
            let reports = Arc::clone(&self.reports.borrow_and_update());
            let lans = Arc::clone(&self.state.borrow_and_update().lans);
            let mut failed = false;
            let wanted: BTreeMap<_, _> = lans
                .values()
                .filter_map(|lan| {
                    let report = reports.get(&lan.key)?;
                    let object = report.is_told_of(lan, &self.node).then(|| object(&self.node, lan, report));
                    Some(((lan.key.clone(), lan.uid.clone()), object))
                })
                .collect();
            written.retain(|key, _| wanted.contains_key(key));
            for (key, object) in wanted {
                if written.get(&key) == Some(&object) {
                    continue;
                }
                match self.write(&key.0, object.as_ref()).await {
                    Ok(()) => {
                        written.insert(key, object);
                    }
                    Err(error) => {
                        tracing::warn!(lan = %key.0, error = chain(&error), "cannot write this node's report");
                        failed = true;
                    }
                }
            }
            let again = failed.then(|| Instant::now() + retry);
            retry = if failed { (retry * 2).min(LAST_RETRY) } else { FIRST_RETRY };
            let due = async {
                match again {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.reports.changed() => if changed.is_err() { return },
                changed = self.state.changed() => if changed.is_err() { return },
                () = due => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    async fn write(&self, lan: &LanKey, object: Option<&Value>) -> Result<(), kube::Error> {
        let api: Api<LanNode> = Api::namespaced(self.client.clone(), lan.namespace());
        let name = object_name(lan.name(), &self.node);
        let Some(object) = object else {
            return match api.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                answer => answer.map(drop),
            };
        };
        let params = PatchParams::apply(MANAGER).force();
        match api.patch(&name, &params, &Patch::Apply(object)).await {
            Err(kube::Error::Api(status)) if is_unknown_field(&status.message) => {
                tracing::warn!(
                    lan = %lan,
                    answer = status.message,
                    "the definition of LANNode is of an older version, so that reports have no conditions: apply \
                     install/crds.yaml, then restart k8slan's pods"
                );
                api.patch(&name, &params, &Patch::Apply(without_status(object))).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }
}

/// Whether the API server refuses an object because its definition lacks a field.
fn is_unknown_field(message: &str) -> bool {
    message.contains("field not declared in schema")
}

/// The object as the previous version of k8slan wrote it.
fn without_status(object: &Value) -> Value {
    let mut older = object.clone();
    if let Some(fields) = older.as_object_mut() {
        fields.remove("status");
    }
    older
}

/// The name of a node's object for a LAN: `<lan>.<node>`, or a part of it and its hash if that is longer than
/// Kubernetes allows.
#[must_use]
pub fn object_name(lan: &str, node: &str) -> String {
    let name = format!("{lan}.{node}");
    if name.len() <= 253 {
        return name;
    }
    let hash: String = Sha256::digest(name.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect();
    let cut = name[..236].trim_end_matches(['.', '-']);
    format!("{cut}-{hash}")
}

fn object(node: &str, lan: &MirroredLan, report: &LanReport) -> Value {
    let mut attachments = report.attachments.clone();
    attachments.sort();
    let spec = LanNodeSpec {
        lan: lan.key.name().to_owned(),
        node: node.to_owned(),
        observed_generation: report.generation,
        accepted: report.condition(ACCEPTED).map(OlderCondition::from),
        ready: report.condition(READY).map(OlderCondition::from),
        underlay: report.underlay.clone(),
        mtu: report.mtu.map(i64::from),
        room: report.room.map(i64::from),
        attachments,
    };
    // Their `observedGeneration` is that of the LAN. In a condition it would be read as that of this object, which
    // grows with every report: `kubectl wait` would never see the newest one.
    let conditions = report.conditions.iter().map(|condition| condition.clone().observing(None)).collect();
    json!({
        "apiVersion": "lan.k8slan.io/v1beta1",
        "kind": "LANNode",
        "metadata": {
            "namespace": lan.key.namespace(),
            "name": object_name(lan.key.name(), node),
            "ownerReferences": [{
                "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "name": lan.key.name(), "uid": lan.uid,
            }],
        },
        "spec": spec,
        "status": LanNodeStatus { conditions },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_stays_until_the_leader_has_read_that_nothing_is_attached() {
        let used = SpokeUse { spoke: "pod1".into(), by: "default/web".into(), removed: false };
        let report = |takes_part, attachments: &[SpokeUse]| LanReport {
            generation: None,
            conditions: Vec::new(),
            underlay: None,
            mtu: None,
            room: None,
            takes_part,
            attachments: attachments.to_vec(),
        };
        let lan = |attached_on: &[&str]| MirroredLan {
            key: "a/b".parse().unwrap(),
            uid: String::new(),
            generation: 1,
            deleting: false,
            attached_on: attached_on.iter().map(|&on| on.to_owned()).collect(),
        };
        let other = lan(&["worker2"]);
        assert!(report(true, &[]).is_told_of(&other, "worker1"));
        assert!(!report(false, &[]).is_told_of(&other, "worker1"));
        assert!(report(false, &[used]).is_told_of(&other, "worker1"));
        assert!(report(false, &[]).is_told_of(&lan(&["worker1", "worker2"]), "worker1"));
    }

    #[test]
    fn long_names_stay_names_and_stay_apart() {
        assert_eq!(object_name("lan-test", "worker1"), "lan-test.worker1");
        let (lan, node) = ("l".repeat(180), "n".repeat(200));
        let name = object_name(&lan, &node);
        assert!(name.len() <= 253, "{}", name.len());
        assert_ne!(name, object_name(&lan, &format!("{node}2")));
    }

    fn mirrored() -> MirroredLan {
        MirroredLan {
            key: "a/one".parse().unwrap(),
            uid: "u".into(),
            generation: 3,
            deleting: false,
            attached_on: Vec::new(),
        }
    }

    fn report() -> LanReport {
        let since = |condition: Condition| Condition {
            last_transition_time: Some("2026-11-21T08:00:00Z".into()),
            ..condition.observing(Some(3))
        };
        LanReport {
            generation: Some(3),
            conditions: vec![
                since(Condition::new(ACCEPTED, true, "Accepted", "the spec is valid")),
                since(Condition::new(READY, false, "UnderlayMissing", "underlay eth1 is missing")),
            ],
            underlay: Some("eth1".into()),
            mtu: None,
            room: None,
            takes_part: true,
            attachments: vec![SpokeUse { spoke: "pod1".into(), by: "default/web".into(), removed: false }],
        }
    }

    #[test]
    fn kubectl_waits_for_conditions_without_a_generation() {
        let object = object("worker1", &mirrored(), &report());
        assert_eq!(object["spec"]["observedGeneration"], 3);
        let ready = &object["status"]["conditions"][1];
        let wanted = json!({
            "type": "Ready", "status": "False", "reason": "UnderlayMissing", "message": "underlay eth1 is missing",
            "lastTransitionTime": "2026-11-21T08:00:00Z",
        });
        assert_eq!(*ready, wanted);
    }

    #[test]
    fn a_leader_of_the_version_before_reads_this_one() {
        #[derive(serde::Deserialize)]
        struct Report {
            holds: bool,
            reason: String,
            message: String,
        }
        // The fields that were required, with their types.
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct LanNodeSpec {
            lan: String,
            node: String,
            observed_generation: Option<i64>,
            accepted: Report,
            ready: Report,
            attachments: Vec<SpokeUse>,
        }
        let object = object("worker1", &mirrored(), &report());
        for object in [without_status(&object), object] {
            let read: LanNodeSpec = serde_json::from_value(object["spec"].clone()).unwrap();
            assert_eq!((&*read.lan, &*read.node, read.observed_generation), ("one", "worker1", Some(3)));
            assert!(read.accepted.holds && !read.ready.holds && read.attachments.len() == 1);
            let why = (&*read.ready.reason, &*read.ready.message);
            assert_eq!(why, ("UnderlayMissing", "underlay eth1 is missing"));
            assert_eq!((&*read.accepted.reason, &*read.accepted.message), ("Accepted", "the spec is valid"));
        }
    }

    #[test]
    fn this_version_reads_its_own_and_that_of_the_version_before() {
        let older = include_str!("../tests/lannode-0.1.0-before-conditions.json");
        let older: LanNode = serde_json::from_str(older).unwrap();
        assert_eq!(older.status, None);
        let older = older.with_conditions().unwrap();
        let own: LanNode = serde_json::from_value(object("worker1", &mirrored(), &report())).unwrap();
        let own = own.with_conditions().unwrap();
        for kind in [ACCEPTED, READY] {
            let (older, own) = (older.condition(kind).unwrap(), own.condition(kind).unwrap());
            assert!(older.says_the_same(own), "{older:?} {own:?}");
        }
        assert_eq!(older.spec, own.spec);
        // If both forms are there, the conditions count.
        let mut both = own.clone();
        both.spec.ready = Some(OlderCondition { holds: true, ..OlderCondition::default() });
        assert!(!both.with_conditions().unwrap().is_true(READY));
        // The next version has only the conditions.
        let mut later = own.clone();
        (later.spec.accepted, later.spec.ready) = (None, None);
        assert!(later.clone().with_conditions().is_some_and(|later| later.is_true(ACCEPTED)));
        // An object without conditions is not a report.
        later.status = None;
        assert_eq!(later.with_conditions(), None);
    }

    #[test]
    fn a_definition_without_conditions_is_known_by_the_servers_words() {
        let words = "failed to create typed patch object (a/one.worker1; lan.k8slan.io/v1beta1, Kind=LANNode): .status: field \
                     not declared in schema";
        assert!(is_unknown_field(words) && !is_unknown_field("lannodes.lan.k8slan.io is forbidden"));
    }
}
