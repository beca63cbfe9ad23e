//! What a port leaves on the node when it goes: nothing that was not there before, and all that others use.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use serde_json::{Value, json};
use testnet::{Node, Outcome, Pod, Stop, vlan_kernel};

const PLUGIN: &str = "vlan-bridge";

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let mut trials = testnet::tests![
        an_uplink_is_left_as_it_was,
        a_failed_add_leaves_an_uplink_as_it_was,
        an_uplink_that_another_port_brought_keeps_no_bridge,
        what_stayed_for_another_plugins_pod_goes_with_the_next_last_port,
        a_gateway_that_stayed_is_the_next_ports,
        a_machine_of_the_node_keeps_its_gateway,
        an_address_of_the_nodes_own_stays,
        what_cannot_be_a_port_is_told,
    ];
    trials.extend(vlan_kernel::trials(testnet::tests![what_stayed_in_a_vlan_goes_too]));
    trials
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

/// A node with links `eth8` and `eth9`, which are up and lead into another namespace.
fn node() -> Result<Node, Stop> {
    let node = Node::new("worker1")?;
    for name in ["eth8", "eth9"] {
        node.ip(&format!("link add {name} type veth peer name {name}w"))?;
        node.ip(&format!("link set {name} up"))?;
        node.ip(&format!("link set {name}w up"))?;
    }
    Ok(node)
}

