//! Nodes are emptied, switched off, and gone.

use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, Worker, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::shared::{alone, beside};
use crate::site::{
    Lan, container, delete, deployment, event, give, node_of, pings, pod_path, ready, ready_pods, start,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("a_pod_makes_way_for_a_more_important_one", a_pod_makes_way_for_a_more_important_one),
        alone("a_node_is_drained", a_node_is_drained),
        alone("a_node_is_switched_off_and_on", a_node_is_switched_off_and_on),
        alone("all_nodes_are_switched_off_and_on_at_once", all_nodes_are_switched_off_and_on_at_once),
        alone("a_node_is_gone_and_comes_back_as_a_new_one", a_node_is_gone_and_comes_back_as_a_new_one),
        alone("the_leaders_node_is_gone", the_leaders_node_is_gone),
    ]
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 130, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 130, 0, 2);

/// Its spoke is what the more important pod lacks.
fn a_pod_makes_way_for_a_more_important_one(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "preempt", vni: 1031, spokes: &["preempt1", "preempt2"] };
    LAN.apply(cluster)?;
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": { "name": "important" }, "value": 1000,
    });
    cluster.apply(&class.to_string())?;
    let peer = start(cluster, &PodOf::on("preempt-peer", "preempt2").at("worker1"))?;
    give(cluster, &peer, "net1", ONE)?;
    start(cluster, &PodOf::on("unimportant", "preempt1").at("worker2"))?;
    let mut pod: Value = serde_json::from_str(&PodOf::on("important", "preempt1").at("worker2").manifest())?;
    pod["spec"]["priorityClassName"] = json!("important");
    cluster.apply(&pod.to_string())?;
    cluster.until_gone(&pod_path("unimportant"))?;
    event(cluster, "unimportant", &["Preempted", "worker2"])?;
    let important = ready(cluster, "important")?;
    give(cluster, &important, "net1", TWO)?;
    pings(cluster, &important, "net1", ONE)?;
    for pod in ["important", "preempt-peer"] {
        delete(cluster, pod)?;
    }
    LAN.remove(cluster)
}

fn worker_of<'a>(cluster: &'a mut Cluster, name: &str) -> Result<&'a mut Worker, Stop> {
    let mut workers = cluster.workers.iter_mut();
    workers.find(|worker| worker.name() == name).ok_or_else(|| failed(format!("no node {name}")))
}

/// A LAN with a pod on `worker3`, and a Deployment's pod on another node.
struct Moving {
    lan: Lan,
    peer: Value,
    pod: Value,
}

impl Moving {
    fn start(cluster: &Cluster, lan: Lan) -> Result<Self, Stop> {
        lan.apply(cluster)?;
        let peer = start(cluster, &PodOf::on("peer", lan.spokes[1]).at("worker3"))?;
        give(cluster, &peer, "net1", ONE)?;
        cluster.apply(&deployment(&PodOf::on("moving", lan.spokes[0]), 1, Some("worker3")))?;
        let mut moving = Self { lan, peer, pod: Value::Null };
        moving.again(cluster)?;
        Ok(moving)
    }

    /// The Deployment's next pod, in the place of the one that was.
    fn again(&mut self, cluster: &Cluster) -> Outcome {
        let pods = ready_pods(cluster, "moving", 1, &[container(&self.pod)])?;
        self.pod = pods.into_iter().next().unwrap_or_default();
        give(cluster, &self.pod, "net1", TWO)?;
        pings(cluster, &self.pod, "net1", ONE)?;
        pings(cluster, &self.peer, "net1", TWO)
    }

    fn end(self, cluster: &Cluster) -> Outcome {
        cluster.kubectl("delete deployment moving --cascade=foreground --timeout=90s")?;
        delete(cluster, "peer")?;
        self.lan.remove(cluster)
    }
}

