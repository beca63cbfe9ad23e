//! `vlan-bridge` where nobody speaks of VLANs, as the reference plugin `bridge` is mostly used: on the machine's own
//! kernel, which has all of nftables.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::{Duration, Instant};

use k8slan_tests::check;
use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Ping, Pod, Stop, eventually, needs};

const PLUGIN: &str = "vlan-bridge";

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        what_leaves_is_masqueraded,
        each_attachment_takes_away_its_own_masquerade,
        gc_takes_away_what_is_masqueraded,
        an_add_killed_anywhere_leaves_no_masquerade,
        check_sees_the_masquerade,
        an_address_that_another_host_has_is_not_used,
        an_address_that_answers_is_not_given,
        ipv6_is_switched_on_where_the_sandbox_has_it_off,
        the_result_goes_both_ways_in_a_chain,
        the_networks_name_servers_count,
        status_names_chains_that_drop,
        the_node_takes_no_route_from_a_pod,
        check_sees_that_the_gateway_forwards_no_more,
        what_comes_by_another_link_is_not_masqueraded,
        a_gateway_beside_the_bridge_masquerades,
        check_sees_that_an_uplink_is_down,
        the_nodes_bridge_is_promiscuous_for_those_who_ask,
        check_sees_that_a_guests_link_speaks,
        a_bridge_that_something_uses_stays,
        a_gateway_stays_while_other_pods_use_it,
        an_uplink_that_is_a_veth_is_no_pod,
        the_node_is_a_gateway_that_pods_reach,
    ]
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn refused(result: Result<Value, CniError>, code: u64, says: &str) -> Outcome {
    match result {
        Ok(result) => Err(Stop::Failed(format!("accepted: {result}, but {says:?} was expected"))),
        Err(error) if error.code == code && error.text().contains(says) => Ok(()),
        Err(error) => Err(Stop::Failed(format!("code {code} and {says:?} expected: {error}"))),
    }
}

/// A configuration for bridge br0 that gives these addresses.
fn config(addresses: &[&str], fields: Value) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|address| json!({"address": address})).collect();
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0",
        "ipam": {"type": "static", "addresses": addresses},
    });
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn masqueraded(addresses: &[&str]) -> Value {
    config(addresses, json!({"isDefaultGateway": true, "ipMasq": true}))
}

fn node() -> Result<Node, Stop> {
    needs("/usr/lib/cni/static")?;
    Ok(Node::new("one")?)
}

fn ruleset(node: &Node) -> Result<String, Stop> {
    needs("nft")?;
    Ok(node.exec(&["nft", "list", "ruleset"])?)
}

/// A pod that stands for the world behind the node: 192.0.2.2 and 2001:db8::2, without a route back.
fn world(node: &Node) -> Result<Pod<'_>, Stop> {
    let world = node.pod("world")?;
    node.ip("link add up0 type veth peer name far")?;
    let pid = format!("link set dev far netns {}", world.path());
    node.ip(&pid)?;
    node.ip("link set dev up0 up")?;
    node.ip("addr add 192.0.2.1/24 dev up0")?;
    node.ip("addr add 2001:db8::1/64 dev up0 nodad")?;
    world.ip("link set dev far up")?;
    world.ip("addr add 192.0.2.2/24 dev far")?;
    world.ip("addr add 2001:db8::2/64 dev far nodad")?;
    Ok(world)
}

/// Sends one datagram from the pod to the world, and says from which address it came.
fn seen_from(pod: &Pod<'_>, world: &Pod<'_>, to: &str) -> Result<std::net::IpAddr, Stop> {
    let socket = world.run(|| std::net::UdpSocket::bind((to, 0)))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let port = socket.local_addr()?.port();
    let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    pod.run(|| std::net::UdpSocket::bind(any)?.send_to(b"x", (to, port)))?;
    let (_, from) = socket.recv_from(&mut [0; 8])?;
    Ok(from.ip())
}

