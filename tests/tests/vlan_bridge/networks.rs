//! That no network configuration gives the node an address in a network that the node has already, or takes its gateway's
//! place, and who may give it addresses at all.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::Duration;

use k8slan_tests::check;
use k8slan_tests::vlan_ports::{PLUGIN, bridge, check, config, node, refused, vlans};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Ping, Pod, Stop, vlan_kernel};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![
        the_nodes_network_is_not_given_to_it_again,
        the_node_keeps_its_gateway,
        what_is_not_the_nodes_is_given,
        the_policy_says_who_gives_the_node_addresses,
    ])
}

/// A node at 192.0.2.10/24 and 2001:db8::10/64 behind 192.0.2.1, with routes.
fn at_home() -> Result<Node, Stop> {
    let node = node()?;
    for command in [
        "addr add 192.0.2.10/24 dev eth1",
        "addr add 2001:db8::10/64 dev eth1 nodad",
        "route add default via 192.0.2.1",
        "route add 198.51.100.0/24 via 192.0.2.7",
        "route add 203.0.113.0/24 nexthop via 192.0.2.8 nexthop via 192.0.2.9",
        "route add 10.200.0.0/16 via 192.0.2.7 table 100",
        "route add unreachable 10.0.0.0/8",
        "-6 route add 2001:db8:7::/48 via 2001:db8::7",
    ] {
        node.ip(command)?;
    }
    Ok(node)
}

/// Everything that a refusal must leave as it was.
fn state(node: &Node) -> Result<String, Stop> {
    let mut all = node.link_names()?.join(" ");
    for what in ["-br addr", "-4 route show table all", "-6 route show table all"] {
        // Anycast addresses come with forwarding, which a gateway switches on and nobody off.
        let text = node.ip(what)?;
        all += &text.lines().filter(|line| !line.starts_with("anycast")).collect::<Vec<_>>().join("\n");
    }
    all += &bridge(node, "vlan show")?;
    all += &node.list("/run/k8slan/ports").join(" ");
    Ok(all)
}

/// A gateway that IPAM's answer makes the node's.
fn is_gateway(subnet: &str, gateway: &str) -> Value {
    config(json!({
        "vlan": 20, "isGateway": true,
        "ipam": {"type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": subnet, "gateway": gateway}]]},
    }))
}

fn explicit(address: &str) -> Value {
    config(json!({"trunk": "20,30", "gateway": [{"vlan": 30, "address": address}]}))
}

/// Every way in which a configuration gives the node an address, or a leg, in that network.
fn ways(subnet: &str, gateway: &str) -> Vec<Value> {
    let prefix = subnet.split_once('/').unwrap().1;
    let mut default = is_gateway(subnet, gateway);
    default["isDefaultGateway"] = json!(true);
    let mut host = is_gateway(subnet, gateway);
    host["isGateway"] = json!(false);
    host["host"] = json!(true);
    let mut untagged = is_gateway(subnet, gateway);
    untagged.as_object_mut().unwrap().remove("vlan");
    untagged["bridge"] = json!("br1");
    vec![is_gateway(subnet, gateway), default, host, untagged, explicit(&format!("{gateway}/{prefix}"))]
}

fn the_nodes_network_is_not_given_to_it_again() -> Outcome {
    let node = at_home()?;
    let pod = node.pod("a")?;
    let before = state(&node)?;
    for (subnet, gateway, says) in [
        ("192.0.2.0/25", "192.0.2.1", "link eth1 has address 192.0.2.10/24"),
        ("192.0.2.128/25", "192.0.2.129", "link eth1 has address 192.0.2.10/24"),
        ("192.0.0.0/16", "192.0.0.1", "link eth1 has address 192.0.2.10/24"),
        ("198.51.100.128/25", "198.51.100.129", "the route to 198.51.100.0/24 leads over link eth1"),
        ("203.0.113.0/28", "203.0.113.1", "the route to 203.0.113.0/24 leads over link eth1"),
        ("10.200.7.0/24", "10.200.7.1", "the route to 10.200.0.0/16 leads over link eth1"),
        ("2001:db8::/80", "2001:db8::1", "link eth1 has address 2001:db8::10/64"),
        ("2001:db8:7:1::/64", "2001:db8:7:1::1", "the route to 2001:db8:7::/48 leads over link eth1"),
    ] {
        for config in ways(subnet, gateway) {
            refused(pod.add(PLUGIN, "net1", &config), 127, says)
                .map_err(|stop| Stop::Failed(format!("{config}: {stop:?}")))?;
        }
        let after = state(&node)?;
        check(after == before, format!("{subnet}: before\n{before}\nafter\n{after}"))?;
    }
    // No host can have it anywhere.
    refused(pod.add(PLUGIN, "net1", &explicit("127.0.9.1/24")), 151, "it is a loopback address")?;
    refused(pod.add(PLUGIN, "net1", &explicit("10.9.0.1/0")), 127, "link lo has address 127.0.0.1/8")
}

