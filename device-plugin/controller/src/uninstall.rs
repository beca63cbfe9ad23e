//! Removes what the daemons left at the API server.
//!
//! It has to run after the daemons are gone, because they would write it again: by an administrator, or in the Job of
//! `install/uninstall`.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectList};
use kube::{Api, Client, Resource};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::aggregate_status::FINALIZER;
use super::election::LEASE;
use super::lan_object::{self, StoredLan};
use super::net_attach_defs::{self, NetAttachDef};
use proto::kubelet::{RESOURCE_DOMAIN, RESOURCE_PREFIX};

#[derive(Clone, Debug)]
pub struct ClusterUninstallOptions {
    /// `None`: the whole cluster.
    pub node: Option<String>,
    pub lease_namespace: String,
    /// Whether to continue although a daemon leads.
    pub force: bool,
    /// How long to wait for kubelets that still report resources.
    pub wait: Duration,
}

/// How often the nodes are read while waiting.
const NODE_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How often the LANs are read while waiting for the leader, and how long at most.
const LEADER_POLL_INTERVAL: Duration = Duration::from_millis(300);
const LEADER_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A daemon is still running.
    #[error(
        "the daemon on node {holder} still leads, and would put everything back: delete the DaemonSet first (a daemon that was \
         killed counts as running until {until}), or give --force"
    )]
    Running {
        /// The leader's node.
        holder: String,
        /// When its Lease expires if it is dead.
        until: Timestamp,
    },
    /// The API server refused a request.
    #[error("cannot {doing}")]
    Api {
        /// The operation as a verb and its object.
        doing: String,
        source: Box<kube::Error>,
    },
}

/// Removes what the daemons left, and returns a line for each removed thing. If something is already gone, that is
/// not an error, so this can be repeated.
///
/// # Errors
/// A daemon still leads, or the API server refuses a request; what was removed before stays removed.
pub async fn uninstall(
    client: &Client,
    options: &ClusterUninstallOptions,
) -> Result<Vec<String>, UninstallError> {
    let mut done = Vec::new();
    if options.node.is_none() {
        refuse_while_led(client, options).await?;
        delete_definitions(client, &mut done).await?;
        release_lans(client, &mut done).await?;
    }
    delete_reports(client, options.node.as_deref(), &mut done).await?;
    if options.node.is_none() {
        let gone = leases(client, &options.lease_namespace).delete(LEASE, &DeleteParams::default()).await;
        if ignore_not_found(gone).map_err(|e| failed("delete the leader's lease", e))? {
            done.push(format!("lease {}/{LEASE} deleted", options.lease_namespace));
        }
    }
    let nodes = wait_for_nodes(client, options).await?;
    forget_resources(client, nodes, &mut done).await?;
    Ok(done)
}

async fn refuse_while_led(client: &Client, options: &ClusterUninstallOptions) -> Result<(), UninstallError> {
    let lease = leases(client, &options.lease_namespace).get_opt(LEASE).await;
    let Some(lease) = lease.map_err(|e| failed("read the leader's lease", e))? else { return Ok(()) };
    let spec = lease.spec.unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let lasts = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into());
    match spec.renew_time.map(|renewed| renewed.0 + lasts) {
        Some(until) if !holder.is_empty() && until > Timestamp::now() && !options.force => {
            Err(UninstallError::Running { holder, until })
        }
        _ => Ok(()),
    }
}

async fn delete_definitions(client: &Client, done: &mut Vec<String>) -> Result<(), UninstallError> {
    let resource = net_attach_defs::resource();
    let all: Api<NetAttachDef> = Api::all_with(client.clone(), &resource);
    let labels = format!("{}={}", net_attach_defs::LABEL, net_attach_defs::OURS);
    let list = all.list(&ListParams::default().labels(&labels)).await;
    for found in known(list).map_err(|e| failed("list NetworkAttachmentDefinitions", e))? {
        if !net_attach_defs::is_ours(&found) {
            continue;
        }
        let (namespace, name) = object_key(&found);
        let api: Api<NetAttachDef> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let what = format!("NetworkAttachmentDefinition {namespace}/{name}");
        let gone = api.delete(&name, &DeleteParams::default()).await;
        if ignore_not_found(gone).map_err(|e| failed(&format!("delete {what}"), e))? {
            done.push(format!("{what} deleted"));
        }
    }
    Ok(())
}

