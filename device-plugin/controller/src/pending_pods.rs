//! Pods that no node can run because a spoke is missing. The scheduler only reports that a resource is insufficient;
//! the leader writes an event on the pod: who holds the spoke, and where its LAN is not ready.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::ListParams;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::events::{self, EventType};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api, Client, Resource as _};
use lan::{ACCEPTED, Condition, LanNode, READY};
use tokio::time::Instant;

use super::chain;
use super::event_publisher::MAX_NOTE;
use super::event_publisher::{EventPublisher, reference};
use super::lan_object::{self, StoredLan};
use proto::brief;
use proto::k8slan_go::leads_to;
use proto::kubelet::RESOURCE_PREFIX;

/// How long a pod must have waited: usually the spoke is held by a pod that is just being deleted.
const FIRST_EVENT_DELAY: Duration = Duration::from_secs(5);
/// The pause before the next event on the same pod, if the reason has changed.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Writes an event on such pods, one per reason.
pub(super) struct PendingPods {
    client: Client,
    publisher: EventPublisher,
}

struct PendingPod {
    spokes: Vec<String>,
    of: ObjectReference,
    due: Instant,
    last_note: String,
}

impl PendingPods {
    pub(super) const fn new(client: Client, publisher: EventPublisher) -> Self {
        Self { client, publisher }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(&self) {
        let pods: Api<DeserializeGuard<Pod>> = Api::all(self.client.clone());
        // Few pods have no node, even in a large cluster.
        let config = watcher::Config::default().fields("spec.nodeName=");
        let mut pods = std::pin::pin!(watch_objects(pods, config).default_backoff());
        let mut waiting: BTreeMap<String, PendingPod> = BTreeMap::new();
        let mut rested = Instant::now();
        loop {
            // When many pods arrive one after the other, the LANs are read once for all of a short time.
            let due = waiting.values().map(|pod| pod.due.max(rested)).min();
            let settled = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = pods.next() => match event {
                    Some(Ok(Event::Init)) => waiting.clear(),
                    Some(Ok(Event::InitApply(pod) | Event::Apply(pod))) => update_pod(&mut waiting, pod),
                    Some(Ok(Event::Delete(pod))) => drop(waiting.remove(uid(pod.meta()))),
                    Some(Ok(Event::InitDone)) => {}
                    Some(Err(error)) => tracing::warn!(error = chain(&error), "cannot watch pods that have no node yet; the watch is retried"),
                    None => return,
                },
                () = settled => {
                    if let Err(error) = self.publish_events(&mut waiting).await {
                        tracing::warn!(error = chain(&error), "cannot publish an event about a pod that waits for a spoke");
                    }
                    let now = Instant::now();
                    rested = now + FIRST_EVENT_DELAY;
                    waiting.values_mut().filter(|pod| pod.due <= now).for_each(|pod| pod.due = now + REPEAT_INTERVAL);
                }
            }
        }
    }

    async fn publish_events(&self, waiting: &mut BTreeMap<String, PendingPod>) -> Result<(), kube::Error> {
        let lans: Api<StoredLan> = Api::all_with(self.client.clone(), &lan_object::lans());
        let reports: Api<DeserializeGuard<LanNode>> = Api::all(self.client.clone());
        // Answered from the API server's cache: the lists may be large, and may be a moment old.
        let all = ListParams::default().match_any();
        let (lans, reports) = tokio::try_join!(lans.list(&all), reports.list(&all))?;
        let reports = reports.items.into_iter().filter_map(|report| report.0.ok()?.with_conditions());
        let reports: Vec<LanNode> = reports.collect();
        let now = Instant::now();
        for pod in waiting.values_mut().filter(|pod| pod.due <= now) {
            let note = note(&pod.spokes, &lans.items, &reports);
            if note == pod.last_note {
                continue;
            }
            let event = events::Event {
                type_: EventType::Warning,
                reason: "SpokeNotFree".to_owned(),
                note: Some(note.clone()),
                action: "Schedule".to_owned(),
                secondary: None,
            };
            self.publisher.publish(&pod.of, &event).await?;
            pod.last_note = note;
        }
        Ok(())
    }
}

fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

/// Adds, updates or removes a pod.
fn update_pod(waiting: &mut BTreeMap<String, PendingPod>, pod: DeserializeGuard<Pod>) {
    let spokes = pod.0.as_ref().map(insufficient_spokes).unwrap_or_default();
    let metadata = pod.meta();
    if spokes.is_empty() {
        waiting.remove(uid(metadata));
        return;
    }
    let of = reference("v1", "Pod", metadata);
    let new = || PendingPod {
        spokes: Vec::new(),
        of,
        due: Instant::now() + FIRST_EVENT_DELAY,
        last_note: String::new(),
    };
    waiting.entry(uid(metadata).to_owned()).or_insert_with(new).spokes = spokes;
}

/// The spokes that the scheduler reports as insufficient for the pod.
fn insufficient_spokes(pod: &Pod) -> Vec<String> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    let unschedulable = conditions.find(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    });
    let message = unschedulable.and_then(|condition| condition.message.as_deref()).unwrap_or_default();
    let mut spokes: Vec<String> = message
        .split([',', ' '])
        .filter_map(|word| word.trim_end_matches('.').strip_prefix(RESOURCE_PREFIX))
        .map(str::to_owned)
        .collect();
    spokes.sort();
    spokes.dedup();
    spokes
}

/// Why none of these spokes is free.
fn note(spokes: &[String], lans: &[StoredLan], reports: &[LanNode]) -> String {
    let each: Vec<String> = spokes.iter().map(|spoke| spoke_availability(spoke, lans, reports)).collect();
    brief(&each.join("; "), MAX_NOTE)
}

