//! A pod's life, with nothing going wrong in it.

use std::net::IpAddr;
use std::time::Duration;

use k8slan_tests::containerd::{Containerd, KubePod, RunningPod};
use proto::kubelet::v1beta1::ContainerAllocateResponse;
use serde_json::Value;
use testnet::{Node, Outcome, Ping, Stop, Tap, Trial, program, tests};

use crate::runtime::host::{Host, PEER, pings, shell, start, tap};
use crate::runtime::{check, failed};

pub(crate) fn trials() -> Vec<Trial> {
    tests![from_the_kubelet_to_the_wire, what_the_plugin_refuses_is_told_in_the_pods_event]
}

fn from_the_kubelet_to_the_wire() -> Outcome {
    // The machine's own devtmpfs, where the kernel makes /dev/tapN: no other trial may have this N.
    let host = Host::new(Node::with_host_devices("worker1")?, ["web1", "web2"])?;
    let peer = host.peer()?;
    let (kubelet, containerd) = (host.kubelet()?, host.containerd()?);
    let links = || host.worker.netns(&host.lan.netns())?.link_names();
    let before = links()?;
    let (one, two) = (KubePod::new("web1"), KubePod::new("web2"));
    let (first, second) = (start(&kubelet, &containerd, &one)?, start(&kubelet, &containerd, &two)?);

    let path = tap(&kubelet, &one)?;
    let index = path.strip_prefix("/dev/tap").unwrap();
    check!(
        shell(&containerd, &first, "busybox cat /sys/class/net/eth1/ifindex")? == index,
        "{path} is eth1's"
    );
    let environment = shell(&containerd, &first, "busybox env")?;
    for variable in ["SPOKE_web1=web1", "MTU_web1=1426", &format!("TAP_INDEX_web1={index}")] {
        let line = format!("K8SLAN_{variable}");
        check!(environment.lines().any(|found| found == line), "{line} in {environment}");
    }

    // On the node, to the node beside it, and from there.
    let address = address_of(&containerd, &second)?;
    pings(&containerd, &first, &address.to_string())?;
    pings(&containerd, &second, PEER)?;
    Ping::new(address).run(&peer)?.perfect().map_err(failed)?;

    let number = own_tap_opens(&host, &containerd, &first, &path)?;
    foreign_tap_does_not(&containerd, &second, number)?;
    the_daemon_dies_under_traffic(&host, &containerd, &first)?;

    // So may containerd, whose pods outlive it.
    containerd.stop()?;
    let containerd = Containerd::again(&host.worker)?;
    pings(&containerd, &first, PEER)?;

    containerd.delete_pod(&one)?;
    containerd.delete_pod(&two)?;
    let after = links()?;
    check!(after == before, "links of the LAN: {after:?} instead of {before:?}");
    check!(!host.worker.run(|| std::path::Path::new(&path).exists()), "{path} is still there");
    check!(leased(&host)? == 0, "addresses are still leased");
    Ok(())
}

fn address_of(containerd: &Containerd<'_>, pod: &RunningPod) -> Result<IpAddr, Stop> {
    let shown = shell(containerd, pod, "busybox ip -4 -o addr show dev eth1")?;
    let net = shown.split_whitespace().nth(3).unwrap_or_default();
    Ok(net.split('/').next().unwrap_or_default().parse()?)
}

fn leased(host: &Host) -> Result<u64, Stop> {
    let shown = host.worker.exec(&[&*program("ipam-pool").to_string_lossy(), "pools", "--json"])?;
    let pools: Value = serde_json::from_str(&shown)?;
    pools[0]["leased"].as_u64().ok_or_else(|| failed(shown))
}

/// What the container has under this path is its own link's; its device's numbers.
fn own_tap_opens(
    host: &Host,
    containerd: &Containerd<'_>,
    pod: &RunningPod,
    path: &str,
) -> Result<(u64, u64), Stop> {
    let process = containerd.container_process(&pod.container)?;
    let inside = Tap::open(&host.worker, &format!("/proc/{process}/root{path}"))?;
    let link = inside.link()?;
    check!(link == "eth1", "{path} in the container leads to {link}");
    let number = inside.device()?;
    drop(inside);
    shell(containerd, pod, &format!("exec 3<>{path}"))?;
    Ok(number)
}

/// A container may make device nodes; what it may open is what Allocate answered.
fn foreign_tap_does_not(
    containerd: &Containerd<'_>,
    pod: &RunningPod,
    (major, minor): (u64, u64),
) -> Outcome {
    shell(containerd, pod, &format!("busybox mknod /tmp/tap c {major} {minor}"))?;
    let (code, said) = containerd.shell(&pod.container, "exec 3<>/tmp/tap")?;
    check!(code != 0 && said.contains("not permitted"), "another pod's tap opens: {said}");
    Ok(())
}

fn the_daemon_dies_under_traffic(host: &Host, containerd: &Containerd<'_>, pod: &RunningPod) -> Outcome {
    let line = format!("busybox ping -c 60 -i 0.02 -W 2 -I eth1 {PEER}");
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| shell(containerd, pod, &line));
        for pause in [150, 300, 10, 400] {
            host.worker.kill_daemon()?;
            host.worker.start_daemon()?;
            std::thread::sleep(Duration::from_millis(pause));
        }
        let said = ping.join().unwrap()?;
        check!(said.contains("60 packets transmitted, 60 packets received"), "{said}");
        Ok(())
    })
}

fn what_the_plugin_refuses_is_told_in_the_pods_event() -> Outcome {
    let host = Host::new(Node::new("worker1")?, ["pod1", "pod2"])?;
    let (kubelet, containerd) = (host.kubelet()?, host.containerd()?);
    let one = KubePod::new("pod1");
    start(&kubelet, &containerd, &one)?;
    // Another pod whose network names the same device, which no kubelet gave it.
    let other = KubePod { uid: "uid-other".to_owned(), name: "other".to_owned(), ..one.clone() };
    let refused = |words: &str| match containerd.run_pod(&other, &ContainerAllocateResponse::default()) {
        Ok(_) => Err(failed("the sandbox was made")),
        Err(Stop::Failed(said)) if said.contains(words) => Ok(()),
        Err(said) => Err(failed(format!("{said:?} does not say {words:?}"))),
    };
    refused("spoke pod1 is in use")?;
    containerd.delete_pod(&one)?;
    host.worker.remove(&host.lan)?;
    testnet::eventually(Duration::from_secs(5), || match host.worker.record("pod1") {
        Some(_) => Err("the LAN is still there".to_owned()),
        None => Ok(()),
    })?;
    refused("pod1")?;
    host.worker.put(&host.lan)?;
    host.worker.ready("pod1")?;
    start(&kubelet, &containerd, &one)?;
    Ok(())
}
