//! Pods come and go, by hand and by controllers.

use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, Worker, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::shared::beside;
use crate::site::{Lan, delete, event, give, pings, pod_path, ready, spoke_is, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("a_pod_is_deleted_and_made_again", a_pod_is_deleted_and_made_again),
        beside("a_pod_deleted_by_force_is_made_again_at_once", a_pod_deleted_by_force_is_made_again_at_once),
        beside("a_deployment_of_more_pods_than_spokes", a_deployment_of_more_pods_than_spokes),
        beside("a_stateful_set_keeps_its_address", a_stateful_set_keeps_its_address),
        beside("a_completed_pod_gives_its_spoke_back", a_completed_pod_gives_its_spoke_back),
        beside("twenty_four_pods_at_once", twenty_four_pods_at_once),
        beside("an_annotation_asks_for_a_mac_and_a_name", an_annotation_asks_for_a_mac_and_a_name),
    ]
}

/// What attachments leave on a node: links in the LAN's namespace, device nodes.
pub(crate) fn traces(worker: &Worker, lan: &Lan) -> Result<(Vec<String>, Vec<String>), Stop> {
    let links = worker.netns(&format!("/run/netns/{}", lan.name))?.link_names()?;
    let attachments = worker.list("/run/k8slan/attachments");
    Ok((links, attachments))
}

fn a_pod_is_deleted_and_made_again(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "again", vni: 1001, spokes: &["again1", "again2"] };
    LAN.apply(cluster)?;
    let peer = start(cluster, &PodOf::on("again-peer", "again2").at("worker2"))?;
    give(cluster, &peer, "net1", Ipv4Addr::new(10, 101, 0, 2))?;
    let before = traces(cluster.worker("worker1")?, &LAN)?.0;
    for round in 0..3 {
        let pod = start(cluster, &PodOf::on("again", "again1").at("worker1"))?;
        let own = Ipv4Addr::new(10, 101, 0, 10 + round);
        give(cluster, &pod, "net1", own)?;
        pings(cluster, &pod, "net1", Ipv4Addr::new(10, 101, 0, 2))?;
        pings(cluster, &peer, "net1", own)?;
        delete(cluster, "again")?;
        let after = traces(cluster.worker("worker1")?, &LAN)?.0;
        check!(after == before, "round {round}: links {after:?} instead of {before:?}");
    }
    delete(cluster, "again-peer")?;
    LAN.remove(cluster)
}

fn a_pod_deleted_by_force_is_made_again_at_once(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "force", vni: 1002, spokes: &["force1"] };
    LAN.apply(cluster)?;
    let pod = PodOf::on("force", "force1").at("worker1");
    let mut seen = vec![start(cluster, &pod)?["metadata"]["uid"].clone()];
    for _ in 0..2 {
        cluster.kubectl("delete pod force --force --grace-period=0")?;
        // The kubelet has not heard of it yet.
        let again = start(cluster, &pod)?;
        check!(!seen.contains(&again["metadata"]["uid"]), "the old pod: {again:#}");
        seen.push(again["metadata"]["uid"].clone());
        check!(cluster.netns(&again)?.link("net1")?.is_some(), "it has no net1");
    }
    delete(cluster, "force")?;
    LAN.remove(cluster)
}

