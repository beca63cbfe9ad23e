//! The pods of this node, for the sweep, and for `ipam-pool` the virtual machine of each launcher pod, which pods a StatefulSet made, and which claims they name.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher as watch_objects;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client};
use node::{SetRecord, VmRecord};

use super::chain;
use super::claim_references::claims;
use super::guest_bindings::GuestBindings;
use proto::health::ApiMetrics;
use proto::link::{Kind, Object, ObjectKey, SnapshotCache};

/// Watches the pods of one node, only their metadata.
pub struct Pods {
    api: Api<PartialObjectMeta>,
    bindings: GuestBindings,
    node: String,
    cache: SnapshotCache,
    metrics: Arc<ApiMetrics>,
}

impl Pods {
    /// Watches the pods of `node` and puts them into `cache`.
    pub fn new(client: Client, node: String, cache: SnapshotCache, metrics: Arc<ApiMetrics>) -> Self {
        let kind = GroupVersionKind::gvk("", "v1", "Pod");
        let api = Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "pods"));
        Self { api, bindings: GuestBindings::new(client), node, cache, metrics }
    }

    /// Tells of the pods, without end. While the API server cannot be reached, that is told, too.
    pub async fn run(self) -> Infallible {
        let mut backoff = DefaultBackoff::default();
        loop {
            // A watch that failed continues without an event; a new list is an event.
            let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
            let mut events = std::pin::pin!(watch_objects(self.api.clone(), config));
            let mut listed = BTreeSet::new();
            let error = loop {
                match events.next().await {
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(pod))) => {
                        listed.extend(pod.metadata.uid.clone().map(ObjectKey::Pod));
                        self.put(&pod.metadata, true).await;
                    }
                    Some(Ok(Event::InitDone)) => {
                        backoff = DefaultBackoff::default();
                        self.cache.complete(Kind::Pod, |key| listed.contains(key));
                    }
                    Some(Ok(Event::Apply(pod))) => self.put(&pod.metadata, false).await,
                    Some(Ok(Event::Delete(pod))) => {
                        if let Some(uid) = pod.metadata.uid {
                            self.cache.remove(&ObjectKey::Pod(uid));
                        }
                    }
                    Some(Err(error)) => break chain(&error),
                    None => break "the watch ended".to_owned(),
                }
            };
            self.metrics.pod_errors.increment();
            tracing::warn!(error, "the pods of this node are not heard of; nothing is swept");
            self.cache.lost(Kind::Pod);
            tokio::time::sleep(backoff.next().unwrap_or(std::time::Duration::from_secs(30))).await;
        }
    }

    /// Tells of a pod. The API server is asked about the machine that it runs when the pod is new, and if `again`.
    async fn put(&self, pod: &ObjectMeta, again: bool) {
        let Some(uid) = pod.uid.clone() else { return };
        let mut vm = record(pod);
        if let Some(vm) = &mut vm {
            vm.bindings = match self.cache.get(&ObjectKey::Pod(uid.clone())) {
                Some(Object::Pod { vm: Some(before), .. }) if !again && before.vm == vm.vm => before.bindings,
                _ => self.bindings.find(pod, &vm.vm).await,
            };
        }
        self.cache.put(Object::Pod {
            uid,
            static_uid: static_uid(pod),
            vm,
            set: set(pod),
            claims: claims(pod),
        });
    }
}

/// The UID that a container runtime reports for a static pod. Its mirror pod at the API server has another one.
fn static_uid(pod: &ObjectMeta) -> Option<String> {
    pod.annotations.as_ref()?.get("kubernetes.io/config.hash").cloned()
}

/// The virtual machine that a launcher pod runs. KubeVirt makes the VirtualMachineInstance the pod's controller, and
/// gives it the name of its VirtualMachine.
fn vm(pod: &ObjectMeta) -> Option<String> {
    let owners = pod.owner_references.iter().flatten();
    let mut instances = owners.filter(|owner| {
        owner.kind == "VirtualMachineInstance"
            && owner.api_version.starts_with("kubevirt.io/")
            && owner.controller == Some(true)
    });
    instances.next().map(|owner| owner.name.clone())
}

/// Whether a StatefulSet made the pod, where its name is such a one. Its controller writes the name of each pod into this label,
/// also OpenKruise's, and it stays when the set is deleted without its pods.
fn set(pod: &ObjectMeta) -> Option<SetRecord> {
    const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
    let name = pod.name.as_ref().filter(|name| node::has_ordinal(name))?;
    let label = pod.labels.as_ref().and_then(|labels| labels.get(POD_NAME));
    Some(SetRecord { stateful_set: label == Some(name) })
}