/// Removes the finalizers, so that LANs that are deleted later, perhaps with their CRD, do not wait.
async fn release_lans(client: &Client, done: &mut Vec<String>) -> Result<(), UninstallError> {
    let all: Api<StoredLan> = Api::all_with(client.clone(), &lan_object::lans());
    let list = all.list(&ListParams::default()).await;
    for lan in known(list).map_err(|e| failed("list LANs", e))? {
        let finalizers = lan.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            continue;
        }
        let (namespace, name) = object_key(&lan);
        let rest: Vec<_> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
        // The patch holds only if nobody changed the object: another controller's finalizer must not be lost.
        let version = &lan.metadata.resource_version;
        let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": version } });
        let api: Api<StoredLan> = Api::namespaced_with(client.clone(), &namespace, &lan_object::lans());
        let answer = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        let what = format!("finalizer of LAN {namespace}/{name}");
        if ignore_not_found(answer).map_err(|e| failed(&format!("remove the {what}"), e))? {
            done.push(format!("{what} removed"));
        }
    }
    Ok(())
}

/// Deletes reports, also those that no type fits: they are read as they are.
async fn delete_reports(
    client: &Client,
    node: Option<&str>,
    done: &mut Vec<String>,
) -> Result<(), UninstallError> {
    let kind = GroupVersionKind::gvk("lan.k8slan.io", "v1beta1", "LANNode");
    let resource = ApiResource::from_gvk_with_plural(&kind, "lannodes");
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let list = all.list(&ListParams::default()).await;
    let mut reports = known(list).map_err(|e| failed("list LANNodes", e))?;
    if let Some(node) = node {
        reports.retain(|report| report.data["spec"]["node"] == *node);
        detach(client, &resource, node, &reports, done).await?;
    }
    for report in reports {
        let (namespace, name) = object_key(&report);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let gone = api.delete(&name, &DeleteParams::default()).await;
        if ignore_not_found(gone).map_err(|e| failed(&format!("delete LANNode {namespace}/{name}"), e))? {
            done.push(format!("LANNode {namespace}/{name} deleted"));
        }
    }
    Ok(())
}

/// Reports that nothing is attached on a node whose daemon is gone, and waits until a leader has read it: a report that is
/// only deleted keeps its LAN in use.
async fn detach(
    client: &Client,
    resource: &ApiResource,
    node: &str,
    reports: &[DynamicObject],
    done: &mut Vec<String>,
) -> Result<(), UninstallError> {
    let end = Instant::now() + LEADER_TIMEOUT;
    for report in reports {
        let (namespace, name) = object_key(report);
        if report.data["spec"]["attachments"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, resource);
        let patch = json!({ "spec": { "attachments": [] } });
        let answer = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        ignore_not_found(answer).map_err(|e| failed(&format!("change LANNode {namespace}/{name}"), e))?;
    }
    for report in reports {
        let (namespace, _) = object_key(report);
        let Some(name) = report.data["spec"]["lan"].as_str() else { continue };
        let api: Api<StoredLan> = Api::namespaced_with(client.clone(), &namespace, &lan_object::lans());
        loop {
            let lan = api.get_opt(name).await;
            let lan = lan.map_err(|e| failed(&format!("read LAN {namespace}/{name}"), e))?;
            if !lan.iter().flat_map(lan_object::attached_on).any(|on| on == node) {
                break;
            }
            if Instant::now() >= end {
                done.push(format!(
                    "LAN {namespace}/{name} counts what was attached on {node}, since no daemon leads: if it is deleted, \
                     deletionPolicy: Force lets it go"
                ));
                break;
            }
            sleep(LEADER_POLL_INTERVAL).await;
        }
    }
    Ok(())
}