fn what_leaves_is_masqueraded() -> Outcome {
    let node = node()?;
    ruleset(&node)?;
    let world = world(&node)?;
    let pod = node.pod("pod")?;
    let masked = masqueraded(&["10.1.2.3/24", "fd00:1::3/64"]);
    pod.add(PLUGIN, "net1", &masked)?;
    for (to, from) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        let seen = seen_from(&pod, &world, to)?;
        check(seen == from.parse::<std::net::IpAddr>().unwrap(), format!("{to} sees {seen}"))?;
    }
    // Within the network nothing is translated.
    let neighbour = node.pod("neighbour")?;
    neighbour.add(PLUGIN, "net1", &masqueraded(&["10.1.2.4/24"]))?;
    let seen = seen_from(&pod, &neighbour, "10.1.2.4")?;
    check(seen.to_string() == "10.1.2.3", format!("the neighbour sees {seen}"))?;
    for (pod, config) in [(&pod, &masked), (&neighbour, &masqueraded(&["10.1.2.4/24"]))] {
        pod.del(PLUGIN, "net1", config)?;
    }
    check!(ruleset(&node)?.is_empty(), "rules are left: {}", ruleset(&node)?)?;
    check!(node.link_names()? == ["up0"], "left: {:?}", node.link_names()?)
}

fn each_attachment_takes_away_its_own_masquerade() -> Outcome {
    let node = node()?;
    ruleset(&node)?;
    // The same address twice: the second came before the first was deleted.
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let masked = masqueraded(&["10.1.2.3/24"]);
    a.add(PLUGIN, "net1", &masked)?;
    b.add(PLUGIN, "net1", &masked)?;
    a.del(PLUGIN, "net1", &masked)?;
    let rules = ruleset(&node)?;
    check(rules.matches("ip saddr 10.1.2.3").count() == 1, format!("after the first DEL: {rules}"))?;
    // The namespace is gone, and the configuration is broken: the record says enough.
    let call = b.call("net1", &masked).with("ipMasq", json!("x"));
    b.remove()?;
    node.cni(PLUGIN, "DEL", &call)?;
    check!(ruleset(&node)?.is_empty(), "rules are left: {}", ruleset(&node)?)
}

fn gc_takes_away_what_is_masqueraded() -> Outcome {
    let node = node()?;
    ruleset(&node)?;
    let pods = [node.pod("a")?, node.pod("b")?];
    for (pod, address) in pods.iter().zip(["10.1.2.3/24", "10.1.2.4/24"]) {
        let mut masked = masqueraded(&[address]);
        masked["cniVersion"] = json!("1.0.0");
        pod.add(PLUGIN, "net1", &masked)?;
    }
    let gc = |valid: Value| {
        let plain = json!({"cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0"});
        node.cni(PLUGIN, "GC", &pods[0].call("net1", &plain).with("cni.dev/valid-attachments", valid))
    };
    gc(json!([{"containerID": pods[0].container(), "ifname": "net1"}]))?;
    let rules = ruleset(&node)?;
    check(rules.contains("10.1.2.3") && !rules.contains("10.1.2.4"), rules)?;
    gc(json!([]))?;
    check!(ruleset(&node)?.is_empty(), "rules are left: {}", ruleset(&node)?)
}

fn an_add_killed_anywhere_leaves_no_masquerade() -> Outcome {
    needs("strace")?;
    let node = node()?;
    ruleset(&node)?;
    let masked = masqueraded(&["10.1.2.3/24"]);
    for at in 1.. {
        let pod = node.pod("pod")?;
        let mut call = pod.call("net1", &masked);
        let inject = format!("inject=sendto:signal=KILL:when={at}");
        call.under = ["strace", "-q", "-o", "/dev/null", "-e", "trace=sendto", "-e", &inject]
            .map(str::to_owned)
            .into();
        let done = node.cni(PLUGIN, "ADD", &call);
        call.under.clear();
        node.cni(PLUGIN, "DEL", &call)?;
        let rules = ruleset(&node)?;
        check(rules.is_empty(), format!("killed at message {at}: {rules}"))?;
        check!(node.link_names()?.is_empty(), "killed at message {at}: {:?}", node.link_names()?)?;
        check(
            node.list("/run/k8slan/ports").is_empty(),
            format!("killed at message {at}: a record is left"),
        )?;
        if done.is_ok() {
            return check(at > 10, format!("only {at} messages"));
        }
    }
    Ok(())
}

fn checked(pod: &Pod<'_>, config: &Value, result: &Value) -> Result<Value, CniError> {
    pod.node().cni(PLUGIN, "CHECK", &pod.call("net1", config).with("prevResult", result.clone()))
}

