//! The roles of `install/`: sufficient for the daemon, and minimal.

use std::collections::BTreeSet;
use std::time::Duration;

use k8slan_tests::access::{Access, Grant, Rules};
use k8slan_tests::apiserver::ApiServer;
use k8slan_tests::kubelet::Kubelet;
use serde_json::{Value, json};
use testnet::{Error, Outcome, Stop, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site, kubernetes_node};

/// By then the sweep has seen that the pod is there; that it has is not told anywhere.
const SEEN_BY: Duration = Duration::from_secs(1);

/// The leader renews its lease every fifteen seconds.
const RENEWED: Duration = Duration::from_secs(25);
const DEFINITIONS: &str = "network-attachment-definitions";
const CNI: &str = "k8s.cni.cncf.io/v1";

pub(crate) fn trials() -> Vec<Trial> {
    tests![the_daemon_does_with_its_role_all_that_it_does_and_needs_all_of_it, what_no_rule_allows_is_refused]
}

fn rules() -> Result<Rules, Stop> {
    let manifests = std::fs::read_to_string(testnet::workspace().join("install/base/rbac.yaml"))?;
    Rules::of(&manifests, ("k8slan-system", "k8slan")).map_err(Stop::Failed)
}

fn is_there(
    server: &ApiServer,
    plural: &str,
    group_version: &str,
    key: &str,
    there: bool,
) -> Result<(), Error> {
    eventually(SOON, || match server.get(plural, group_version, key) {
        found if found.is_some() == there => Ok(()),
        found => Err(format!("{plural} {key}: {found:?}")),
    })
}

fn object(spokes: &[&str]) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "LAN", "metadata": { "namespace": "a", "name": "one" },
        "spec": {
            "ns": "n7", "bridge": "br", "vxlan": "vx", "vni": 7, "defaultVxlanDev": "eth1", "spokes": spokes,
            "networkAttachments": {},
        },
    })
}

/// Everything that a daemon ever does: it leads, builds, reports, keeps definitions, tells of trouble, lets a LAN
/// go, and hands the lease on.
fn the_daemon_does_with_its_role_all_that_it_does_and_needs_all_of_it() -> Outcome {
    let site = Site::new()?;
    let server = &site.server;
    let rules = rules()?;
    server.enforce(rules.clone());
    server.put("nodes", kubernetes_node("worker2", "worker2"));
    let pool = json!({ "subnets": ["10.8.0.0/24"], "namespaceSelector": { "team": "a" } });
    server.put(
        "lanpools",
        json!({ "apiVersion": GROUP, "kind": "LANPool", "metadata": { "name": "office" }, "spec": pool }),
    );
    let labelled = json!({ "name": "a", "labels": { "team": "a" } });
    server.put("namespaces", json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": labelled }));
    // Nothing is attached: the finalizer that it has goes.
    let mut held = object(&["p", "q"]);
    held["metadata"]["finalizers"] = json!(["lan.k8slan.io/in-use"]);
    server.put("lans", held);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    kubelet.wait_allocatable(2, SOON).map_err(|what| Stop::Failed(format!("{what}\n{}", daemon.log())))?;
    site.condition("a/one", "Ready", "True", "")?;
    site.condition("a/one", "NetworkAttachments", "True", "")?;
    is_there(server, DEFINITIONS, CNI, "a/p", true)?;
    // A definition is edited, a spoke goes.
    let mut edited = server.get(DEFINITIONS, CNI, "a/p").unwrap_or_default();
    edited["spec"]["config"] = json!("{}");
    server.put(DEFINITIONS, edited);
    eventually(SOON, || {
        let definition = server.get(DEFINITIONS, CNI, "a/p").unwrap_or_default();
        if definition["spec"]["config"] == "{}" { Err("it is as it was edited".into()) } else { Ok(()) }
    })?;
    server.put("lans", object(&["p"]));
    is_there(server, DEFINITIONS, CNI, "a/q", false)?;
    // A node that is no more left its report.
    server.put(
        "lannodes",
        json!({
            "apiVersion": GROUP, "kind": "LANNode", "metadata": { "namespace": "a", "name": "one.worker9" },
            "spec": {
                "lan": "one", "node": "worker9", "attachments": [],
                "accepted": { "holds": true, "reason": "", "message": "" },
                "ready": { "holds": true, "reason": "", "message": "" },
            },
        }),
    );
    is_there(server, "lannodes", GROUP, "a/one.worker9", false)?;
    // Something for a person to act on, and a LAN that goes.
    site.node.ip("link set eth1 name away")?;
    site.condition("a/one", "Ready", "False", "eth1")?;
    eventually(SOON, || match server.keys("events", "events.k8s.io/v1").len() {
        0 => Err("no event".into()),
        _ => Ok(()),
    })?;
    // An address is kept for a machine that nobody knows any more.
    let pod = site.node.pod("vm")?;
    let sticky = json!({
        "cniVersion": "1.0.0", "name": "vms", "type": "ipam-pool", "args": { "cni": { "vm": "vm" } },
        "ipam": { "type": "ipam-pool", "subnet": "10.9.0.0/24", "scope": "host", "sticky": "vm" },
    });
    server.put(
        "pods",
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "a", "name": "vm" },
            "spec": { "nodeName": "worker1" },
        }),
    );
    let mut call = pod.call("net1", &sticky);
    call.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=vm".to_owned();
    site.node.cni("ipam-pool", "ADD", &call).map_err(|error| Stop::Failed(error.to_string()))?;
    site.node.cni("ipam-pool", "DEL", &call).map_err(|error| Stop::Failed(error.to_string()))?;
    // The node's part looks when a pod is gone.
    std::thread::sleep(SEEN_BY);
    server.delete("pods", "v1", "a/vm");
    let asked = |access: &Access| access.resource == "virtualmachineinstances";
    eventually(SOON, || match server.accesses().iter().any(asked) {
        true => Ok(()),
        false => Err("nobody asks about the machine".into()),
    })?;
    has_something_to_say_of_a_pool(&site)?;
    has_addresses_with_owners(&site)?;
    has_an_address_by_a_claim(&site)?;
    server.delete("lans", GROUP, "a/one");
    is_there(server, "lans", GROUP, "a/one", false)?;
    let renewed = |access: &Access| access.verb == "update" && access.resource == "leases";
    eventually(RENEWED, || match server.accesses().iter().any(renewed) {
        true => Ok(()),
        false => Err("the lease is not renewed".into()),
    })?;
    check!(daemon.terminate()?.success(), "it ends well");
    let refused = server.refused();
    check!(refused.is_empty(), "the role is not sufficient: {refused:#?}");
    let mut unused = rules.unused(&server.accesses());
    unused.retain(|grant| !is_of_blocks(grant));
    check!(unused.is_empty(), "the role is not minimal: {unused:#?}");
    Ok(())
}

