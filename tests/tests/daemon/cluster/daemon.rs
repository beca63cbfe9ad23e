//! The whole daemon on a simulated node of a cluster: API server on one side, kubelet on the other.

use std::time::{Duration, Instant};

use k8slan_tests::kubelet::Kubelet;
use serde_json::{Value, json};
use testnet::{Outcome, Trial, eventually, needs, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site, document, failed};

const POD1: &str = "macvtap.k8slan.io/pod1";

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_node_of_a_cluster_from_lan_to_pod_and_through_a_reboot,
        a_first_list_stalls_neither_probes_nor_the_kubelet,
    ]
}

fn a_node_of_a_cluster_from_lan_to_pod_and_through_a_reboot() -> Outcome {
    let site = Site::new()?;
    let (node, server, kubelet_dir) = (&site.node, &site.server, &site.kubelet_dir);
    server.put("lans", document(&["pod1", "pod2"]));

    let kubelet = Kubelet::start(kubelet_dir)?;
    let daemon = site.whole()?;
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
    check!(site.get("/readyz").starts_with("HTTP/1.1 200"), "{}", site.get("/readyz"));
    let metrics = site.get("/metrics");
    for line in ["k8slan_lans_ready 1", "k8slan_resources_registered 2", "k8slan_allocations_total 1"] {
        check!(metrics.contains(line), "{line} in {metrics}");
    }

    // The node loses power while the API server is away; the kubelet comes first.
    server.fault(|faults| faults.refuse = true);
    kubelet.kill();
    daemon.kill()?;
    node.output(&["ip", "netns", "del", "knlvrf"])?;
    let kubelet = Kubelet::start(kubelet_dir)?;
    let begin = Instant::now();
    let daemon = site.whole()?;
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
    let left: Vec<_> = std::fs::read_dir(kubelet_dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("k8slan-"))
        .collect();
    check!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// Each LAN of the API server becomes a file that is synced, on a disk that takes its time.
fn a_first_list_stalls_neither_probes_nor_the_kubelet() -> Outcome {
    needs("strace")?;
    const LANS: usize = 100;
    const SYNC: Duration = Duration::from_millis(15);
    let site = Site::new()?;
    site.server.put("lans", document(&["pod1", "pod2"]));
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    // The node knows its LAN from an earlier time; all others it hears of now.
    let daemon = site.whole()?;
    kubelet.wait_allocatable(2, SOON).map_err(|what| failed(format!("{what}\n{}", daemon.log())))?;
    daemon.terminate()?;
    for number in 0..LANS {
        let mut lan = crate::cluster::mirror::lan(
            "k8slan-system",
            &format!("l{number}"),
            u32::try_from(number).unwrap_or(0) + 1000,
        );
        lan["spec"]["defaultVxlanDev"] = json!("nowhere");
        site.server.put("lans", lan);
    }
    let files = || site.node.list("/var/lib/k8slan/lans").len();
    let daemon = site.whole_on_a_slow_disk(SYNC)?;
    eventually(SOON, || match files() {
        0 | 1 => Err(format!("the first list comes\n{}", daemon.log())),
        _ => Ok(()),
    })?;
    let start = Instant::now();
    let (mut probes, mut worst, mut given) = (0, Duration::ZERO, None);
    while files() <= LANS {
        let asked = Instant::now();
        let answer = site.get("/livez");
        check!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        worst = worst.max(asked.elapsed());
        probes += 1;
        if given.is_none() && kubelet.wait_allocatable(2, Duration::ZERO).is_ok() {
            let asked = Instant::now();
            kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
            given = Some((asked.elapsed(), files()));
        }
        check!(start.elapsed() < 60 * SOON, "only {} files", files());
    }
    let took = start.elapsed();
    println!("{LANS} LANs in {took:?}; {probes} probes, the slowest {worst:?}; Allocate {given:?}");
    check!(took > SYNC * u32::try_from(LANS).unwrap_or(0), "the disk was not slow: {took:?}");
    check!(worst < took / 4, "a probe took {worst:?} of {took:?}");
    check!(
        given.is_some_and(|(waited, at)| waited < took / 4 && at <= LANS),
        "Allocate: {given:?} of {took:?}"
    );
    Ok(())
}
