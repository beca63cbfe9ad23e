//! Addresses that follow their owners over nodes: a virtual machine's, what a `LANReservation` reserves, and an `IPAMClaim`'s.

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::mistakes::definition;
use crate::pools::{make_lan, make_pool};
use crate::shared::beside;
use crate::site::{Lan, delete, ready, start};
use crate::vm::{launcher, machine};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("a_machines_address_follows_it", a_machines_address_follows_it),
        beside(
            "a_machine_keeps_both_addresses_in_one_network",
            a_machine_keeps_both_addresses_in_one_network,
        ),
        beside("what_is_reserved_is_its_owners_on_every_node", what_is_reserved_is_its_owners_on_every_node),
        beside("the_documents_plans_of_addresses_are_ready", the_documents_plans_of_addresses_are_ready),
        beside(
            "a_stateful_sets_pod_keeps_its_address_on_another_node",
            a_stateful_sets_pod_keeps_its_address_on_another_node,
        ),
        beside("a_claim_owns_the_address_of_a_machine", a_claim_owns_the_address_of_a_machine),
    ]
}

const ADDRESSES: &str = "/apis/lan.k8slan.io/v1beta1/lanaddresses";
const RESERVATIONS: &str = "/apis/lan.k8slan.io/v1beta1/namespaces/default/lanreservations";

/// The pod's address on its second network, as Multus tells it.
pub(crate) fn address(pod: &Value) -> Result<String, Stop> {
    let status = &pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"];
    let networks: Vec<Value> = serde_json::from_str(status.as_str().unwrap_or_default())?;
    let own = networks.iter().find(|network| network["interface"] != "eth0");
    let address = own.and_then(|network| network["ips"][0].as_str());
    address.map(str::to_owned).ok_or_else(|| failed(format!("no address: {networks:?}")))
}

/// On which nodes an owner's address is.
fn holders(found: &Value) -> Vec<&str> {
    let holders = found["spec"]["holders"].as_array().map_or(&[][..], Vec::as_slice);
    let mut nodes: Vec<&str> = holders.iter().filter_map(|holder| holder["node"].as_str()).collect();
    nodes.sort_unstable();
    nodes
}

fn a_machines_address_follows_it(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "moves", vni: 1157, spokes: &["moves1", "moves2"] };
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.157.0.0/24"], "cooldown": "0s" }))?;
    make_lan(cluster, &LAN)?;
    let vm =
        machine(cluster, "moves", &json!({ "domain": { "devices": { "interfaces": [] } }, "networks": [] }))?;
    let run = |name: &str, node: &str, migrates: bool| -> Result<Value, Stop> {
        let mut pod = launcher(&PodOf::on(name, "moves1").at(node), &vm)?;
        if migrates {
            pod["metadata"]["labels"]["kubevirt.io/migrationJobUID"] = json!("6b1c");
        }
        cluster.apply(&pod.to_string())?;
        ready(cluster, name)
    };
    let own = address(&run("virt-launcher-moves-aaaaa", "worker1", false)?)?;
    let path = format!("{ADDRESSES}/moves.{own}");
    let object = cluster.until(&path, |found| holders(found) == ["worker1"])?;
    let owner = &object["spec"]["owner"];
    check!(owner["kind"] == "VirtualMachine" && owner["name"] == "moves", "{owner}");
    // While it migrates, both launchers have it.
    let target = run("virt-launcher-moves-bbbbb", "worker2", true)?;
    check!(address(&target)? == own, "{} and {own}", address(&target)?);
    cluster.until(&path, |found| holders(found) == ["worker1", "worker2"])?;
    delete(cluster, "virt-launcher-moves-aaaaa")?;
    // It stops, and starts again anywhere.
    delete(cluster, "virt-launcher-moves-bbbbb")?;
    let again = run("virt-launcher-moves-ccccc", "worker3", false)?;
    check!(address(&again)? == own, "{} and {own}", address(&again)?);
    // A pod gets another one.
    let pod = start(cluster, &PodOf::on("moves-pod", "moves2").at("worker1"))?;
    check!(address(&pod)? != own, "{own} twice");
    cluster.kubectl("delete pod moves-pod virt-launcher-moves-ccccc --timeout=110s")?;
    LAN.remove(cluster)?;
    cluster.kubectl("delete virtualmachineinstance moves")?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}

