//! What the three plugins make of what runtimes say, where it is the same for all of them.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::process::ExitCode;

use serde_json::{Value, json};
use testnet::{Node, Outcome, Pod, Stop, Switch};

fn main() -> ExitCode {
    testnet::main(testnet::tests![gc_takes_null_for_an_empty_list])
}

fn node() -> Result<(Switch, Node), testnet::Error> {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    Ok((switch, node))
}

/// A configuration that works for each plugin, with an address for the pod.
fn configs() -> [(&'static str, Value); 3] {
    let of = |plugin: &str, more: Value| {
        let ipam = json!({"type": "ipam-pool", "subnet": "10.9.0.0/24", "scope": "host"});
        let mut config =
            json!({"cniVersion": "1.1.0", "name": format!("of-{plugin}"), "type": plugin, "ipam": ipam});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    [
        ("macvtap", of("macvtap", json!({"master": "eth1"}))),
        ("vlan-bridge", of("vlan-bridge", json!({"bridge": "br0"}))),
        ("ipam-pool", of("ipam-pool", json!({}))),
    ]
}

/// Who has an address on the node, by the container's ID.
fn leases(node: &Node) -> Result<String, Stop> {
    let program = testnet::program("ipam-pool");
    Ok(node.exec(&[&program.to_string_lossy(), "leases", "--json"])?)
}

/// Whether anything of an attachment is left on the node or in its pod.
fn is_there(pod: &Pod<'_>) -> Result<bool, Stop> {
    let held = leases(pod.node())?.contains(pod.container());
    Ok(held || pod.link("net1")?.is_some())
}

/// libcni writes an empty list as `null`; without the key, a runtime says nothing about what is valid.
fn gc_takes_null_for_an_empty_list() -> Outcome {
    let (_switch, node) = node()?;
    for (plugin, config) in configs() {
        let pod = node.pod(plugin)?;
        pod.add(plugin, "net1", &config)?;
        let call = pod.call("net1", &config);
        node.cni(plugin, "GC", &call)?;
        assert!(is_there(&pod)?, "{plugin}: GC without a list frees");
        let valid = json!([{"containerID": pod.container(), "ifname": "net1"}]);
        node.cni(plugin, "GC", &call.clone().with("cni.dev/valid-attachments", valid))?;
        assert!(is_there(&pod)?, "{plugin}: GC frees what is listed");
        node.cni(plugin, "GC", &call.with("cni.dev/valid-attachments", Value::Null))?;
        assert!(!is_there(&pod)?, "{plugin}: an empty list frees nothing");
    }
    Ok(())
}
