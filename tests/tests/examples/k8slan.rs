//! The LANs of `nad-examples/k8slan` from their files, on the nodes that they name.

use std::net::IpAddr;

use k8slan_tests::{Example, Worker, addresses, hears, is_seen, serve};
use serde_json::Value;
use testnet::{Node, Outcome, PacketSocket, Pod, Stop, Switch};

const HTTP: u16 = 80;
/// The nodes of the document, and one that its `vxlanDevMap` does not list.
const NODES: [(&str, &str); 3] = [("worker1", "eth1"), ("worker2", "eth2"), ("worker3", "eth0.10")];

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![the_documents_pod_and_machine_are_on_one_lan, a_second_lan_gives_addresses_and_a_veth,]
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn files() -> Example {
    Example::named("k8slan")
}

struct Cluster {
    workers: Vec<Worker>,
    _underlay: Switch,
}

/// All nodes with both LANs built.
fn cluster() -> Result<Cluster, Stop> {
    let underlay = Switch::new()?;
    let mut workers = Vec::new();
    for (name, link) in NODES {
        let mut node = Node::new(name)?;
        node.connect(&underlay, link, 1500)?;
        files().pools_to(&node)?;
        let worker = Worker::on(node)?;
        for lan in ["lan.yaml", "lab.yaml"] {
            worker.put_text(lan, &files().text(lan)?)?;
        }
        workers.push(worker);
    }
    for worker in &workers {
        for spoke in ["pod1", "pod2", "lab1", "lab2", "lab3", "lab4"] {
            worker.ready(spoke)?;
        }
    }
    Ok(Cluster { workers, _underlay: underlay })
}

/// The network that a pod's annotation names, and a check that the pod asks for what the network needs.
fn network_of(pod_file: &str, networks: &str) -> Result<Value, Stop> {
    let pod: Value = serde_saphyr::from_str(&files().text(pod_file)?)?;
    let name = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"].as_str().unwrap_or_default();
    let config = files().network(networks, name)?;
    let resource = format!("macvtap.k8slan.io/{}", config["deviceID"].as_str().unwrap_or_default());
    let asked = &pod["spec"]["containers"][0]["resources"]["limits"][&resource];
    check(asked == 1, format!("{pod_file} does not ask for {resource}"))?;
    Ok(config)
}

fn the_documents_pod_and_machine_are_on_one_lan() -> Outcome {
    let cluster = cluster()?;
    let [worker1, worker2, worker3] = &cluster.workers[..] else { unreachable!("three nodes") };
    let (launcher, nginx) = (worker1.pod("virt-launcher-testvm-1-xyz")?, worker2.pod("nginx")?);
    let machine = files().network("nad-pod1.yaml", "pod1")?;
    launcher.add("macvtap", "net1", &machine)?;
    nginx.add("macvtap", "net1", &network_of("pod.yaml", "nad-vlan44.yaml")?)?;
    // What libvirt opens for the machine: the device of the link's index, its user's.
    let index = launcher.link("net1")?.unwrap_or_default()["ifindex"].clone();
    let device = worker1.exec(&["stat", "-c", "%F %u", &format!("/dev/tap{index}")])?;
    check(device.trim() == "character special file 107", format!("/dev/tap{index} is a {device}"))?;
    let (guest, pod) = (IpAddr::from([10, 44, 0, 1]), IpAddr::from([10, 44, 0, 2]));
    launcher.ip("addr add 10.44.0.1/24 dev net1")?;
    nginx.ip("addr add 10.44.0.2/24 dev net1")?;
    serve(&nginx, HTTP, "nginx")?;
    hears(&launcher, "the machine", (pod, HTTP), Some(("nginx", guest)))?;
    // A spoke is one pod's, on each node: it is not stolen.
    let thief = worker1.pod("thief")?;
    match thief.add("macvtap", "net1", &machine) {
        Err(error) if error.code == 11 => {}
        other => return Err(Stop::Failed(format!("pod1 twice on worker1: {other:?}"))),
    }
    // The third node is on the LAN by its default underlay.
    let third = worker3.pod("third")?;
    third.add("macvtap", "net1", &machine)?;
    third.ip("addr add 10.44.0.3/24 dev net1")?;
    hears(&third, "the third", (pod, HTTP), Some(("nginx", IpAddr::from([10, 44, 0, 3]))))
}

fn a_second_lan_gives_addresses_and_a_veth() -> Outcome {
    let cluster = cluster()?;
    let [worker1, worker2, worker3] = &cluster.workers[..] else { unreachable!("three nodes") };
    let shell = network_of("pod-lab.yaml", "lab.yaml")?;
    check(shell["deviceID"] == "lab4", "the pod is not on lab4")?;
    let mut members: Vec<(Pod<'_>, Value, IpAddr)> = Vec::new();
    for (worker, spoke, config, first) in [
        (worker1, "lab1", files().network("lab.yaml", "lab1")?, 1),
        (worker2, "lab2", files().network("lab.yaml", "lab2")?, 85),
        (worker3, "lab3", files().network("lab.yaml", "lab3")?, 169),
        (worker3, "lab4", shell, 170),
    ] {
        let pod = worker.pod(spoke)?;
        let result = pod.add("macvtap", "net1", &config)?;
        let address = IpAddr::from([10, 77, 0, first]);
        check(addresses(&result) == [address], format!("{spoke} has {:?}", addresses(&result)))?;
        serve(&pod, HTTP, spoke)?;
        members.push((pod, config, address));
    }
    for (pod, _, own) in &members {
        for (other, _, to) in members.iter().filter(|member| member.2 != *own) {
            hears(pod, pod.name(), (*to, HTTP), Some((other.name(), *own)))?;
        }
    }
    // lab4 is a veth without a device of its own; the others are macvtaps with one.
    for (pod, _, _) in &members {
        let link = pod.link("net1")?.unwrap_or_default();
        let kind = if pod.name() == "lab4" { "veth" } else { "macvtap" };
        check(link["linkinfo"]["info_kind"] == kind, format!("{}: {link}", pod.name()))?;
        let device = format!("tap{}", link["ifindex"]);
        let there = pod.node().list("/dev").contains(&device);
        check(there == (kind == "macvtap"), format!("{}: /dev/{device} is there: {there}", pod.name()))?;
    }
    // The first LAN, on the same nodes and wires, has no part in it.
    let outsider = worker1.pod("outsider")?;
    outsider.add("macvtap", "net1", &files().network("nad-pod1.yaml", "pod1")?)?;
    outsider.ip("addr add 10.77.0.60/24 dev net1")?;
    hears(&outsider, "the outsider", (members[1].2, HTTP), None)?;
    let seen = is_seen(&members[0].0, "net1", &PacketSocket::open(&outsider, "net1")?)?;
    check(!seen, "a frame of lab is seen on lan-test")?;
    // Each pod leaves with its address and its spoke.
    for (pod, config, _) in &members {
        pod.del("macvtap", "net1", config)?;
        check(pod.link("net1")?.is_none(), format!("{}: net1 is still there", pod.name()))?;
    }
    let again = worker2.pod("again")?;
    again.add("macvtap", "net1", &members[1].1)?;
    Ok(())
}