fn check_sees_the_masquerade() -> Outcome {
    let node = node()?;
    ruleset(&node)?;
    let pod = node.pod("pod")?;
    let masked = masqueraded(&["10.1.2.3/24"]);
    let result = pod.add(PLUGIN, "net1", &masked)?;
    checked(&pod, &masked, &result)?;
    // A later result with another plugin's interfaces is right, an address of no interface is not.
    let mut beyond = result.clone();
    beyond["ips"][0]["interface"] = json!(3);
    refused(checked(&pod, &masked, &beyond), 7, "ips[0].interface: it is 3, but there are 3 interfaces")?;
    // What keeps packets from the rules is no masquerading.
    let changed = |what: &str| {
        refused(checked(&pod, &masked, &result), 110, "masquerading of the pod's addresses is changed")
            .map_err(|stop| Stop::Failed(format!("{what}: {stop:?}")))
    };
    node.exec(&["nft", "insert", "rule", "inet", "k8slan", "postrouting", "accept"])?;
    changed("accept in front")?;
    pod.del(PLUGIN, "net1", &masked)?;
    node.exec(&["nft", "flush", "ruleset"])?;
    let result = pod.add(PLUGIN, "net1", &masked)?;
    node.exec(&["nft", "add table inet k8slan { flags dormant; }"])?;
    refused(checked(&pod, &masked, &result), 110, "masquerading of the pod's addresses is changed")?;
    node.exec(&["nft", "add table inet k8slan"])?;
    node.exec(&["nft", "delete table inet k8slan"])?;
    refused(checked(&pod, &masked, &result), 110, "masquerading of the pod's addresses is gone")?;
    pod.del(PLUGIN, "net1", &masked)?;
    let result = pod.add(PLUGIN, "net1", &masked)?;
    checked(&pod, &masked, &result)?;
    node.exec(&["nft", "flush", "chain", "inet", "k8slan", "postrouting"])?;
    refused(checked(&pod, &masked, &result), 110, "masquerading of the pod's addresses is gone")?;
    pod.del(PLUGIN, "net1", &masked)?;
    // A chain that somebody emptied does not keep the next one from being put in.
    let result = pod.add(PLUGIN, "net1", &masked)?;
    checked(&pod, &masked, &result)?;
    pod.del(PLUGIN, "net1", &masked).map(drop).map_err(Stop::from)
}

fn an_address_that_another_host_has_is_not_used() -> Outcome {
    let node = node()?;
    let (first, second) = (node.pod("first")?, node.pod("second")?);
    let same = config(&["fd00:1::3/64"], json!({"enabledad": true}));
    let start = Instant::now();
    first.add(PLUGIN, "net1", &same)?;
    check(start.elapsed() > Duration::from_millis(500), "nobody was asked")?;
    let shown = first.ip("-6 addr show dev net1")?;
    check(!shown.contains("tentative") && !shown.contains("nodad"), shown)?;
    refused(second.add(PLUGIN, "net1", &same), 100, "another host on this network has it")?;
    check(second.link_names()?.is_empty(), "an interface is left")?;
    // Without it the address is used at once, as in the reference plugin.
    let quick = config(&["fd00:1::3/64"], json!({}));
    second.add(PLUGIN, "net1", &quick)?;
    check(second.ip("-6 addr show dev net1")?.contains("nodad"), "the address is not used at once")
}

fn an_address_that_answers_is_not_given() -> Outcome {
    let node = node()?;
    let (squatter, pod) = (node.pod("squatter")?, node.pod("pod")?);
    squatter.add(
        PLUGIN,
        "net1",
        &json!({"cniVersion": "1.0.0", "name": "l2", "type": PLUGIN, "bridge": "br0"}),
    )?;
    squatter.ip("addr add 10.1.2.2/24 dev net1")?;
    let pool = json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0",
        "ipam": {"type": "ipam-pool", "ranges": [[{"subnet": "10.1.2.0/24"}]], "probe": true},
    });
    let result = pod.add(PLUGIN, "net1", &pool)?;
    let given = result["ips"][0]["address"].as_str().unwrap_or_default();
    check(given == "10.1.2.3/24", format!("10.1.2.2 is taken, and {given} was given"))?;
    pod.del(PLUGIN, "net1", &pool).map(drop).map_err(Stop::from)
}

fn ipv6_is_switched_on_where_the_sandbox_has_it_off() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    pod.exec(&["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"])?;
    pod.exec(&["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"])?;
    pod.add(PLUGIN, "net1", &config(&["fd00:1::3/64"], json!({"isDefaultGateway": true})))?;
    check(pod.ip("-6 addr show dev net1")?.contains("fd00:1::3/64"), "the address is not there")?;
    check(pod.ip("-6 route show default")?.contains("via fd00:1::1"), "the route is not there")
}

