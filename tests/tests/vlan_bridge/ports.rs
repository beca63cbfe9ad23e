//! `vlan-bridge` in the kernel that can filter VLANs: what frames do, and what is left of an attachment.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::Duration;

use k8slan_tests::asked_again;
use k8slan_tests::check;
use k8slan_tests::vlan_ports::{
    PLUGIN, arrives, bridge, check, config, frame, mac, node, port, refused, sees, sees_not, tag, vlans,
};
use serde_json::{Value, json};
use testnet::{Node, Outcome, PacketSocket, Ping, Pod, Stop, vlan_kernel};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let mut trials = testnet::tests![
        access_ports_of_one_vlan_talk_and_others_do_not,
        a_trunk_carries_its_vlans_bit_for_bit,
        a_native_vlan_has_no_tag,
        a_providers_tag_goes_around_a_customers,
        isolated_ports_do_not_talk,
        a_hairpin_port_gets_its_own_frames_back,
        forged_senders_are_dropped_and_virtual_routers_are_not,
        nothing_leaks_into_vlan_1,
        a_session_survives_adoption_attach_and_detach,
        inspect_shows_what_ports_and_uplinks_carry,
        a_trunk_changes_while_its_user_runs,
        check_sees_every_change,
        gc_frees_what_is_not_listed,
        del_works_whatever_is_gone,
        an_interface_that_is_there_is_left_alone,
        status_names_what_drops_frames,
        trunks_change_at_once_while_others_come_and_go,
        the_policy_decides,
        the_node_has_its_leg_and_gateway,
        status_names_what_is_missing,
        the_result_lists_everything,
        many_at_once,
    ];
    trials.extend(
        MISTAKES
            .iter()
            .map(|mistake| testnet::test(&format!("bad_input_{}", mistake.name), || is_refused(mistake))),
    );
    vlan_kernel::trials(trials)
}

fn with_address(pod: &Pod<'_>, config: &Value, address: &str) -> Result<Value, Stop> {
    let result = pod.add(PLUGIN, "net1", config)?;
    pod.ip(&format!("addr add {address} dev net1"))?;
    Ok(result)
}

fn access_ports_of_one_vlan_talk_and_others_do_not() -> Outcome {
    let node = node()?;
    let (a, b, c) = (node.pod("a")?, node.pod("b")?, node.pod("c")?);
    with_address(&a, &config(json!({"vlan": 10})), "10.9.0.1/24")?;
    with_address(&b, &config(json!({"vlan": 10})), "10.9.0.2/24")?;
    with_address(&c, &config(json!({"vlan": 20})), "10.9.0.3/24")?;
    let ping = |to: [u8; 4]| Ping::new(to).repeated(3, Duration::from_millis(5));
    ping([10, 9, 0, 2]).run(&a)?.perfect().map_err(Stop::Failed)?;
    let across = ping([10, 9, 0, 3]).timeout(Duration::from_millis(200)).run(&a)?;
    check(across.replies.is_empty(), "VLAN 10 talks to VLAN 20")?;
    for pod in [&a, &b, &c] {
        check(node.link("br0")?.is_some(), "the bridge went before its last port")?;
        pod.del(PLUGIN, "net1", &config(json!({"vlan": 10})))?;
    }
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)?;
    check(node.list("/run/k8slan/ports").is_empty(), "records are left")
}

fn a_trunk_carries_its_vlans_bit_for_bit() -> Outcome {
    let node = node()?;
    let (router, pod) = (node.pod("router")?, node.pod("pod")?);
    let up = json!([{"name": "eth1", "follow": true}]);
    let trunk = router.add(PLUGIN, "net1", &config(json!({"trunk": "10,20,30-39", "uplinks": up})))?;
    let access = pod.add(PLUGIN, "net1", &config(json!({"vlan": 20, "uplinks": up})))?;
    check!(vlans(&node, &port(&trunk))? == "10 20 30-39", "{}", vlans(&node, &port(&trunk))?)?;
    check!(vlans(&node, &port(&access))? == "20*u", "{}", vlans(&node, &port(&access))?)?;
    check!(vlans(&node, "eth1")? == "10 20 30-39", "{}", vlans(&node, "eth1")?)?;
    let wire = PacketSocket::open(&node, "wire")?;
    let (r, p) = (PacketSocket::open(&router, "net1")?, PacketSocket::open(&pod, "net1")?);
    let (router_mac, pod_mac) = (mac(&trunk), mac(&access));
    p.send(&frame(pod_mac, &[]))?;
    sees(&wire, &frame(pod_mac, &tag(20)), "an access port's frame on the wire, tagged")?;
    sees(&r, &frame(pod_mac, &tag(20)), "an access port's frame on the trunk, tagged")?;
    sees_not(&wire, &frame(pod_mac, &[]), "an access port's frame on the wire, untagged")?;
    r.send(&frame(router_mac, &tag(35)))?;
    sees(&wire, &frame(router_mac, &tag(35)), "a trunk's frame on the wire")?;
    r.send(&frame(router_mac, &tag(20)))?;
    sees(&p, &frame(router_mac, &[]), "a trunk's frame at the access port, untagged")?;
    for (id, what) in [(40, "a VLAN outside the trunk"), (1, "VLAN 1")] {
        r.send(&frame(router_mac, &tag(id)))?;
        sees_not(&wire, &frame(router_mac, &tag(id)), what)?;
    }
    r.send(&frame(router_mac, &[]))?;
    sees_not(&wire, &frame(router_mac, &[]), "an untagged frame of a tagged-only trunk")?;
    p.send(&frame(pod_mac, &tag(10)))?;
    sees_not(&wire, &frame(pod_mac, &tag(10)), "an access port's frame with another tag")?;
    let other = [2, 9, 9, 9, 9, 9];
    wire.send(&frame(other, &tag(20)))?;
    sees(&p, &frame(other, &[]), "a tagged frame from the wire at the access port")?;
    wire.send(&frame(other, &tag(10)))?;
    sees(&r, &frame(other, &tag(10)), "a tagged frame from the wire at the trunk")?;
    wire.send(&frame(other, &[]))?;
    sees_not(&r, &frame(other, &[]), "an untagged frame from the wire")
}

