//! What `vlan-bridge` does with uplinks: which VLANs they carry and how, their MTU, and that they leave a bridge that goes.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use k8slan_tests::check;
use k8slan_tests::vlan_ports::{
    PLUGIN, bridge, check, config, frame, mac, node, port, refused, sees, sees_not, tag, vlans,
};
use serde_json::{Value, json};
use testnet::{Node, Outcome, PacketSocket, Pod, Stop, vlan_kernel};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![
        uplinks_follow_the_ports,
        a_fixed_uplink_carries_what_is_said_of_it,
        one_attachment_does_not_turn_over_anothers_uplink,
        check_sees_how_an_uplink_carries_its_vlans,
        a_bridge_without_vlans_goes_with_its_last_port,
        mtus_agree_or_are_named,
        check_sees_an_mtu_that_does_not_agree,
    ])
}

fn uplinks_follow_the_ports() -> Outcome {
    let node = node()?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 1")?;
    node.ip("link set dev br0 up")?;
    node.ip("link set dev eth1 master br0")?;
    // Somebody else's VLAN stays, whoever uses it meanwhile.
    bridge(&node, "vlan add vid 30 dev eth1")?;
    let up = json!([{"name": "eth1", "follow": true}]);
    let access = config(json!({"vlan": 10, "uplinks": up}));
    let trunk = config(json!({"trunk": "10,20,30", "uplinks": up}));
    let (a, b, c) = (node.pod("a")?, node.pod("b")?, node.pod("c")?);
    let steps: [(&Pod<'_>, bool, &Value, &str); 7] = [
        (&a, true, &access, "1*u 10 30"),
        (&b, true, &access, "1*u 10 30"),
        (&c, true, &trunk, "1*u 10 20 30"),
        (&a, false, &access, "1*u 10 20 30"),
        (&c, false, &trunk, "1*u 10 30"),
        (&b, false, &access, "1*u 30"),
        (&b, false, &access, "1*u 30"),
    ];
    for (at, (pod, add, config, expected)) in steps.into_iter().enumerate() {
        if add {
            pod.add(PLUGIN, "net1", config)?;
        } else {
            pod.del(PLUGIN, "net1", config)?;
        }
        check!(vlans(&node, "eth1")? == expected, "step {at}: {}", vlans(&node, "eth1")?)?;
    }
    Ok(())
}

fn mtu(node: &Node, link: &str) -> Result<Value, Stop> {
    Ok(node.link(link)?.unwrap()["mtu"].clone())
}

/// A node whose eth1 has jumbo frames.
fn jumbo() -> Result<Node, Stop> {
    let node = node()?;
    node.ip("link set dev wire mtu 9000")?;
    node.ip("link set dev eth1 mtu 9000")?;
    Ok(node)
}

fn mtus_agree_or_are_named() -> Outcome {
    let node = jumbo()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let jumbo = config(json!({"vlan": 10, "uplinks": [{"name": "eth1", "follow": true}]}));
    let of = |result: &Value| -> Vec<u64> {
        result["interfaces"].as_array().unwrap().iter().map(|i| i["mtu"].as_u64().unwrap()).collect()
    };
    // Nobody says one: the uplink's. The longest frame passes.
    let result = a.add(PLUGIN, "net1", &jumbo)?;
    check(of(&result) == [9000; 3], result.to_string())?;
    let (p, wire) = (PacketSocket::open(&a, "net1")?, PacketSocket::open(&node, "wire")?);
    let long = |tags: &[u8]| {
        let mut frame = frame(mac(&result), tags);
        frame.resize(14 + tags.len() + 9000, 0x55);
        frame
    };
    p.send(&long(&[]))?;
    sees(&wire, &long(&tag(10)), "a frame of 9000 bytes")?;
    // A smaller one for a single port would make the bridge smaller for all: refused, and the bridge is as before.
    let mut small = jumbo.clone();
    small["mtu"] = json!(1500);
    let small = &small;
    refused(
        b.add(PLUGIN, "net1", small),
        124,
        "bridge br0 has MTU 9000, but mtu of the configuration is 1500",
    )?;
    check(mtu(&node, "br0")? == 9000, "a refusal made the bridge smaller")?;
    a.del(PLUGIN, "net1", &jumbo)?;
    // On a bridge of the node's own with less than its uplink, long frames from outside would be lost.
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev eth1 master br0")?;
    node.ip("link set dev br0 mtu 1500 up")?;
    let says = "uplink eth1 has MTU 9000, but bridge br0 1500";
    refused(a.add(PLUGIN, "net1", &jumbo), 124, says)?;
    refused(node.cni(PLUGIN, "STATUS", &a.call("net1", &jumbo)), 50, says)?;
    // Unless it is said that the uplink has more, for what is not of the bridge.
    let stated = config(json!({"vlan": 10, "uplinks": [{"name": "eth1", "follow": true, "mtu": 9000}]}));
    let result = a.add(PLUGIN, "net1", &stated)?;
    check(of(&result) == [1500; 3], result.to_string())?;
    let checked = || node.cni(PLUGIN, "CHECK", &a.call("net1", &stated).with("prevResult", result.clone()));
    checked()?;
    node.cni(PLUGIN, "STATUS", &a.call("net1", &stated))?;
    node.ip("link set dev eth1 mtu 4000")?;
    refused(checked(), 124, "uplink eth1 has MTU 4000, but its mtu in the configuration is 9000")?;
    node.ip("link set dev eth1 mtu 9000")?;
    a.del(PLUGIN, "net1", &stated)?;
    check(mtu(&node, "br0")? == 1500, "the node's bridge has another MTU")?;
    node.ip("link del br0")?;
    // A bridge that is made with less than its uplink keeps that, whatever ports it has.
    let mut stated = stated;
    stated["mtu"] = json!(1500);
    for pod in [&a, &b] {
        let result = pod.add(PLUGIN, "net1", &stated)?;
        check(of(&result) == [1500; 3], result.to_string())?;
        check!(mtu(&node, "br0")? == 1500, "the bridge has {}", mtu(&node, "br0")?)?;
    }
    for pod in [&a, &b] {
        check!(mtu(&node, "br0")? == 1500, "the bridge has {}", mtu(&node, "br0")?)?;
        pod.del(PLUGIN, "net1", &stated)?;
    }
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)
}