fn the_result_goes_both_ways_in_a_chain() -> Outcome {
    needs("/usr/lib/cni/tuning")?;
    let node = node()?;
    let pod = node.pod("pod")?;
    // Before: a plugin that has made another interface with an address and a route.
    pod.ip("link add eth0 type veth peer name eth0p")?;
    pod.ip("link set dev eth0 up")?;
    pod.ip("addr add 10.7.0.5/24 dev eth0")?;
    pod.ip("route add 10.8.0.0/16 via 10.7.0.1 dev eth0 onlink")?;
    let before = json!({
        "cniVersion": "1.0.0", "dns": {},
        "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
        "ips": [{"address": "10.7.0.5/24", "interface": 0}],
        "routes": [{"dst": "10.8.0.0/16", "gw": "10.7.0.1"}],
    });
    let own = config(&["10.1.2.3/24"], json!({}));
    let call = |config: &Value, previous: &Value| -> CniCall {
        pod.call("net1", config).with("prevResult", previous.clone())
    };
    let result = node.cni(PLUGIN, "ADD", &call(&own, &before))?;
    check(
        result["interfaces"][0]["name"] == "eth0" && result["ips"].as_array().unwrap().len() == 2,
        result.to_string(),
    )?;
    check(result["ips"][1]["interface"] == 3, result.to_string())?;
    let shown = pod.ip("addr show dev net1")?;
    check(shown.contains("10.1.2.3/24") && !shown.contains("10.7.0.5"), shown)?;
    // After: one that changes the interface.
    let tuning = json!({"cniVersion": "1.0.0", "name": "net", "type": "tuning", "mtu": 1400});
    let last = node.cni("/usr/lib/cni/tuning", "ADD", &call(&tuning, &result))?;
    check(last["interfaces"].as_array().unwrap().len() == 4, last.to_string())?;
    node.cni(PLUGIN, "CHECK", &call(&own, &last))?;
    node.cni("/usr/lib/cni/tuning", "DEL", &call(&tuning, &last))?;
    node.cni(PLUGIN, "DEL", &call(&own, &last))?;
    check!(pod.link_names()? == ["eth0", "eth0p"], "{:?}", pod.link_names()?)
}

fn the_networks_name_servers_count() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    let mut own = config(&["10.1.2.3/24"], json!({"dns": {"nameservers": ["10.1.2.53"]}}));
    own["ipam"]["dns"] = json!({"nameservers": ["192.0.2.53"]});
    let result = pod.add(PLUGIN, "net1", &own)?;
    check(result["dns"]["nameservers"] == json!(["10.1.2.53"]), result.to_string())
}

fn status_names_chains_that_drop() -> Outcome {
    let node = node()?;
    ruleset(&node)?;
    needs("/proc/sys/net/bridge/bridge-nf-call-iptables")?;
    let pod = node.pod("pod")?;
    let own = json!({"cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0"});
    let status = || node.cni(PLUGIN, "STATUS", &pod.call("net1", &own));
    let (other, call) = (node.pod("other")?, "/proc/sys/net/bridge/bridge-nf-call-iptables");
    for (pod, address) in [(&pod, "10.9.0.1/24"), (&other, "10.9.0.2/24")] {
        pod.add(PLUGIN, "net1", &own)?;
        pod.ip(&format!("addr add {address} dev net1"))?;
    }
    let passes = || -> Result<bool, Stop> {
        Ok(!Ping::new([10, 9, 0, 2]).timeout(Duration::from_millis(500)).run(&pod)?.replies.is_empty())
    };
    node.write(call, "1")?;
    status()?;
    check(passes()?, "nothing passes from the start")?;
    node.exec(&[
        "nft",
        "add table inet f; add chain inet f fw { type filter hook forward priority 0; policy drop; }",
    ])?;
    refused(status(), 51, "inet f fw drops what bridge br0 forwards")?;
    check(!passes()?, "frames pass all the same")?;
    node.exec(&["nft", "add rule inet f fw iifname br0 accept"])?;
    status()?;
    check(passes()?, "a rule lets frames pass, but they do not")?;
    node.exec(&["nft", "flush chain inet f fw"])?;
    node.write(call, "0")?;
    node.write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0")?;
    status()?;
    check(passes()?, "frames are not shown to the chain, but dropped")?;
    node.exec(&[
        "nft",
        "add table bridge f; add chain bridge f fw { type filter hook forward priority 0; policy drop; }",
    ])?;
    refused(status(), 51, "bridge f fw drops what bridge br0 forwards")?;
    check(!passes()?, "frames pass all the same")
}