fn a_native_vlan_has_no_tag() -> Outcome {
    let node = node()?;
    let (router, pod) = (node.pod("router")?, node.pod("pod")?);
    let up = json!([{"name": "eth1", "tagged": "1,10"}]);
    let trunk =
        router.add(PLUGIN, "net1", &config(json!({"trunk": [10], "nativeVlan": 1, "uplinks": up})))?;
    let access = pod.add(PLUGIN, "net1", &config(json!({"vlan": 1, "uplinks": up})))?;
    check!(vlans(&node, &port(&trunk))? == "1*u 10", "{}", vlans(&node, &port(&trunk))?)?;
    check!(vlans(&node, "eth1")? == "1 10", "{}", vlans(&node, "eth1")?)?;
    let (wire, r) = (PacketSocket::open(&node, "wire")?, PacketSocket::open(&router, "net1")?);
    let p = PacketSocket::open(&pod, "net1")?;
    r.send(&frame(mac(&trunk), &[]))?;
    sees(&p, &frame(mac(&trunk), &[]), "a native frame at VLAN 1's access port")?;
    sees(&wire, &frame(mac(&trunk), &tag(1)), "a native frame on the wire, tagged")?;
    wire.send(&frame([2, 9, 9, 9, 9, 9], &tag(1)))?;
    sees(&r, &frame([2, 9, 9, 9, 9, 9], &[]), "VLAN 1 from the wire at the trunk, untagged")?;
    p.send(&frame(mac(&access), &[]))?;
    sees(&r, &frame(mac(&access), &[]), "an access frame of VLAN 1 at the trunk, untagged")
}

fn a_providers_tag_goes_around_a_customers() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let qinq =
        |vlan| config(json!({"vlan": vlan, "qinq": true, "uplinks": [{"name": "eth1", "follow": true}]}));
    let one = a.add(PLUGIN, "net1", &qinq(100))?;
    b.add(PLUGIN, "net1", &qinq(200))?;
    let (wire, pod) = (PacketSocket::open(&node, "wire")?, PacketSocket::open(&a, "net1")?);
    let other = PacketSocket::open(&b, "net1")?;
    let own = mac(&one);
    pod.send(&frame(own, &tag(5)))?;
    let double = [0x88, 0xa8, 0, 100, 0x81, 0, 0, 5];
    sees(&wire, &frame(own, &double), "a customer's frame in the provider's tag")?;
    sees_not(&other, &frame(own, &tag(5)), "another customer's frame")?;
    wire.send(&frame([2, 9, 9, 9, 9, 9], &double))?;
    sees(&pod, &frame([2, 9, 9, 9, 9, 9], &tag(5)), "a customer's frame out of the provider's tag")?;
    refused(node.pod("c")?.add(PLUGIN, "net1", &config(json!({"vlan": 1}))), 125, "802.1ad")
}

fn isolated_ports_do_not_talk() -> Outcome {
    let node = node()?;
    let (a, b, c) = (node.pod("a")?, node.pod("b")?, node.pod("c")?);
    let isolated = config(json!({"vlan": 10, "portIsolation": true}));
    let first = a.add(PLUGIN, "net1", &isolated)?;
    b.add(PLUGIN, "net1", &isolated)?;
    c.add(PLUGIN, "net1", &config(json!({"vlan": 10})))?;
    let (sa, sb, sc) =
        (PacketSocket::open(&a, "net1")?, PacketSocket::open(&b, "net1")?, PacketSocket::open(&c, "net1")?);
    sa.send(&frame(mac(&first), &[]))?;
    sees(&sc, &frame(mac(&first), &[]), "an isolated port's frame at an ordinary one")?;
    sees_not(&sb, &frame(mac(&first), &[]), "an isolated port's frame at another isolated one")
}

fn a_hairpin_port_gets_its_own_frames_back() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let hairpin = a.add(PLUGIN, "net1", &config(json!({"vlan": 10, "hairpinMode": true})))?;
    let ordinary = b.add(PLUGIN, "net1", &config(json!({"vlan": 10})))?;
    for (pod, result, wanted) in [(&a, &hairpin, true), (&b, &ordinary, false)] {
        // What comes back is seen at the pod's end as incoming; what it sends is not.
        let socket = PacketSocket::open(pod, "net1")?;
        socket.send(&frame(mac(result), &[]))?;
        let back = arrives(&socket, &frame(mac(result), &[]), wanted)?;
        check(back == wanted, format!("hairpin {wanted}, came back {back}"))?;
    }
    Ok(())
}

