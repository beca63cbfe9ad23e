//! That each key of `vlan-bridge` does what it says, as far as no other test needs it: bridges that are made, the bridge's
//! default VLAN, addresses of the node, and how much is said to the kernel.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::Duration;

use k8slan_tests::check;
use k8slan_tests::vlan_ports::{PLUGIN, bridge, check, config, node, port, refused, vlans};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Ping, Pod, Stop, needs, vlan_kernel};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![
        a_bridge_is_made_as_it_is_said,
        a_bridge_of_the_nodes_is_made_promiscuous,
        the_default_vlan_is_kept_on_request,
        a_disabled_interface_stays_down,
        addresses_can_be_allowed_besides,
        only_an_address_that_k8slan_gave_is_replaced,
        check_sees_the_nodes_leg,
        the_leg_of_the_reference_plugin_serves,
        what_another_plugin_does_is_refused,
        a_trunk_takes_no_more_messages_than_one_vlan,
        the_address_of_a_bridge_without_ports_is_told_and_kept,
    ])
}

fn checked(pod: &Pod<'_>, config: &Value, result: &Value) -> Result<Value, testnet::CniError> {
    pod.node().cni(PLUGIN, "CHECK", &pod.call("net1", config).with("prevResult", result.clone()))
}

fn a_bridge_is_made_as_it_is_said() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let wanted = config(json!({
        "vlan": 5, "qinq": true, "stp": true, "mcastSnooping": true, "groupFwdMask": 16384, "ageing": 60,
        "promiscMode": true, "mtu": 1400,
    }));
    for (config, expected, mtu, promiscuous) in [
        (
            &wanted,
            json!({
                "stp_state": 1, "mcast_snooping": 1, "group_fwd_mask": "0x4000", "ageing_time": 6000,
                "vlan_filtering": 1, "vlan_protocol": "802.1ad", "vlan_default_pvid": 0,
            }),
            1400,
            true,
        ),
        (
            &config(json!({})),
            json!({
                "stp_state": 0, "mcast_snooping": 0, "group_fwd_mask": "0", "ageing_time": 30000, "vlan_filtering": 0,
                "vlan_protocol": "802.1Q",
            }),
            1500,
            false,
        ),
    ] {
        let result = pod.add(PLUGIN, "net1", config)?;
        let link = node.ip_json("-details link show dev br0")?[0].clone();
        for (key, value) in expected.as_object().unwrap() {
            let have = &link["linkinfo"]["info_data"][key];
            check(have == value, format!("{key} is {have}, not {value}"))?;
        }
        check(link["mtu"] == mtu, link.to_string())?;
        let flags = link["flags"].as_array().unwrap();
        check(flags.contains(&json!("PROMISC")) == promiscuous, format!("{flags:?}"))?;
        checked(&pod, config, &result)?;
        pod.del(PLUGIN, "net1", config)?;
    }
    Ok(())
}

fn a_bridge_of_the_nodes_is_made_promiscuous() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    let wanted = config(json!({"vlan": 5, "promiscMode": true}));
    let result = pod.add(PLUGIN, "net1", &wanted)?;
    checked(&pod, &wanted, &result)?;
    node.ip("link set dev br0 promisc off")?;
    refused(checked(&pod, &wanted, &result), 110, "promiscuous mode of bridge br0")
}

fn the_default_vlan_is_kept_on_request() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    for (made, fields, expected) in [
        (false, json!({"vlan": 10, "preserveDefaultVlan": true}), "1u 10*u"),
        (false, json!({"trunk": "10,20", "preserveDefaultVlan": true}), "1*u 10 20"),
        (false, json!({"trunk": "10,20", "nativeVlan": 7, "preserveDefaultVlan": true}), "1u 7*u 10 20"),
        // As in the reference plugin 1.8.0, which keeps it untagged, or tags it where another one is untagged.
        (false, json!({"vlanTrunk": [{"id": 1}, {"id": 20}], "preserveDefaultVlan": true}), "1*u 20"),
        (false, json!({"trunk": "1-3", "preserveDefaultVlan": true}), "1*u 2-3"),
        (false, json!({"trunk": "1,20", "nativeVlan": 7, "preserveDefaultVlan": true}), "1 7*u 20"),
        (false, json!({"vlanTrunk": [{"id": 1}, {"id": 20}]}), "1 20"),
        (false, json!({"vlan": 1, "preserveDefaultVlan": true}), "1*u"),
        (true, json!({"trunk": "20,77", "preserveDefaultVlan": true}), "20 77*u"),
        (true, json!({"trunk": "10,20", "preserveDefaultVlan": true}), "10 20 77*u"),
        (true, json!({"trunk": "10,20"}), "10 20"),
    ] {
        if made {
            node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 77")?;
            node.ip("link set dev br0 up")?;
        }
        let config = config(fields);
        let result = pod.add(PLUGIN, "net1", &config)?;
        check!(vlans(&node, &port(&result))? == expected, "{}", vlans(&node, &port(&result))?)?;
        checked(&pod, &config, &result)?;
        pod.del(PLUGIN, "net1", &config)?;
        if made {
            node.ip("link del br0")?;
        }
    }
    Ok(())
}