fn config(fields: Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0"});
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn gateway(address: &str) -> Value {
    let ipam = json!({"type": "static", "addresses": [{"address": address}]});
    config(json!({"isGateway": true, "ipam": ipam}))
}

fn is_up(node: &Node, name: &str) -> Result<bool, Stop> {
    let link = node.link(name)?.ok_or_else(|| Stop::Failed(format!("{name} is gone")))?;
    Ok(link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP"))))
}

fn master(node: &Node, name: &str) -> Result<Value, Stop> {
    Ok(node.link(name)?.ok_or_else(|| Stop::Failed(format!("{name} is gone")))?["master"].clone())
}

fn addresses(node: &Node) -> Result<String, Stop> {
    Ok(node.ip("-br addr show dev br0")?)
}

fn an_uplink_is_left_as_it_was() -> Outcome {
    let node = node()?;
    let (one, two) = (node.pod("one")?, node.pod("two")?);
    let config = config(json!({"uplinks": [{"name": "eth8"}, {"name": "eth9"}]}));
    node.ip("link set eth9 down")?;
    for verb in ["DEL", "GC"] {
        for pod in [&one, &two] {
            pod.add(PLUGIN, "net1", &config)?;
        }
        check(is_up(&node, "eth9")?, "an uplink is down")?;
        let end = |pod: &Pod<'_>, valid: Value| -> Outcome {
            let call = pod.call("net1", &config).with("cni.dev/valid-attachments", valid);
            Ok(node.cni(PLUGIN, "DEL", &call).map(drop)?)
        };
        end(&one, json!([]))?;
        check(is_up(&node, "eth9")? && master(&node, "eth9")? == "br0", "it is taken from the second pod")?;
        match verb {
            "DEL" => end(&two, json!([]))?,
            _ => {
                let mut all = config.clone();
                all["cniVersion"] = json!("1.1.0");
                let call = two.call("net1", &all).with("cni.dev/valid-attachments", json!([]));
                node.cni(PLUGIN, "GC", &call)?;
            }
        }
        check(node.link("br0")?.is_none(), format!("{verb}: the bridge stays"))?;
        check(!is_up(&node, "eth9")?, format!("{verb}: eth9 was down, and is up"))?;
        check(is_up(&node, "eth8")?, format!("{verb}: eth8 was up, and is down"))?;
    }
    // The node uses it by now.
    one.add(PLUGIN, "net1", &config)?;
    node.ip("addr add 192.0.2.9/24 dev eth9")?;
    one.del(PLUGIN, "net1", &config)?;
    check(is_up(&node, "eth9")?, "the node has an address on it")
}

fn a_failed_add_leaves_an_uplink_as_it_was() -> Outcome {
    let node = node()?;
    let pod = node.pod("one")?;
    node.ip("link set eth9 down")?;
    let config = config(json!({"uplinks": [{"name": "eth9"}], "ipam": {"type": "no-such-plugin"}}));
    let error = pod.add(PLUGIN, "net1", &config).unwrap_err();
    check(error.text().contains("no-such-plugin"), error.to_string())?;
    check(node.link("br0")?.is_none(), "the bridge stays")?;
    check(!is_up(&node, "eth9")?, "eth9 was down, and is up")
}

/// A second network of the bridge brings an uplink, and its pod goes first.
fn an_uplink_that_another_port_brought_keeps_no_bridge() -> Outcome {
    let node = node()?;
    let (first, second, third) = (node.pod("first")?, node.pod("second")?, node.pod("third")?);
    node.ip("link set eth9 down")?;
    let (bare, wired) = (config(json!({})), config(json!({"uplinks": [{"name": "eth9"}]})));
    first.add(PLUGIN, "net1", &bare)?;
    second.add(PLUGIN, "net1", &wired)?;
    second.del(PLUGIN, "net1", &wired)?;
    check(master(&node, "eth9")? == "br0", "the first pod lost what it had")?;
    third.add(PLUGIN, "net1", &bare)?;
    first.del(PLUGIN, "net1", &bare)?;
    check(master(&node, "eth9")? == "br0", "the third pod lost what it had")?;
    let result = second.add(PLUGIN, "net1", &wired)?;
    node.cni(PLUGIN, "CHECK", &second.call("net1", &wired).with("prevResult", result))?;
    third.del(PLUGIN, "net1", &bare)?;
    second.del(PLUGIN, "net1", &wired)?;
    check(node.link("br0")?.is_none(), "the bridge stays for an uplink of its own")?;
    check(master(&node, "eth9")?.is_null() && !is_up(&node, "eth9")?, "eth9 is not as it was")
}

/// A port of the reference plugin `bridge`.
fn of_another_plugin(node: &Node, pod: &Pod<'_>) -> Outcome {
    node.ip("link add veth0 type veth peer name eth0")?;
    node.ip(&format!("link set eth0 netns {}", pod.path()))?;
    Ok(node.ip("link set veth0 master br0 up").map(drop)?)
}

fn what_stayed_for_another_plugins_pod_goes_with_the_next_last_port() -> Outcome {
    let node = node()?;
    let (ours, other) = (node.pod("ours")?, node.pod("other")?);
    let (config, bare) = (gateway("10.88.0.9/24"), config(json!({})));
    for next in [&bare, &config] {
        ours.add(PLUGIN, "net1", &config)?;
        of_another_plugin(&node, &other)?;
        ours.del(PLUGIN, "net1", &config)?;
        check(addresses(&node)?.contains("10.88.0.1/24"), "the other pod lost its gateway")?;
        // While the other pod is there, none of ours takes it along.
        ours.add(PLUGIN, "net1", next)?;
        ours.del(PLUGIN, "net1", next)?;
        check(addresses(&node)?.contains("10.88.0.1/24"), "the other pod lost its gateway by the next")?;
        node.ip("link del veth0")?;
        ours.add(PLUGIN, "net1", next)?;
        ours.del(PLUGIN, "net1", next)?;
        check(node.link("br0")?.is_none(), format!("after {next} the bridge stays"))?;
    }
    Ok(())
}

fn what_stayed_in_a_vlan_goes_too() -> Outcome {
    let node = node()?;
    let (ours, other) = (node.pod("ours")?, node.pod("other")?);
    let mut gateway = gateway("10.88.0.9/24");
    gateway["vlan"] = json!(20);
    let elsewhere = config(json!({"vlan": 30}));
    ours.add(PLUGIN, "net1", &gateway)?;
    of_another_plugin(&node, &other)?;
    node.exec(&["bridge", "vlan", "add", "vid", "20", "dev", "veth0", "pvid", "untagged"])?;
    for last in [&gateway, &elsewhere] {
        ours.del(PLUGIN, "net1", last)?;
        let leg = node.ip("-br addr show dev br0.20")?;
        check(leg.contains("10.88.0.1/24"), format!("the other pod lost its gateway: {leg}"))?;
        ours.add(PLUGIN, "net1", &elsewhere)?;
    }
    node.ip("link del veth0")?;
    ours.del(PLUGIN, "net1", &elsewhere)?;
    check(node.link("br0.20")?.is_none(), "the VLAN device stays")?;
    check(node.link("br0")?.is_none(), "the bridge stays")
}

fn a_gateway_that_stayed_is_the_next_ports() -> Outcome {
    let node = node()?;
    let (ours, other, next) = (node.pod("ours")?, node.pod("other")?, node.pod("next")?);
    let config = gateway("10.88.0.9/24");
    ours.add(PLUGIN, "net1", &config)?;
    of_another_plugin(&node, &other)?;
    ours.del(PLUGIN, "net1", &config)?;
    next.add(PLUGIN, "net1", &config)?;
    node.ip("link del veth0")?;
    check(addresses(&node)?.contains("10.88.0.1/24"), "the next pod has no gateway")?;
    next.del(PLUGIN, "net1", &config)?;
    check(node.link("br0")?.is_none(), "the bridge stays")
}

/// A virtual machine of the node's own, as libvirt makes it, is on the bridge.
fn a_machine_of_the_node_keeps_its_gateway() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    let config = gateway("10.88.0.9/24");
    pod.add(PLUGIN, "net1", &config)?;
    node.ip("tuntap add vnet0 mode tap")?;
    node.ip("link set vnet0 master br0 up")?;
    pod.del(PLUGIN, "net1", &config)?;
    check(addresses(&node)?.contains("10.88.0.1/24"), "the machine lost its gateway")?;
    node.ip("link del vnet0")?;
    pod.add(PLUGIN, "net1", &config)?;
    pod.del(PLUGIN, "net1", &config)?;
    check(node.link("br0")?.is_none(), "the bridge stays")
}

