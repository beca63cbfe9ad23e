//! What this node says of its LANs, written into one `LANNode` object per LAN.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use lan::{LanKey, LanNode, LanNodeSpec, Report, SpokeUse};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain;
use super::lan_object::MirroredLan;
use super::mirror::MirrorState;

/// What the rest of the daemon knows of one LAN on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanReport {
    /// The generation of its object that this speaks of.
    pub generation: Option<i64>,
    /// Whether its specification is good and nothing in it belongs to another LAN.
    pub accepted: Report,
    /// Whether it is built here.
    pub ready: Report,
    /// The underlay device.
    pub underlay: Option<String>,
    /// Its MTU here.
    pub mtu: Option<u32>,
    /// The largest MTU that its underlay has room for.
    pub room: Option<u32>,
    /// Whether it has a part on this node at all.
    pub takes_part: bool,
    /// Who is attached here.
    pub attachments: Vec<SpokeUse>,
}

/// What this node says, by LAN.
pub type Reports = BTreeMap<LanKey, LanReport>;

/// Whose fields the node's objects are.
const MANAGER: &str = "k8slan-node";

/// Changes come in bursts; one object is written once for each.
const DEBOUNCE: Duration = Duration::from_millis(200);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Writes the node's reports.
pub struct LanNodeWriter {
    client: Client,
    node: String,
    reports: watch::Receiver<Arc<Reports>>,
    state: watch::Receiver<MirrorState>,
}

impl LanNodeWriter {
    /// Reports for `node`, on those LANs that the API server has.
    #[must_use]
    pub fn new(
        client: Client,
        node: String,
        reports: watch::Receiver<Arc<Reports>>,
        state: watch::Receiver<MirrorState>,
    ) -> Self {
        Self { client, node, reports, state }
    }

    /// Writes what changed, for ever. Objects go with their LAN, whose dependents they are.
    pub async fn run(mut self) {
        // What the node last said of each LAN; `None`: nothing, and nothing is there.
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
                    let object = report.takes_part.then(|| object(&self.node, lan, report));
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
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await?;
        Ok(())
    }
}

/// The name of a node's object for a LAN: `<lan>.<node>`, or a part of it and its hash where that is
/// longer than Kubernetes takes.
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
        accepted: report.accepted.clone(),
        ready: report.ready.clone(),
        underlay: report.underlay.clone(),
        mtu: report.mtu.map(i64::from),
        room: report.room.map(i64::from),
        attachments,
    };
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_names_and_stay_apart() {
        assert_eq!(object_name("lan-test", "worker1"), "lan-test.worker1");
        let (lan, node) = ("l".repeat(180), "n".repeat(200));
        let name = object_name(&lan, &node);
        assert!(name.len() <= 253, "{}", name.len());
        assert_ne!(name, object_name(&lan, &format!("{node}2")));
    }
}