/// Every node gives a spoke to one pod: one pod more waits, and takes the place of the first that goes.
fn a_deployment_of_more_pods_than_spokes(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "deploy", vni: 1003, spokes: &["deploy1"] };
    LAN.apply(cluster)?;
    let mut template = PodOf::on("deploy", "deploy1").template();
    template["metadata"]["labels"] = json!({ "app": "deploy" });
    let nodes = cluster.workers.len();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "deploy", "namespace": "default" },
        "spec": { "replicas": nodes + 1, "selector": { "matchLabels": { "app": "deploy" } }, "template": template },
    });
    cluster.apply(&deployment.to_string())?;
    let path = "/apis/apps/v1/namespaces/default/deployments/deploy";
    let full = |object: &Value| object["status"]["readyReplicas"] == nodes;
    cluster.until(path, full)?;
    let pods = || cluster.list("/api/v1/namespaces/default/pods?labelSelector=app%3Ddeploy");
    let (running, waiting): (Vec<Value>, Vec<Value>) =
        pods().map_err(failed)?.into_iter().partition(|pod| pod["spec"]["nodeName"].is_string());
    check!(running.len() == nodes && waiting.len() == 1, "{} run, {} wait", running.len(), waiting.len());
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    let on = |node: &str| running.iter().find(|pod| pod["spec"]["nodeName"] == node).unwrap();
    event(cluster, &name(&waiting[0]), &["FailedScheduling", "Insufficient macvtap.k8slan.io/deploy1"])?;
    // Who has it says the leader.
    let holder = format!("worker1: held by default/{}", name(on("worker1")));
    event(cluster, &name(&waiting[0]), &["SpokeNotFree", "LAN k8slan-system/deploy", &holder])?;
    for (number, pod) in running.iter().enumerate() {
        give(cluster, pod, "net1", Ipv4Addr::new(10, 103, 0, u8::try_from(number)? + 1))?;
    }
    pings(cluster, &running[0], "net1", Ipv4Addr::new(10, 103, 0, 2))?;
    delete(cluster, &name(&running[0]))?;
    cluster.until(path, full)?;
    // The one that waited, or the one that the deployment made in the deleted one's place.
    let old: Vec<&Value> = running.iter().map(|pod| &pod["metadata"]["uid"]).collect();
    let ready_now = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    let next = cluster.eventually(|| {
        let new = pods()?.into_iter().find(|pod| !old.contains(&&pod["metadata"]["uid"]) && ready_now(pod));
        new.ok_or_else(|| "no new pod is ready".to_owned())
    })?;
    check!(
        next["spec"]["nodeName"] == running[0]["spec"]["nodeName"],
        "it came to {}",
        next["spec"]["nodeName"]
    );
    give(cluster, &next, "net1", Ipv4Addr::new(10, 103, 0, 9))?;
    pings(cluster, &next, "net1", Ipv4Addr::new(10, 103, 0, 2))?;
    cluster.kubectl("delete deployment deploy --cascade=foreground --timeout=90s")?;
    LAN.remove(cluster)
}

fn a_stateful_set_keeps_its_address(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "sticky", vni: 1004, spokes: &["sticky1", "sticky2"] };
    let pool = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": "sticky" },
        "spec": {
            "ranges": [{ "subnet": "10.104.0.0/24", "gateway": "none" }],
            "sticky": "Pod",
            "nodes": {
                "worker1": ["10.104.0.1-10.104.0.63"], "worker2": ["10.104.0.64-10.104.0.127"],
                "worker3": ["10.104.0.128-10.104.0.191"],
            },
        },
    });
    for worker in &cluster.workers {
        worker.write("/var/lib/k8slan/pools.d/sticky.yaml", pool.to_string())?;
    }
    let mut lan = LAN.manifest();
    lan["spec"]["networkAttachments"]["ipam"] = json!({ "type": "ipam-pool", "pool": "sticky" });
    LAN.apply_as(cluster, &lan)?;
    let mut template = PodOf::on("sticky", "sticky1").at("worker2").template();
    template["metadata"]["labels"] = json!({ "app": "sticky" });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "sticky", "namespace": "default" },
        "spec": {
            "serviceName": "sticky", "replicas": 1, "selector": { "matchLabels": { "app": "sticky" } },
            "template": template,
        },
    });
    cluster.apply(&set.to_string())?;
    let address = |pod: &Value| -> Result<String, Stop> {
        let links = cluster.netns(pod)?.ip_json("-4 addr show dev net1")?;
        let found = links[0]["addr_info"][0]["local"].as_str().map(str::to_owned);
        found.ok_or_else(|| failed(format!("no address: {links:?}")))
    };
    let first = ready(cluster, "sticky-0")?;
    let kept = address(&first)?;
    for round in 0..2 {
        // Another pod wants an address of the same pool while that one is away.
        cluster.kubectl("scale statefulset sticky --replicas=0")?;
        cluster.until_gone(&pod_path("sticky-0"))?;
        let other = start(cluster, &PodOf::on("other", "sticky2").at("worker2"))?;
        check!(address(&other)? != kept, "round {round}: another pod was given {kept}");
        cluster.kubectl("scale statefulset sticky --replicas=1")?;
        let again = ready(cluster, "sticky-0")?;
        check!(again["metadata"]["uid"] != first["metadata"]["uid"], "it is the same pod");
        check!(address(&again)? == kept, "round {round}: it had {kept} and has {}", address(&again)?);
        pings(cluster, &again, "net1", address(&other)?.parse()?)?;
        delete(cluster, "other")?;
    }
    cluster.kubectl("delete statefulset sticky --cascade=foreground --timeout=90s")?;
    LAN.remove(cluster)
}