/// A pod has an address that its pool hands out no more, and then again.
fn has_something_to_say_of_a_pool(site: &Site) -> Outcome {
    let network = json!({
        "cniVersion": "1.0.0", "name": "pooled", "type": "macvlan",
        "ipam": { "type": "ipam-pool", "pool": "office" },
    });
    let pod = site.node.pod("pooled")?;
    let mut call = pod.call("net1", &network);
    call.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=pooled".to_owned();
    let added = eventually(6 * SOON, || site.node.cni("ipam-pool", "ADD", &call).map_err(|e| e.to_string()))?;
    let address =
        added["ips"][0]["address"].as_str().and_then(|text| text.split_once('/')).unwrap_or_default().0;
    let pool = site.server.get("lanpools", GROUP, "/office").unwrap_or_default();
    let mut excluded = pool.clone();
    excluded["spec"]["exclude"] = json!([address]);
    site.server.put("lanpools", excluded);
    is_there(&site.server, "lanpoolnodes", GROUP, "/office.worker1", true)?;
    site.server.put("lanpools", pool);
    is_there(&site.server, "lanpoolnodes", GROUP, "/office.worker1", false)?;
    Ok(())
}

/// An address is reserved, and another one follows a machine that nobody knows any more.
fn has_addresses_with_owners(site: &Site) -> Outcome {
    let metadata = json!({ "namespace": "a", "name": "web" });
    let spec = json!({ "pool": "office" });
    let object = json!({ "apiVersion": GROUP, "kind": "LANReservation", "metadata": metadata, "spec": spec });
    site.server.put("lanreservations", object);
    let owner = json!({ "kind": "VirtualMachine", "namespace": "a", "name": "gone" });
    let spec = json!({ "pool": "gone", "address": "10.77.0.9", "owner": owner, "holders": [] });
    let metadata = json!({ "name": "gone.10.77.0.9" });
    let object = json!({ "apiVersion": GROUP, "kind": "LANAddress", "metadata": metadata, "spec": spec });
    site.server.put("lanaddresses", object.clone());
    let mut of_claim = object;
    of_claim["metadata"]["name"] = json!("gone.10.77.0.10");
    of_claim["spec"]["address"] = json!("10.77.0.10");
    of_claim["spec"]["owner"]["kind"] = json!("IPAMClaim");
    site.server.put("lanaddresses", of_claim);
    let did = |verb: &str, resource: &str| {
        site.server.accesses().iter().any(|access| access.verb == verb && access.resource == resource)
    };
    eventually(4 * SOON, || {
        let missing = [
            ("patch", "lanreservations/status"),
            ("list", "virtualmachines"),
            ("list", "ipamclaims"),
            ("list", "services"),
        ];
        match missing.iter().find(|(verb, resource)| !did(verb, resource)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing:?}")),
        }
    })?;
    Ok(())
}