fn a_disabled_interface_stays_down() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let disabled = config(json!({"vlan": 10, "disableContainerInterface": true}));
    let result = pod.add(PLUGIN, "net1", &disabled)?;
    let flags = pod.link("net1")?.unwrap()["flags"].clone();
    check(!flags.as_array().unwrap().contains(&json!("UP")), flags.to_string())?;
    checked(&pod, &disabled, &result).map(drop).map_err(Stop::from)
}

fn addresses_can_be_allowed_besides() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let bound = config(json!({
        "cniVersion": "1.0.0", "vlan": 10, "ipspoofchk": true, "allowedAddresses": ["10.9.0.100", "fd00::100"],
        "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]},
    }));
    a.add(PLUGIN, "net1", &bound)?;
    b.add(PLUGIN, "net1", &config(json!({"vlan": 10})))?;
    b.ip("addr add 10.9.0.9/24 dev net1")?;
    b.ip("addr add fd00::9/64 dev net1 nodad")?;
    let answers = |from: &str, wanted: bool| -> Outcome {
        a.ip(&format!("addr replace {from} dev net1 nodad"))?;
        let source = from.split('/').next().unwrap();
        let to = if from.contains(':') { "fd00::9" } else { "10.9.0.9" };
        let send = || -> std::io::Result<()> {
            let socket = std::net::UdpSocket::bind((source, 0))?;
            socket.send_to(b"x", (to, 4000))?;
            Ok(())
        };
        let listening = b.run(|| std::net::UdpSocket::bind((to, 4000)))?;
        let timeout = if wanted { 3000 } else { 300 };
        listening.set_read_timeout(Some(Duration::from_millis(timeout)))?;
        a.run(send)?;
        let seen = listening.recv_from(&mut [0; 8]).is_ok();
        check(seen == wanted, format!("from {from}: seen {seen}"))
    };
    for (from, wanted) in [
        ("10.9.0.5/24", true),
        ("10.9.0.100/24", true),
        ("10.9.0.101/24", false),
        ("fd00::100/64", true),
        ("fd00::101/64", false),
    ] {
        answers(from, wanted)?;
    }
    Ok(())
}

fn only_an_address_that_k8slan_gave_is_replaced() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let with = |gateway: &str, force: bool| {
        config(json!({
            "trunk": "10", "gateway": [{"vlan": 10, "address": gateway}], "forceAddress": force,
        }))
    };
    let have = || -> Result<String, Stop> {
        let shown = node.ip_json("-4 addr show dev br0.10")?;
        let all = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect())
    };
    a.add(PLUGIN, "net1", &with("10.9.0.1/24", false))?;
    refused(
        b.add(PLUGIN, "net1", &with("10.9.0.254/24", false)),
        126,
        "br0.10 has address 10.9.0.1/24, 10.9.0.254/24 is asked for",
    )?;
    check!(have()? == "10.9.0.1/24", "{}", have()?)?;
    let forced = with("10.9.0.254/24", true);
    let result = b.add(PLUGIN, "net1", &forced)?;
    check!(have()? == "10.9.0.254/24", "after forceAddress: {}", have()?)?;
    checked(&b, &forced, &result)?;
    a.del(PLUGIN, "net1", &with("10.9.0.1/24", false))?;
    check!(have()? == "10.9.0.254/24", "{}", have()?)?;
    b.del(PLUGIN, "net1", &forced)?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)?;
    // One of the node's own stays whatever is asked for.
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    node.ip("link add link br0 name br0.10 type vlan id 10")?;
    node.ip("addr add 10.9.0.7/24 dev br0.10")?;
    refused(a.add(PLUGIN, "net1", &forced), 126, "br0.10 has address 10.9.0.7/24")?;
    check!(have()? == "10.9.0.7/24", "{}", have()?)
}