/// The pod goes to another node; the daemon stays.
fn a_node_is_drained(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "drain", vni: 1032, spokes: &["drain1", "drain2"] };
    let cluster = &*cluster;
    let mut moving = Moving::start(cluster, LAN)?;
    let drained = node_of(&moving.pod).to_owned();
    cluster.kubectl(&format!(
        "drain {drained} --ignore-daemonsets --delete-emptydir-data --force --timeout=90s"
    ))?;
    moving.again(cluster)?;
    check!(node_of(&moving.pod) != drained, "the pod is on {drained}");
    let daemon = cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=5s")?;
    check!(daemon.contains("successfully rolled out"), "{daemon}");
    cluster.until(&LAN.path(), |lan| lan["status"]["nodes"] == "3/3" && lan["status"]["attachments"] == 2)?;
    cluster.kubectl(&format!("uncordon {drained}"))?;
    moving.end(cluster)
}

/// A controller's pod comes back with its attachment. One without a controller is rejected, as the pages say.
fn a_node_is_switched_off_and_on(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "reboot", vni: 1027, spokes: &["reboot1", "reboot2", "reboot3"] };
    let mut moving = Moving::start(cluster, LAN)?;
    start(cluster, &PodOf::on("bare", "reboot3").at(node_of(&moving.pod)))?;
    let node = worker_of(cluster, node_of(&moving.pod))?;
    node.switch_off()?;
    node.switch_on()?;
    all_is_well(cluster, &LAN)?;
    moving.again(cluster)?;
    let bare = cluster.until(&pod_path("bare"), |pod| pod["status"]["phase"] == "Failed")?;
    check!(bare["status"]["reason"] == "UnexpectedAdmissionError", "{bare:#}");
    let why = bare["status"]["message"].as_str().unwrap_or_default();
    check!(
        why.contains(
            "no healthy devices present; cannot allocate unhealthy devices macvtap.k8slan.io/reboot3"
        ),
        "{why}"
    );
    delete(cluster, "bare")?;
    moving.end(cluster)
}

/// Nodes, daemons and the LAN.
fn all_is_well(cluster: &Cluster, lan: &Lan) -> Outcome {
    cluster.nodes_are_ready()?;
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=120s")?;
    cluster.until(&lan.path(), |lan| {
        k8slan_kubernetes_tests::condition(lan, "Ready") == Some("True") && lan["status"]["nodes"] == "3/3"
    })?;
    Ok(())
}

