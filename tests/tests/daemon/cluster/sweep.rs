//! What dead pods left is removed, and nothing else.

use std::time::Duration;

use serde_json::{Value, json};
use testnet::{Daemon, Outcome, Pod, Stop, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{SOON, Site, document, failed};

/// The grace that the daemon is started with is half a second; this is much longer.
const LONG: Duration = Duration::from_secs(2);

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        what_pod_and_namespace_left_is_swept_and_nothing_else,
        ports_of_a_bridge_and_macvtaps_of_a_master_are_swept,
        nothing_is_swept_while_the_api_server_is_away,
        a_sweep_that_is_killed_is_finished_by_the_next,
        a_virtual_machine_keeps_its_address,
        a_whole_daemon_sweeps_too,
    ]
}

/// A pod that Kubernetes knows.
fn put_pod(site: &Site, name: &str) -> Result<String, Stop> {
    site.server.put(
        "pods",
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "default", "name": name },
            "spec": { "nodeName": "worker1" },
        }),
    );
    let pod = site.server.get("pods", "v1", &format!("default/{name}"));
    let uid = pod.and_then(|pod| Some(pod["metadata"]["uid"].as_str()?.to_owned()));
    uid.ok_or_else(|| failed("a pod without a UID"))
}

fn arguments(name: &str, uid: &str) -> String {
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}")
}

fn spoke_config(spoke: &str, pool: bool) -> Value {
    let mut config = json!({ "cniVersion": "1.0.0", "name": "vlan44", "type": "macvtap", "deviceID": spoke });
    if pool {
        config["ipam"] = json!({ "type": "ipam-pool", "subnet": "10.9.0.0/24", "scope": "host" });
    }
    config
}

/// Who is attached in the LAN, by spoke.
fn attached(site: &Site) -> Result<Vec<String>, Stop> {
    let names = site.node.netns("/run/netns/knlvrf")?.link_names()?;
    Ok(names.into_iter().filter(|name| name.starts_with("pod")).collect())
}

fn swept(site: &Site, spokes: &[&str], log: &Daemon) -> Outcome {
    eventually(SOON, || match attached(site) {
        Ok(left) if left == spokes => Ok(()),
        Ok(left) => Err(format!("attached: {left:?}\n{}", log.log())),
        Err(_) => Err("no LAN".to_owned()),
    })?;
    Ok(())
}

fn leases(site: &Site) -> Result<Vec<Value>, Stop> {
    let program = testnet::program("ipam-pool");
    let text = site.node.exec(&[&program.to_string_lossy(), "leases", "--json"])?;
    let rows: Vec<Value> = serde_json::from_str(&text).map_err(failed)?;
    Ok(rows.into_iter().filter(|row| row["state"] == "leased" || row["state"] == "kept").collect())
}

struct Attached<'a> {
    pod: Pod<'a>,
    uid: String,
}

/// Attaches a pod; Kubernetes knows it where `known`.
fn attach<'a>(
    site: &'a Site,
    name: &str,
    spoke: &str,
    pool: bool,
    with_uid: bool,
) -> Result<Attached<'a>, Stop> {
    let uid = put_pod(site, name)?;
    let pod = site.node.pod(name)?;
    let mut call = pod.call("net1", &spoke_config(spoke, pool));
    call.args = if with_uid { arguments(name, &uid) } else { String::new() };
    site.node.cni("macvtap", "ADD", &call).map_err(failed)?;
    Ok(Attached { pod, uid })
}

fn start(site: &Site) -> Result<(Daemon, Daemon), Stop> {
    let parts = (site.node_part()?, site.cluster_part()?);
    let built = |record: String| record.contains("\"ready\":true");
    eventually(SOON, || match site.agent("readyz") {
        Ok(answer)
            if answer.status.success() && site.node.read("/run/k8slan/spokes/pod1.json").is_ok_and(built) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}\n{}\n{}", parts.0.log(), parts.1.log())),
    })?;
    Ok(parts)
}