fn forged_senders_are_dropped_and_virtual_routers_are_not() -> Outcome {
    let node = node()?;
    let (router, pod) = (node.pod("router")?, node.pod("pod")?);
    let checked = config(
        json!({"trunk": "10,20", "macspoofchk": true, "vrrp": [7], "allowedMacs": ["02:00:00:00:00:aa"]}),
    );
    let trunk = router.add(PLUGIN, "net1", &checked)?;
    pod.add(PLUGIN, "net1", &config(json!({"vlan": 10})))?;
    let (r, p) = (PacketSocket::open(&router, "net1")?, PacketSocket::open(&pod, "net1")?);
    for (source, passes) in [
        (mac(&trunk), true),
        ([0, 0, 0x5e, 0, 1, 7], true),
        ([0, 0, 0x5e, 0, 2, 7], true),
        ([2, 0, 0, 0, 0, 0xaa], true),
        ([0, 0, 0x5e, 0, 1, 8], false),
        ([2, 0, 0, 0, 0, 0xab], false),
    ] {
        r.send(&frame(source, &tag(10)))?;
        let seen = arrives(&p, &frame(source, &[]), passes)?;
        check(seen == passes, format!("{source:x?}: seen {seen}"))?;
    }
    // With addresses checked, too.
    let bound = config(
        json!({"cniVersion": "1.0.0", "vlan": 10, "ipspoofchk": true, "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}}),
    );
    let second = node.pod("second")?;
    let result = second.add(PLUGIN, "net1", &bound)?;
    let s = PacketSocket::open(&second, "net1")?;
    let ip = |last| {
        let mut frame = frame(mac(&result), &[]);
        frame.truncate(12);
        frame.extend_from_slice(&[
            8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, last, 10, 9, 0, 9,
        ]);
        frame.resize(80, 0x55);
        frame
    };
    s.send(&ip(5))?;
    sees(&p, &ip(5), "its own address")?;
    s.send(&ip(6))?;
    sees_not(&p, &ip(6), "another address")?;
    // A namespace that is gone takes its guard along at DEL.
    let call = router.call("net1", &checked);
    router.remove()?;
    node.cni(PLUGIN, "DEL", &call)?;
    second.del(PLUGIN, "net1", &bound)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")
}

fn nothing_leaks_into_vlan_1() -> Outcome {
    let node = node()?;
    // The worst bridge: everything that joins it is in VLAN 1 first.
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 1")?;
    node.ip("link set dev br0 up")?;
    node.ip("link set dev eth1 master br0")?;
    let wire = PacketSocket::open(&node, "wire")?;
    let mut own = Vec::new();
    for at in 0..8 {
        let pod = node.pod(&format!("p{at}"))?;
        let fields = if at % 2 == 0 { json!({"vlan": 10}) } else { json!({"trunk": "10,20"}) };
        let result = pod.add(PLUGIN, "net1", &config(fields))?;
        check(!vlans(&node, &port(&result))?.contains("1u"), "the port is in VLAN 1")?;
        own.push((mac(&result), pod));
    }
    // A pod's stack speaks at once (neighbour discovery, MLD): none of it may be seen on the wire.
    let leaked =
        wire.find(Duration::from_millis(500), |f| own.iter().any(|(mac, _)| f.bytes[6..12] == *mac))?;
    check(leaked.is_none(), format!("leaked: {leaked:x?}"))?;
    for (_, pod) in &own {
        pod.del(PLUGIN, "net1", &config(json!({"vlan": 10})))?;
    }
    check(node.link("br0")?.is_some(), "a bridge of another was removed")?;
    check!(vlans(&node, "eth1")? == "1*u", "{}", vlans(&node, "eth1")?)
}

/// A few pings come before the first port.
const FIRST: Duration = Duration::from_millis(200);

fn a_session_survives_adoption_attach_and_detach() -> Outcome {
    let mut node = Node::new("talos")?;
    let switch = testnet::Switch::new()?;
    node.connect(&switch, "eth0", 1500)?;
    let mut peer = Node::new("peer")?;
    peer.connect(&switch, "eth0", 1500)?;
    peer.ip("addr add 192.0.2.2/24 dev eth0")?;
    // As Talos has it: br0 over eth0, the node's address on br0, no filtering.
    node.ip("link add br0 type bridge")?;
    // A device whose address was made up may have one that is greater than most. The bridge takes the smallest of
    // its ports for its own, and who knows the node by that must not lose it when a pod's port comes or goes.
    node.ip("link set dev eth0 address fe:fe:ff:ff:ff:ff")?;
    node.ip("link set dev eth0 master br0")?;
    node.ip("link set dev br0 up")?;
    node.ip("addr add 192.0.2.1/24 dev br0")?;
    let without = config(json!({"trunk": "10", "uplinks": [{"name": "eth0", "follow": true}]}));
    refused(node.pod("x")?.add(PLUGIN, "net1", &without), 120, "Talos: bridge.vlan.vlanFiltering: true")?;
    let mut with = without.clone();
    with["adopt"] = json!(true);
    // A device for a VLAN that nobody carries would fall silent.
    node.ip("link add link br0 name br0.5 type vlan id 5")?;
    refused(node.pod("y")?.add(PLUGIN, "net1", &with), 121, "br0.5")?;
    // Nor if one of the ports carries it: until now its frames leave by all of them.
    node.ip("link add other type veth peer name far")?;
    node.ip("link set dev other master br0")?;
    bridge(&node, "vlan add vid 5 dev eth0")?;
    bridge(&node, "vlan add vid 5 dev br0 self")?;
    refused(node.pod("w")?.add(PLUGIN, "net1", &with), 121, "other would carry")?;
    node.ip("link del other")?;
    bridge(&node, "vlan del vid 5 dev eth0")?;
    bridge(&node, "vlan del vid 5 dev br0 self")?;
    node.ip("link del br0.5")?;
    bridge(&node, "vlan del vid 1 dev eth0")?;
    refused(node.pod("z")?.add(PLUGIN, "net1", &with), 121, "port eth0")?;
    bridge(&node, "vlan add vid 1 pvid untagged dev eth0")?;
    let filtering = |node: &Node| -> Result<Value, Stop> {
        Ok(node.link("br0")?.unwrap()["linkinfo"]["info_data"]["vlan_filtering"].clone())
    };
    check(filtering(&node)? == 0, "a refused adoption changed the bridge")?;
    let session = Ping::new([192, 0, 2, 1]).repeated(200, Duration::from_millis(10));
    let report = std::thread::scope(|scope| -> Result<_, Stop> {
        let running = scope.spawn(|| session.run(&peer));
        std::thread::sleep(FIRST);
        for name in ["a", "b", "c"] {
            let pod = node.pod(name)?;
            pod.add(PLUGIN, "net1", &with)?;
            check!(vlans(&node, "eth0")? == "1*u 10", "{}", vlans(&node, "eth0")?)?;
            pod.del(PLUGIN, "net1", &with)?;
            check!(vlans(&node, "eth0")? == "1*u", "{}", vlans(&node, "eth0")?)?;
        }
        Ok(running.join().unwrap()?)
    })?;
    check(filtering(&node)? == 1, "the bridge is not filtering")?;
    report.perfect().map_err(Stop::Failed)
}

fn inspect_shows_what_ports_and_uplinks_carry() -> Outcome {
    let node = node()?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    node.ip("link set dev eth1 master br0")?;
    let up = json!([{"name": "eth1", "follow": true}]);
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    a.add(PLUGIN, "net1", &config(json!({"vlan": 10, "uplinks": up})))?;
    b.add(PLUGIN, "net1", &config(json!({"trunk": "20-22", "uplinks": up})))?;
    let inspect = |how: &[&str]| {
        let program = testnet::program("k8slan-device-plugin");
        let argv = [&[program.to_str().unwrap(), "inspect"], how].concat();
        node.exec(&argv)
    };
    let tree = inspect(&[])?;
    for words in [
        "bridge br0, up, MTU 1500, sorts by VLAN",
        "uplink eth1, up, MTU 1500, VLAN 10,20-22 tagged",
        ", VLAN 10 untagged, PVID 10: pod default/a",
        ", VLAN 20-22 tagged: pod default/b",
    ] {
        check(tree.contains(words), format!("{words:?} is not in:\n{tree}"))?;
    }
    let drawing = inspect(&["--svg"])?;
    check(drawing.contains("eth1: VLAN 10,20-22 tagged"), drawing)
}

fn a_trunk_changes_while_its_user_runs() -> Outcome {
    let node = node()?;
    let router = node.pod("router")?;
    let config =
        config(json!({"trunk": "10,20", "nativeVlan": 1, "uplinks": [{"name": "eth1", "follow": true}]}));
    let result = router.add(PLUGIN, "net1", &config)?;
    let program = testnet::program(PLUGIN).display().to_string();
    let run = |arguments: &str| -> Result<String, Stop> {
        let argv: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.split_whitespace()).collect();
        Ok(node.exec(&argv)?)
    };
    let (r, wire) = (PacketSocket::open(&router, "net1")?, PacketSocket::open(&node, "wire")?);
    r.send(&frame(mac(&result), &tag(40)))?;
    sees_not(&wire, &frame(mac(&result), &tag(40)), "VLAN 40 before")?;
    run(&format!("trunk add {} net1 40", router.container()))?;
    check!(vlans(&node, &port(&result))? == "1*u 10 20 40", "{}", vlans(&node, &port(&result))?)?;
    check!(vlans(&node, "eth1")? == "1 10 20 40", "{}", vlans(&node, "eth1")?)?;
    r.send(&frame(mac(&result), &tag(40)))?;
    sees(&wire, &frame(mac(&result), &tag(40)), "VLAN 40 after")?;
    check!(run("trunk show")?.contains("10,20,40 tagged, 1 untagged (PVID 1)"), "{}", run("trunk show")?)?;
    let checked = |at: &str| -> Outcome {
        let call = router.call("net1", &config).with("prevResult", result.clone());
        node.cni(PLUGIN, "CHECK", &call).map(drop).map_err(|e| Stop::Failed(format!("{at}: {e}")))
    };
    checked("after adding")?;
    run(&format!("trunk set {} 10,30-32", port(&result)))?;
    check!(vlans(&node, &port(&result))? == "1*u 10 30-32", "{}", vlans(&node, &port(&result))?)?;
    check!(vlans(&node, "eth1")? == "1 10 30-32", "{}", vlans(&node, "eth1")?)?;
    checked("after setting")?;
    for wrong in ["trunk add vbnothere 40", "trunk set {} 4095", "trunk remove {} 10,30-32", "trunk"] {
        check(run(&wrong.replace("{}", &port(&result))).is_err(), format!("{wrong} is accepted"))?;
    }
    check!(vlans(&node, "eth1")? == "1 10 30-32", "{}", vlans(&node, "eth1")?)?;
    router.del(PLUGIN, "net1", &config)?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)
}