fn check_sees_an_mtu_that_does_not_agree() -> Outcome {
    let node = jumbo()?;
    // Results have an MTU since CNI 1.1.0; without, they have to agree.
    for (version, port_says, bridge_says) in [
        ("1.1.0", "MTU of port", "MTU of bridge br0 is 4000, but 9000 was promised"),
        (
            "1.0.0",
            "uplink eth1 has MTU 9000, but bridge br0 4000",
            "uplink eth1 has MTU 9000, but bridge br0 4000",
        ),
    ] {
        let pod = node.pod("pod")?;
        let config =
            config(json!({"cniVersion": version, "vlan": 10, "uplinks": [{"name": "eth1", "follow": true}]}));
        let result = pod.add(PLUGIN, "net1", &config)?;
        let port = port(&result);
        let run = || node.cni(PLUGIN, "CHECK", &pod.call("net1", &config).with("prevResult", result.clone()));
        run()?;
        let code = if version == "1.1.0" { 110 } else { 124 };
        for (link, mtu, code, says) in [
            ("eth1", 9500, 124, "uplink eth1 has MTU 9500, but bridge br0 9000"),
            // The bridge goes along with its smallest port.
            ("eth1", 4000, code, if version == "1.1.0" { bridge_says } else { "bridge br0 4000" }),
            (&port, 4000, code, port_says),
            ("br0", 4000, code, bridge_says),
        ] {
            node.ip(&format!("link set dev {link} mtu {mtu}"))?;
            refused(run(), code, says).map_err(|stop| Stop::Failed(format!("{link} {mtu}: {stop:?}")))?;
            node.ip(&format!("link set dev {link} mtu 9000"))?;
            run().map_err(|error| Stop::Failed(format!("{link} back from {mtu}: {error}")))?;
        }
        pod.del(PLUGIN, "net1", &config)?;
    }
    Ok(())
}

fn a_fixed_uplink_carries_what_is_said_of_it() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    let up = json!([{"name": "eth1", "tagged": "20-22", "untagged": 91}]);
    let trunk = config(json!({"trunk": "20,91", "uplinks": up}));
    let result = pod.add(PLUGIN, "net1", &trunk)?;
    check!(vlans(&node, "eth1")? == "20-22 91*u", "{}", vlans(&node, "eth1")?)?;
    let (p, wire) = (PacketSocket::open(&pod, "net1")?, PacketSocket::open(&node, "wire")?);
    p.send(&frame(mac(&result), &tag(91)))?;
    sees(&wire, &frame(mac(&result), &[]), "VLAN 91 on the wire, untagged")?;
    p.send(&frame(mac(&result), &tag(20)))?;
    sees(&wire, &frame(mac(&result), &tag(20)), "VLAN 20 on the wire, tagged")?;
    let other = [2, 9, 9, 9, 9, 9];
    wire.send(&frame(other, &[]))?;
    sees(&p, &frame(other, &tag(91)), "an untagged frame from the wire in VLAN 91")?;
    wire.send(&frame(other, &tag(21)))?;
    sees_not(&p, &frame(other, &tag(21)), "a VLAN of the uplink that the port has not")?;
    pod.del(PLUGIN, "net1", &trunk)?;
    // On a bridge of the node's, where the uplink sends VLAN 91 without a tag and takes none in so, it also takes it in.
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    node.ip("link set dev br0 up")?;
    node.ip("link set dev eth1 master br0")?;
    bridge(&node, "vlan add vid 91 untagged dev eth1")?;
    pod.add(PLUGIN, "net1", &trunk)?;
    check!(vlans(&node, "eth1")? == "20-22 91*u", "{}", vlans(&node, "eth1")?)?;
    pod.del(PLUGIN, "net1", &trunk)?;
    check!(!vlans(&node, "eth1")?.contains("20"), "{}", vlans(&node, "eth1")?)?;
    // What the node has in another way stays.
    bridge(&node, "vlan add vid 20 untagged dev eth1")?;
    let before = vlans(&node, "eth1")?;
    refused(pod.add(PLUGIN, "net1", &trunk), 123, "uplink eth1 carries")?;
    check!(vlans(&node, "eth1")? == before, "{}", vlans(&node, "eth1")?)
}