fn what_pod_and_namespace_left_is_swept_and_nothing_else() -> Outcome {
    let site = Site::without_kubelet()?;
    let spokes = ["pod1", "pod2", "pod3", "pod4"];
    site.server.put("lans", document(&spokes));
    let (node, cluster) = start(&site)?;

    let gone = attach(&site, "gone", "pod1", true, true)?;
    let no_pod = attach(&site, "no-pod", "pod2", true, true)?;
    let no_netns = attach(&site, "no-netns", "pod3", true, true)?;
    let by_hand = attach(&site, "by-hand", "pod4", true, false)?;
    check!(leases(&site)?.len() == 4, "{:?}", leases(&site)?);
    check!(attached(&site)? == spokes, "{:?}", attached(&site)?);

    for name in ["gone", "no-pod", "by-hand"] {
        site.server.delete("pods", "v1", &format!("default/{name}"));
    }
    let uid = gone.uid.clone();
    for attached in [gone, no_netns, by_hand] {
        attached.pod.remove()?;
    }
    swept(&site, &["pod2", "pod3", "pod4"], &node)?;
    std::thread::sleep(LONG);
    check!(attached(&site)? == ["pod2", "pod3", "pod4"], "{:?}\n{}", attached(&site)?, node.log());
    let left = leases(&site)?;
    check!(left.len() == 3, "{left:?}\n{}", node.log());
    check!(!left.iter().any(|row| row["holders"][0]["uid"] == json!(uid)), "{left:?}");
    let taps = site.node.run(|| std::fs::read_dir("/run/k8slan/taps").map(Iterator::count))?;
    check!(taps == 3, "{taps} records of taps");
    let metrics = site.get("/metrics");
    for line in
        ["k8slan_swept_attachments_total 1", "k8slan_swept_leases_total 1", "k8slan_sweep_errors_total 0"]
    {
        check!(metrics.contains(line), "{line} in {metrics}");
    }

    // The others follow when they, too, have lost both.
    no_pod.pod.remove()?;
    site.server.delete("pods", "v1", "default/no-netns");
    swept(&site, &["pod4"], &node)?;
    for part in [cluster, node] {
        check!(part.terminate()?.success(), "it ends well");
    }
    Ok(())
}

fn ports_of_a_bridge_and_macvtaps_of_a_master_are_swept() -> Outcome {
    let site = Site::without_kubelet()?;
    site.server.put("lans", document(&["pod1"]));
    site.node.ip("link add br9 type bridge")?;
    site.node.ip("link set br9 up")?;
    let (node, _cluster) = start(&site)?;
    let mut pods = Vec::new();
    for (name, plugin, config) in [
        ("bridged", "vlan-bridge", json!({ "bridge": "br9" })),
        ("mastered", "macvtap", json!({ "master": "eth1" })),
        ("stays", "vlan-bridge", json!({ "bridge": "br9" })),
    ] {
        let uid = put_pod(&site, name)?;
        let pod = site.node.pod(name)?;
        let mut config = config;
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("other");
        config["type"] = json!(plugin);
        let mut call = pod.call("net1", &config);
        call.args = arguments(name, &uid);
        site.node.cni(plugin, "ADD", &call).map_err(failed)?;
        pods.push(pod);
    }
    let ports = || -> Result<usize, testnet::Error> {
        Ok(site.node.link_names()?.iter().filter(|name| name.starts_with("vb")).count())
    };
    let records = |folder: &str| {
        let path = format!("/run/k8slan/{folder}");
        site.node.run(|| std::fs::read_dir(path).map(Iterator::count))
    };
    check!((ports()?, records("ports")?, records("taps")?) == (2, 2, 1), "{:?}", site.node.link_names()?);
    // The host's end of a port goes with the pod's; the record and the link of a master's macvtap do not.
    for pod in pods {
        let name = pod.name().to_owned();
        pod.remove()?;
        if name != "stays" {
            site.server.delete("pods", "v1", &format!("default/{name}"));
        }
    }
    eventually(SOON, || match (records("ports"), records("taps")) {
        (Ok(1), Ok(0)) => Ok(()),
        other => Err(format!("{other:?}\n{}", node.log())),
    })?;
    // Counted when the leases, too, were looked at.
    eventually(SOON, || match site.get("/metrics") {
        metrics if metrics.contains("k8slan_swept_attachments_total 2") => Ok(()),
        metrics => Err(metrics),
    })?;
    Ok(())
}