/// What plugins need to know about a launcher pod, if the pod says it.
fn record(pod: &ObjectMeta) -> Option<VmRecord> {
    let vm = vm(pod)?;
    let label = |name: &str| pod.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let annotated = |name: &str| pod.annotations.as_ref().is_some_and(|all| all.contains_key(name));
    // The interface of the cluster's network is the pod's own: KubeVirt forwards the guest's traffic through it. If
    // Multus makes another network the pod's default, the interface is the guest's.
    let own = label("kubevirt.io") == Some("virt-launcher") && !annotated("v1.multus-cni.io/default-network");
    Some(VmRecord {
        vm,
        pod_network: if own { "eth0".parse().ok() } else { None },
        migration_target: label("kubevirt.io/migrationJobUID").is_some(),
        bindings: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(more: Value) -> ObjectMeta {
        let mut pod = json!({ "namespace": "default", "name": "virt-launcher-a-x7k2p", "uid": "u1" });
        pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        from_value(pod).unwrap()
    }

    fn owned_by(api: &str, kind: &str, controller: bool) -> ObjectMeta {
        let owner =
            json!({ "apiVersion": api, "kind": kind, "name": "vyos", "uid": "o", "controller": controller });
        pod(json!({ "ownerReferences": [owner] }))
    }

    #[test]
    fn a_launchers_machine_is_its_controller() {
        assert_eq!(vm(&owned_by("kubevirt.io/v1", "VirtualMachineInstance", true)).as_deref(), Some("vyos"));
        assert_eq!(vm(&owned_by("kubevirt.io/v1", "VirtualMachineInstance", false)), None);
        assert_eq!(vm(&owned_by("kubevirt.example/v1", "VirtualMachineInstance", true)), None);
        assert_eq!(vm(&owned_by("apps/v1", "ReplicaSet", true)), None);
        assert_eq!(vm(&pod(json!({}))), None);
    }

    /// A launcher pod with these labels and annotations, as KubeVirt creates it.
    fn launcher(labels: Value, annotations: Value) -> VmRecord {
        let mut pod = owned_by("kubevirt.io/v1", "VirtualMachineInstance", true);
        pod.labels = from_value(labels).unwrap();
        pod.annotations = from_value(annotations).unwrap();
        record(&pod).unwrap()
    }

    #[test]
    fn a_launchers_own_interface_is_that_of_the_clusters_network() {
        let networks = json!({ "k8s.v1.cni.cncf.io/networks": "[]" });
        let made = json!({ "kubevirt.io": "virt-launcher", "kubevirt.io/created-by": "x" });
        let own = launcher(made.clone(), networks);
        assert_eq!(
            (own.vm.as_str(), own.pod_network.as_ref().map(|name| name.as_str())),
            ("vyos", Some("eth0"))
        );
        let default = json!({ "v1.multus-cni.io/default-network": "default/lan" });
        assert_eq!(launcher(made, default).pod_network, None, "the guest's, by multus: {{default: true}}");
        assert_eq!(launcher(json!({}), json!({})).pod_network, None);
    }

    #[test]
    fn a_migrations_target_is_labelled() {
        let labels = |more: Value| {
            let mut labels = json!({ "kubevirt.io": "virt-launcher" });
            labels.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            launcher(labels, json!({})).migration_target
        };
        assert!(labels(json!({ "kubevirt.io/migrationJobUID": "6b1c" })));
        assert!(!labels(json!({})));
    }

    #[test]
    fn a_pod_of_a_stateful_set_is_labelled_with_its_name() {
        let of = |name: &str, label: Option<&str>| {
            let labels = json!({ "statefulset.kubernetes.io/pod-name": label });
            set(&pod(json!({ "name": name, "labels": if label.is_some() { labels } else { json!({}) } })))
        };
        let record = |stateful_set| Some(SetRecord { stateful_set });
        assert_eq!(of("web-0", Some("web-0")), record(true));
        assert_eq!([of("web-0", None), of("web-0", Some("web-1"))], [record(false), record(false)]);
        assert_eq!(of("web-x7k2p", Some("web-x7k2p")), None);
    }

    #[test]
    fn a_static_pod_is_known_by_both_its_uids() {
        let annotations = json!({ "kubernetes.io/config.hash": "h1", "kubernetes.io/config.mirror": "h1" });
        assert_eq!(static_uid(&pod(json!({ "annotations": annotations }))).as_deref(), Some("h1"));
        assert_eq!(static_uid(&pod(json!({}))), None);
    }
}