fn the_node_takes_no_route_from_a_pod() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    pod.add(PLUGIN, "net1", &json!({"cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0"}))?;
    let accept = node.exec(&["cat", "/proc/sys/net/ipv6/conf/br0/accept_ra"])?;
    check(accept.trim() == "0", format!("accept_ra is {accept}"))
}

fn check_sees_that_the_gateway_forwards_no_more() -> Outcome {
    let node = Node::new("worker1")?;
    let pod = node.pod("pod")?;
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br7", "isGateway": true,
        "ipam": {"type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]]},
    });
    let result = pod.add(PLUGIN, "net1", &config)?;
    let call = pod.call("net1", &config).with("prevResult", result);
    node.cni(PLUGIN, "CHECK", &call)?;
    for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        node.exec(&["sysctl", "-w", &format!("{setting}=0")])?;
        refused(node.cni(PLUGIN, "CHECK", &call), 110, "of the node")?;
        node.exec(&["sysctl", "-w", &format!("{setting}=1")])?;
        node.cni(PLUGIN, "CHECK", &call)?;
    }
    pod.del(PLUGIN, "net1", &config)?;
    Ok(())
}

/// What somebody does to a node.
type Act<'a> = Box<dyn Fn() -> Outcome + 'a>;

/// The bridge goes with its last port, unless the node, a LAN or another pod uses it by then.
fn a_bridge_that_something_uses_stays() -> Outcome {
    let node = Node::new("worker1")?;
    let (pod, other) = (node.pod("pod")?, node.pod("other")?);
    let bare = json!({"cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0"});
    let macvtap = |mode: &str| json!({"cniVersion": "1.0.0", "name": "mt", "type": "macvtap", "master": "br0", "mode": mode});
    let in_other = format!("link set mv0 netns {}", other.path());
    let on = |commands: &'static [&'static str]| -> Act<'_> {
        let node = &node;
        Box::new(move || commands.iter().try_for_each(|command| Ok(node.ip(command).map(drop)?)))
    };
    let beyond = |up: &'static str| -> Act<'_> {
        let (node, other, in_other) = (&node, &other, &in_other);
        Box::new(move || {
            node.ip("link add mv0 link br0 type macvlan mode bridge")?;
            node.ip(in_other)?;
            Ok(other.ip(&format!("link set mv0 {up}")).map(drop)?)
        })
    };
    let tap = |mode: &'static str| -> Act<'_> {
        let (other, config) = (&other, macvtap(mode));
        Box::new(move || {
            other.add("macvtap", "net1", &config)?;
            // The pod may set it down, which hides its MAC address.
            Ok(other.ip("link set net1 down").map(drop)?)
        })
    };
    let uses: Vec<(&str, Act<'_>, Act<'_>)> = vec![
        ("an address", on(&["addr add 10.99.0.1/24 dev br0"]), on(&["addr flush dev br0"])),
        ("a route", on(&["route add 10.98.0.0/16 dev br0"]), on(&["route del 10.98.0.0/16 dev br0"])),
        ("a macvlan", on(&["link add mv0 link br0 type macvlan"]), on(&["link del mv0"])),
        ("a VXLAN device", on(&["link add vx0 type vxlan id 7 dev br0 dstport 4999"]), on(&["link del vx0"])),
        (
            "a macvlan of another namespace",
            beyond("up"),
            Box::new(|| Ok(other.ip("link del mv0").map(drop)?)),
        ),
        (
            "a macvtap",
            tap("bridge"),
            Box::new(|| Ok(other.del("macvtap", "net1", &macvtap("bridge")).map(drop)?)),
        ),
        (
            "a macvtap in passthru",
            tap("passthru"),
            Box::new(|| Ok(other.del("macvtap", "net1", &macvtap("passthru")).map(drop)?)),
        ),
        (
            "a LAN",
            Box::new(|| Ok(node.write("/run/k8slan/underlays.json", r#"[{"lan": "a/b", "link": "br0"}]"#)?)),
            Box::new(|| Ok(node.write("/run/k8slan/underlays.json", "[]")?)),
        ),
    ];
    for (what, begin, end) in uses {
        let gc = json!({"cni.dev/valid-attachments": []});
        for verb in ["DEL", "GC"] {
            pod.add(PLUGIN, "net1", &bare)?;
            begin().map_err(|stop| Stop::Failed(format!("{what}: {stop:?}")))?;
            let mut config = bare.clone();
            if verb == "GC" {
                config["cni.dev/valid-attachments"] = gc["cni.dev/valid-attachments"].clone();
            }
            node.cni(PLUGIN, verb, &pod.call("net1", &config))?;
            check(pod.link_names()?.is_empty(), format!("{what}: {verb} left the pod's link"))?;
            check(node.link("br0")?.is_some(), format!("{what}: {verb} took the bridge"))?;
            end().map_err(|stop| Stop::Failed(format!("{what}: {stop:?}")))?;
            // Nothing uses it any more, so it goes with the next last port.
            pod.add(PLUGIN, "net1", &bare)?;
            pod.del(PLUGIN, "net1", &bare)?;
            check(node.link("br0")?.is_none(), format!("{what}: the bridge stays for ever"))?;
        }
    }
    Ok(())
}

/// Pods move from the reference plugin one by one: what `vlan-bridge` made serves the others until they are gone.
fn a_gateway_stays_while_other_pods_use_it() -> Outcome {
    let node = Node::new("worker1")?;
    let (ours, other) = (node.pod("ours")?, node.pod("other")?);
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", "isGateway": true,
        "ipam": {"type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]]},
    });
    ours.add(PLUGIN, "net1", &config)?;
    // As the reference plugin makes a port.
    node.ip("link add veth0 type veth peer name eth0")?;
    node.ip(&format!("link set eth0 netns {}", other.path()))?;
    node.ip("link set veth0 master br0 up")?;
    for command in
        ["link set eth0 up", "addr add 10.88.0.9/24 dev eth0", "addr add fd88::9/64 dev eth0 nodad"]
    {
        other.ip(command)?;
    }
    let reaches = || -> Result<bool, Stop> {
        let v4 = Ping::new(std::net::Ipv4Addr::new(10, 88, 0, 1)).run(&other)?;
        let v6 = Ping::new("fd88::1".parse::<std::net::Ipv6Addr>().unwrap()).run(&other)?;
        Ok(!v4.replies.is_empty() && !v6.replies.is_empty())
    };
    // A port that just came up takes a moment to pass frames.
    eventually(Duration::from_secs(5), || match reaches() {
        Ok(true) => Ok(()),
        other => Err(format!("the other pod does not reach its gateway at first: {other:?}")),
    })?;
    ours.del(PLUGIN, "net1", &config)?;
    check(reaches()?, "the other pod lost its gateway")?;
    // Another of ours comes and goes meanwhile.
    ours.add(PLUGIN, "net1", &config)?;
    ours.del(PLUGIN, "net1", &config)?;
    check(reaches()?, "the other pod lost its gateway with the second")?;
    // An uplink, or the node's own veth pair, is no pod.
    node.ip("link del veth0")?;
    node.ip("link del br0")?;
    ours.add(PLUGIN, "net1", &config)?;
    node.ip("link add veth0 type veth peer name veth1")?;
    node.ip("link set veth0 master br0 up")?;
    ours.del(PLUGIN, "net1", &config)?;
    let addresses = node.ip("addr show dev br0")?;
    check(!addresses.contains("10.88.0.1") && !addresses.contains("fd88::1"), addresses)
}

/// The NIC of a node that is a container itself is a veth: it is no pod of another plugin, for which a gateway would stay.
fn an_uplink_that_is_a_veth_is_no_pod() -> Outcome {
    let node = Node::new("worker1")?;
    let (pod, outside) = (node.pod("pod")?, node.pod("outside")?);
    node.ip("link add eth9 type veth peer name far")?;
    node.ip(&format!("link set far netns {}", outside.path()))?;
    node.ip("link set eth9 up")?;
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", "isGateway": true,
        "uplinks": [{"name": "eth9"}],
        "ipam": {"type": "static", "addresses": [{"address": "10.88.0.9/24", "gateway": "10.88.0.1"}]},
    });
    pod.add(PLUGIN, "net1", &config)?;
    pod.del(PLUGIN, "net1", &config)?;
    check(node.link("br0")?.is_none(), "the bridge stays for its own uplink")?;
    check(node.link("eth9")?.is_some_and(|link| link["master"].is_null()), "the uplink stays a port")
}

