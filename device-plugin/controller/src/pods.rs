//! The pods of this node, for the sweep, and the virtual machine of each launcher pod, for `ipam-pool`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher as watch_objects;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client};
use node::{SafeDir, VmRecord};

use super::chain;
use super::guest_bindings::GuestBindings;
use proto::health::ApiMetrics;
use proto::published::live_pods::{LivePod, LivePods};

/// Watches the pods of one node, only their metadata.
pub struct Pods {
    api: Api<PartialObjectMeta>,
    bindings: GuestBindings,
    node: String,
    list: SafeDir,
    owners: SafeDir,
    metrics: Arc<ApiMetrics>,
}

/// By the UID of the object.
type Known = BTreeMap<String, Vec<LivePod>>;

impl Pods {
    /// Watches the pods of `node`; `list` is the path of the list, `owners` the folder with the VMs of launcher pods.
    pub fn new(
        client: Client,
        node: String,
        list: SafeDir,
        owners: SafeDir,
        metrics: Arc<ApiMetrics>,
    ) -> Self {
        let kind = GroupVersionKind::gvk("", "v1", "Pod");
        let api = Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "pods"));
        Self { api, bindings: GuestBindings::new(client), node, list, owners, metrics }
    }

    /// Keeps the list up to date, without end. While the API server cannot be reached, the list says so.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn run(self) -> Result<()> {
        // The list of an earlier process may be outdated.
        let mut written = LivePods::read(&self.list).ok().flatten().unwrap_or_default();
        let unheard = LivePods { heard: false, ..written.clone() };
        self.write(&mut written, unheard)?;
        let mut known = Known::new();
        let mut backoff = DefaultBackoff::default();
        loop {
            // A watch that failed continues without an event; a new list is an event.
            let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
            let mut events = std::pin::pin!(watch_objects(self.api.clone(), config));
            let mut fresh = Known::new();
            let error = loop {
                match events.next().await {
                    Some(Ok(Event::Init)) => fresh.clear(),
                    Some(Ok(Event::InitApply(pod))) => self.add(&mut fresh, &pod.metadata).await?,
                    Some(Ok(Event::InitDone)) => {
                        known = std::mem::take(&mut fresh);
                        self.forget_other_owners(&known)?;
                        backoff = DefaultBackoff::default();
                        self.write(&mut written, list(&known))?;
                    }
                    Some(Ok(Event::Apply(pod))) => {
                        self.add(&mut known, &pod.metadata).await?;
                        self.write(&mut written, list(&known))?;
                    }
                    Some(Ok(Event::Delete(pod))) => {
                        if let Some(uid) = &pod.metadata.uid {
                            known.remove(uid);
                            if let Some(name) = VmRecord::file_name(uid) {
                                self.owners.remove(&name)?;
                            }
                        }
                        self.write(&mut written, list(&known))?;
                    }
                    Some(Err(error)) => break chain(&error),
                    None => break "the watch ended".to_owned(),
                }
            };
            self.metrics.pod_errors.increment();
            tracing::warn!(error, "the pods of this node are not heard of; nothing is swept");
            self.write(&mut written, LivePods { heard: false, pods: list(&known).pods })?;
            tokio::time::sleep(backoff.next().unwrap_or(std::time::Duration::from_secs(30))).await;
        }
    }

    /// Adds a pod. The machine that it runs is written at once, because its addresses are requested soon.
    async fn add(&self, known: &mut Known, pod: &ObjectMeta) -> Result<()> {
        let entries = entries(pod);
        if let (Some(uid), Some(mut record)) = (&pod.uid, record(pod))
            && known.get(uid) != Some(&entries)
        {
            record.bindings = self.bindings.find(pod, &record.vm).await;
            record.write(&self.owners, uid)?;
        }
        if let Some(uid) = &pod.uid {
            known.insert(uid.clone(), entries);
        }
        Ok(())
    }

    fn forget_other_owners(&self, known: &Known) -> Result<()> {
        let pods = known.values().flatten().filter(|pod| pod.vm.is_some());
        let keep: BTreeSet<String> = pods.filter_map(|pod| VmRecord::file_name(&pod.uid)).collect();
        for name in self.owners.names()? {
            if !keep.contains(&name) {
                self.owners.remove(&name)?;
            }
        }
        Ok(())
    }

    fn write(&self, written: &mut LivePods, now: LivePods) -> Result<()> {
        if *written != now {
            now.write(&self.list).context("tell which pods there are")?;
            *written = now;
        }
        Ok(())
    }
}

fn list(known: &Known) -> LivePods {
    LivePods { heard: true, pods: known.values().flatten().cloned().collect() }
}

/// A pod under every UID that a container runtime may report for it. A static pod has a UID of its own; its mirror
/// pod at the API server has another, and names the first one in an annotation.
fn entries(pod: &ObjectMeta) -> Vec<LivePod> {
    const STATIC: &str = "kubernetes.io/config.hash";
    let entry = |uid: &String| LivePod {
        uid: uid.clone(),
        namespace: pod.namespace.clone().unwrap_or_default(),
        name: pod.name.clone().unwrap_or_default(),
        vm: vm(pod),
    };
    let of_file = pod.annotations.as_ref().and_then(|annotations| annotations.get(STATIC));
    pod.uid.iter().chain(of_file).map(entry).collect()
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
    fn a_static_pod_is_known_by_both_its_uids() {
        let annotations = json!({ "kubernetes.io/config.hash": "h1", "kubernetes.io/config.mirror": "h1" });
        let pods = entries(&pod(json!({ "annotations": annotations })));
        assert_eq!(pods.iter().map(|pod| &*pod.uid).collect::<Vec<_>>(), ["u1", "h1"]);
    }
}
