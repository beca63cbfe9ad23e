//! The node, its LAN and its pods.

use std::time::Duration;

use serde_json::{Value, json};
use testnet::{Daemon, Node, Pod, Switch, eventually};

use crate::Result;

/// A simulated node on which the daemon has built a LAN.
pub(crate) struct Lab {
    // Dropped first: it watches the node.
    _daemon: Daemon,
    pub(crate) node: Node,
    _switch: Switch,
}

/// The path of the LAN's namespace.
pub(crate) const LAN: &str = "/run/netns/benchlan";
/// The name of the LAN's bridge.
pub(crate) const BRIDGE: &str = "br2";
/// The node's underlay, which macvlan has as its master.
pub(crate) const UNDERLAY: &str = "eth1";

impl Lab {
    /// A node whose LAN has that many spokes, all ready.
    pub(crate) fn new(spokes: usize) -> Result<Self> {
        let switch = Switch::new()?;
        let mut node = Node::new("bench")?;
        node.connect(&switch, UNDERLAY, 1500)?;
        let spokes: Vec<String> = (0..spokes).map(spoke).collect();
        let lan = json!({
            "apiVersion": "lan.k8slan.io/v1beta1",
            "kind": "LAN",
            "metadata": {"name": "bench", "namespace": "k8slan-system"},
            "spec": {
                "ns": "benchlan", "bridge": BRIDGE, "vxlan": "vx2", "vni": 4242, "defaultVxlanDev": UNDERLAY,
                "spokes": &spokes,
            },
        });
        // JSON is YAML.
        node.write("/etc/k8slan/lans/bench.yaml", lan.to_string())?;
        let program = testnet::program("k8slan-device-plugin");
        let argv =
            [&*program.to_string_lossy(), "node", "--lan-dir", "/etc/k8slan/lans", "--node-name", "bench"];
        let daemon = node.spawn_daemon(&argv)?;
        for spoke in &spokes {
            eventually(Duration::from_secs(10), || {
                let record = node.read(&format!("/run/k8slan/spokes/{spoke}.json")).unwrap_or_default();
                let record: Value = serde_json::from_str(&record).unwrap_or_default();
                match record["ready"] == true {
                    true => Ok(()),
                    false => Err(format!("the record of {spoke} is {record}; the daemon: {}", daemon.log())),
                }
            })?;
        }
        Ok(Self { _daemon: daemon, node, _switch: switch })
    }

    /// The pods `pod0`, `pod1` …
    pub(crate) fn pods(&self, count: usize) -> Result<Vec<Pod<'_>>> {
        (0..count).map(|number| Ok(self.node.pod(&format!("pod{number}"))?)).collect()
    }
}

/// The name of a spoke.
pub(crate) fn spoke(number: usize) -> String {
    format!("spoke{number}")
}

/// Our plugin's configuration, as Multus hands it over.
pub(crate) fn on_spoke(number: usize) -> Value {
    json!({"cniVersion": "1.0.0", "name": "bench", "type": "macvtap", "deviceID": spoke(number)})
}

/// The configuration of Debian's macvlan, without IPAM.
pub(crate) fn macvlan() -> Value {
    json!({"cniVersion": "1.0.0", "name": "bench", "type": "macvlan", "master": UNDERLAY, "mode": "bridge"})
}