fn a_completed_pod_gives_its_spoke_back(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "ended", vni: 1005, spokes: &["ended1", "ended2"] };
    LAN.apply(cluster)?;
    let peer = start(cluster, &PodOf::on("ended-peer", "ended2").at("worker1"))?;
    give(cluster, &peer, "net1", Ipv4Addr::new(10, 105, 0, 2))?;
    let mut ended: Value = serde_json::from_str(&PodOf::on("ended", "ended1").at("worker2").manifest())?;
    ended["spec"]["restartPolicy"] = json!("Never");
    ended["spec"]["containers"][0]["command"] = json!(["ip", "link", "show", "net1"]);
    cluster.apply(&ended.to_string())?;
    cluster.until(&pod_path("ended"), |pod| pod["status"]["phase"] == "Succeeded")?;
    let next = start(cluster, &PodOf::on("ended-next", "ended1").at("worker2"))?;
    give(cluster, &next, "net1", Ipv4Addr::new(10, 105, 0, 3))?;
    pings(cluster, &next, "net1", Ipv4Addr::new(10, 105, 0, 2))?;
    // What is left of the first one goes, and takes nothing of the second along.
    delete(cluster, "ended")?;
    pings(cluster, &peer, "net1", Ipv4Addr::new(10, 105, 0, 3))?;
    for pod in ["ended-next", "ended-peer"] {
        delete(cluster, pod)?;
    }
    LAN.remove(cluster)
}

fn twenty_four_pods_at_once(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan {
        name: "many",
        vni: 1006,
        spokes: &["many1", "many2", "many3", "many4", "many5", "many6", "many7", "many8"],
    };
    LAN.apply(cluster)?;
    let before = cluster.workers.iter().map(|worker| traces(worker, &LAN)).collect::<Result<Vec<_>, _>>()?;
    let mut pods = Vec::new();
    for worker in &cluster.workers {
        for spoke in LAN.spokes {
            let name = format!("{spoke}-{}", worker.name());
            pods.push(PodOf::on(&name, spoke).at(worker.name()));
        }
    }
    check!(pods.len() == 24, "{} pods", pods.len());
    let manifests: Vec<String> = pods.iter().map(PodOf::manifest).collect();
    cluster.apply(&manifests.join("\n---\n"))?;
    let started: Vec<Value> = pods.iter().map(|pod| ready(cluster, &pod.name)).collect::<Result<_, _>>()?;
    for (number, pod) in started.iter().enumerate() {
        give(cluster, pod, "net1", Ipv4Addr::new(10, 106, 0, u8::try_from(number)? + 1))?;
    }
    // One of each node reaches all others.
    for from in [0, 8, 16] {
        for to in (0..24).filter(|to| *to != from) {
            pings(cluster, &started[from], "net1", Ipv4Addr::new(10, 106, 0, u8::try_from(to)? + 1))?;
        }
    }
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    cluster.kubectl(&format!("delete pod {} --timeout=110s", names.join(" ")))?;
    let after = cluster.workers.iter().map(|worker| traces(worker, &LAN)).collect::<Result<Vec<_>, _>>()?;
    check!(
        after.iter().map(|(links, _)| links).eq(before.iter().map(|(links, _)| links)),
        "{after:?} instead of {before:?}"
    );
    LAN.remove(cluster)
}

/// `CNI_ARGS` then has `MAC` behind all the others.
fn an_annotation_asks_for_a_mac_and_a_name(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "mac", vni: 1007, spokes: &["mac1"] };
    LAN.apply(cluster)?;
    spoke_is(cluster, "mac1", "1")?;
    let mut pod = PodOf::on("mac", "mac1");
    pod.networks =
        r#"[{"name":"mac1","namespace":"default","interface":"lan7","mac":"02:4d:61:63:00:01"}]"#.to_owned();
    let pod = start(cluster, &pod)?;
    let link = cluster.netns(&pod)?.link("lan7")?.ok_or_else(|| failed("no lan7"))?;
    check!(link["address"] == "02:4d:61:63:00:01", "{link:#}");
    delete(cluster, "mac")?;
    LAN.remove(cluster)
}