fn nothing_is_swept_while_the_api_server_is_away() -> Outcome {
    let site = Site::without_kubelet()?;
    site.server.put("lans", document(&["pod1"]));
    let (node, cluster) = start(&site)?;
    let gone = attach(&site, "gone", "pod1", false, true)?;
    // It is known as a living one.
    std::thread::sleep(LONG);
    site.server.fault(|faults| faults.refuse = true);
    site.server.delete("pods", "v1", "default/gone");
    gone.pod.remove()?;
    std::thread::sleep(LONG);
    check!(attached(&site)? == ["pod1"], "{}", node.log());
    check!(cluster.log().contains("nothing is swept"), "{}", cluster.log());
    // Whoever hears of pods is away: what was last heard says nothing.
    cluster.kill()?;
    std::thread::sleep(LONG);
    check!(attached(&site)? == ["pod1"], "{}", node.log());
    site.server.fault(|faults| faults.refuse = false);
    let _cluster = site.cluster_part()?;
    swept(&site, &[], &node)
}

fn a_sweep_that_is_killed_is_finished_by_the_next() -> Outcome {
    let site = Site::without_kubelet()?;
    let spokes: Vec<String> = (1..=8).map(|n| format!("pod{n}")).collect();
    site.server.put("lans", document(&spokes.iter().map(String::as_str).collect::<Vec<_>>()));
    let (mut node, cluster) = start(&site)?;
    let mut pods = Vec::new();
    for spoke in &spokes {
        pods.push(attach(&site, &format!("{spoke}-pod"), spoke, true, true)?);
    }
    for (spoke, attached) in spokes.iter().zip(pods) {
        site.server.delete("pods", "v1", &format!("default/{spoke}-pod"));
        attached.pod.remove()?;
    }
    // Eight DELs of some 20 ms each, after the grace: killed in the middle of them.
    for _ in 0..4 {
        let before = attached(&site)?.len();
        let deadline = std::time::Instant::now() + SOON;
        while attached(&site)?.len() == before && before > 0 && std::time::Instant::now() < deadline {}
        node.kill()?;
        node = site.node_part()?;
    }
    swept(&site, &[], &node)?;
    eventually(SOON, || match leases(&site) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("{left:?}\n{}\n{}", node.log(), cluster.log())),
        Err(_) => Err("ipam-pool fails".to_owned()),
    })?;
    Ok(())
}