fn the_node_keeps_its_gateway() -> Outcome {
    let node = at_home()?;
    let router = node.pod("router")?;
    node.ip(&format!("link set dev wire netns {}", router.path()))?;
    router.ip("addr add 192.0.2.1/24 dev wire")?;
    router.ip("link set dev wire up")?;
    let pod = node.pod("a")?;
    for config in ways("192.0.2.0/25", "192.0.2.1") {
        refused(pod.add(PLUGIN, "net1", &config), 127, "192.0.2.10/24")?;
    }
    let reply = Ping::new([192, 0, 2, 1]).timeout(Duration::from_secs(3)).run(&node)?;
    check(!reply.replies.is_empty(), "the node lost its gateway")?;
    check!(node.ip("route get 192.0.2.1")?.contains("dev eth1"), "{}", node.ip("route get 192.0.2.1")?)
}

fn what_is_not_the_nodes_is_given() -> Outcome {
    let node = at_home()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let before = state(&node)?;
    // Beside the node's network, and what leads nowhere; the second pod finds what the first one made.
    for (subnet, gateway) in
        [("10.9.0.0/24", "10.9.0.1"), ("192.0.3.0/24", "192.0.3.1"), ("fd00::/64", "fd00::1")]
    {
        for config in ways(subnet, gateway) {
            for pod in [&a, &b] {
                let result = pod.add(PLUGIN, "net1", &config);
                let result = result.map_err(|error| Stop::Failed(format!("{config}: {error}")))?;
                node.cni(PLUGIN, "CHECK", &pod.call("net1", &config).with("prevResult", result))?;
            }
            for pod in [&a, &b] {
                pod.del(PLUGIN, "net1", &config)?;
            }
            check!(node.link_names()? == ["eth1", "wire"], "{config}: {:?}", node.link_names()?)?;
        }
    }
    check!(state(&node)? == before, "before\n{before}\nafter\n{}", state(&node)?)?;
    // A second network of the same addresses would take half of the first one's answers.
    a.add(PLUGIN, "net1", &explicit("10.9.0.1/24"))?;
    refused(
        b.add(PLUGIN, "net1", &is_gateway("10.9.0.0/25", "10.9.0.1")),
        127,
        "link br0.30 has address 10.9.0.1/24",
    )?;
    a.del(PLUGIN, "net1", &explicit("10.9.0.1/24"))?;
    // The node's own leg: what is there is not given.
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    bridge(&node, "vlan add vid 20 dev br0 self")?;
    node.ip("link add link br0 name br0.20 type vlan id 20")?;
    node.ip("link set dev br0.20 up")?;
    node.ip("addr add 10.9.0.1/24 dev br0.20")?;
    for fields in [json!({"isGateway": true}), json!({"host": true})] {
        let mut own = is_gateway("10.9.0.0/24", "10.9.0.1");
        own["isGateway"] = json!(false);
        for (key, value) in fields.as_object().unwrap() {
            own[key] = value.clone();
        }
        a.add(PLUGIN, "net1", &own)?;
        a.del(PLUGIN, "net1", &own)?;
        check(node.ip("-br addr show dev br0.20")?.contains("10.9.0.1/24"), "the node's own address went")?;
    }
    check!(vlans(&node, "br0")? == "20", "{}", vlans(&node, "br0")?)
}

fn policy(node: &Node, of_default: &str) -> Outcome {
    let text = format!("policy:\n  default: {of_default}\n");
    Ok(node.write("/etc/k8slan/node.yaml", text)?)
}

fn added(pod: &Pod<'_>, config: &Value) -> Outcome {
    pod.add(PLUGIN, "net1", config).map_err(|error| Stop::Failed(format!("{config}: {error}")))?;
    Ok(pod.del(PLUGIN, "net1", config).map(drop)?)
}

fn the_policy_says_who_gives_the_node_addresses() -> Outcome {
    let node = at_home()?;
    let pod = node.pod("a")?;
    let host = config(json!({"vlan": 20, "host": true}));
    let (new, used) = (is_gateway("10.9.0.0/24", "10.9.0.1"), is_gateway("192.0.2.0/25", "192.0.2.1"));
    let may_bridge = "bridges: {br0: '20,30'}";
    // A policy that does not list it.
    policy(&node, &format!("{{{may_bridge}}}"))?;
    let before = state(&node)?;
    for (config, says) in [
        (&new, "address 10.9.0.1/24 of the node"),
        (&explicit("10.9.0.1/24"), "address 10.9.0.1/24 of the node"),
        (&used, "address 192.0.2.1/25 of the node"),
        (&host, "address fe80::/64 of the node"),
    ] {
        refused(pod.add(PLUGIN, "net1", config), 101, says)?;
        check(state(&node)? == before, format!("{config} left something"))?;
    }
    // What gives the node nothing needs nothing.
    added(&pod, &config(json!({"vlan": 20})))?;
    policy(&node, &format!("{{{may_bridge}, nodeAddresses: [10.9.0.0/24, 192.0.2.0/24, 'fe80::/64']}}"))?;
    for config in [&new, &explicit("10.9.0.1/24"), &host] {
        added(&pod, config)?;
    }
    refused(pod.add(PLUGIN, "net1", &explicit("10.9.0.1/16")), 101, "address 10.9.0.1/16 of the node")?;
    refused(pod.add(PLUGIN, "net1", &used), 127, "usedNetworks")?;
    policy(&node, &format!("{{{may_bridge}, usedNetworks: [192.0.2.0/24]}}"))?;
    added(&pod, &used)?;
    added(&pod, &explicit("192.0.2.1/25"))?;
    refused(pod.add(PLUGIN, "net1", &new), 101, "address 10.9.0.1/24 of the node")
}