fn check_sees_every_change() -> Outcome {
    let node = node()?;
    let pod = node.pod("pod")?;
    let config = config(json!({
        "trunk": "10,20", "nativeVlan": 1, "uplinks": [{"name": "eth1", "follow": true}], "macspoofchk": true,
    }));
    let result = pod.add(PLUGIN, "net1", &config)?;
    let port = port(&result);
    let run = || node.cni(PLUGIN, "CHECK", &pod.call("net1", &config).with("prevResult", result.clone()));
    run()?;
    let changes: [(&str, String, String, &str); 12] = [
        (
            "node",
            "ip link set br0 type bridge vlan_filtering 0".into(),
            "ip link set br0 type bridge vlan_filtering 1".into(),
            "VLAN filtering",
        ),
        (
            "node",
            format!("bridge vlan add vid 30 dev {port}"),
            format!("bridge vlan del vid 30 dev {port}"),
            "carries",
        ),
        (
            "node",
            format!("bridge vlan del vid 20 dev {port}"),
            format!("bridge vlan add vid 20 dev {port}"),
            "carries",
        ),
        (
            "node",
            format!("bridge vlan add vid 1 untagged dev {port}"),
            format!("bridge vlan add vid 1 pvid untagged dev {port}"),
            "no PVID",
        ),
        (
            "node",
            "bridge vlan del vid 10 dev eth1".into(),
            "bridge vlan add vid 10 dev eth1".into(),
            "VLAN 10 on uplink eth1",
        ),
        (
            "node",
            format!("bridge link set dev {port} isolated on"),
            format!("bridge link set dev {port} isolated off"),
            "isolation",
        ),
        ("node", format!("ip link set dev {port} down"), format!("ip link set dev {port} up"), "state"),
        (
            "node",
            format!("bridge link set dev {port} state 0"),
            format!("bridge link set dev {port} state 3"),
            "spanning tree state",
        ),
        (
            "node",
            format!("bridge link set dev {port} mcast_flood off"),
            format!("bridge link set dev {port} mcast_flood on"),
            "flooding of multicast",
        ),
        (
            "node",
            format!("bridge link set dev {port} learning off"),
            format!("bridge link set dev {port} learning on"),
            "learning",
        ),
        // A smaller one may be a later plugin's; a larger one lets frames out that the port loses.
        ("pod", "ip link set dev net1 mtu 1501".into(), "ip link set dev net1 mtu 1400".into(), "MTU"),
        (
            "node",
            format!("nft delete element bridge k8slan ports {{ {port} }}"),
            String::new(),
            "spoof check",
        ),
    ];
    for (place, change, back, says) in changes {
        let execute = |command: &str| -> Outcome {
            let argv: Vec<&str> = command.split_whitespace().collect();
            if place == "pod" {
                pod.exec(&argv)?
            } else {
                node.exec(&argv)?
            };
            Ok(())
        };
        execute(&change)?;
        refused(run(), 110, says).map_err(|stop| Stop::Failed(format!("{change}: {stop:?}")))?;
        if !back.is_empty() {
            execute(&back)?;
            run().map_err(|error| Stop::Failed(format!("{back}: {error}")))?;
        }
    }
    Ok(())
}