/// The addresses of a pod's further interfaces, by their names.
fn addresses(pod: &Value) -> Result<Vec<(String, String)>, Stop> {
    let status = &pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"];
    let networks: Vec<Value> = serde_json::from_str(status.as_str().unwrap_or_default())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = networks.iter().filter(|network| network["interface"] != "eth0");
    Ok(own.map(|network| (text(&network["interface"]), text(&network["ips"][0]))).collect())
}

/// Two interfaces in one network: it stops and starts again on another node, where each has the address that it had.
fn a_machine_keeps_both_addresses_in_one_network(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "twice-in", vni: 1163, spokes: &["twicein1", "twicein2", "twicein3"] };
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.170.0.0/24"], "cooldown": "0s" }))?;
    make_lan(cluster, &LAN)?;
    let ipam = json!({ "type": "ipam-pool", "pool": LAN.name });
    let config = json!({ "name": LAN.name, "type": "macvtap", "ipam": ipam });
    for (name, spoke) in [("twice-in-a", "twicein1"), ("twice-in-b", "twicein2")] {
        cluster.apply(&definition(name, &config, &[spoke]))?;
    }
    let spec = json!({ "domain": { "devices": { "interfaces": [] } }, "networks": [] });
    let vm = machine(cluster, "twice-in", &spec)?;
    let run = |name: &str, node: &str| -> Result<Vec<(String, String)>, Stop> {
        let mut pod = PodOf::on(name, "twicein1").at(node);
        pod.networks = "twice-in-a@pod1a2b3c4d5e6,twice-in-b@pod2a2b3c4d5e6".to_owned();
        pod.spokes.push("twicein2".to_owned());
        cluster.apply(&launcher(&pod, &vm)?.to_string())?;
        addresses(&ready(cluster, name)?)
    };
    let own = run("virt-launcher-twice-in-aaaaa", "worker1")?;
    let [(first, one), (second, two)] = &own[..] else { return Err(failed(format!("{own:?}"))) };
    check!(first != second && one != two && one.starts_with("10.170.0."), "{own:?}");
    let owner = |address: &str| -> Result<Value, Stop> {
        let path = format!("{ADDRESSES}/{}.{address}", LAN.name);
        Ok(cluster.until(&path, |found| holders(found) == ["worker1"])?["spec"]["owner"].clone())
    };
    let (of_first, of_second) = (owner(one)?, owner(two)?);
    check!(of_first["name"] == "twice-in" && of_first["interface"].is_null(), "{of_first}");
    check!(of_second["name"] == "twice-in" && of_second["interface"] == second.as_str(), "{of_second}");
    delete(cluster, "virt-launcher-twice-in-aaaaa")?;
    // Both are its own while it is off.
    let pod = start(cluster, &PodOf::on("twice-in-pod", "twicein3").at("worker1"))?;
    check!(![one, two].contains(&&address(&pod)?), "{} twice", address(&pod)?);
    let moved = run("virt-launcher-twice-in-bbbbb", "worker2")?;
    check!(moved == own, "{own:?} and {moved:?}");
    cluster.kubectl("delete pod twice-in-pod virt-launcher-twice-in-bbbbb --timeout=110s")?;
    cluster.kubectl("delete net-attach-def twice-in-a twice-in-b")?;
    LAN.remove(cluster)?;
    cluster.kubectl("delete virtualmachineinstance twice-in")?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}