fn a_virtual_machine_keeps_its_address() -> Outcome {
    let site = Site::without_kubelet()?;
    site.server.put("lans", document(&["pod1"]));
    let (node, cluster) = start(&site)?;
    site.server.put(
        "virtualmachines",
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "namespace": "default", "name": "vyos" },
        }),
    );
    // What its interfaces are bound by, and the record that plugins read of it.
    site.server.put(
        "virtualmachineinstances",
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "namespace": "default", "name": "vyos" },
            "spec": {
                "domain": { "devices": { "interfaces": [
                    { "name": "default", "masquerade": {} }, { "name": "red", "binding": { "name": "macvtap" } },
                ] } },
                "networks": [
                    { "name": "default", "pod": {} }, { "name": "red", "multus": { "networkName": "lan" } },
                ],
            },
        }),
    );
    const RECORD: &str = r#"{"vm":"vyos","bindings":{"podb1f51a511f1":"tap"}}"#;
    let launch = |name: &str| -> Result<Attached<'_>, Stop> {
        site.server.put(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "namespace": "default", "name": name, "ownerReferences": [{
                    "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vyos", "uid": "vmi",
                    "controller": true,
                }] },
                "spec": { "nodeName": "worker1" },
            }),
        );
        let known = site.server.get("pods", "v1", &format!("default/{name}")).unwrap_or_default();
        let uid = known["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let record = format!("/run/k8slan/owners/{uid}.json");
        eventually(SOON, || match site.node.read(&record) {
            Ok(text) if text == RECORD => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let pod = site.node.pod(name)?;
        let mut config = spoke_config("pod1", true);
        config["ipam"]["sticky"] = json!("vm");
        let mut call = pod.call("net1", &config);
        call.args = arguments(name, &uid);
        site.node.cni("macvtap", "ADD", &call).map_err(failed)?;
        Ok(Attached { pod, uid })
    };
    let first = launch("virt-launcher-vyos-aaaaa")?;
    let address = leases(&site)?[0]["address"].clone();
    // The VM is stopped, and nobody ran DEL.
    site.server.delete("pods", "v1", "default/virt-launcher-vyos-aaaaa");
    first.pod.remove()?;
    swept(&site, &[], &node)?;
    eventually(SOON, || match leases(&site) {
        Ok(left) if left.len() == 1 && left[0]["holders"] == json!([]) && left[0]["address"] == address => {
            Ok(())
        }
        Ok(left) => Err(format!("{left:?}")),
        Err(_) => Err("ipam-pool fails".to_owned()),
    })?;
    let record = format!("/run/k8slan/owners/{}.json", first.uid);
    check!(site.node.read(&record).is_err(), "the record of a pod that is gone");
    // It starts again, in another pod.
    let second = launch("virt-launcher-vyos-bbbbb")?;
    let now = leases(&site)?;
    check!(now.len() == 1 && now[0]["address"] == address, "{now:?}");

    // A machine that exists keeps what is kept for it; one that is deleted does not.
    site.server.delete("pods", "v1", "default/virt-launcher-vyos-bbbbb");
    second.pod.remove()?;
    swept(&site, &[], &node)?;
    std::thread::sleep(LONG);
    let now = leases(&site)?;
    check!(now.len() == 1 && now[0]["address"] == address, "{now:?}\n{}", node.log());
    let asked = |line: &String| line.contains("/namespaces/default/virtualmachines/vyos");
    check!(site.server.requests().iter().any(asked), "it is asked about: {:?}", site.server.requests());
    for kind in ["virtualmachines", "virtualmachineinstances"] {
        site.server.delete(kind, "kubevirt.io/v1", "default/vyos");
    }
    eventually(Duration::from_secs(10), || match leases(&site) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("{left:?}\n{}\n{}", node.log(), cluster.log())),
        Err(_) => Err("ipam-pool fails".to_owned()),
    })?;

    // A launcher whose machine nobody knows yet is to be tried again.
    let pod = site.node.pod("virt-launcher-other-ccccc")?;
    let mut config = spoke_config("pod1", true);
    config["ipam"]["sticky"] = json!("vm");
    let call =
        json!({ "cniVersion": "1.0.0", "name": "vlan44", "type": "ipam-pool", "ipam": config["ipam"] });
    let mut call = pod.call("net1", &call);
    call.args = arguments("virt-launcher-other-ccccc", "unseen");
    let error = site.node.cni("ipam-pool", "ADD", &call).err().ok_or_else(|| failed("it got an address"))?;
    check!(error.code == 11, "{error}");
    Ok(())
}

fn a_whole_daemon_sweeps_too() -> Outcome {
    let site = Site::without_kubelet()?;
    site.server.put("lans", document(&["pod1"]));
    let daemon = site.whole()?;
    eventually(SOON, || match site.node.read("/run/k8slan/spokes/pod1.json") {
        Ok(record) if record.contains("\"ready\":true") => Ok(()),
        other => Err(format!("{other:?}\n{}", daemon.log())),
    })?;
    let gone = attach(&site, "gone", "pod1", false, true)?;
    site.server.delete("pods", "v1", "default/gone");
    gone.pod.remove()?;
    swept(&site, &[], &daemon)
}
