//! The way from k8slan (Go), by the words of docs/migration.md.

use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, workspace};

use crate::check;
use crate::shared::apart;
use crate::site::{definitions, delete, give, pings, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![apart("from_k8slan_go_by_the_page", from_k8slan_go_by_the_page)]
}

const LAN: &str = "/apis/lan.k8slan.io/v1beta1/namespaces/default/lans/lan-example";

/// The blocks of commands below the page's heading.
fn blocks() -> Result<Vec<Vec<String>>, Stop> {
    let page = std::fs::read_to_string(workspace().join("docs/migration.md"))?;
    let after = page.split_once("\n## k8slan (Go)\n").ok_or_else(|| failed("no heading"))?.1;
    let own = after.split("\n## ").next().unwrap_or_default();
    let blocks = own.split("```\n").skip(1).step_by(2);
    Ok(blocks.map(|block| block.lines().map(str::to_owned).collect()).collect())
}

/// The LAN of upstream's README, as its webhook fills it in and its daemons hold it.
fn lan(cluster: &Cluster) -> Result<Value, Stop> {
    let lan = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
        "metadata": {
            "name": "lan-example", "namespace": "default",
            "finalizers": ["finalizer.k8slan.io/worker1", "finalizer.k8slan.io/worker2"],
        },
        "spec": {
            "ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "defaultVxlanDev": "eth0.10",
            "vxlanDevMap": {"worker1": "eth1", "worker2": "eth2"}, "spokes": ["srl", "vm"],
            "vxlanGrp": "FF02:0:0:0:0:0:0:14", "vxlanPort": 4789,
        },
    });
    cluster.apply(&lan.to_string())?;
    cluster.until(LAN, |_| true)
}

/// A definition as upstream's controller makes it.
fn definition(lan: &Value, name: &str, more: &str) -> String {
    let kind = if name.contains("-veth-") { "k8slanveth" } else { "macvtap" };
    let config = format!(
        "{{\n      \"cniVersion\": \"0.3.1\",\n      \"name\": \"{name}\",\n      \"type\": \"{kind}\"{more}\n    }}"
    );
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": name, "namespace": "default",
            "annotations": {"k8s.v1.cni.cncf.io/resourceName": format!("macvtap.k8slan.io/{name}")},
            "ownerReferences": [{
                "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "name": "lan-example", "uid": lan["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"config": config},
    })
    .to_string()
}

fn webhook(kind: &str, name: &str, path: &str, operations: &[&str]) -> String {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [{
            "name": "lan-v1beta1.kb.io", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail", "sideEffects": "None",
            "timeoutSeconds": 2,
            "clientConfig": {"service": {"name": "k8slan-webhook-service", "namespace": "k8slan-system", "path": path}},
            "rules": [{
                "apiGroups": ["lan.k8slan.io"], "apiVersions": ["v1beta1"], "operations": operations, "resources": ["lans"],
            }],
        }],
    })
    .to_string()
}

/// Objects and what stands on the nodes.
fn upstream(cluster: &Cluster) -> Outcome {
    cluster.kubectl("apply -f tests/kubernetes/k8slan-go.yaml")?;
    cluster.eventually(|| cluster.list("/apis/lan.k8slan.io/v1beta1/lans").map(drop))?;
    let lan = lan(cluster)?;
    for spoke in ["srl", "vm"] {
        cluster.apply(&definition(&lan, &format!("k8slan-mac-{spoke}"), ""))?;
        let veth = format!(",\n\t  \"veth\": \"{spoke}\"");
        cluster.apply(&definition(&lan, &format!("k8slan-veth-{spoke}"), &veth))?;
    }
    cluster.apply(&webhook(
        "MutatingWebhookConfiguration",
        "k8slan-mutating-webhook-configuration",
        "/mutate-lan-k8slan-io-v1beta1-lan",
        &["CREATE", "UPDATE"],
    ))?;
    cluster.apply(&webhook(
        "ValidatingWebhookConfiguration",
        "k8slan-validating-webhook-configuration",
        "/validate-lan-k8slan-io-v1beta1-lan",
        &["CREATE", "UPDATE", "DELETE"],
    ))?;
    for (worker, link) in [("worker1", "eth1"), ("worker2", "eth2")] {
        let worker = cluster.worker(worker)?;
        let script = format!(
            "mkdir -p /run/k8slan/netns && touch /run/k8slan/netns/knlvrf && unshare --net=/run/k8slan/netns/knlvrf true && \
             ip link add vx2 type vxlan id 222 dev {link} group ff02::14 dstport 4789 && \
             ip link set vx2 netns /run/k8slan/netns/knlvrf && ip link add k8slan-dummy type bridge && \
             echo upstream >/opt/cni/bin/k8slanveth"
        );
        worker.exec(&["sh", "-ec", &script])?;
    }
    Ok(())
}