fn what_is_reserved_is_its_owners_on_every_node(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "eips", vni: 1158, spokes: &["eips1", "eips2"] };
    let spec = json!({
        "subnets": ["10.158.0.0/24"], "cooldown": "0s", "namespaceSelector": { "kubernetes.io/metadata.name": "default" },
    });
    make_pool(cluster, LAN.name, &spec)?;
    make_lan(cluster, &LAN)?;
    let reserve = |name: &str, more: Value| -> Outcome {
        let mut spec = more;
        spec["pool"] = LAN.name.into();
        let object = json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANReservation",
            "metadata": { "name": name, "namespace": "default" }, "spec": spec,
        });
        cluster.apply(&object.to_string()).map(drop)
    };
    let owner = json!({ "kind": "Pod", "name": "eips-web" });
    reserve("eips-web", json!({ "address": "10.158.0.50", "owner": owner }))?;
    reserve("eips-any", json!({}))?;
    let is_ready = |found: &Value| condition(found, "Ready") == Some("True");
    for name in ["eips-web", "eips-any"] {
        cluster.until(&format!("{RESERVATIONS}/{name}"), is_ready)?;
    }
    let any = cluster.kubectl("get lanreservation eips-any -o jsonpath={.status.address}")?;
    check!(any.starts_with("10.158.0.") && any != "10.158.0.50", "{any}");
    for (name, spec, reason) in [
        ("eips-taken", json!({ "address": "10.158.0.50" }), "Taken"),
        ("eips-outside", json!({ "address": "10.159.0.50" }), "Outside"),
        ("eips-gateway", json!({ "address": "10.158.0.1" }), "Outside"),
    ] {
        reserve(name, spec)?;
        cluster.until(&format!("{RESERVATIONS}/{name}"), |found| {
            found["status"]["conditions"][0]["reason"] == reason
        })?;
    }
    // The same address on one node and then on another, for the pod of that name alone.
    for (spoke, node) in [("eips1", "worker1"), ("eips2", "worker2")] {
        let pod = start(cluster, &PodOf::on("eips-web", spoke).at(node))?;
        check!(address(&pod)? == "10.158.0.50", "{}", address(&pod)?);
        cluster.until(&format!("{ADDRESSES}/eips.10.158.0.50"), |found| holders(found) == [node])?;
        delete(cluster, "eips-web")?;
    }
    let other = start(cluster, &PodOf::on("eips-other", "eips1").at("worker3"))?;
    check!(!["10.158.0.50", &any].contains(&&*address(&other)?), "{}", address(&other)?);
    delete(cluster, "eips-other")?;
    LAN.remove(cluster)?;
    cluster.kubectl("delete lanreservation --all")?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}

/// The pools and reservations of `nad-examples/`, each folder's by `kubectl apply`.
fn the_documents_plans_of_addresses_are_ready(cluster: &Cluster) -> Outcome {
    for namespace in ["service", "project-a", "project-b", "shalb-demo"] {
        cluster.kubectl(&format!("create namespace {namespace}"))?;
    }
    for (folder, files) in [
        ("zones", &["pools.yaml"][..]),
        ("kube-vip", &["pools.yaml"]),
        ("homelab", &["pools.yaml", "services.yaml"]),
        ("kube-dc", &["pools.yaml", "eips.yaml"]),
    ] {
        let files: String = files.iter().map(|file| format!(" -f nad-examples/{folder}/{file}")).collect();
        cluster.kubectl(&format!("apply{files}"))?;
        cluster.kubectl(&format!("wait --for=condition=Ready --timeout=60s{files}"))?;
        if folder == "kube-dc" {
            let eips = cluster.list("/apis/lan.k8slan.io/v1beta1/lanreservations").map_err(failed)?;
            let address = |namespace: &str, name: &str| {
                let is_it = |one: &&Value| {
                    one["metadata"]["namespace"] == namespace && one["metadata"]["name"] == name
                };
                eips.iter().find(is_it).map(|one| one["status"]["address"].clone()).unwrap_or_default()
            };
            check!(address("project-a", "router") == "100.65.0.102", "{eips:#?}");
            check!(address("shalb-demo", "ssh-arti") == "168.119.17.62", "{eips:#?}");
            let owner =
                "get lanaddress project-demo.10.0.10.171 -o jsonpath={.spec.owner.kind}/{.spec.owner.name}";
            check!(cluster.kubectl(owner)? == "VirtualMachine/fedora-arti", "{}", cluster.kubectl(owner)?);
        }
        cluster.kubectl(&format!("delete --timeout=60s{files}"))?;
    }
    for namespace in ["service", "project-a", "project-b", "shalb-demo"] {
        cluster.kubectl(&format!("delete namespace {namespace} --timeout=110s"))?;
    }
    Ok(())
}