/// Waits until no kubelet reports resources any more, or the time is over. Returns the nodes.
async fn wait_for_nodes(
    client: &Client,
    options: &ClusterUninstallOptions,
) -> Result<Vec<Node>, UninstallError> {
    let api: Api<Node> = Api::all(client.clone());
    let fields = options.node.as_ref().map(|node| format!("metadata.name={node}"));
    let list = fields.iter().fold(ListParams::default(), |list, fields| list.fields(fields));
    let end = Instant::now() + options.wait;
    let mut told = false;
    loop {
        let nodes = api.list(&list).await.map_err(|e| failed("list nodes", e))?.items;
        let holding: Vec<&str> = nodes
            .iter()
            .filter(|node| is_held(node))
            .filter_map(|node| node.metadata.name.as_deref())
            .collect();
        if holding.is_empty() || Instant::now() >= end {
            return Ok(nodes);
        }
        if !told {
            tracing::info!(
                nodes = holding.join(" "),
                "waiting for kubelets, which let a resource go five minutes after its plugin went away"
            );
            told = true;
        }
        sleep(NODE_POLL_INTERVAL).await;
    }
}

/// Whether a live kubelet would report resources of k8slan again. It writes the number of devices for five minutes
/// after the plugin is gone, and then, once, 0.
fn is_held(node: &Node) -> bool {
    let Some(status) = &node.status else { return false };
    let ready = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
    status.conditions.iter().flatten().any(ready)
        && status.capacity.iter().flatten().any(|(name, count)| is_ours(name) && count.0 != "0")
}

fn is_ours(resource: &str) -> bool {
    resource.starts_with(RESOURCE_PREFIX)
}

/// Removes the resources from the nodes' status. A kubelet keeps resources whose plugin is gone, as zero, for ever.
async fn forget_resources(
    client: &Client,
    nodes: Vec<Node>,
    done: &mut Vec<String>,
) -> Result<(), UninstallError> {
    let api: Api<Node> = Api::all(client.clone());
    for node in nodes {
        let held = is_held(&node);
        let name = node.metadata.name.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let ours = |resources: Option<std::collections::BTreeMap<String, _>>| -> Map<String, Value> {
            let names = resources.into_iter().flatten().map(|(name, _)| name);
            names.filter(|name| is_ours(name)).map(|name| (name, Value::Null)).collect()
        };
        let (capacity, allocatable) = (ours(status.capacity), ours(status.allocatable));
        let count = capacity.len().max(allocatable.len());
        if count == 0 {
            continue;
        }
        let patch = json!({ "status": { "capacity": capacity, "allocatable": allocatable } });
        let answer = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        ignore_not_found(answer)
            .map_err(|e| failed(&format!("take resources out of the status of node {name}"), e))?;
        let resources = if count == 1 { "resource" } else { "resources" };
        let again =
            if held { "; its kubelet still holds some and puts them back: repeat this later" } else { "" };
        done.push(format!(
            "node {name}: {count} {resources} of {RESOURCE_DOMAIN} taken out of its status{again}"
        ));
    }
    Ok(())
}

fn leases(client: &Client, namespace: &str) -> Api<Lease> {
    Api::namespaced(client.clone(), namespace)
}

fn object_key(object: &impl Resource) -> (String, String) {
    let metadata = object.meta();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The objects of a kind; empty if the cluster does not have the kind (any more).
fn known<K: Clone>(list: Result<ObjectList<K>, kube::Error>) -> Result<Vec<K>, kube::Error> {
    match list {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        list => list.map(|list| list.items),
    }
}

/// Whether the object existed.
fn ignore_not_found<T>(answer: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        answer => answer.map(|_| true),
    }
}

fn failed(doing: &str, source: kube::Error) -> UninstallError {
    UninstallError::Api { doing: doing.to_owned(), source: Box::new(source) }
}