/// A pod names a claim; the one of another address is gone (the address is in `has_addresses_with_owners`).
fn has_an_address_by_a_claim(site: &Site) -> Outcome {
    let metadata = json!({ "namespace": "a", "name": "web.lan" });
    let spec = json!({ "network": "lan", "interface": "" });
    let claim = json!({
        "apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim", "metadata": metadata, "spec": spec,
    });
    site.server.put("ipamclaims", claim);
    let networks = json!([{ "name": "lan", "ipam-claim-reference": "web.lan" }]).to_string();
    let metadata = json!({
        "namespace": "a", "name": "claiming", "annotations": { "k8s.v1.cni.cncf.io/networks": networks },
    });
    let spec = json!({ "nodeName": "worker1" });
    site.server.put("pods", json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }));
    let made = site.server.get("pods", "v1", "a/claiming").unwrap_or_default();
    let uid = made["metadata"]["uid"].as_str().unwrap_or_default();
    let network = json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "allowPersistentIPs": true,
        "ipam": { "type": "ipam-pool", "pool": "office" },
    });
    let pod = site.node.pod("claiming")?;
    let mut call = pod.call("net1", &network);
    call.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=claiming;K8S_POD_UID={uid}");
    eventually(6 * SOON, || site.node.cni("ipam-pool", "ADD", &call).map_err(|e| e.to_string()))?;
    let claim = site.server.get("ipamclaims", "k8s.cni.cncf.io/v1alpha1", "a/web.lan").unwrap_or_default();
    check!(claim["status"]["ips"][0].is_string(), "{claim}");
    Ok(())
}

/// What the protocol of blocks asks for: it is carried out against the real server (`real_server/pool_requests.rs`).
fn is_of_blocks((_, verb, _, resource, _): &Grant) -> bool {
    match resource.as_str() {
        "lanblocks" | "lanaddresses" => matches!(verb.as_str(), "get" | "create" | "patch" | "delete"),
        "nodes" => verb == "get",
        _ => false,
    }
}

/// The double's own conscience: without it, the test above would prove nothing.
fn what_no_rule_allows_is_refused() -> Outcome {
    let rules = rules()?;
    let access =
        |verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>| Access {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        };
    let lease = |verb: &str, namespace: &str, name: &str| {
        access(verb, "coordination.k8s.io", "leases", Some(namespace), Some(name))
    };
    for (access, allowed) in [
        (lease("update", "k8slan-system", "k8slan-leader"), true),
        (lease("update", "k8slan-system", "another"), false),
        (lease("update", "kube-system", "k8slan-leader"), false),
        (lease("delete", "k8slan-system", "k8slan-leader"), false),
        (access("list", "", "nodes", None, None), true),
        (access("list", "", "secrets", None, None), false),
        (access("patch", "", "nodes/status", None, Some("worker1")), false),
        (access("delete", "lan.k8slan.io", "lans", Some("a"), Some("one")), false),
        (access("create", "", "events", Some("a"), None), false),
    ] {
        check!(rules.allow(&access) == allowed, "{access:?}");
    }
    let all = BTreeSet::new();
    check!(rules.unused(&all) == rules.grants(), "nothing is used");
    let wildcard = "kind: ClusterRole\nmetadata: {name: x}\nrules:\n- {apiGroups: ['*'], resources: [a], verbs: [get]}\n---\n\
                    kind: ClusterRoleBinding\nmetadata: {name: x}\nroleRef: {name: x}\n\
                    subjects: [{kind: ServiceAccount, namespace: k8slan-system, name: k8slan}]\n";
    check!(Rules::of(wildcard, ("k8slan-system", "k8slan")).is_err(), "a wildcard is taken");
    Ok(())
}