/// `sticky: Auto`, which is the default.
fn a_stateful_sets_pod_keeps_its_address_on_another_node(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "sets", vni: 1159, spokes: &["sets1", "sets2"] };
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.159.0.0/24"], "cooldown": "0s" }))?;
    make_lan(cluster, &LAN)?;
    let run_on = |node: &str| -> Result<Value, Stop> {
        let mut template = PodOf::on("sets", "sets1").at(node).template();
        template["metadata"]["labels"] = json!({ "app": "sets" });
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "sets", "namespace": "default" },
            "spec": {
                "serviceName": "sets", "replicas": 1, "selector": { "matchLabels": { "app": "sets" } },
                "template": template,
            },
        });
        cluster.apply(&set.to_string())?;
        cluster.kubectl("rollout status statefulset sets --timeout=110s")?;
        let pod = ready(cluster, "sets-0")?;
        check!(pod["spec"]["nodeName"] == node, "it is on {}", pod["spec"]["nodeName"]);
        Ok(pod)
    };
    let own = address(&run_on("worker1")?)?;
    let path = format!("{ADDRESSES}/sets.{own}");
    let object = cluster.until(&path, |found| holders(found) == ["worker1"])?;
    let owner = &object["spec"]["owner"];
    check!(owner["kind"] == "Pod" && owner["name"] == "sets-0", "{owner}");
    let moved = run_on("worker2")?;
    check!(address(&moved)? == own, "{} and {own}", address(&moved)?);
    cluster.until(&path, |found| holders(found) == ["worker2"])?;
    // Scaled down it keeps the address, and another pod gets another one.
    cluster.kubectl("scale statefulset sets --replicas=0")?;
    cluster.until_gone("/api/v1/namespaces/default/pods/sets-0")?;
    let other = start(cluster, &PodOf::on("sets-other", "sets2").at("worker2"))?;
    check!(address(&other)? != own, "{own} twice");
    cluster.kubectl("scale statefulset sets --replicas=1")?;
    let again = ready(cluster, "sets-0")?;
    check!(address(&again)? == own, "{} and {own}", address(&again)?);
    delete(cluster, "sets-other")?;
    cluster.kubectl("delete statefulset sets --cascade=foreground --timeout=90s")?;
    LAN.remove(cluster)?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}

const CLAIMS: &str = "/apis/k8s.cni.cncf.io/v1alpha1/namespaces/default/ipamclaims";

