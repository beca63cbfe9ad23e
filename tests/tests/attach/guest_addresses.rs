//! The conflict probe on links that are a VM's: it finds who has an address, and nobody on the LAN ever sees the
//! VM's MAC address before the VM itself speaks.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined, on_spoke};
use serde_json::{Value, json};
use testnet::{CniCall, Frame, Namespaces, Node, Outcome, PacketSocket, Ping, Pod, Stop, Switch};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![on_every_kind_of_spoke, on_a_link_of_the_host, a_running_vms_traffic_stays_where_it_runs,]
}

/// As KubeVirt calls the interface of a guest.
const IFNAME: &str = "pod16477688c0e";

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

fn with_pool(mut config: Value) -> Value {
    config["ipam"] = json!({
        "type": "ipam-pool",
        "scope": "host",
        "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]],
        "probe": { "count": 2, "interval": "60ms", "wait": "200ms" }
    });
    config
}

fn ips(result: &Value) -> Vec<&str> {
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect()
}

fn source(frame: &Frame) -> String {
    frame.bytes[6..12].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

/// Who sent to everybody on a link while `work` was done.
fn watched<T>(
    place: &Namespaces,
    link: &str,
    work: impl FnOnce() -> Result<T, Stop>,
) -> Result<(T, Vec<(u16, String)>), Stop> {
    let wire = PacketSocket::open(place, link)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut senders = Vec::new();
            while !done.load(Ordering::Relaxed) {
                match wire.receive(Duration::from_millis(20)) {
                    Ok(Some(frame)) if !frame.outgoing && frame.bytes[0] & 1 == 1 => {
                        senders.push((frame.ethertype(), source(&frame)))
                    }
                    _ => {}
                }
            }
            senders
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let mut senders = watcher.join().unwrap();
        senders.sort();
        senders.dedup();
        Ok((result?, senders))
    })
}

/// Attaches a guest beside somebody who has the first address of each family.
fn attach_beside(squatter: &Namespaces, link: &str, pod: &Pod<'_>, config: &Value) -> Outcome {
    let theirs = squatter.link(link)?.unwrap()["address"].as_str().unwrap().to_owned();
    let (result, senders) = watched(squatter, link, || Ok(pod.add("macvtap", IFNAME, config)?))?;
    assert_eq!(ips(&result), ["10.0.0.3/24", "fd00::3/64"], "{result}");
    let mac = result["interfaces"][0]["mac"].as_str().unwrap().to_owned();
    assert_eq!(pod.link(IFNAME)?.unwrap()["address"], *mac, "the guest's link has its own address again");
    assert!(senders.iter().all(|(_, sender)| *sender != mac), "{mac} was seen on the LAN");
    for protocol in [ARP, IPV6] {
        let asked = senders.iter().any(|(of, sender)| *of == protocol && *sender != theirs);
        assert!(asked, "nobody asked by {protocol:04x}: {senders:?}");
    }
    pod.del("macvtap", IFNAME, config)?;
    Ok(())
}

fn squat(place: &Namespaces, link: &str) -> Outcome {
    for address in ["10.0.0.2/24", "fd00::2/64"] {
        place.ip(&format!("addr add {address} dev {link} nodad"))?;
    }
    Ok(())
}

fn two_workers(lan: &LanFile) -> Result<(Switch, Worker, Worker), Stop> {
    let switch = Switch::new()?;
    let workers = ["one", "two"].map(|name| Worker::new(name, &switch, 1500));
    let [one, two] = workers;
    let (one, two) = (one?, two?);
    for worker in [&one, &two] {
        worker.put(lan)?;
    }
    Ok((switch, one, two))
}

fn on_every_kind_of_spoke() -> Outcome {
    let lan = LanFile::new("lan1", 7, &["passthru", "bridge", "veth", "squatter"])
        .with("spokeOverrides: {passthru: {mode: passthru}, bridge: {mode: bridge}, veth: {attach: veth}}");
    let (_switch, one, two) = two_workers(&lan)?;
    let squatter = joined(&two, "squatter", "10.0.0.2/24")?;
    squatter.ip("addr add fd00::2/64 dev net1 nodad")?;
    for spoke in ["passthru", "bridge", "veth"] {
        one.ready(spoke)?;
        let mut config = with_pool(on_spoke(spoke));
        config["name"] = json!(spoke);
        let pod = one.pod(&format!("launcher-{spoke}"))?;
        attach_beside(&squatter, "net1", &pod, &config)
            .map_err(|stop| Stop::Failed(format!("{spoke}: {stop:?}")))?;
    }
    Ok(())
}

