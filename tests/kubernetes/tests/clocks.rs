//! A node's clock jumps. What may be handed out of a pool ends by CLOCK_BOOTTIME; a time namespace gives a node's containers and
//! plugins another one, as the machine has it after an hour of sleep. CLOCK_REALTIME is one for all namespaces, and decides nothing
//! (`tests/docs/layering/`).

use std::collections::BTreeSet;
use std::time::Duration;

use k8slan_kubernetes_tests::{CONTAINERD, Cluster, PodOf, Worker, failed};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::floating::address;
use crate::pools::{make_lan, make_pool};
use crate::shared::alone;
use crate::site::{Lan, container, pings, ready, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("a_nodes_clock_jumps", a_nodes_clock_jumps)]
}

/// How long a node may allocate without the API server, and more than that.
const PERMITTED: Duration = Duration::from_secs(24 * 60);
const JUMP: Duration = Duration::from_secs(3_600);

/// The pod's containers of this kind that run: `sandbox`, or the name of a container.
fn running(worker: &Worker, pod: &Value, kind: &str) -> Result<BTreeSet<String>, Stop> {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let of_pod = format!(r#"labels."io.kubernetes.pod.uid"=={uid}"#);
    let which = match kind {
        "sandbox" => r#"labels."io.cri-containerd.kind"==sandbox"#.to_owned(),
        name => format!(r#"labels."io.kubernetes.container.name"=={name}"#),
    };
    let all = worker.ctr(&["containers", "ls", "-q", &format!("{of_pod},{which}")])?;
    let tasks = worker.ctr(&["tasks", "ls"])?;
    let runs = |id: &str| tasks.lines().any(|line| line.starts_with(id) && line.contains("RUNNING"));
    Ok(all.lines().filter(|id| runs(id)).map(str::to_owned).collect())
}

/// How long the node may hand addresses of a pool out without another word of the API server, by a clock that is so much later
/// than this machine's.
fn granted_for(worker: &Worker, pool: &str, later: Duration) -> Result<Duration, String> {
    let text = worker.read(&format!("/run/k8slan/blocks/{pool}.json")).map_err(|error| error.to_string())?;
    let grants: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let all = grants["grants"].as_array().ok_or_else(|| format!("no grants: {grants}"))?;
    let until = all.iter().filter_map(|grant| grant["until"].as_u64()).max().ok_or_else(|| text.clone())?;
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| error.to_string())?;
    let now = Duration::from(now) + later;
    Duration::from_millis(until).checked_sub(now).ok_or_else(|| format!("it ended before {now:?}: {text}"))
}

/// The daemon's pod on a node.
fn daemon(cluster: &Cluster, node: &str) -> Result<Value, Stop> {
    let path = format!("/api/v1/namespaces/k8slan-system/pods?fieldSelector=spec.nodeName%3D{node}");
    let pods = cluster.list(&path).map_err(failed)?;
    pods.into_iter().next().ok_or_else(|| failed(format!("no daemon on {node}")))
}

/// Gives containers that start from here on, and what containerd calls, a CLOCK_BOOTTIME so much later than the machine's; and
/// the daemon a new sandbox, and so the clock.
fn set_clock(cluster: &Cluster, worker: &Worker, daemon: &Value, later: Duration) -> Outcome {
    worker.stop_program(CONTAINERD, Signal::SIGTERM)?;
    worker.start_containerd_later(later)?;
    let before = running(worker, daemon, "node")?;
    for sandbox in running(worker, daemon, "sandbox")? {
        worker.ctr(&["tasks", "kill", "-s", "SIGKILL", &sandbox])?;
    }
    cluster.eventually(|| {
        let now = running(worker, daemon, "node").map_err(|stop| format!("{stop:?}"))?;
        if now.difference(&before).next().is_some() { Ok(()) } else { Err(format!("the daemon's: {now:?}")) }
    })?;
    Ok(())
}

fn a_nodes_clock_jumps(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "jumps", vni: 1028, spokes: &["jumps1", "jumps2", "jumps3"] };
    let cluster = &*cluster;
    let worker = cluster.worker("worker1")?;
    // A node claims sixteen addresses at a time.
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.166.0.0/22"], "cooldown": "0s" }))?;
    make_lan(cluster, &LAN)?;
    let stays = start(cluster, &PodOf::on("jumps-stays", "jumps1").at("worker1"))?;
    let peer = start(cluster, &PodOf::on("jumps-peer", "jumps1").at("worker2"))?;
    let mut given = BTreeSet::from([address(&stays)?, address(&peer)?]);
    check!(given.len() == 2, "{given:?}");
    let blocks = || -> Result<Vec<Value>, Stop> {
        let all = cluster.list("/apis/lan.k8slan.io/v1beta1/lanblocks").map_err(failed)?;
        let of_pool = all.into_iter().filter(|block| block["spec"]["pool"] == LAN.name);
        Ok(of_pool.map(|block| json!([block["metadata"]["uid"], block["spec"]["holder"]["node"]])).collect())
    };
    let (held, daemon) = (blocks()?, daemon(cluster, "worker1")?);
    // An hour on, so that all that was confirmed is too old; and an hour back, so that it would last for too long.
    for (name, spoke, later) in [("jumps-on", "jumps2", JUMP), ("jumps-back", "jumps3", Duration::ZERO)] {
        set_clock(cluster, worker, &daemon, later)?;
        cluster.eventually(|| match granted_for(worker, LAN.name, later)? {
            time if time <= PERMITTED => Ok(()),
            time => Err(format!("granted for {time:?}")),
        })?;
        cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=120s")?;
        let pod = start(cluster, &PodOf::on(name, spoke).at("worker1"))?;
        check!(given.insert(address(&pod)?), "{} twice", address(&pod)?);
        for pod in [&stays, &pod] {
            pings(cluster, pod, "net1", address(&peer)?.parse()?)?;
        }
        check!(container(&ready(cluster, "jumps-stays")?) == container(&stays), "a pod was touched");
        check!(blocks()? == held, "{held:?} and {:?}", blocks()?);
    }
    cluster.kubectl("delete pod jumps-stays jumps-on jumps-back jumps-peer --timeout=110s")?;
    LAN.remove(cluster)?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}