/// The definition of `IPAMClaim`, as far as the API server judges by it.
fn define_claims(cluster: &Cluster) -> Outcome {
    let text = || json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": text() });
    let conditions = json!({
        "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    });
    let schema = json!({ "type": "object", "properties": {
        "spec": {
            "type": "object", "required": ["interface", "network"],
            "properties": { "interface": text(), "network": text() },
        },
        "status": {
            "type": "object", "required": ["ips"],
            "properties": {
                "ips": texts, "conditions": conditions,
                "ownerPod": { "type": "object", "properties": { "name": text() } },
            },
        },
    }});
    let version = json!({
        "name": "v1alpha1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
        "subresources": { "status": {} },
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "ipamclaims.k8s.cni.cncf.io" },
        "spec": {
            "group": "k8s.cni.cncf.io", "scope": "Namespaced", "versions": [version],
            "names": { "kind": "IPAMClaim", "listKind": "IPAMClaimList", "singular": "ipamclaim", "plural": "ipamclaims" },
        },
    });
    cluster.apply(&definition.to_string())?;
    Ok(cluster.eventually(|| cluster.list(CLAIMS)).map(drop)?)
}

/// As kubevirt/ipam-extensions does it: a claim of the machine, of its network, and launchers that name it.
fn a_claim_owns_the_address_of_a_machine(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "claims", vni: 1169, spokes: &["claims1", "claims2"] };
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.173.0.0/24"], "cooldown": "0s" }))?;
    let mut manifest = LAN.manifest();
    manifest["spec"]["networkAttachments"] = json!({
        "namespaces": ["default"], "ipam": { "type": "ipam-pool", "pool": LAN.name }, "allowPersistentIPs": true,
    });
    LAN.apply_as(cluster, &manifest)?;
    let spec = json!({ "domain": { "devices": { "interfaces": [] } }, "networks": [] });
    let vm = machine(cluster, "claims", &spec)?;
    define_claims(cluster)?;
    let apply = |name: &str, node: &str, migrates: bool| -> Outcome {
        let mut pod = PodOf::on(name, "claims1").at(node);
        pod.networks = json!([{ "name": "claims1", "ipam-claim-reference": "claims.lan" }]).to_string();
        let mut pod = launcher(&pod, &vm)?;
        if migrates {
            pod["metadata"]["labels"]["kubevirt.io/migrationJobUID"] = json!("6b1c");
        }
        cluster.apply(&pod.to_string()).map(drop)
    };
    // The claim comes after its pod: that waits, and the pool says for what.
    apply("virt-launcher-claims-aaaaa", "worker1", false)?;
    cluster.until("/apis/lan.k8slan.io/v1beta1/lanpools/claims", |pool| {
        pool["status"]
            .to_string()
            .contains("the IPAMClaim default/claims.lan that the pod names does not exist")
    })?;
    let claim = json!({
        "apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim",
        "metadata": {
            "name": "claims.lan", "namespace": "default", "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "claims",
                "uid": vm["metadata"]["uid"], "controller": true,
            }],
        },
        "spec": { "network": "claims1", "interface": "" },
    });
    cluster.apply(&claim.to_string())?;
    let own = address(&ready(cluster, "virt-launcher-claims-aaaaa")?)?;
    let path = format!("{ADDRESSES}/claims.{own}");
    let object = cluster.until(&path, |found| holders(found) == ["worker1"])?;
    let owner = &object["spec"]["owner"];
    check!(owner["kind"] == "IPAMClaim" && owner["name"] == "claims.lan", "{owner}");
    let told = json!([format!("{own}/24")]);
    let claim = cluster.until(&format!("{CLAIMS}/claims.lan"), |claim| claim["status"]["ips"] == told)?;
    // Both launchers have it while it migrates, and it starts anywhere.
    apply("virt-launcher-claims-bbbbb", "worker2", true)?;
    let target = ready(cluster, "virt-launcher-claims-bbbbb")?;
    check!(address(&target)? == own, "{} and {own}", address(&target)?);
    cluster.until(&path, |found| holders(found) == ["worker1", "worker2"])?;
    cluster.kubectl("delete pod virt-launcher-claims-aaaaa virt-launcher-claims-bbbbb --timeout=110s")?;
    apply("virt-launcher-claims-ccccc", "worker3", false)?;
    let again = ready(cluster, "virt-launcher-claims-ccccc")?;
    check!(address(&again)? == own, "{} and {own}", address(&again)?);
    let now = cluster.until(&format!("{CLAIMS}/claims.lan"), |_| true)?;
    let version = &now["metadata"]["resourceVersion"];
    check!(*version == claim["metadata"]["resourceVersion"], "the claim was written again: {now:#}");
    delete(cluster, "virt-launcher-claims-ccccc")?;
    LAN.remove(cluster)?;
    cluster.kubectl("delete virtualmachineinstance claims")?;
    cluster.kubectl("delete crd ipamclaims.k8s.cni.cncf.io --timeout=60s")?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}
