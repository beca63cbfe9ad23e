//! The whole daemon on a simulated node of a cluster: API server on one side, kubelet on the other.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use k8slan_tests::apiserver::ApiServer;
use k8slan_tests::kubelet::Kubelet;
use serde_json::{Value, json};
use testnet::{Daemon, Node, Outcome, Stop, Switch, Trial, eventually, program, tests};

use crate::check;

const GROUP: &str = "lan.k8slan.io/v1beta1";
const POD1: &str = "macvtap.k8slan.io/pod1";
const SOON: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    tests![a_node_of_a_cluster_from_lan_to_pod_and_through_a_reboot]
}

fn failed(text: impl ToString) -> Stop {
    Stop::Failed(text.to_string())
}

fn document() -> Value {
    json!({
        "apiVersion": GROUP, "kind": "LAN", "metadata": { "namespace": "k8slan-system", "name": "lan-test" },
        "spec": {
            "ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "defaultVxlanDev": "eth0.10",
            "vxlanDevMap": { "worker1": "eth1", "worker2": "eth2" }, "spokes": ["pod1", "pod2"],
        },
    })
}

fn start(node: &Node, kubeconfig: &Path, kubelet_dir: &Path) -> Result<Daemon, Stop> {
    let program = program("k8slan-device-plugin");
    let config = format!("KUBECONFIG={}", kubeconfig.display());
    let (program, dir) = (program.to_string_lossy(), kubelet_dir.to_string_lossy());
    let argv = [
        "env",
        &config,
        &program,
        "cluster",
        "--node-name",
        "worker1",
        "--kubelet-dir",
        &dir,
        "--health",
        "127.0.0.1:9810",
    ];
    Ok(node.spawn_daemon(&argv)?)
}

fn get(node: &Node, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9810")?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    node.run(ask).unwrap_or_else(|error| error.to_string())
}

fn a_node_of_a_cluster_from_lan_to_pod_and_through_a_reboot() -> Outcome {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    let dir = tempfile::tempdir()?;
    let server = ApiServer::start_on(node.run(|| std::net::TcpListener::bind(("127.0.0.1", 0)))?)?;
    let kubeconfig = dir.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "k", "cluster": { "server": server.url() } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&kubeconfig, config.to_string())?;
    server.put(
        "nodes",
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "worker1" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        }),
    );
    server.put("lans", document());

    let kubelet_dir = dir.path().join("device-plugins");
    let kubelet = Kubelet::start(&kubelet_dir)?;
    let daemon = start(&node, &kubeconfig, &kubelet_dir)?;
    kubelet.wait_allocatable(2, SOON).map_err(|what| failed(format!("{what}\n{}", daemon.log())))?;
    let given = kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    let record = node.run(|| std::fs::read("/run/k8slan/spokes/pod1.json"))?;
    let record: Value = serde_json::from_slice(&record)?;
    check!(record["kubelet"] == true && record["ready"] == true, "{record}");
    let tap = format!("/dev/tap{}", record["tapIndex"]);
    check!(given.devices[0].host_path == tap, "{given:?} {record}");
    check!(given.envs.get("K8SLAN_MTU_pod1").map(String::as_str) == Some("1426"), "{given:?}");

    eventually(SOON, || {
        let lan = server.get("lans", GROUP, "k8slan-system/lan-test").unwrap_or_default();
        let ready = lan["status"]["conditions"]
            .as_array()
            .and_then(|list| list.iter().find(|c| c["type"] == "Ready"));
        match ready {
            Some(ready) if ready["status"] == "True" && lan["status"]["mtu"] == 1426 => Ok(()),
            _ => Err(format!("{lan}\n{}", daemon.log())),
        }
    })?;
    let report = server.get("lannodes", GROUP, "k8slan-system/lan-test.worker1").unwrap_or_default();
    check!(report["spec"]["underlay"] == "eth1" && report["spec"]["mtu"] == 1426, "{report}");
    check!(get(&node, "/readyz").starts_with("HTTP/1.1 200"), "{}", get(&node, "/readyz"));
    let metrics = get(&node, "/metrics");
    for line in ["k8slan_lans_ready 1", "k8slan_resources_registered 2", "k8slan_allocations_total 1"] {
        check!(metrics.contains(line), "{line} in {metrics}");
    }

    // The node loses power while the API server is away; the kubelet comes first.
    server.fault(|faults| faults.refuse = true);
    kubelet.kill();
    daemon.kill()?;
    node.command("ip").args(["netns", "del", "knlvrf"]).status()?;
    let kubelet = Kubelet::start(&kubelet_dir)?;
    let begin = Instant::now();
    let daemon = start(&node, &kubeconfig, &kubelet_dir)?;
    kubelet.wait_allocatable(2, SOON).map_err(|what| failed(format!("{what}\n{}", daemon.log())))?;
    let took = begin.elapsed();
    println!("registered {took:?} after the daemon's start, the API server away");
    check!(took < Duration::from_secs(1), "registered after {took:?}");
    let again = kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    check!(again == given, "the same device: {again:?}");

    // It comes back, and the LAN is deleted.
    server.fault(|faults| faults.refuse = false);
    server.delete("lans", GROUP, "k8slan-system/lan-test");
    eventually(Duration::from_secs(90), || match kubelet.resource(POD1) {
        Some((0, 0)) => Ok(()),
        other => Err(format!("{other:?}\n{}", daemon.log())),
    })?;
    let status = daemon.terminate()?;
    check!(status.success(), "{status}");
    let left: Vec<_> = std::fs::read_dir(&kubelet_dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("k8slan-"))
        .collect();
    check!(left.is_empty(), "left: {left:?}");
    Ok(())
}