fn check_sees_the_nodes_leg() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let gateway = config(json!({"vlan": 10, "gateway": [{"vlan": 10, "address": "10.9.0.1/24"}]}));
    let result = pod.add(PLUGIN, "net1", &gateway)?;
    checked(&pod, &gateway, &result)?;
    for (change, back, says) in [
        ("bridge vlan del vid 10 dev br0 self", "bridge vlan add vid 10 dev br0 self", "is cut off"),
        ("ip addr del 10.9.0.1/24 dev br0.10", "ip addr add 10.9.0.1/24 dev br0.10", "on br0.10 is missing"),
        ("ip link set dev br0.10 down", "ip link set dev br0.10 up", "on br0.10 is down"),
    ] {
        let words = |command: &'static str| command.split_whitespace().collect::<Vec<_>>();
        node.exec(&words(change))?;
        refused(checked(&pod, &gateway, &result), 110, says)?;
        node.exec(&words(back))?;
        checked(&pod, &gateway, &result)?;
    }
    // A VLAN that the bridge itself carried before stays.
    pod.del(PLUGIN, "net1", &gateway)?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    bridge(&node, "vlan add vid 10 dev br0 self")?;
    pod.add(PLUGIN, "net1", &gateway)?;
    pod.del(PLUGIN, "net1", &gateway)?;
    check!(vlans(&node, "br0")? == "10", "{}", vlans(&node, "br0")?)
}

/// Pods move from the reference plugin to this one, one by one.
fn the_leg_of_the_reference_plugin_serves() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    // As `bridge` 1.8.0 makes its gateway in a VLAN: a veth whose other end is an access port.
    for command in [
        "link add br0 type bridge vlan_filtering 1",
        "link set dev br0 up",
        "link add veth20 master br0 up type veth peer name br0.20",
        "link set dev br0.20 up",
        "addr add 10.9.0.1/24 dev br0.20",
    ] {
        node.ip(command)?;
    }
    bridge(&node, "vlan del vid 1 dev veth20")?;
    bridge(&node, "vlan add vid 20 dev veth20 pvid untagged")?;
    let ours = |last: u8| {
        config(json!({
            "cniVersion": "1.0.0", "vlan": 20, "isDefaultGateway": true,
            "ipam": {"type": "static", "addresses": [{"address": format!("10.9.0.{last}/24"), "gateway": "10.9.0.1"}]},
        }))
    };
    for (pod, last) in [(&a, 5), (&b, 6)] {
        let result = pod.add(PLUGIN, "net1", &ours(last))?;
        checked(pod, &ours(last), &result)?;
        Ping::new([10, 9, 0, 1]).timeout(Duration::from_secs(3)).run(pod)?.perfect().map_err(Stop::Failed)?;
    }
    // An address that is not there yet comes and goes with its pod.
    let second = config(json!({"vlan": 30, "gateway": [{"vlan": 20, "address": "fd00::1/64"}]}));
    let c = node.pod("c")?;
    let result = c.add(PLUGIN, "net1", &second)?;
    checked(&c, &second, &result)?;
    check(node.ip("-br addr show dev br0.20")?.contains("fd00::1/64"), "its address is not there")?;
    c.del(PLUGIN, "net1", &second)?;
    a.del(PLUGIN, "net1", &ours(5))?;
    b.del(PLUGIN, "net1", &ours(6))?;
    let left = node.ip("-br addr show dev br0.20")?;
    check(left.contains("10.9.0.1/24") && !left.contains("fd00::1/64"), &*left)?;
    check!(vlans(&node, "veth20")? == "20*u", "{}", vlans(&node, "veth20")?)?;
    check!(vlans(&node, "br0")? == "1*u", "{}", vlans(&node, "br0")?)?;
    // A veth that leads elsewhere is in the way.
    bridge(&node, "vlan del vid 20 dev veth20")?;
    refused(a.add(PLUGIN, "net1", &ours(5)), 102, "br0.20 is there, and is not VLAN 20 on bridge br0")
}

