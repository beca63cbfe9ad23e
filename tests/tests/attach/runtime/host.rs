//! A node with everything that a cluster's node has, and a second one with a pod to talk to.

use std::time::Duration;

use k8slan_tests::containerd::{Containerd, Handler, KubePod, RunningPod, cluster_network, needs_containerd};
use k8slan_tests::kubelet::Kubelet;
use k8slan_tests::{LanFile, Worker, joined};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Pod, Stop, Switch};

use crate::runtime::{check, failed};

/// The pod on the other node.
pub(crate) const PEER: &str = "10.0.0.200";

pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Two nodes on one underlay; containerd and a kubelet belong on the first.
pub(crate) struct Host {
    pub(crate) worker: Worker,
    pub(crate) other: Worker,
    pub(crate) lan: LanFile,
    _switch: Switch,
}

/// The LAN, with a pool of addresses, in a list as an administrator writes it; the device is Multus' to fill in.
pub(crate) fn on_lan(spoke: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "lan", "plugins": [
            { "type": "macvtap", "deviceID": spoke, "ipam": { "type": "ipam-pool", "pool": "lan" } },
        ],
    })
}

/// A handler for the pod of this name, on the spoke of the same name.
pub(crate) fn handler(spoke: &str) -> Handler {
    Handler::new(spoke, &[cluster_network(), on_lan(spoke)])
}

impl Host {
    pub(crate) fn new(mut node: Node, spokes: [&str; 2]) -> Result<Self, Stop> {
        needs_containerd()?;
        let switch = Switch::new()?;
        node.connect(&switch, "eth1", 1500)?;
        let lan = LanFile::new("lan1", 7, &[spokes[0], spokes[1], "peer"]);
        let worker = Worker::with_kubelet(node)?;
        worker.write(
            "/var/lib/k8slan/pools.d/lan.yaml",
            "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: lan\nspec:\n  \
             scope: host\n  ranges:\n  - subnet: 10.0.0.0/24\n",
        )?;
        let other = Worker::new("worker2", &switch, 1500)?;
        worker.put(&lan)?;
        other.put(&lan)?;
        worker.ready(spokes[0])?;
        worker.ready(spokes[1])?;
        other.ready("peer")?;
        Ok(Self { worker, other, lan, _switch: switch })
    }

    pub(crate) fn peer(&self) -> Result<Pod<'_>, Stop> {
        joined(&self.other, "peer", &format!("{PEER}/24"))
    }

    /// Starts the kubelet on what its last life left.
    pub(crate) fn kubelet(&self) -> Result<Kubelet, Stop> {
        Ok(Kubelet::start(&self.worker.var_lib().join("kubelet/device-plugins"))?)
    }

    pub(crate) fn containerd(&self) -> Result<Containerd<'_>, Stop> {
        let spokes = self.lan.spokes.iter().filter(|spoke| *spoke != "peer");
        let handlers: Vec<Handler> = spokes.map(|spoke| handler(spoke)).collect();
        Containerd::start(&self.worker, &handlers)
    }
}

/// Admits a pod and starts it.
pub(crate) fn start(
    kubelet: &Kubelet,
    containerd: &Containerd<'_>,
    pod: &KubePod,
) -> Result<RunningPod, Stop> {
    let resource = format!("macvtap.k8slan.io/{}", pod.name);
    kubelet.wait_resource(&resource, (1, 1), SOON).map_err(failed)?;
    let given = kubelet.admit(&pod.uid, "main", &resource, 1).map_err(failed)?;
    containerd.run_pod(pod, &given)
}

/// `/dev/tapN` as the kubelet's checkpoint has it for a pod.
pub(crate) fn tap(kubelet: &Kubelet, pod: &KubePod) -> Result<String, Stop> {
    let given = kubelet.given(&pod.uid, "main");
    let device = given.devices.first().ok_or_else(|| failed("no device was given"))?;
    Ok(device.container_path.clone())
}

/// A line of shell in the container that must succeed; what it wrote.
pub(crate) fn shell(containerd: &Containerd<'_>, pod: &RunningPod, line: &str) -> Result<String, Stop> {
    let (code, text) = containerd.shell(&pod.container, line)?;
    check!(code == 0, "`{line}` in the container ended with {code}: {text}");
    Ok(text)
}

/// The container reaches this address over the LAN.
pub(crate) fn pings(containerd: &Containerd<'_>, pod: &RunningPod, address: &str) -> Outcome {
    // The first may wait for a neighbour's answer.
    let said = shell(containerd, pod, &format!("busybox ping -c 3 -i 0.1 -W 2 -I eth1 {address}"))?;
    check!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}
