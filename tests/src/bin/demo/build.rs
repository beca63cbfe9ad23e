//! The nodes, the LANs and the pods: made as an administrator, the kubelet and a runtime would.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use k8slan_tests::{Network, Worker};
use serde_json::json;
use testnet::{Node, Ping, Pod, Stop, Switch};

use crate::show::{Progress, millis};

/// The nodes of the document, and one that its `vxlanDevMap` does not list.
const NODES: [(&str, &str); 3] = [("worker1", "eth1"), ("worker2", "eth2"), ("worker3", "eth0.10")];
/// The MTU of the nodes' underlays.
const MTU: u32 = 1500;

pub(crate) struct Cluster {
    workers: Vec<Worker>,
    _underlay: Switch,
}

impl Cluster {
    pub(crate) fn workers(&self) -> &[Worker] {
        &self.workers
    }
}

/// Makes the nodes, starts the daemon on each and gives it the LANs.
pub(crate) fn cluster(progress: &Progress) -> Result<Cluster, Stop> {
    let underlay = Switch::new()?;
    let mut workers = Vec::new();
    for (name, link) in NODES {
        let mut node = Node::new(name)?;
        node.connect(&underlay, link, MTU)?;
        workers.push(Worker::on(node)?);
        progress.done(&format!("{name}: underlay {link}, k8slan-device-plugin runs"));
    }
    let document = fs::read_to_string(example("lan.yaml"))?;
    for worker in &workers {
        worker.put_text("lan.yaml", &document)?;
        worker.put_text("lan-blue.yaml", include_str!("lan-blue.yaml"))?;
    }
    for worker in &workers {
        for spoke in ["pod1", "pod2", "blue1", "blue2", "blue3"] {
            worker.ready(spoke)?;
        }
    }
    progress.done("nad-examples/k8slan/lan.yaml and a second LAN are built on every node");
    Ok(Cluster { workers, _underlay: underlay })
}

fn example(file: &str) -> std::path::PathBuf {
    let folder: &Path = &testnet::workspace();
    folder.join("nad-examples/k8slan").join(file)
}

/// A pod on a LAN.
pub(crate) struct Member<'a> {
    pod: Pod<'a>,
    lan: &'static str,
    address: Ipv4Addr,
}

impl Member<'_> {
    /// The name of the pod and of its network namespace below `/run/netns`, if it is on that node.
    pub(crate) fn on(&self, node: &str) -> Option<(&str, &str)> {
        let namespace = Path::new(self.pod.path()).file_name()?.to_str()?;
        (self.pod.node().name() == node).then(|| (self.pod.name(), namespace))
    }
}

/// Attaches a pod to each network, as Multus and a runtime do; two LANs, the same addresses.
pub(crate) fn pods<'a>(cluster: &'a Cluster, progress: &Progress) -> Result<Vec<Member<'a>>, Stop> {
    let network = |file: &str| Network::read(&fs::read_to_string(example(file))?);
    let blue = |spoke: &str| Network::of(spoke, spoke, json!({"cniVersion": "0.3.1", "type": "macvtap"}));
    let wanted = [
        (0, "testvm-1", network("nad-pod1.yaml")?, "lan-test", 1),
        (1, "nginx", network("nad-vlan44.yaml")?, "lan-test", 2),
        (0, "blue-a", blue("blue1")?, "lan-blue", 1),
        (1, "blue-b", blue("blue2")?, "lan-blue", 2),
        (2, "blue-c", blue("blue3")?, "lan-blue", 3),
    ];
    let mut members = Vec::new();
    for (node, name, network, lan, host) in wanted {
        let worker = &cluster.workers[node];
        let pod = worker.pod(name)?;
        let start = Instant::now();
        pod.add("macvtap", "net1", &network.config)?;
        let took = millis(start.elapsed());
        let address = Ipv4Addr::new(10, 44, 0, host);
        pod.ip(&format!("addr add {address}/24 dev net1"))?;
        progress.done(&format!(
            "{name} on {}: network {}, deviceID {}: ADD in {took}, then {address}/24",
            worker.name(),
            network.name,
            network.spoke
        ));
        members.push(Member { pod, lan, address });
    }
    Ok(members)
}

/// Round-trip times: from a pod's name to the others on its LAN.
pub(crate) type Times = BTreeMap<String, Vec<(String, Duration)>>;

/// Pings from every pod to every other; on the same LAN each must be answered, across LANs none.
pub(crate) fn pings(members: &[Member<'_>], progress: &Progress) -> Result<Times, Stop> {
    let mut times = Times::new();
    for from in members {
        for to in members.iter().filter(|to| to.lan == from.lan && to.address != from.address) {
            let ping = Ping::new(IpAddr::from(to.address)).repeated(10, Duration::from_millis(5));
            let report = ping.run(&from.pod)?;
            report
                .perfect()
                .map_err(|e| Stop::Failed(format!("{} to {}: {e}", from.pod.name(), to.pod.name())))?;
            let line = format!("{} on {}", to.pod.name(), to.pod.node().name());
            let median = report.median().unwrap_or_default();
            times.entry(from.pod.name().to_owned()).or_default().push((line, median));
        }
    }
    progress.done("every pod has reached every other of its LAN, ten pings of ten");
    if let Some(outsider) = members.iter().find(|m| m.lan == "lan-test") {
        // 10.44.0.3 exists on the second LAN only.
        let stray =
            Ping::new(Ipv4Addr::new(10, 44, 0, 3)).timeout(Duration::from_millis(500)).run(&outsider.pod)?;
        if !stray.replies.is_empty() {
            return Err(Stop::Failed(format!("a pod of lan-test reached lan-blue: {stray}")));
        }
        progress.done("10.44.0.3 is on lan-blue only: from lan-test it does not answer");
    }
    Ok(times)
}