fn what_another_plugin_does_is_refused() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let config = config(json!({"vlan": 20}));
    let with = |asked: Value| pod.call("net1", &config).with("runtimeConfig", asked);
    for (asked, says) in [
        (json!({"bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}}), "plugin \"bandwidth\""),
        (
            json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]}),
            "plugin \"portmap\"",
        ),
    ] {
        refused(node.cni(PLUGIN, "ADD", &with(asked.clone())), 2, says)?;
        refused(node.cni("macvtap", "ADD", &with(asked)), 2, says)?;
        check(node.link_names()? == ["eth1", "wire"], "a refusal made something")?;
    }
    // What runtimes fill in where there is nothing to do; and what is there is taken away whatever is asked for.
    let nothing = json!({"bandwidth": {"ingressRate": 0, "egressRate": 0}, "portMappings": []});
    node.cni(PLUGIN, "ADD", &with(nothing))?;
    node.cni(PLUGIN, "DEL", &with(json!({"bandwidth": {"ingressRate": 1000}})))?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)
}

/// How many messages ADD sends to the kernel.
fn messages(node: &Node, pod: &Pod<'_>, config: &Value) -> Result<usize, Stop> {
    let mut call = pod.call("net1", config);
    call.under = ["strace", "-f", "-qq", "-o", "/run/trace", "-e", "trace=sendto"].map(str::to_owned).into();
    node.cni(PLUGIN, "ADD", &call)?;
    call.under.clear();
    let trace = node.read("/run/trace")?;
    node.cni(PLUGIN, "DEL", &call)?;
    Ok(trace.lines().filter(|line| line.contains("sendto(")).count())
}

fn a_trunk_takes_no_more_messages_than_one_vlan() -> Outcome {
    needs("strace")?;
    let node = node()?;
    let pod = node.pod("a")?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    node.ip("link set dev eth1 master br0")?;
    let trunk = |ids: &str| config(json!({"trunk": ids, "uplinks": [{"name": "eth1", "follow": true}]}));
    let one = messages(&node, &pod, &trunk("10"))?;
    check(one > 5, format!("only {one} messages were seen"))?;
    // Every other one cannot be said as a range.
    let odd: Vec<String> = (1..=4094).step_by(2).map(|id| id.to_string()).collect();
    for (what, ids) in [("1-4094", "1-4094"), ("three ranges", "1-9,20-29,40-4000"), ("odd", &odd.join(","))]
    {
        let all = messages(&node, &pod, &trunk(ids))?;
        check(all == one, format!("{what}: {all} messages, and {one} for one VLAN"))?;
    }
    let result = pod.add(PLUGIN, "net1", &trunk(&odd.join(",")))?;
    check(vlans(&node, &port(&result))? == odd.join(" "), "not all VLANs are there")?;
    check(vlans(&node, "eth1")? == odd.join(" "), "not all VLANs are on the uplink")?;
    checked(&pod, &trunk(&odd.join(",")), &result)?;
    pod.del(PLUGIN, "net1", &trunk("10"))?;
    check!(vlans(&node, "eth1")?.is_empty(), "{}", vlans(&node, "eth1")?)
}

fn the_address_of_a_bridge_without_ports_is_told_and_kept() -> Outcome {
    let node = node()?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 10")?;
    node.ip("link set dev br0 up")?;
    let of_bridge = || -> Result<Value, Stop> { Ok(node.link("br0")?.unwrap()["address"].clone()) };
    let plain = config(json!({"vlan": 10}));
    let first = node.pod("first")?;
    let result = first.add(PLUGIN, "net1", &plain)?;
    check!(result["interfaces"][0]["mac"] == of_bridge()?, "{result}, and br0 has {}", of_bridge()?)?;
    first.del(PLUGIN, "net1", &plain)?;
    // With an address of the node on it, it must not change: the pods have it in their tables.
    let gateway = config(json!({"vlan": 10, "gateway": [{"vlan": 10, "address": "10.9.0.1/24"}]}));
    first.add(PLUGIN, "net1", &gateway)?;
    first.ip("addr add 10.9.0.2/24 dev net1")?;
    Ping::new([10, 9, 0, 1])
        .repeated(2, Duration::from_millis(5))
        .run(&first)?
        .perfect()
        .map_err(Stop::Failed)?;
    let before = of_bridge()?;
    let pods: Vec<_> = (0..6).map(|at| node.pod(&format!("p{at}"))).collect::<Result<_, _>>()?;
    for pod in &pods {
        let result = pod.add(PLUGIN, "net1", &gateway)?;
        check!(of_bridge()? == before, "br0 had {before}, now {}", of_bridge()?)?;
        check(result["interfaces"][0]["mac"] == before, result.to_string())?;
    }
    Ok(())
}