/// An address that no host can have, or from which no way leads back to the pod, is refused, and nothing of it is made.
fn the_node_is_a_gateway_that_pods_reach() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    let pool = |subnet: &str, gateway: &str| json!({"type": "ipam-pool", "scope": "host", "subnet": subnet, "gateway": gateway});
    let fixed = |address: &str, gateway: &str| json!({"type": "static", "addresses": [{"address": address, "gateway": gateway}]});
    for (ipam, code, says) in [
        (pool("10.5.0.0/24", "8.8.8.8"), 150, "8.8.8.8 is outside the network of the pod's address 10.5.0."),
        (pool("10.5.0.0/24", "10.6.0.1"), 150, "10.6.0.1 is outside"),
        (pool("10.5.0.7/32", "10.5.0.1"), 150, "10.5.0.1 is outside"),
        (fixed("10.5.0.7/32", "169.254.1.1"), 150, "169.254.1.1 is outside"),
        (pool("fd05::/64", "fd06::1"), 150, "fd06::1 is outside"),
        (pool("fd05::/64", "fe80::1"), 150, "fe80::1 is outside"),
        (fixed("10.5.0.7/24", "10.5.0.7"), 151, "the pod's own"),
        (fixed("10.9.9.9/24", "255.255.255.255"), 151, "a broadcast address"),
        (fixed("10.9.9.9/24", "10.9.9.255"), 151, "a broadcast address"),
        (fixed("10.9.9.9/24", "0.0.0.0"), 151, "this network"),
        (fixed("224.0.0.5/24", "224.0.0.18"), 151, "a multicast group"),
        (fixed("128.0.0.5/1", "128.0.0.1"), 151, "its network is too large"),
        (fixed("2000::5/3", "2000::1"), 151, "its network is too large"),
        (fixed("169.254.1.5/16", "169.254.0.1"), 127, "169.254.169.254 is where nodes in a cloud ask"),
        (fixed("fd00::5/16", "fd00::1"), 127, "fd00:ec2::254 is where nodes in a cloud ask"),
    ] {
        for key in ["isGateway", "isDefaultGateway"] {
            let config = json!({
                "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", key: true, "ipam": ipam,
            });
            refused(pod.add(PLUGIN, "net1", &config), code, says)?;
            check(node.link_names()?.is_empty(), format!("{says}: the bridge stays"))?;
            check(pod.link_names()?.is_empty(), format!("{says}: the interface stays"))?;
        }
        // Without the node as its gateway, the pod may have it.
        if code == 150 || code == 127 {
            let config =
                json!({"cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", "ipam": ipam});
            pod.add(PLUGIN, "net1", &config)?;
            pod.del(PLUGIN, "net1", &config)?;
        }
    }
    Ok(())
}