/// As after a power failure: the control plane alone goes on.
fn all_nodes_are_switched_off_and_on_at_once(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "power", vni: 1033, spokes: &["power1"] };
    LAN.apply(cluster)?;
    cluster.apply(&deployment(&PodOf::on("power", "power1"), 3, None))?;
    let before = ready_pods(cluster, "power", 3, &[])?;
    for worker in &mut cluster.workers {
        worker.switch_off()?;
    }
    std::thread::scope(|scope| {
        let workers = cluster.workers.iter_mut();
        let starting: Vec<_> = workers.map(|worker| scope.spawn(|| worker.switch_on())).collect();
        let mut started = starting.into_iter().map(|worker| worker.join());
        started.try_for_each(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    all_is_well(cluster, &LAN)?;
    let gone: Vec<Value> = before.iter().map(container).collect();
    let pods = ready_pods(cluster, "power", 3, &gone)?;
    for (number, pod) in (1..).zip(&pods) {
        give(cluster, pod, "net1", Ipv4Addr::new(10, 133, 0, number))?;
    }
    for pod in &pods[1..] {
        pings(cluster, pod, "net1", Ipv4Addr::new(10, 133, 0, 1))?;
    }
    cluster.kubectl("delete deployment power --cascade=foreground --timeout=90s")?;
    LAN.remove(cluster)
}

/// The node that leads, by the lease.
pub(crate) fn leader(cluster: &Cluster) -> Result<String, Stop> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/k8slan-system/leases/k8slan-leader";
    let lease = cluster.until(path, |lease| lease["spec"]["holderIdentity"].is_string())?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

fn reports_of(cluster: &Cluster, node: &str) -> Result<usize, String> {
    let reports = cluster.list("/apis/lan.k8slan.io/v1beta1/lannodes")?;
    Ok(reports.iter().filter(|report| report["spec"]["node"] == node).count())
}

/// Nothing at the API server speaks of a node that is off and deleted, and nothing waits for it: not a LAN that is deleted
/// while a pod of that node is attached. Then a new node comes by that name, with the disk of the old one.
fn gone(cluster: &mut Cluster, node: &str, lan: Lan) -> Outcome {
    let rest: Vec<&str> =
        ["worker1", "worker2", "worker3"].into_iter().filter(|other| *other != node).collect();
    lan.apply(cluster)?;
    let there = start(cluster, &PodOf::on("there", lan.spokes[0]).at(rest[0]))?;
    let other = start(cluster, &PodOf::on("other", lan.spokes[1]).at(rest[1]))?;
    start(cluster, &PodOf::on("gone", lan.spokes[2]).at(node))?;
    give(cluster, &there, "net1", ONE)?;
    give(cluster, &other, "net1", TWO)?;
    cluster.until(&lan.path(), |lan| lan["status"]["attachments"] == 3)?;
    check!(reports_of(cluster, node).map_err(failed)? > 0, "{node} has no report");
    worker_of(cluster, node)?.switch_off()?;
    cluster.kubectl(&format!("delete node {node} --timeout=60s"))?;
    cluster.until(&lan.path(), |lan| lan["status"]["nodes"] == "2/2" && lan["status"]["attachments"] == 2)?;
    cluster.eventually(|| match reports_of(cluster, node)? {
        0 => Ok(()),
        left => Err(format!("{left} reports of {node}")),
    })?;
    check!(leader(cluster)? != node, "{node} leads");
    pings(cluster, &there, "net1", TWO)?;
    // Its pod is still there: Kubernetes collects it a minute later.
    cluster.kubectl("delete pod there other --timeout=60s")?;
    lan.remove(cluster)?;
    cluster.kubectl("delete pod gone --force --grace-period=0 --ignore-not-found")?;
    worker_of(cluster, node)?.switch_on()?;
    all_is_well_again(cluster, node, lan)
}

fn all_is_well_again(cluster: &Cluster, node: &str, lan: Lan) -> Outcome {
    cluster.nodes_are_ready()?;
    // What the new node has on its disk is of a LAN that is no more.
    cluster.eventually(|| match cluster.worker(node).map(|worker| worker.list("/run/netns")) {
        Ok(names) if names.iter().all(|name| name != lan.name) => Ok(()),
        other => Err(format!("{node} has {other:?}")),
    })?;
    lan.apply(cluster)?;
    all_is_well(cluster, &lan)?;
    let pod = start(cluster, &PodOf::on("back", lan.spokes[2]).at(node))?;
    let peer = start(cluster, &PodOf::on("back-peer", lan.spokes[0]).at(other_than(node)))?;
    give(cluster, &pod, "net1", ONE)?;
    give(cluster, &peer, "net1", TWO)?;
    pings(cluster, &pod, "net1", TWO)?;
    for pod in ["back", "back-peer"] {
        delete(cluster, pod)?;
    }
    lan.remove(cluster)
}

fn other_than(node: &str) -> &'static str {
    if node == "worker1" { "worker2" } else { "worker1" }
}

fn a_node_is_gone_and_comes_back_as_a_new_one(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "gone", vni: 1034, spokes: &["gone1", "gone2", "gone3"] };
    let node = other_than(&leader(cluster)?);
    gone(cluster, node, LAN)
}

fn the_leaders_node_is_gone(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "headless", vni: 1035, spokes: &["headless1", "headless2", "headless3"] };
    let node = leader(cluster)?;
    gone(cluster, &node, LAN)
}
