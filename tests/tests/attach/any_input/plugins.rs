//! The plugins, given a network configuration that was right before something happened to it.

use k8slan_tests::{LanFile, Worker};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use testnet::{CniError, Node, Outcome, Pod, Stop, Switch, Trial, program, tests};

use crate::any_input::hold;
use crate::any_input::mutate::mutated;

pub(crate) fn trials() -> Vec<Trial> {
    tests![macvtap_answers, ipam_pool_answers, vlan_bridge_answers]
}

/// Each is a process, or four.
const CASES: u32 = 150;

const POOL: &str = "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: p\nspec:\n  scope: host\n  \
                    ranges: [{subnet: 10.0.0.0/24}]\n";

fn ipam() -> serde_json::Value {
    json!({ "type": "ipam-pool", "pool": "p", "routes": [{ "dst": "10.9.0.0/16" }], "sticky": "none" })
}

/// A success, or an error of which the runtime can tell a person what it was.
fn answered(what: &str, answer: Result<serde_json::Value, CniError>) -> Result<(), TestCaseError> {
    let Err(error) = answer else { return Ok(()) };
    prop_assert!(error.code > 0 && !error.msg.is_empty(), "{what}: {error}");
    prop_assert!(!error.stderr.contains("panicked"), "{what}: {error} {}", error.stderr);
    Ok(())
}

/// Any verb with any change of these configurations; whatever ADD did, the right DEL takes away.
fn plugin_answers(node: &Node, pod: &Pod<'_>, plugin: &str, configs: &[serde_json::Value]) -> Outcome {
    let texts: Vec<String> = configs.iter().map(serde_json::Value::to_string).collect();
    let verb = select(vec!["ADD", "ADD", "ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"]);
    hold(CASES, &(verb, mutated(texts)), |(verb, bytes)| {
        let mut call = pod.call("net1", &json!({}));
        call.config = String::from_utf8_lossy(&bytes).into_owned();
        answered(&format!("{verb} {}", call.config), node.cni(plugin, verb, &call))?;
        if verb == "ADD" {
            answered(&format!("DEL {}", call.config), node.cni(plugin, "DEL", &call))?;
            for config in configs {
                let del = pod.del(plugin, "net1", config).map_err(|error| error.to_string());
                prop_assert!(del.is_ok(), "the DEL after ADD {}: {del:?}", call.config);
            }
            let links = pod.link_names().unwrap();
            prop_assert!(links.is_empty(), "left by {}: {links:?}", call.config);
        }
        Ok(())
    })
}

fn no_lease_is_left(node: &Node) -> Outcome {
    let shown = node.exec(&[&*program("ipam-pool").to_string_lossy(), "pools", "--json"])?;
    let pools: serde_json::Value = serde_json::from_str(&shown)?;
    if pools[0]["leased"] == 0 { Ok(()) } else { Err(Stop::Failed(format!("leases are left: {pools}"))) }
}

fn macvtap_answers() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.write("/var/lib/k8slan/pools.d/p.yaml", POOL)?;
    let lan = LanFile::new("lan1", 7, &["a", "b"]);
    worker.put(&lan)?;
    worker.ready("a")?;
    let before = worker.netns(&lan.netns())?.link_names()?;
    let pod = worker.pod("p")?;
    let configs = [
        json!({ "cniVersion": "1.1.0", "name": "n", "type": "macvtap", "deviceID": "a", "mtu": 1400, "ipam": ipam() }),
        json!({ "cniVersion": "0.3.1", "name": "n", "type": "macvtap", "master": "eth1", "mode": "bridge", "promiscMode": true }),
        json!({
            "cniVersion": "1.0.0", "name": "n", "type": "macvtap", "spoke": "b", "capabilities": { "mac": true },
            "runtimeConfig": { "mac": "02:00:00:00:00:07" }, "owner": 107, "group": 107,
        }),
    ];
    plugin_answers(&worker, &pod, "macvtap", &configs)?;
    let after = worker.netns(&lan.netns())?.link_names()?;
    assert_eq!(after, before);
    no_lease_is_left(&worker)
}

fn ipam_pool_answers() -> Outcome {
    let node = Node::new("n")?;
    node.write("/var/lib/k8slan/pools.d/p.yaml", POOL)?;
    let pod = node.pod("p")?;
    let of = |ipam: serde_json::Value| json!({ "cniVersion": "1.0.0", "name": "n", "type": "macvlan", "ipam": ipam });
    let inline = json!({
        "type": "ipam-pool", "ranges": [[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "gateway": "10.1.0.1" }]],
        "exclude": ["10.1.0.16/28"], "scope": "host", "addresses": ["10.1.0.77"],
    });
    plugin_answers(&node, &pod, "ipam-pool", &[of(ipam()), of(inline)])?;
    no_lease_is_left(&node)
}

fn vlan_bridge_answers() -> Outcome {
    let node = Node::new("n")?;
    node.write("/var/lib/k8slan/pools.d/p.yaml", POOL)?;
    node.ip("link add br0 type bridge")?;
    let pod = node.pod("p")?;
    let configs = [
        json!({
            "cniVersion": "1.1.0", "name": "n", "type": "vlan-bridge", "bridge": "br0", "vlan": 30, "macspoofchk": true,
            "ipspoofchk": true, "uplinks": [{ "name": "eth0", "follow": true }], "ipam": ipam(),
        }),
        json!({
            "cniVersion": "1.0.0", "name": "n", "type": "vlan-bridge", "bridge": "br0", "isGateway": true,
            "vlanTrunk": [{ "minID": 10, "maxID": 20 }, { "id": 42 }], "preserveDefaultVlan": false,
        }),
    ];
    plugin_answers(&node, &pod, "vlan-bridge", &configs)?;
    no_lease_is_left(&node)
}