/// `ipMasq` is for the pod that has it: another pod behind another link, whose address a network configuration names,
/// stays who it is.
fn what_comes_by_another_link_is_not_masqueraded() -> Outcome {
    let node = node()?;
    let world = world(&node)?;
    node.exec(&["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    world.ip("route add 10.244.0.0/24 via 192.0.2.1")?;
    let victim = node.pod("victim")?;
    node.ip("link add v0 type veth peer name eth0")?;
    node.ip(&format!("link set eth0 netns {}", victim.path()))?;
    for command in ["link set v0 up", "addr add 10.244.0.1/32 dev v0", "route add 10.244.0.5/32 dev v0"] {
        node.ip(command)?;
    }
    for command in ["link set eth0 up", "addr add 10.244.0.5/24 dev eth0", "route add default via 10.244.0.1"]
    {
        victim.ip(command)?;
    }
    let seen = || -> Outcome {
        let from = seen_from(&victim, &world, "192.0.2.2")?;
        check(from.to_string() == "10.244.0.5", format!("the victim is seen as {from}"))
    };
    seen()?;
    let other = node.pod("other")?;
    for address in ["10.244.0.5/32", "10.244.0.5/0"] {
        let config = config(&[address], json!({"ipMasq": true}));
        let result = other.add(PLUGIN, "net1", &config)?;
        seen()?;
        checked(&other, &config, &result)?;
        other.del(PLUGIN, "net1", &config)?;
    }
    check!(ruleset(&node)?.is_empty(), "rules are left: {}", ruleset(&node)?)
}

/// The node's address in the pods' network may be on another link than the bridge, which has none then.
fn a_gateway_beside_the_bridge_masquerades() -> Outcome {
    for commands in [
        &["link add lv0 type veth peer name lv1", "link set lv0 master br0 up"][..],
        &["link add lv1 link br0 type macvlan mode bridge"],
    ] {
        let node = node()?;
        let world = world(&node)?;
        // With netfilter on the bridge, conntrack knows the packets before they are the node's.
        node.exec(&["sysctl", "-qw", "-e", "net.bridge.bridge-nf-call-iptables=0"])?;
        for setting in ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.arp_ignore=1"] {
            node.exec(&["sysctl", "-qw", setting])?;
        }
        node.ip("link add br0 up type bridge")?;
        for command in commands.iter().chain(&["addr add 10.70.0.1/24 dev lv1", "link set lv1 up"]) {
            node.ip(command)?;
        }
        let pod = node.pod("pod")?;
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", "ipMasq": true,
            "ipam": {
                "type": "static", "addresses": [{"address": "10.70.0.11/24", "gateway": "10.70.0.1"}],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let result = pod.add(PLUGIN, "net1", &config)?;
        let from = seen_from(&pod, &world, "192.0.2.2")?;
        check(from.to_string() == "192.0.2.1", format!("the pod is seen as {from}"))?;
        checked(&pod, &config, &result)?;
        pod.del(PLUGIN, "net1", &config)?;
        check!(ruleset(&node)?.is_empty(), "rules are left: {}", ruleset(&node)?)?;
    }
    Ok(())
}

fn check_sees_that_an_uplink_is_down() -> Outcome {
    let node = Node::new("worker1")?;
    node.ip("link add eth1 type veth peer name cable")?;
    let pod = node.pod("pod")?;
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", "uplinks": [{"name": "eth1"}],
    });
    let result = pod.add(PLUGIN, "net1", &config)?;
    checked(&pod, &config, &result)?;
    node.ip("link set eth1 down")?;
    refused(checked(&pod, &config, &result), 110, "the state of uplink eth1 is down")?;
    node.ip("link set eth1 up")?;
    checked(&pod, &config, &result)?;
    pod.del(PLUGIN, "net1", &config).map(drop).map_err(Stop::from)
}