fn an_address_of_the_nodes_own_stays() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    let (config, bare) = (gateway("10.88.0.9/24"), config(json!({})));
    pod.add(PLUGIN, "net1", &bare)?;
    node.ip("addr add 10.88.0.1/24 dev br0")?;
    for config in [&bare, &config, &bare] {
        pod.del(PLUGIN, "net1", config)?;
        check(addresses(&node)?.contains("10.88.0.1/24"), "the node's own address is gone")?;
        pod.add(PLUGIN, "net1", config)?;
    }
    Ok(())
}

fn what_cannot_be_a_port_is_told() -> Outcome {
    let node = node()?;
    let (pod, other) = (node.pod("pod")?, node.pod("other")?);
    let refused = |uplink: &str, says: &str| -> Outcome {
        let error = pod.add(PLUGIN, "net1", &config(json!({"uplinks": [{"name": uplink}]}))).unwrap_err();
        check(error.code == 123 && error.text().contains(says), error.to_string())?;
        check(node.link("br0")?.is_none(), format!("{uplink}: the bridge stays"))?;
        check(master(&node, uplink)?.is_null(), format!("{uplink} stays a port"))
    };
    node.ip("link add mv0 link eth9 type macvlan mode bridge")?;
    node.ip(&format!("link set mv0 netns {}", other.path()))?;
    refused("eth9", "uplink eth9 cannot be a port of a bridge: something has it already")?;
    node.ip("tuntap add tun0 mode tun")?;
    refused("tun0", "uplink tun0 cannot be a port of a bridge: is it an Ethernet link")?;
    // A kernel without bridges that sort by VLAN.
    match pod.add(PLUGIN, "net1", &config(json!({"vlan": 20}))) {
        Ok(_) => Ok(pod.del(PLUGIN, "net1", &config(json!({"vlan": 20}))).map(drop)?),
        Err(error) => check(error.text().contains("CONFIG_BRIDGE_VLAN_FILTERING"), error.to_string()),
    }
}