fn from_k8slan_go_by_the_page(cluster: &Cluster) -> Outcome {
    let blocks = blocks()?;
    let [away, nodes, install, tidy] = blocks.as_slice() else { return Err(failed(format!("{blocks:#?}"))) };
    upstream(cluster)?;
    // Why the webhooks go first.
    let refused = cluster.kubectl_says(
        &["patch", "lan", "lan-example", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#],
        "",
    )?;
    check!(refused.0 != Some(0) && refused.1.contains("webhook"), "{refused:?}");
    for line in away {
        cluster.shell(line)?;
    }
    let lan = cluster.until(LAN, |lan| lan["metadata"]["finalizers"].is_null())?;
    check!(lan["metadata"]["deletionTimestamp"].is_null(), "{lan:#}");
    for worker in &cluster.workers {
        for line in nodes {
            worker.exec(&["sh", "-c", line])?;
        }
        check!(worker.list("/run/k8slan/netns").is_empty(), "a namespace stays on {}", worker.name());
    }
    for line in install {
        let said = cluster.shell(line)?;
        check!(!said.contains("Warning"), "{line}: {said}");
    }
    for line in tidy {
        cluster.shell(line)?;
    }
    cluster.until(LAN, |lan| condition(lan, "Ready") == Some("True") && lan["status"]["nodes"] == "2/2")?;
    offered(cluster, "worker1", &[("k8slan-veth-srl", "1"), ("k8slan-mac-srl", "1"), ("srl", "1")])?;
    offered(cluster, "worker2", &[("k8slan-mac-vm", "1"), ("k8slan-veth-lan-example-vm", "1")])?;
    let taken = format!("{}/k8slan-veth-srl", definitions("default"));
    cluster.until(&taken, |nad| nad["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "k8slan")?;
    pods_as_they_were(cluster)?;
    off_again(cluster)
}

fn offered(cluster: &Cluster, worker: &str, wanted: &[(&str, &str)]) -> Outcome {
    cluster.until(&format!("/api/v1/nodes/{worker}"), |node| {
        let allocatable = &node["status"]["allocatable"];
        wanted.iter().all(|(name, number)| allocatable[format!("macvtap.k8slan.io/{name}")] == *number)
    })?;
    Ok(())
}

fn pod(name: &str, network: &str, resource: &str) -> PodOf {
    PodOf { name: name.into(), networks: network.into(), spokes: vec![resource.into()], ..PodOf::default() }
}

fn pods_as_they_were(cluster: &Cluster) -> Outcome {
    let srl = start(cluster, &pod("srl-test", "k8slan-veth-srl@e1-1", "k8slan-veth-srl").at("worker1"))?;
    let vm = start(cluster, &pod("vm-test", "k8slan-mac-vm@net1", "k8slan-mac-vm").at("worker2"))?;
    for (pod, link, kind) in [(&srl, "e1-1", "veth"), (&vm, "net1", "macvtap")] {
        let found = cluster.netns(pod)?.link(link)?.ok_or_else(|| failed(format!("no {link}")))?;
        check!(found["linkinfo"]["info_kind"] == kind, "{found:#}");
    }
    give(cluster, &srl, "e1-1", Ipv4Addr::new(10, 122, 0, 1))?;
    give(cluster, &vm, "net1", Ipv4Addr::new(10, 122, 0, 2))?;
    pings(cluster, &srl, "e1-1", Ipv4Addr::new(10, 122, 0, 2))?;
    pings(cluster, &vm, "net1", Ipv4Addr::new(10, 122, 0, 1))?;
    // One holder: on that node the other names are taken, on the other node they are not.
    offered(cluster, "worker1", &[("k8slan-veth-srl", "1"), ("k8slan-mac-srl", "0"), ("srl", "0")])?;
    offered(cluster, "worker2", &[("k8slan-mac-srl", "1"), ("srl", "1"), ("k8slan-veth-vm", "0")])?;
    // A later version's definition with addresses, and its names.
    delete(cluster, "srl-test")?;
    let lan = cluster.until(LAN, |_| true)?;
    let more = r#","veth":"srl","addrs":["10.122.0.7/24"],"routes":[{"to":"10.123.0.0/16","via":"10.122.0.2"}],"disableTxChecksum":true,"ipam":{},"dns":{},"peerNS":"/run/k8slan/netns/lan-example""#;
    let named: Value = serde_json::from_str(&definition(&lan, "k8slan-veth-lan-example-srl-withaddr", more))?;
    let mut with_address = named;
    with_address["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"] =
        json!("macvtap.k8slan.io/k8slan-veth-lan-example-srl");
    cluster.apply(&with_address.to_string())?;
    offered(cluster, "worker1", &[("k8slan-veth-lan-example-srl", "1")])?;
    let network = "k8slan-veth-lan-example-srl-withaddr@e1-1";
    let later = start(cluster, &pod("srl-test", network, "k8slan-veth-lan-example-srl").at("worker1"))?;
    pings(cluster, &later, "e1-1", Ipv4Addr::new(10, 122, 0, 2))?;
    let routes = cluster.netns(&later)?.ip("route")?;
    check!(routes.contains("10.123.0.0/16 via 10.122.0.2 dev e1-1"), "{routes}");
    // Who is not admitted to the LAN is not by these names either; its namespace is for the policy to look at.
    let mut closed = crate::site::Lan { name: "closed", vni: 333, spokes: &["closed1"] }.manifest();
    closed["spec"]["allowedNamespaces"] = json!(["blue"]);
    cluster.apply(&closed.to_string())?;
    offered(cluster, "worker1", &[("k8slan-mac-closed1", "1"), ("k8slan-veth-closed-closed1", "1")])?;
    for resource in ["k8slan-mac-closed1", "k8slan-veth-closed-closed1"] {
        let (code, said) =
            cluster.kubectl_says(&["apply", "-f", "-"], &pod("closed", "closed1", resource).manifest())?;
        check!(code != Some(0) && said.contains("admits no pods of namespace default"), "{resource}: {said}");
    }
    Ok(())
}

/// The switch goes while a pod is attached by it: it can still be taken down.
fn off_again(cluster: &Cluster) -> Outcome {
    cluster.kubectl("apply -f install/k8slan.yaml")?;
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=180s")?;
    cluster.until_gone(&format!("{}/k8slan-veth-srl", definitions("default")))?;
    offered(cluster, "worker1", &[("vm", "1")])?;
    let worker = cluster.worker("worker1")?;
    check!(worker.list("/opt/cni/bin").contains(&"k8slanveth".to_owned()), "it is needed yet");
    delete(cluster, "srl-test")?;
    offered(cluster, "worker1", &[("srl", "1")])?;
    cluster.kubectl("-n k8slan-system rollout restart daemonset/k8slan-ds")?;
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=180s")?;
    let text = worker.read("/opt/cni/bin/k8slanveth")?;
    check!(text == "upstream\n", "what was there before is back: {} bytes", text.len());
    let other = cluster.worker("worker2")?.read("/opt/cni/bin/k8slanveth")?;
    check!(other == "upstream\n", "{} bytes", other.len());
    delete(cluster, "vm-test")
}