/// The launcher pod's stack must stay silent on its guest's link, and let every group through.
fn check_sees_that_a_guests_link_speaks() -> Outcome {
    const IFNAME: &str = "pod16477688c0e";
    let node = Node::new("worker1")?;
    let pod = node.pod("virt-launcher-vm-abcde")?;
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0"});
    let result = pod.add(PLUGIN, IFNAME, &config)?;
    let checked = || node.cni(PLUGIN, "CHECK", &pod.call(IFNAME, &config).with("prevResult", result.clone()));
    checked()?;
    let ipv6 = |value: &str| {
        pod.run(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{IFNAME}/disable_ipv6"), value))
            .map_err(Stop::from)
    };
    let link = |words: &str| pod.ip(&format!("link set {IFNAME} {words}")).map(drop);
    link("allmulticast off")?;
    refused(checked(), 110, "allmulticast of interface pod16477688c0e is off")?;
    link("allmulticast on")?;
    link("arp on")?;
    refused(checked(), 110, "ARP of interface pod16477688c0e is on")?;
    link("arp off")?;
    ipv6("0")?;
    refused(checked(), 110, "disable_ipv6 of interface pod16477688c0e is 0")?;
    ipv6("1")?;
    checked()?;
    pod.del(PLUGIN, IFNAME, &config).map(drop).map_err(Stop::from)
}

fn the_nodes_bridge_is_promiscuous_for_those_who_ask() -> Outcome {
    let node = Node::new("worker1")?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let config =
        json!({"cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "bridge": "br0", "promiscMode": true});
    let is = || -> Result<bool, Stop> { Ok(node.ip("link show dev br0")?.contains("PROMISC")) };
    node.ip("link add br0 type bridge")?;
    node.ip("link set br0 up")?;
    a.add(PLUGIN, "net1", &config)?;
    b.add(PLUGIN, "net1", &config)?;
    check(is()?, "it is not promiscuous")?;
    a.del(PLUGIN, "net1", &config)?;
    check(is()?, "the other pod needs it still")?;
    b.del(PLUGIN, "net1", &config)?;
    check(!is()?, "the node's bridge stays promiscuous")?;
    // What the node set itself stays.
    node.ip("link set br0 promisc on")?;
    a.add(PLUGIN, "net1", &config)?;
    a.del(PLUGIN, "net1", &config)?;
    check(is()?, "the node's own setting is gone")
}