fn one_attachment_does_not_turn_over_anothers_uplink() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let with = |uplink: Value| config(json!({"trunk": "10,91", "uplinks": [uplink]}));
    let untagged = with(json!({"name": "eth1", "tagged": "10", "untagged": 91}));
    a.add(PLUGIN, "net1", &untagged)?;
    for other in [
        json!({"name": "eth1", "tagged": "10,91"}),
        json!({"name": "eth1", "tagged": "91", "untagged": 10}),
        json!({"name": "eth1", "untagged": 92}),
    ] {
        refused(
            b.add(PLUGIN, "net1", &with(other)),
            123,
            "uplink eth1 carries 10 tagged, 91 untagged (PVID 91)",
        )?;
        check!(vlans(&node, "eth1")? == "10 91*u", "{}", vlans(&node, "eth1")?)?;
    }
    b.add(PLUGIN, "net1", &untagged)?;
    for pod in [&a, &b] {
        pod.del(PLUGIN, "net1", &untagged)?;
    }
    // One that follows needs its VLANs tagged.
    a.add(PLUGIN, "net1", &with(json!({"name": "eth1", "follow": true})))?;
    refused(b.add(PLUGIN, "net1", &untagged), 123, "uplink eth1 carries 10,91 tagged")?;
    check!(vlans(&node, "eth1")? == "10 91", "{}", vlans(&node, "eth1")?)
}

fn check_sees_how_an_uplink_carries_its_vlans() -> Outcome {
    let node = node()?;
    let pod = node.pod("a")?;
    for (uplink, changes) in [
        (
            json!({"name": "eth1", "follow": true}),
            &[
                ("vlan del vid 10 dev eth1", "VLAN 10 on uplink eth1 is missing"),
                ("vlan add vid 10 untagged dev eth1", "VLAN 10 does not come and go there as 10,20 tagged"),
            ][..],
        ),
        (
            json!({"name": "eth1", "tagged": "10", "untagged": 20}),
            &[
                (
                    "vlan add vid 10 untagged dev eth1",
                    "VLAN 10 does not come and go there as 10 tagged, 20 untagged (PVID 20)",
                ),
                ("vlan add vid 20 pvid dev eth1", "VLAN 20 does not"),
                ("vlan add vid 20 untagged dev eth1", "VLAN 20 does not"),
                ("vlan add vid 10 pvid dev eth1", "VLAN 20 does not"),
                ("vlan del vid 20 dev eth1", "VLAN 20 on uplink eth1 is missing"),
            ],
        ),
    ] {
        let follows = uplink["follow"] == true;
        let config = config(json!({"trunk": "10,20", "uplinks": [uplink]}));
        let result = pod.add(PLUGIN, "net1", &config)?;
        let run = || node.cni(PLUGIN, "CHECK", &pod.call("net1", &config).with("prevResult", result.clone()));
        run()?;
        for (change, says) in changes {
            bridge(&node, change)?;
            refused(run(), 110, says).map_err(|stop| Stop::Failed(format!("{change}: {stop:?}")))?;
            bridge(&node, "vlan add vid 10 dev eth1")?;
            bridge(
                &node,
                if follows { "vlan add vid 20 dev eth1" } else { "vlan add vid 20 pvid untagged dev eth1" },
            )?;
            run().map_err(|error| Stop::Failed(format!("back from {change}: {error}")))?;
        }
        // Out of the bridge.
        node.ip("link set dev eth1 nomaster")?;
        refused(run(), 110, "the bridge of uplink eth1")?;
        node.ip("link set dev eth1 master br0")?;
        pod.del(PLUGIN, "net1", &config)?;
    }
    Ok(())
}

fn a_bridge_without_vlans_goes_with_its_last_port() -> Outcome {
    let node = node()?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let flat = config(json!({"uplinks": [{"name": "eth1"}]}));
    let result = a.add(PLUGIN, "net1", &flat)?;
    b.add(PLUGIN, "net1", &flat)?;
    let (p, wire) = (PacketSocket::open(&a, "net1")?, PacketSocket::open(&node, "wire")?);
    p.send(&frame(mac(&result), &tag(7)))?;
    sees(&wire, &frame(mac(&result), &tag(7)), "a frame through a bridge that does not filter")?;
    let run = || node.cni(PLUGIN, "CHECK", &a.call("net1", &flat).with("prevResult", result.clone()));
    run()?;
    node.ip("link set dev eth1 nomaster")?;
    refused(run(), 110, "the bridge of uplink eth1")?;
    node.ip("link set dev eth1 master br0")?;
    a.del(PLUGIN, "net1", &flat)?;
    check(node.link("br0")?.is_some(), "the bridge went before its last port")?;
    b.del(PLUGIN, "net1", &flat)?;
    check!(node.link_names()? == ["eth1", "wire"], "left: {:?}", node.link_names()?)
}