fn gc_frees_what_is_not_listed() -> Outcome {
    let node = node()?;
    let up = json!([{"name": "eth1", "follow": true}]);
    let gateway = json!([{"vlan": 10, "address": "10.9.0.1/24"}]);
    let one = config(json!({"vlan": 10, "uplinks": up, "macspoofchk": true, "gateway": gateway}));
    let mut other = config(json!({"vlan": 20, "uplinks": up, "host": true}));
    other["name"] = json!("other");
    let (a, b, c) = (node.pod("a")?, node.pod("b")?, node.pod("c")?);
    let kept = a.add(PLUGIN, "net1", &one)?;
    let gone = b.add(PLUGIN, "net1", &one)?;
    let foreign = c.add(PLUGIN, "net1", &other)?;
    let gc = |config: &Value, valid: Option<Value>| {
        let mut call = a.call("net1", config);
        if let Some(valid) = valid {
            call = call.with("cni.dev/valid-attachments", valid);
        }
        node.cni(PLUGIN, "GC", &call)
    };
    gc(&one, None)?;
    check(node.link(&port(&gone))?.is_some(), "GC without a list frees")?;
    gc(&one, Some(json!([{"containerID": a.container(), "ifname": "net1"}])))?;
    check(node.link(&port(&gone))?.is_none(), "GC frees nothing")?;
    check(node.link(&port(&kept))?.is_some(), "GC frees what is listed")?;
    check(node.link(&port(&foreign))?.is_some(), "GC frees another network's")?;
    check(node.ip("-br addr show dev br0.10")?.contains("10.9.0.1/24"), "the gateway went too early")?;
    gc(&one, Some(json!([])))?;
    check!(vlans(&node, "eth1")? == "20", "{}", vlans(&node, "eth1")?)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")?;
    check(node.link("br0.10")?.is_none(), "the gateway is left")?;
    check!(vlans(&node, "br0")? == "20", "{}", vlans(&node, "br0")?)?;
    check(node.link("br0.20")?.is_some(), "another network's leg is gone")?;
    gc(&other, Some(json!([])))?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)?;
    check(node.list("/run/k8slan/ports").is_empty(), "records are left")
}

fn del_works_whatever_is_gone() -> Outcome {
    let node = node()?;
    let config =
        config(json!({"vlan": 10, "uplinks": [{"name": "eth1", "follow": true}], "macspoofchk": true}));
    let pod = node.pod("a")?;
    pod.del(PLUGIN, "net1", &config)?;
    pod.add(PLUGIN, "net1", &config)?;
    let call = pod.call("net1", &config);
    // The namespace dies, and the port with it; what is left is VLANs, guard, bridge and record.
    pod.remove()?;
    let mut without = call.clone();
    without.netns = None;
    node.cni(PLUGIN, "DEL", &without)?;
    node.cni(PLUGIN, "DEL", &call)?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")?;
    // The bridge is gone, the uplink is gone, the configuration is broken.
    let pod = node.pod("b")?;
    pod.add(PLUGIN, "net1", &config)?;
    node.ip("link del br0")?;
    node.ip("link del eth1")?;
    let broken = pod.call("net1", &config).with("vlan", json!("ten"));
    node.cni(PLUGIN, "DEL", &broken)?;
    check!(node.link_names()?.is_empty(), "left: {:?}", node.link_names()?)?;
    check(node.list("/run/k8slan/ports").is_empty(), "records are left")
}