fn on_a_link_of_the_host() -> Outcome {
    let switch = Switch::new()?;
    let (mut node, mut other) = (Node::new("n")?, Node::new("squatter")?);
    node.connect(&switch, "eth1", 1500)?;
    other.connect(&switch, "eth1", 1500)?;
    squat(&other, "eth1")?;
    for mode in ["bridge", "private"] {
        let config =
            with_pool(json!({ "cniVersion": "1.0.0", "name": mode, "type": "macvtap", "master": "eth1",
            "mode": mode }));
        let pod = node.pod(mode)?;
        attach_beside(&other, "eth1", &pod, &config)
            .map_err(|stop| Stop::Failed(format!("{mode}: {stop:?}")))?;
    }
    // The other guest on the same link of the same host: its answer never leaves the host.
    let sibling =
        json!({ "cniVersion": "1.0.0", "name": "s", "type": "macvtap", "master": "eth1", "mode": "bridge" });
    let (first, second) = (node.pod("first")?, node.pod("second")?);
    first.add("macvtap", "net1", &sibling)?;
    for address in ["10.0.0.3/24", "fd00::3/64"] {
        first.ip(&format!("addr add {address} dev net1 nodad"))?;
    }
    let config = with_pool(json!({ "cniVersion": "1.0.0", "name": "t", "type": "macvtap", "master": "eth1",
        "mode": "bridge" }));
    let result = second.add("macvtap", IFNAME, &config)?;
    assert_eq!(ips(&result), ["10.0.0.4/24", "fd00::4/64"], "{result}");
    Ok(())
}

/// A live migration: the VM runs on one node while its launcher pod on another is attached.
fn a_running_vms_traffic_stays_where_it_runs() -> Outcome {
    const MAC: &str = "02:00:00:00:51:07";
    let lan = LanFile::new("lan1", 7, &["source", "target", "peer"]);
    let (_switch, one, two) = two_workers(&lan)?;
    let peer = joined(&one, "peer", "10.0.0.9/24")?;
    one.ready("target")?;
    two.ready("source")?;
    let with_mac = |pod: &Pod<'_>, ifname: &str, config: &Value| -> Result<Value, Stop> {
        let call = pod.call(ifname, config);
        let call = CniCall { args: format!("{};MAC={MAC}", call.args), ..call };
        Ok(pod.node().cni("macvtap", "ADD", &call)?)
    };
    let running = two.pod("virt-launcher-vm-abcde")?;
    with_mac(&running, "net1", &on_spoke("source"))?;
    squat(&running, "net1")?;
    let ping =
        |count| Ping::new("10.0.0.2".parse::<IpAddr>().unwrap()).repeated(count, Duration::from_millis(5));
    ping(5).run(&peer)?.perfect().map_err(Stop::Failed)?;
    let target = one.pod("virt-launcher-vm-fghij")?;
    one.write(&format!("/run/k8slan/owners/uid-{}.json", target.container()), r#"{"vm":"vm"}"#)?;
    let config = with_pool(on_spoke("target"));
    let (answers, senders) = watched(&peer, "net1", || {
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| ping(200).run(&peer));
            let result = with_mac(&target, IFNAME, &config);
            Ok((result, pings.join().unwrap()))
        })
    })?;
    let (result, pings) = answers;
    // The one who answers is the VM itself.
    let result = result?;
    assert_eq!(ips(&result), ["10.0.0.2/24", "fd00::2/64"], "{result}");
    assert_eq!(result["interfaces"][0]["mac"], MAC);
    let asked: Vec<_> = senders.iter().filter(|(protocol, _)| *protocol == ARP).collect();
    assert!(asked.len() == 1 && asked[0].1 != MAC, "who asked: {senders:?}");
    pings?.perfect().map_err(|lost| Stop::Failed(format!("the running VM was not reached: {lost}")))
}
