//! As many spokes as a LAN can have, on one node.

use std::time::Instant;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition};
use serde_json::{Value, json};
use testnet::{Outcome, Trial};

use crate::check;
use crate::shared::beside;
use crate::site::{Lan, definitions, delete, give, pings, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![beside("a_thousand_spokes_on_a_node", a_thousand_spokes_on_a_node)]
}

const SPOKES: usize = 1024;

/// Each is a resource of the kubelet and a definition of Multus'.
fn a_thousand_spokes_on_a_node(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "scale", vni: 1047, spokes: &[] };
    let mut manifest = LAN.manifest();
    let spokes: Vec<String> = (1..=SPOKES).map(|number| format!("scale{number}")).collect();
    manifest["spec"]["spokes"] = json!(spokes);
    // The others take no part.
    manifest["spec"].as_object_mut().unwrap().remove("defaultVxlanDev");
    manifest["spec"]["vxlanDevMap"] = json!({ "worker3": "eth0.10" });
    let asked = Instant::now();
    cluster.apply(&manifest.to_string())?;
    let given = |node: &Value, number: &str| -> usize {
        let resources = node["status"]["allocatable"].as_object().into_iter().flatten();
        resources.filter(|(name, own)| name.starts_with("macvtap.k8slan.io/scale") && **own == number).count()
    };
    let node = "/api/v1/nodes/worker3";
    cluster.until(node, |node| given(node, "1") == SPOKES)?;
    eprintln!("{SPOKES} spokes are given out after {:?}", asked.elapsed());
    cluster.until(&LAN.path(), |lan| condition(lan, "Ready") == Some("True"))?;
    let own = || -> Result<usize, String> {
        let definitions = cluster.list(&definitions("default"))?;
        let names = definitions.iter().filter_map(|definition| definition["metadata"]["name"].as_str());
        Ok(names.filter(|name| name.starts_with("scale")).count())
    };
    cluster.eventually(|| match own()? {
        SPOKES => Ok(()),
        fewer => Err(format!("{fewer} definitions")),
    })?;
    eprintln!("and {SPOKES} definitions are there after {:?}", asked.elapsed());
    let one = start(cluster, &PodOf::on("scale-one", "scale1").at("worker3"))?;
    let last = start(cluster, &PodOf::on("scale-last", &format!("scale{SPOKES}")).at("worker3"))?;
    give(cluster, &one, "net1", "10.147.0.1".parse()?)?;
    give(cluster, &last, "net1", "10.147.0.2".parse()?)?;
    pings(cluster, &one, "net1", "10.147.0.2".parse()?)?;
    for pod in ["scale-one", "scale-last"] {
        delete(cluster, pod)?;
    }
    LAN.remove(cluster)?;
    cluster.until(node, |node| given(node, "1") == 0)?;
    cluster.eventually(|| match own()? {
        0 => Ok(()),
        left => Err(format!("{left} definitions")),
    })?;
    let worker = cluster.worker("worker3")?;
    cluster.eventually(|| {
        let records = worker.list("/run/k8slan/spokes");
        // The files that were locked stay.
        let ours = |record: &&String| record.starts_with("scale") && record.ends_with(".json");
        let left = records.iter().filter(ours).count();
        let sockets = worker.list("/var/lib/kubelet/device-plugins");
        let sockets = sockets.iter().filter(|socket| socket.contains("scale")).count();
        if left + sockets == 0 { Ok(()) } else { Err(format!("{left} records, {sockets} sockets")) }
    })?;
    check!(!worker.list("/run/netns").contains(&LAN.name.to_owned()), "its namespace is left");
    Ok(())
}