/// A mistake: its name, what the node has, what the configuration says, and the error.
struct Mistake {
    name: &'static str,
    links: &'static [&'static str],
    fields: fn() -> Value,
    code: u64,
    says: &'static str,
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "a_bridge_of_a_pattern",
        links: &[],
        fields: || json!({"bridge": "br%d", "vlan": 10}),
        code: 148,
        says: "link name \"br%d\" contains '%'",
    },
    Mistake {
        name: "a_bridge_by_its_other_name",
        links: &["link add br0 type bridge vlan_filtering 1", "link property add dev br0 altname trunk0"],
        fields: || json!({"bridge": "trunk0", "vlan": 10}),
        code: 122,
        says: "trunk0 is another name of the link br0: write br0",
    },
    Mistake {
        name: "an_uplink_by_its_other_name",
        links: &["link property add dev eth1 altname enp1s0"],
        fields: || json!({"vlan": 10, "uplinks": [{"name": "enp1s0", "follow": true}]}),
        code: 122,
        says: "enp1s0 is another name of the link eth1: write eth1",
    },
    Mistake {
        name: "an_uplink_of_a_pattern",
        links: &[],
        fields: || json!({"vlan": 10, "uplinks": [{"name": "eth%d", "follow": true}]}),
        code: 142,
        says: "link name \"eth%d\" contains '%'",
    },
    Mistake {
        // 0 is absent, as in the reference plugin.
        name: "a_negative_vlan",
        links: &[],
        fields: || json!({"vlan": -1}),
        code: 130,
        says: "VLAN ID -1 is out of range",
    },
    Mistake {
        name: "vlan_4095",
        links: &[],
        fields: || json!({"vlan": 4095}),
        code: 130,
        says: "VLAN ID 4095 is out of range",
    },
    Mistake {
        name: "a_reversed_range",
        links: &[],
        fields: || json!({"trunk": "20-10"}),
        code: 131,
        says: "VLAN range 20-10 is reversed",
    },
    Mistake {
        name: "overlapping_ranges",
        links: &[],
        fields: || json!({"vlanTrunk": [{"minID": 10, "maxID": 20}, {"minID": 15, "maxID": 30}]}),
        code: 131,
        says: "VLAN 15 is named twice: ranges must not overlap",
    },
    Mistake {
        name: "vlan_and_native_vlan_differ",
        links: &[],
        fields: || json!({"trunk": [10], "vlan": 1, "nativeVlan": 2}),
        code: 133,
        says: "vlan 1 and nativeVlan 2 differ",
    },
    Mistake {
        name: "native_vlan_on_an_access_port",
        links: &[],
        fields: || json!({"vlan": 1, "nativeVlan": 1}),
        code: 134,
        says: "not allowed on an access port",
    },
    Mistake {
        name: "hairpin_and_promiscuous",
        links: &[],
        fields: || json!({"hairpinMode": true, "promiscMode": true}),
        code: 136,
        says: "hairpinMode and promiscMode",
    },
    Mistake {
        name: "the_bridges_name_is_another_links",
        links: &["link add dum type dummy"],
        fields: || json!({"vlan": 1, "bridge": "dum"}),
        code: 102,
        says: "dum is of kind \"dummy\", not a bridge",
    },
    Mistake {
        name: "a_bridge_that_does_not_filter",
        links: &["link add plain type bridge"],
        fields: || json!({"vlan": 1, "bridge": "plain"}),
        code: 120,
        says: "Talos: bridge.vlan.vlanFiltering: true",
    },
    Mistake {
        name: "a_bridge_that_is_missing",
        links: &[],
        fields: || json!({"vlan": 1, "createBridge": false}),
        code: 122,
        says: "bridge br0 does not exist",
    },
    Mistake {
        name: "an_uplink_that_is_missing",
        links: &[],
        fields: || json!({"vlan": 1, "uplinks": [{"name": "nothere", "follow": true}]}),
        code: 122,
        says: "uplink nothere does not exist",
    },
    Mistake {
        name: "an_uplink_in_another_bridge",
        links: &["link add other type bridge", "link set dev eth1 master other"],
        fields: || json!({"vlan": 1, "uplinks": [{"name": "eth1", "follow": true}]}),
        code: 123,
        says: "eth1 is a port of other",
    },
    Mistake {
        name: "an_uplink_outside_a_bridge_of_the_nodes",
        links: &["link add filtering type bridge vlan_filtering 1"],
        fields: || json!({"vlan": 1, "bridge": "filtering", "uplinks": [{"name": "eth1", "follow": true}]}),
        code: 123,
        says: "not a port of bridge filtering",
    },
    Mistake {
        name: "an_uplink_that_the_node_uses",
        links: &["addr add 192.0.2.1/24 dev eth1"],
        fields: || json!({"vlan": 1, "uplinks": [{"name": "eth1", "follow": true}]}),
        code: 123,
        says: "192.0.2.1/24",
    },
    Mistake {
        name: "qinq_on_a_bridge_of_the_other_protocol",
        links: &["link add filtering type bridge vlan_filtering 1"],
        fields: || json!({"vlan": 1, "bridge": "filtering", "qinq": true}),
        code: 125,
        says: "sorts by 802.1Q tags",
    },
    Mistake {
        name: "the_mtu_of_an_uplink",
        links: &["link set dev eth1 mtu 1400"],
        fields: || json!({"vlan": 1, "mtu": 1500, "uplinks": [{"name": "eth1", "follow": true}]}),
        code: 124,
        says: "eth1 has MTU 1400",
    },
    Mistake {
        name: "a_larger_mtu_of_an_uplink",
        links: &["link set dev eth1 mtu 9000"],
        fields: || json!({"vlan": 1, "mtu": 1500, "uplinks": [{"name": "eth1", "follow": true}]}),
        code: 124,
        says: "uplink eth1 has MTU 9000, but mtu of the configuration 1500",
    },
    Mistake {
        name: "a_larger_mtu_of_an_uplink_than_its_bridges",
        links: &[
            "link add filtering type bridge vlan_filtering 1",
            "link set dev eth1 mtu 9000 master filtering",
            "link set dev filtering mtu 1500",
        ],
        fields: || json!({"vlan": 1, "bridge": "filtering", "uplinks": [{"name": "eth1", "follow": true}]}),
        code: 124,
        says: "uplink eth1 has MTU 9000, but bridge filtering 1500",
    },
    Mistake {
        name: "mtus_of_two_uplinks",
        links: &["link add eth2 mtu 9000 type veth peer name wire2"],
        fields: || json!({"vlan": 1, "uplinks": [{"name": "eth1", "follow": true}, {"name": "eth2", "follow": true}]}),
        code: 124,
        says: "uplink eth2 has MTU 9000, but uplink eth1 1500",
    },
    Mistake {
        name: "an_mtu_that_an_uplink_has_not",
        links: &[],
        fields: || json!({"vlan": 1, "uplinks": [{"name": "eth1", "follow": true, "mtu": 9000}]}),
        code: 124,
        says: "uplink eth1 has MTU 1500, but its mtu in the configuration is 9000",
    },
    Mistake {
        name: "the_mtu_of_the_bridge",
        links: &["link add filtering type bridge vlan_filtering 1"],
        fields: || json!({"vlan": 1, "bridge": "filtering", "mtu": 1400}),
        code: 124,
        says: "filtering has MTU 1500",
    },
    Mistake {
        name: "a_bridge_name_that_no_link_can_have",
        links: &[],
        fields: || json!({"vlan": 1, "bridge": "br:0"}),
        code: 148,
        says: "br:0",
    },
    Mistake {
        name: "an_unknown_backend",
        links: &[],
        fields: || json!({"vlan": 1, "ipMasq": true, "ipMasqBackend": "ebtables"}),
        code: 7,
        says: "unknown variant `ebtables`",
    },
    Mistake {
        name: "an_ipam_plugin_that_is_missing",
        links: &[],
        fields: || json!({"vlan": 1, "ipam": {"type": "nothere"}}),
        code: 7,
        says: "nothere",
    },
    Mistake {
        name: "a_bridge_name_too_long_for_a_leg",
        links: &[],
        fields: || json!({"vlan": 1, "bridge": "a-long-bridge-x", "host": true}),
        code: 149,
        says: "shorter name",
    },
];

fn is_refused(mistake: &Mistake) -> Outcome {
    let node = node()?;
    for command in mistake.links {
        node.ip(command)?;
    }
    let pod = node.pod("x")?;
    let state = || -> Result<_, Stop> { Ok((node.ip("-details addr show")?, bridge(&node, "vlan show")?)) };
    let before = state()?;
    refused(pod.add(PLUGIN, "net1", &config((mistake.fields)())), mistake.code, mistake.says)?;
    let after = state()?;
    check(after == before, format!("something changed:\n{after:?}\nwas\n{before:?}"))?;
    check(node.list("/run/k8slan/ports").is_empty(), "a record is left")?;
    check(pod.link_names()?.is_empty(), "an interface is left")
}

fn an_interface_that_is_there_is_left_alone() -> Outcome {
    let node = node()?;
    let pod = node.pod("twice")?;
    let good = config(json!({"vlan": 10}));
    pod.add(PLUGIN, "net1", &good)?;
    refused(pod.add(PLUGIN, "net1", &good), 103, "has an interface net1 already")?;
    check(pod.link_names()? == ["net1"], "a second ADD took the first away")
}