fn spoke_availability(resource: &str, lans: &[StoredLan], reports: &[LanNode]) -> String {
    let listed = |lan: &StoredLan, is: &dyn Fn(&str) -> bool| {
        lan.spec.valid()?.spokes.iter().find(|spoke| is(spoke)).cloned()
    };
    let own = |lan: &StoredLan| listed(lan, &|spoke| spoke == resource);
    let another = |lan: &StoredLan| {
        listed(lan, &|spoke| leads_to(resource, lan.metadata.name.as_deref().unwrap_or_default(), spoke))
    };
    let of =
        |find: &dyn Fn(&StoredLan) -> Option<String>| lans.iter().find_map(|lan| Some((lan, find(lan)?)));
    // A name of the LAN's own takes precedence over the others.
    let Some((lan, spoke)) = of(&own).or_else(|| of(&another)) else {
        return format!("no LAN lists spoke {resource}: put it into spec.spokes of one, or ask for another");
    };
    let (namespace, name) = (lan.metadata.namespace.as_deref(), lan.metadata.name.as_deref());
    let mut nodes: Vec<&LanNode> = reports
        .iter()
        .filter(|report| report.metadata.namespace.as_deref() == namespace)
        .filter(|report| Some(report.spec.lan.as_str()) == name)
        .collect();
    nodes.sort_by(|a, b| a.spec.node.cmp(&b.spec.node));
    let words: Vec<String> = nodes
        .iter()
        .map(|report| {
            let node = &report.spec.node;
            let denied = |kind| report.condition(kind).filter(|condition: &&Condition| !condition.is_true());
            let held = report.spec.attachments.iter().find(|used| used.spoke == spoke);
            match (denied(ACCEPTED), denied(READY), held) {
                (Some(accepted), _, _) => format!("{node}: refused, {}", accepted.message),
                (_, Some(ready), _) => format!("{node}: not ready, {}", ready.message),
                (_, _, Some(used)) => format!("{node}: held by {}", pod_of_user(&used.by)),
                _ => format!("{node}: free"),
            }
        })
        .collect();
    let words = if words.is_empty() { "no node has looked at it yet".to_owned() } else { words.join(", ") };
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    format!("spoke {spoke} of LAN {namespace}/{name}: {words}")
}

/// The pod in a report's `by`, which may contain more.
fn pod_of_user(by: &str) -> &str {
    let pod = by.split(',').next().unwrap_or(by);
    pod.strip_prefix("pod ").unwrap_or(pod)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lan(name: &str, spokes: &[&str]) -> StoredLan {
        of(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "metadata": { "namespace": "a", "name": name },
            "spec": { "ns": name, "bridge": "br0", "vxlan": "vx0", "vni": 1, "spokes": spokes },
        }))
    }

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn report(node: &str, ready: bool, held: &[(&str, &str)]) -> LanNode {
        let used: Vec<Value> = held.iter().map(|(spoke, by)| json!({ "spoke": spoke, "by": by })).collect();
        let report: LanNode = of(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANNode", "metadata": { "namespace": "a", "name": node },
            "spec": {
                "lan": "one", "node": node, "attachments": used,
                "accepted": { "holds": true, "reason": "Accepted", "message": "" },
                "ready": { "holds": ready, "reason": "UnderlayMissing", "message": "underlay eth1 does not exist" },
            },
        }));
        report.with_conditions().unwrap()
    }

    #[test]
    fn what_the_scheduler_lacks_is_read_from_its_words() {
        let pod = |message: &str| {
            of::<Pod>(json!({ "metadata": {}, "status": { "conditions": [
                { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message },
            ] } }))
        };
        let message = "0/3 nodes are available: 1 Insufficient macvtap.k8slan.io/pod10, 2 Insufficient macvtap.k8slan.io/pod1. no \
                       new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found.";
        assert_eq!(insufficient_spokes(&pod(message)), ["pod1", "pod10"]);
        assert_eq!(
            insufficient_spokes(&pod("0/3 nodes are available: 3 Insufficient cpu.")),
            Vec::<String>::new()
        );
        assert_eq!(insufficient_spokes(&Pod::default()), Vec::<String>::new());
    }

    #[test]
    fn a_holder_is_a_pod() {
        assert_eq!(pod_of_user("default/web"), "default/web");
        assert_eq!(pod_of_user("pod default/web, container 0123, interface net1"), "default/web");
    }

    #[test]
    fn the_note_says_who_holds_the_spoke_and_where_the_lan_is_not_ready() {
        let lans = [lan("zero", &["pod9"]), lan("one", &["pod1", "pod2"])];
        let reports = [
            report("worker2", false, &[]),
            report("worker1", true, &[("pod2", "default/x"), ("pod1", "default/nginx")]),
        ];
        assert_eq!(
            note(&["pod1".to_owned()], &lans, &reports),
            "spoke pod1 of LAN a/one: worker1: held by default/nginx, worker2: not ready, underlay eth1 does not exist"
        );
        assert_eq!(
            note(&["k8slan-mac-one-pod2".to_owned()], &lans, &reports),
            "spoke pod2 of LAN a/one: worker1: held by default/x, worker2: not ready, underlay eth1 does not exist"
        );
        assert!(note(&["pod7".to_owned()], &lans, &reports).starts_with("no LAN lists spoke pod7"));
        assert!(note(&["pod9".to_owned()], &lans, &reports).ends_with("no node has looked at it yet"));
        let many: Vec<LanNode> = (0..200).map(|n| report(&format!("worker{n:03}"), false, &[])).collect();
        assert!(note(&["pod1".to_owned()], &lans, &many).len() <= 1024);
    }
}
