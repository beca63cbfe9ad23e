//! Sandboxes, nodes and kubelets that end and come back.

use std::time::{Duration, Instant};

use k8slan_tests::containerd::{Containerd, KubePod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testnet::{Node, Outcome, Trial, eventually, tests};

use crate::runtime::host::{Host, PEER, SOON, pings, start, tap};
use crate::runtime::{check, failed};

pub(crate) fn trials() -> Vec<Trial> {
    tests![a_sandbox_that_dies_is_made_anew_without_allocate, a_node_that_reboots_gives_the_same_device]
}

const POD1: &str = "macvtap.k8slan.io/pod1";

fn a_sandbox_that_dies_is_made_anew_without_allocate() -> Outcome {
    let host = Host::new(Node::new("worker1")?, ["pod1", "pod2"])?;
    let _peer = host.peer()?;
    let (kubelet, containerd) = (host.kubelet()?, host.containerd()?);
    let pod = KubePod::new("pod1");
    let mut running = start(&kubelet, &containerd, &pod)?;
    pings(&containerd, &running, PEER)?;
    // What Allocate needs is not there: neither daemon nor kubelet is asked.
    host.worker.kill_daemon()?;
    for round in 1..=2 {
        let process = Pid::from_raw(containerd.sandbox_process(&running.sandbox)?);
        kill(process, Signal::SIGKILL)?;
        eventually(SOON, || {
            let sandboxes = containerd.sandboxes_of(&pod).map_err(|stop| format!("{stop:?}"))?;
            match sandboxes.iter().find(|sandbox| sandbox.id == running.sandbox) {
                Some(sandbox) if sandbox.state == 0 => {
                    Err("containerd takes the sandbox for alive".to_owned())
                }
                _ => Ok(()),
            }
        })?;
        let again = containerd.run_pod(&pod, &kubelet.given(&pod.uid, "main"))?;
        check!(again.sandbox != running.sandbox, "another sandbox");
        running = again;
        pings(&containerd, &running, PEER).map_err(|stop| failed(format!("sandbox {round}: {stop:?}")))?;
    }
    containerd.delete_pod(&pod)?;
    Ok(())
}

fn a_node_that_reboots_gives_the_same_device() -> Outcome {
    let mut host = Host::new(Node::new("worker1")?, ["pod1", "pod2"])?;
    let pod = KubePod::new("pod1");
    let path = {
        let (kubelet, containerd) = (host.kubelet()?, host.containerd()?);
        let running = start(&kubelet, &containerd, &pod)?;
        let peer = host.peer()?;
        pings(&containerd, &running, PEER)?;
        let path = tap(&kubelet, &pod)?;
        kubelet.kill();
        peer.del("macvtap", "net1", &k8slan_tests::on_spoke("peer"))?;
        path
    };

    host.worker.lose_power()?;
    // The kubelet and the runtime come first: what they would say to pods now is no.
    let kubelet = host.kubelet()?;
    let early = kubelet.admit(&pod.uid, "main", POD1, 1).unwrap_err();
    check!(early.contains("no healthy devices present"), "before the daemon: {early}");
    let begin = Instant::now();
    host.worker.start_daemon()?;
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    let took = begin.elapsed();
    println!("after a reboot: registered {took:?} after the daemon's start");
    check!(took < Duration::from_secs(1), "registered after {took:?}");
    let admitted = kubelet.admit(&pod.uid, "main", POD1, 1).map_err(failed)?;
    check!(
        admitted.devices[0].host_path == path,
        "another device than {path} after the reboot: {admitted:?}"
    );

    let containerd = Containerd::again(&host.worker)?;
    let running = containerd.run_pod(&pod, &admitted)?;
    let _peer = host.peer()?;
    pings(&containerd, &running, PEER)?;
    check!(containerd.sandboxes_of(&pod)?.len() == 2, "the one from before the reboot, and the new one");
    containerd.delete_pod(&pod)?;
    check!(containerd.sandboxes_of(&pod)?.is_empty(), "both are removed");
    Ok(())
}