fn the_policy_decides() -> Outcome {
    let node = node()?;
    node.write("/etc/k8slan/node.yaml", "policy:\n  default:\n    bridges: {br0: \"10,20-29\"}\n")?;
    let pod = node.pod("a")?;
    refused(pod.add(PLUGIN, "net1", &config(json!({"vlan": 30}))), 101, "bridge \"br0\" with VLANs 30")?;
    refused(pod.add(PLUGIN, "net1", &config(json!({"trunk": "10,30"}))), 101, "with VLANs 10,30")?;
    refused(pod.add(PLUGIN, "net1", &config(json!({"vlan": 10, "bridge": "br1"}))), 101, "bridge \"br1\"")?;
    let gateway = json!({"vlan": 10, "gateway": [{"vlan": 40, "address": "10.9.0.1/24"}]});
    refused(pod.add(PLUGIN, "net1", &config(gateway)), 101, "with VLANs 10,40")?;
    let mut nobody = pod.call("net1", &config(json!({"vlan": 10})));
    nobody.args = String::new();
    refused(node.cni(PLUGIN, "ADD", &nobody), 101, "K8S_POD_NAMESPACE")?;
    // What nobody asked for counts, too: a bridge's default VLAN, all that passes, an uplink's.
    let default = json!({"vlan": 10, "preserveDefaultVlan": true});
    refused(pod.add(PLUGIN, "net1", &config(default.clone())), 101, "with VLANs 1,10")?;
    refused(pod.add(PLUGIN, "net1", &config(json!({}))), 101, "bridge \"br0\" without VLANs")?;
    let uplink = json!({"vlan": 10, "uplinks": [{"name": "eth1", "tagged": "10,30"}]});
    refused(pod.add(PLUGIN, "net1", &config(uplink)), 101, "with VLANs 10,30")?;
    check(node.link_names()? == ["eth1", "wire"], "a refusal made something")?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 5")?;
    refused(pod.add(PLUGIN, "net1", &config(default)), 101, "with VLANs 5,10")?;
    refused(pod.add(PLUGIN, "net1", &config(json!({}))), 101, "bridge \"br0\" with VLANs 5")?;
    pod.add(PLUGIN, "net1", &config(json!({"trunk": "10,25"})))?;
    Ok(())
}

fn the_node_has_its_leg_and_gateway() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let ipam = |last: u8| json!({"type": "static", "addresses": [{"address": format!("10.9.0.{last}/24"), "gateway": "10.9.0.1"}]});
    let access = |last| {
        config(json!({"cniVersion": "1.0.0", "vlan": 10, "isDefaultGateway": true, "ipam": ipam(last)}))
    };
    a.add(PLUGIN, "net1", &access(5))?;
    b.add(PLUGIN, "net1", &access(6))?;
    check!(vlans(&node, "br0")?.contains("10"), "{}", vlans(&node, "br0")?)?;
    Ping::new([10, 9, 0, 1])
        .repeated(3, Duration::from_millis(5))
        .run(&a)?
        .perfect()
        .map_err(Stop::Failed)?;
    check!(a.ip("route show default")?.contains("via 10.9.0.1"), "{}", a.ip("route show default")?)?;
    check(node.ip("-br addr show dev br0.10")?.contains("10.9.0.1/24"), "the gateway is not on its VLAN")?;
    // An explicit gateway in another VLAN, really there.
    let c = node.pod("c")?;
    let trunk = config(json!({"trunk": "20,30", "gateway": [{"vlan": 20, "address": "10.8.0.1/24"}]}));
    c.add(PLUGIN, "net1", &trunk)?;
    c.ip("link add link net1 name net1.20 type vlan id 20")?;
    c.ip("addr add 10.8.0.5/24 dev net1.20")?;
    c.ip("link set dev net1.20 up")?;
    Ping::new([10, 8, 0, 1])
        .repeated(3, Duration::from_millis(5))
        .run(&c)?
        .perfect()
        .map_err(Stop::Failed)?;
    a.del(PLUGIN, "net1", &access(5))?;
    check(node.ip("-br addr show dev br0.10")?.contains("10.9.0.1/24"), "the gateway went too early")?;
    b.del(PLUGIN, "net1", &access(6))?;
    check(node.link("br0.10")?.is_none(), "the gateway's link is left")?;
    check!(vlans(&node, "br0")? == "20", "{}", vlans(&node, "br0")?)?;
    c.del(PLUGIN, "net1", &trunk)?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)
}

fn status_names_what_is_missing() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let status = |fields: Value| node.cni(PLUGIN, "STATUS", &pod.call("net1", &config(fields)));
    status(json!({"vlan": 10, "uplinks": [{"name": "eth1", "follow": true}]}))?;
    refused(
        status(json!({"vlan": 10, "uplinks": [{"name": "eth9", "follow": true}]})),
        50,
        "eth9 does not exist",
    )?;
    refused(status(json!({"vlan": 10, "createBridge": false})), 50, "bridge br0 does not exist")?;
    node.ip("link add br0 type bridge")?;
    refused(status(json!({"vlan": 10})), 50, "does not filter VLANs")
}

fn status_names_what_drops_frames() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    // Where modprobe looks for modules, the machine has those of its own kernel.
    let load = "mkdir -p /run/uml/lib && ln -s /usr/lib/uml/modules /run/uml/lib && modprobe -d /run/uml br_netfilter";
    node.exec(&["sh", "-c", load])?;
    let switch = |name: &str, on: bool| {
        node.write(&format!("/proc/sys/net/bridge/{name}"), if on { "1" } else { "0" })
    };
    switch("bridge-nf-call-iptables", true)?;
    let tables = || node.exec(&["cat", "/proc/net/ip_tables_names"]);
    check(tables()?.is_empty(), "there are tables from the start")?;
    for fields in [json!({"bridge": "flat"}), json!({"vlan": 10}), json!({"trunk": [10]})] {
        let tagged = fields.get("trunk").is_some();
        let config = config(fields);
        let status = || node.cni(PLUGIN, "STATUS", &a.call("net1", &config));
        status()?;
        check(tagged || config["vlan"].is_number() || tables()?.is_empty(), "asking for a table made it")?;
        for (pod, address) in [(&a, "10.9.0.1/24"), (&b, "10.9.0.2/24")] {
            pod.add(PLUGIN, "net1", &config)?;
            if tagged {
                pod.ip("link add link net1 name net1.10 type vlan id 10")?;
                pod.ip("link set dev net1.10 up")?;
            }
            pod.ip(&format!("addr add {address} dev {}", if tagged { "net1.10" } else { "net1" }))?;
        }
        let passes = || -> Result<bool, Stop> {
            Ok(!Ping::new([10, 9, 0, 2]).timeout(Duration::from_millis(500)).run(&a)?.replies.is_empty())
        };
        check(passes()?, "nothing passes from the start")?;
        node.exec(&["iptables-legacy", "-P", "FORWARD", "DROP"])?;
        if tagged {
            // Frames with tags are shown to iptables only if that is asked for.
            status()?;
            check(passes()?, "a tagged frame is dropped")?;
            switch("bridge-nf-filter-vlan-tagged", true)?;
        }
        refused(status(), 51, "iptables FORWARD drops what bridge")?;
        check(!passes()?, "STATUS says that frames are dropped, but they pass")?;
        let name = config["bridge"].as_str().unwrap();
        node.exec(&["iptables-legacy", "-A", "FORWARD", "-i", name, "-j", "ACCEPT"])?;
        status()?;
        check(passes()?, "a rule lets frames pass, but they do not")?;
        node.exec(&["iptables-legacy", "-F", "FORWARD"])?;
        node.exec(&["iptables-legacy", "-P", "FORWARD", "ACCEPT"])?;
        for pod in [&a, &b] {
            pod.del(PLUGIN, "net1", &config)?;
        }
    }
    switch("bridge-nf-call-iptables", false)?;
    node.exec(&["iptables-legacy", "-P", "FORWARD", "DROP"])?;
    node.cni(PLUGIN, "STATUS", &a.call("net1", &config(json!({"vlan": 10}))))?;
    check(tables()?.contains("filter"), "the table is not where the kernel lists it")
}

