//! LANs while pods are on them.

use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition};
use serde_json::{Value, json};
use testnet::{Outcome, Trial};

use crate::check;
use crate::shared::beside;
use crate::site::{Lan, definitions, delete, event, give, pings, spoke_is, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("a_lan_deleted_in_use_waits_for_its_pods", a_lan_deleted_in_use_waits_for_its_pods),
        beside("a_lan_deleted_by_force_goes_at_once", a_lan_deleted_by_force_goes_at_once),
        beside("allowed_namespaces_by_the_policy", allowed_namespaces_by_the_policy),
        beside("allowed_namespaces_by_the_plugin", allowed_namespaces_by_the_plugin),
    ]
}

fn a_lan_deleted_in_use_waits_for_its_pods(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "inuse", vni: 1011, spokes: &["inuse1", "inuse2"] };
    LAN.apply(cluster)?;
    let one = start(cluster, &PodOf::on("inuse-one", "inuse1").at("worker1"))?;
    let two = start(cluster, &PodOf::on("inuse-two", "inuse2").at("worker2"))?;
    give(cluster, &one, "net1", Ipv4Addr::new(10, 111, 0, 1))?;
    give(cluster, &two, "net1", Ipv4Addr::new(10, 111, 0, 2))?;
    cluster.until(&LAN.path(), |lan| lan["status"]["attachments"] == 2)?;
    cluster.kubectl("-n k8slan-system delete lan inuse --wait=false")?;
    cluster.until(&LAN.path(), |lan| lan["metadata"]["deletionTimestamp"].is_string())?;
    pings(cluster, &one, "net1", Ipv4Addr::new(10, 111, 0, 2))?;
    delete(cluster, "inuse-one")?;
    let lan = cluster.until(&LAN.path(), |lan| lan["status"]["attachments"] == 1)?;
    check!(lan["metadata"]["finalizers"] == json!(["lan.k8slan.io/in-use"]), "{lan:#}");
    delete(cluster, "inuse-two")?;
    cluster.until_gone(&LAN.path())?;
    gone_from_the_nodes(cluster, &LAN)
}

fn a_lan_deleted_by_force_goes_at_once(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "byforce", vni: 1012, spokes: &["byforce1"] };
    let mut manifest = LAN.manifest();
    manifest["spec"]["deletionPolicy"] = json!("Force");
    LAN.apply_as(cluster, &manifest)?;
    let pod = start(cluster, &PodOf::on("byforce", "byforce1").at("worker1"))?;
    LAN.remove(cluster)?;
    // The pod lives on, cut off: its tap stays, so that no other gets its number, and its port is down.
    cluster.eventually(|| {
        let link = cluster
            .netns(&pod)
            .and_then(|netns| Ok(netns.link("net1")?))
            .map_err(|stop| format!("{stop:?}"))?;
        match link {
            Some(link) if link["flags"].to_string().contains("NO-CARRIER") => Ok(()),
            other => Err(format!("its link is {other:?}")),
        }
    })?;
    delete(cluster, "byforce")?;
    gone_from_the_nodes(cluster, &LAN)
}

fn gone_from_the_nodes(cluster: &Cluster, lan: &Lan) -> Outcome {
    for worker in &cluster.workers {
        cluster.eventually(|| {
            let names = worker.list("/run/netns");
            let records = worker.list("/run/k8slan/spokes");
            let left = lan.spokes.iter().any(|spoke| records.contains(&format!("{spoke}.json")));
            if names.iter().any(|name| name == lan.name) || left {
                return Err(format!("{}: {names:?}, {records:?}", worker.name()));
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn namespaces(cluster: &Cluster, names: &[&str]) -> Outcome {
    let objects = names.iter().map(|name| {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }).to_string()
    });
    cluster.apply(&objects.collect::<Vec<_>>().join("\n---\n")).map(drop)
}

fn allowed_namespaces_by_the_policy(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "policy", vni: 1013, spokes: &["policy1"] };
    namespaces(cluster, &["blue"])?;
    let mut manifest = LAN.manifest();
    manifest["spec"]["allowedNamespaces"] = json!(["blue"]);
    manifest["spec"]["networkAttachments"] = json!({});
    cluster.apply(&manifest.to_string())?;
    spoke_is(cluster, "policy1", "1")?;
    cluster.until(&format!("{}/policy1", definitions("blue")), |_| true)?;
    let pod = PodOf::on("policy", "policy1");
    let (code, said) = cluster.kubectl_says(&["apply", "-f", "-"], &pod.manifest())?;
    check!(
        code != Some(0) && said.contains("LAN k8slan-system/policy admits no pods of namespace default"),
        "{said}"
    );
    check!(said.contains("macvtap.k8slan.io/policy1"), "{said}");
    let mut blue: Value = serde_json::from_str(&pod.manifest())?;
    blue["metadata"]["namespace"] = json!("blue");
    cluster.apply(&blue.to_string())?;
    cluster.until("/api/v1/namespaces/blue/pods/policy", |pod| condition(pod, "Ready") == Some("True"))?;
    cluster.kubectl("-n blue delete pod policy --timeout=60s")?;
    LAN.remove(cluster)
}

/// The policy looks at LANs in `k8slan-system`; the plugin at all.
fn allowed_namespaces_by_the_plugin(cluster: &Cluster) -> Outcome {
    namespaces(cluster, &["green"])?;
    let mut manifest = Lan { name: "plugin", vni: 1014, spokes: &["plugin1"] }.manifest();
    manifest["metadata"]["namespace"] = json!("green");
    manifest["spec"]["allowedNamespaces"] = json!(["green"]);
    manifest["spec"].as_object_mut().unwrap().remove("networkAttachments");
    cluster.apply(&manifest.to_string())?;
    spoke_is(cluster, "plugin1", "1")?;
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": "plugin1", "namespace": "default",
            "annotations": { "k8s.v1.cni.cncf.io/resourceName": "macvtap.k8slan.io/plugin1" },
        },
        "spec": { "config": r#"{"cniVersion":"1.0.0","type":"macvtap"}"# },
    });
    cluster.apply(&definition.to_string())?;
    cluster.apply(&PodOf::on("plugin", "plugin1").manifest())?;
    event(cluster, "plugin", &["FailedCreatePodSandBox", "green/plugin", "default"])?;
    delete(cluster, "plugin")?;
    cluster.kubectl("-n green delete lan plugin --timeout=60s").map(drop)
}