fn trunks_change_at_once_while_others_come_and_go() -> Outcome {
    const COMMANDS: usize = 8;
    let node = node()?;
    let routers = [node.pod("r1")?, node.pod("r2")?];
    let pods: Vec<_> = (0..COMMANDS).map(|at| node.pod(&format!("p{at}"))).collect::<Result<_, _>>()?;
    let up = json!([{"name": "eth1", "follow": true}]);
    let trunk = config(json!({"trunk": "10", "uplinks": up}));
    let ports: Vec<String> = routers
        .iter()
        .map(|router| Ok(port(&router.add(PLUGIN, "net1", &trunk)?)))
        .collect::<Result<_, Stop>>()?;
    let program = testnet::program(PLUGIN).display().to_string();
    let change = |action: &str, ids: &dyn Fn(usize, usize) -> usize| -> Outcome {
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (at, pod) in pods.iter().enumerate() {
                for (number, port) in ports.iter().enumerate() {
                    let argv = [
                        program.clone(),
                        "trunk".into(),
                        action.into(),
                        port.clone(),
                        ids(number, at).to_string(),
                    ];
                    let node = &node;
                    running.push(scope.spawn(move || {
                        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
                        node.exec(&argv).map(drop).map_err(Stop::from)
                    }));
                }
                let own = config(json!({"vlan": 300 + at, "uplinks": [{"name": "eth1", "follow": true}]}));
                let node = &node;
                running.push(scope.spawn(move || {
                    node.cni(PLUGIN, "ADD", &pod.call("net1", &own))?;
                    node.cni(PLUGIN, "DEL", &pod.call("net1", &own))?;
                    Ok(())
                }));
            }
            running.into_iter().try_for_each(|one| one.join().unwrap())
        })
    };
    change("add", &|number, at| 100 * (number + 1) + at)?;
    for (number, port) in ports.iter().enumerate() {
        let first = 100 * (number + 1);
        let wanted = format!("10 {first}-{}", first + COMMANDS - 1);
        check!(vlans(&node, port)? == wanted, "{}", vlans(&node, port)?)?;
    }
    check!(vlans(&node, "eth1")? == "10 100-107 200-207", "{}", vlans(&node, "eth1")?)?;
    change("remove", &|number, at| 100 * (number + 1) + at)?;
    for port in ports.iter().map(String::as_str).chain(["eth1"]) {
        check!(vlans(&node, port)? == "10", "{}", vlans(&node, port)?)?;
    }
    for router in &routers {
        router.del(PLUGIN, "net1", &trunk)?;
    }
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)
}

fn the_result_lists_everything() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let wanted = config(json!({"vlan": 10, "mtu": 1450}));
    let result = pod.add(PLUGIN, "net1", &wanted)?;
    let interfaces = result["interfaces"].as_array().unwrap().clone();
    check(interfaces.len() == 3, result.to_string())?;
    for (at, place) in [&*node, &*node, &*pod].into_iter().enumerate() {
        let interface = &interfaces[at];
        let link = place.link(interface["name"].as_str().unwrap())?.unwrap();
        check(link["mtu"] == interface["mtu"] && link["mtu"] == 1450, format!("{interface} is {link}"))?;
        check(link["address"] == interface["mac"], format!("{interface} is {link}"))?;
    }
    check(interfaces[0]["name"] == "br0" && interfaces[2]["sandbox"] == pod.path(), result.to_string())?;
    // In a chain, what stood before stays.
    let second = node.pod("b")?;
    let before = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "lo", "sandbox": second.path()}], "ips": [], "dns": {}});
    let chained = node.cni(PLUGIN, "ADD", &second.call("net1", &wanted).with("prevResult", before))?;
    check(chained["interfaces"].as_array().unwrap().len() == 4, chained.to_string())?;
    check(chained["interfaces"][0]["name"] == "lo", chained.to_string())
}

fn many_at_once() -> Outcome {
    const PODS: usize = 64;
    let node = node()?;
    let pods: Vec<_> = (0..PODS).map(|at| node.pod(&format!("p{at}"))).collect::<Result<_, _>>()?;
    let wanted = |at: usize| {
        let ids = format!("{},{}", 10 + at % 8, 100 + at);
        config(
            json!({"trunk": ids, "uplinks": [{"name": "eth1", "follow": true}], "macspoofchk": at.is_multiple_of(2)}),
        )
    };
    let all = |verb: &'static str| -> Outcome {
        std::thread::scope(|scope| {
            let running: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(at, pod)| {
                    let node = &node;
                    let call = pod.call("net1", &wanted(at));
                    scope.spawn(move || asked_again(|| node.cni(PLUGIN, verb, &call)))
                })
                .collect();
            for one in running {
                one.join().unwrap()?;
            }
            Ok(())
        })
    };
    all("ADD")?;
    check!(vlans(&node, "eth1")? == "10-17 100-163", "{}", vlans(&node, "eth1")?)?;
    // Half goes while another half comes.
    std::thread::scope(|scope| -> Outcome {
        let running: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(at, pod)| {
                let node = &node;
                scope.spawn(move || {
                    let call = pod.call("net1", &wanted(at));
                    let ask = |verb| asked_again(|| node.cni(PLUGIN, verb, &call));
                    ask("DEL")?;
                    if at % 2 == 0 { ask("ADD") } else { Ok(Value::Null) }
                })
            })
            .collect();
        for one in running {
            one.join().unwrap()?;
        }
        Ok(())
    })?;
    let even: Vec<String> = (0..PODS).step_by(2).map(|at| (100 + at).to_string()).collect();
    let expected = format!("10 12 14 16 {}", even.join(" "));
    check!(vlans(&node, "eth1")? == expected, "{}", vlans(&node, "eth1")?)?;
    all("DEL")?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)?;
    check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")?;
    check(node.list("/run/k8slan/ports").is_empty(), "records are left")
}
