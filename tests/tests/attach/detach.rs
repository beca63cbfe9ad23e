//! DEL: beside an ADD that runs, after a pod that changed its interface, and with IPAM plugins that need the
//! interface themselves.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::Duration;

use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Pod, Switch, eventually, needs};

/// Who does not wait has long ended by then, and the link of a DEL that does not wait is gone.
const ENDED: Duration = Duration::from_millis(500);

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        del_waits_until_add_has_its_addresses,
        gc_waits_until_add_has_its_addresses,
        del_beside_add_leaves_all_or_nothing,
        del_needs_no_lock_where_there_can_be_none,
        a_macvtap_is_found_wherever_the_pod_put_it,
        a_macvtap_is_found_in_a_namespace_without_a_path,
        a_macvtap_is_found_though_the_pod_is_gone,
        a_link_of_the_pods_own_does_not_stand_in_for_it,
        a_second_macvtap_of_the_pod_stays,
        an_unrecorded_macvtap_is_found_by_its_index,
        gc_finds_what_was_renamed,
        what_was_moved_in_goes_back_from_wherever_it_is,
        a_device_of_kubevirts_plugin_gets_its_mtu_and_goes_back_without,
        a_name_that_is_taken_keeps_no_macvtap_in_the_pod,
        a_spoke_or_port_goes_whatever_the_pod_made_of_it,
        an_ipam_plugin_gets_its_del_while_the_link_is_up,
        gc_asks_it_for_each_attachment_while_the_link_is_up,
        an_ipam_plugin_that_hangs_does_not_keep_the_link,
        an_ipam_plugin_that_is_gone_does_not_keep_the_link,
        ipam_pool_frees_what_no_link_has_any_more,
        a_dhcp_server_hears_of_the_release,
        del_needs_no_namespace,
        the_ipam_plugin_of_add_gives_back_whatever_is_configured_by_now,
        a_port_that_was_renamed_on_the_node_goes,
        gc_frees_no_address_while_a_record_does_not_read,
    ]
}

const GUEST: &str = "pod16477688c0e";
const IPAM: &str = "/run/ipam";

/// A plugin, its configuration, and the pod's interface.
type Case = (&'static str, Value, &'static str);

fn on_master() -> Value {
    json!({"cniVersion": "1.1.0", "name": "flat", "type": "macvtap", "master": "eth1"})
}

fn on_bridge() -> Value {
    json!({"cniVersion": "1.1.0", "name": "flat", "type": "vlan-bridge", "bridge": "br7"})
}

/// Both plugins, for pods and for guests.
fn cases() -> [Case; 3] {
    [
        ("macvtap", on_master(), "net1"),
        ("vlan-bridge", on_bridge(), "net1"),
        ("vlan-bridge", on_bridge(), GUEST),
    ]
}

fn node() -> Result<(Switch, Node), testnet::Error> {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    Ok((switch, node))
}

/// Puts an IPAM plugin `leases` on the node, which keeps a file per lease. `before_add` is run before it gives one.
fn put_ipam(node: &Node, before_add: &str) -> Result<(), testnet::Error> {
    let lease = format!("{IPAM}/lease-$CNI_CONTAINERID-$CNI_IFNAME");
    let script = format!(
        "#!/bin/sh\ncase $CNI_COMMAND in\nADD) {before_add}\necho >{lease}\n\
         echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.0.0.9/24\"}}]}}';;\n\
         DEL) rm -f {lease};;\nGC) rm -f {IPAM}/lease-*;;\nesac\n"
    );
    put_program(node, "leases", &script)
}

fn put_program(node: &Node, name: &str, script: &str) -> Result<(), testnet::Error> {
    let path = format!("{IPAM}/{name}");
    node.write(&path, script)?;
    node.exec(&["chmod", "755", &path]).map(drop)
}

/// The call, with the IPAM plugin of [`put_ipam`].
fn call(pod: &Pod<'_>, config: &Value, ifname: &str) -> CniCall {
    let call = pod.call(ifname, config).with("ipam", json!({"type": "leases"}));
    CniCall { path: Some(IPAM.to_owned()), ..call }
}

fn leases(node: &Node) -> usize {
    node.list(IPAM).iter().filter(|name| name.starts_with("lease-")).count()
}

/// Runs `late` while ADD waits in its IPAM plugin; it must not end before ADD does.
fn beside_add(
    node: &Node,
    (plugin, config, ifname): &Case,
    late: impl Fn(&CniCall) -> Result<Value, CniError> + Sync,
) -> Outcome {
    let wait = format!("echo >{IPAM}/started; while [ ! -e {IPAM}/go ]; do sleep 0.02; done");
    put_ipam(node, &wait)?;
    let pod = node.pod("one")?;
    let call = call(&pod, config, ifname);
    std::thread::scope(|scope| -> Outcome {
        let add = scope.spawn(|| node.cni(plugin, "ADD", &call));
        eventually(Duration::from_secs(10), || match node.list(IPAM).iter().any(|name| name == "started") {
            true => Ok(()),
            false => Err("ADD asks for an address".to_owned()),
        })?;
        let late = scope.spawn(|| late(&call));
        std::thread::sleep(ENDED);
        let waited = !late.is_finished();
        node.write(&format!("{IPAM}/go"), "")?;
        add.join().unwrap()?;
        late.join().unwrap()?;
        assert!(waited, "{plugin} {ifname}: it did not wait for ADD");
        Ok(())
    })?;
    assert!(pod.link(ifname)?.is_none(), "{plugin} {ifname}: the link stays");
    assert_eq!(leases(node), 0, "{plugin} {ifname}: the lease stays");
    node.exec(&["rm", "-r", IPAM])?;
    Ok(())
}

fn del_waits_until_add_has_its_addresses() -> Outcome {
    let (_switch, node) = node()?;
    for case in &cases() {
        beside_add(&node, case, |call| node.cni(case.0, "DEL", call))?;
    }
    Ok(())
}

fn gc_waits_until_add_has_its_addresses() -> Outcome {
    let (_switch, node) = node()?;
    for case in &cases() {
        beside_add(&node, case, |call| {
            node.cni(case.0, "GC", &call.clone().with("cni.dev/valid-attachments", json!([])))
        })?;
    }
    Ok(())
}

fn del_beside_add_leaves_all_or_nothing() -> Outcome {
    let (_switch, node) = node()?;
    put_ipam(&node, "")?;
    for (plugin, config, ifname) in &cases() {
        let pod = node.pod("one")?;
        let call = call(&pod, config, ifname);
        for round in 0..40 {
            let del = std::thread::scope(|scope| {
                let add = scope.spawn(|| node.cni(plugin, "ADD", &call));
                std::thread::sleep(Duration::from_micros(400 * round));
                let del = node.cni(plugin, "DEL", &call);
                // Taken away before it was whole, ADD may say so.
                let _ = add.join().unwrap();
                del
            });
            del?;
            let link = pod.link(ifname)?.is_some();
            assert_eq!(
                link,
                leases(&node) == 1,
                "{plugin} {ifname}, round {round}: a link without its lease, or the reverse"
            );
            node.cni(plugin, "DEL", &call)?;
            assert!(pod.link(ifname)?.is_none() && leases(&node) == 0);
        }
        pod.remove()?;
    }
    // However many there were, they share one file.
    let files: Vec<String> =
        node.list("/run/k8slan").into_iter().filter(|name| name.contains("lock")).collect();
    assert_eq!(files, ["attachments.lock"]);
    Ok(())
}

fn del_needs_no_lock_where_there_can_be_none() -> Outcome {
    let (_switch, node) = node()?;
    put_ipam(&node, "")?;
    let pod = node.pod("one")?;
    let call = call(&pod, &on_master(), "net1");
    node.cni("macvtap", "ADD", &call)?;
    // As good as a file system that is read-only: nothing can be opened for writing there.
    node.exec(&["rm", "/run/k8slan/attachments.lock"])?;
    node.exec(&["mkdir", "/run/k8slan/attachments.lock"])?;
    node.cni("macvtap", "DEL", &call)?;
    assert!(pod.link("net1")?.is_none() && leases(&node) == 0);
    Ok(())
}

fn master(mode: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "flat", "type": "macvtap", "master": "eth1", "mode": mode})
}

fn device(name: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "flat", "type": "macvtap", "deviceID": name})
}

fn index(pod: &Pod<'_>, ifname: &str) -> u64 {
    pod.link(ifname).unwrap().unwrap()["ifindex"].as_u64().unwrap()
}

/// The macvtaps on the node's links: here, in all named namespaces and in the pods.
fn macvtaps(node: &Node) -> Result<Vec<String>, testnet::Error> {
    let mut all = Vec::new();
    let mut of = |place: &str, listed: &str| {
        all.extend(listed.lines().filter(|line| line.contains("macvtap mode")).map(|_| place.to_owned()));
    };
    of("the node", &node.exec(&["ip", "-d", "-o", "link"])?);
    for name in node.list("/run/netns") {
        of(&name, &node.exec(&["ip", "-n", &name, "-d", "-o", "link"])?);
    }
    Ok(all)
}

/// What a pod that may change its network does with `net1`; `N` stands for its index. `ip` runs in the pod, which may
/// use the namespaces `away` and `full`; in the latter a link has the index already.
const PLAYS: &[(&str, &[&str])] = &[
    ("renamed", &["link set net1 down name eth7"]),
    ("moved", &["link set net1 netns away"]),
    ("moved, and another name", &["link set net1 netns away name eth7"]),
    ("back under another name", &["link set net1 netns away", "-n away link set net1 netns HOME name eth7"]),
    ("moved where its index is taken", &["link set net1 netns full"]),
    ("moved twice", &["link set net1 netns away", "-n away link set net1 netns full name x"]),
    (
        "moved, with a decoy",
        &[
            "link set net1 netns away name eth7",
            "link add d0 type veth peer d1",
            "link add net1 index N link d0 type macvtap mode bridge",
        ],
    ),
    (
        "moved where its index is taken, with a decoy",
        &[
            "link set net1 netns full name eth7",
            "link add d0 type veth peer d1",
            "link add net1 index N link d0 type macvtap mode bridge",
        ],
    ),
];

/// Does one of [`PLAYS`] with the pod's interface of this name.
fn play(node: &Node, pod: &Pod<'_>, ifname: &str, commands: &[&str]) -> Result<(), testnet::Error> {
    let index = index(pod, ifname);
    node.ip(&format!("-n full link add taken index {index} type bridge"))?;
    for command in commands {
        let command =
            command.replace("net1", ifname).replace("HOME", pod.path()).replace(" N ", &format!(" {index} "));
        pod.ip(&command)?;
    }
    Ok(())
}

fn put_away(node: &Node) -> Result<(), testnet::Error> {
    node.ip("-n full link del taken").map(drop)
}

/// A node with the namespaces of [`PLAYS`], made before there is a pod: `ip netns` mounts what lies there anew.
fn node_to_play_on() -> Result<(Switch, Node), testnet::Error> {
    let (switch, node) = node()?;
    for name in ["away", "full"] {
        node.ip(&format!("netns add {name}"))?;
    }
    Ok((switch, node))
}

fn a_macvtap_is_found_wherever_the_pod_put_it() -> Outcome {
    let (_switch, node) = node_to_play_on()?;
    for (what, commands) in PLAYS {
        for mode in ["bridge", "passthru"] {
            let config = master(mode);
            let (pod, next) = (node.pod("one")?, node.pod("next")?);
            pod.add("macvtap", "net1", &config)?;
            play(&node, &pod, "net1", commands)?;
            pod.del("macvtap", "net1", &config)?;
            let decoys = commands.iter().filter(|command| command.contains("macvtap")).count();
            let left = macvtaps(&node)?;
            assert_eq!(left.len(), decoys, "{what}, {mode}: {left:?}");
            assert!(
                left.iter().all(|place| pod.path().ends_with(place.as_str())),
                "{what}, {mode}: {left:?}"
            );
            // In passthru, the master is free again.
            next.add("macvtap", "net1", &config)?;
            next.del("macvtap", "net1", &config)?;
            assert_eq!(node.list("/run/k8slan/taps"), [""; 0], "{what}, {mode}");
            put_away(&node)?;
            pod.remove()?;
            next.remove()?;
        }
    }
    Ok(())
}

fn a_macvtap_is_found_in_a_namespace_without_a_path() -> Outcome {
    for mode in ["bridge", "passthru"] {
        let (_switch, node) = node_to_play_on()?;
        let pod = node.pod("one")?;
        pod.add("macvtap", "net1", &master(mode))?;
        pod.ip("link set net1 netns away name eth7")?;
        // An open file holds it.
        let held = node.run(|| std::fs::File::open("/run/netns/away")).unwrap();
        node.ip("netns del away")?;
        let place = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&held));
        let links = || node.exec(&["nsenter", &format!("--net={place}"), "ip", "-o", "link"]);
        assert!(links()?.contains("eth7"), "the test does not see it");
        pod.del("macvtap", "net1", &master(mode))?;
        assert!(!links()?.contains("eth7"), "{mode}");
        assert_eq!(node.list("/run/k8slan/taps"), [""; 0]);
    }
    Ok(())
}

fn a_macvtap_is_found_though_the_pod_is_gone() -> Outcome {
    let (_switch, node) = node_to_play_on()?;
    for netns_is_stated in [true, false] {
        let pod = node.pod("one")?;
        pod.add("macvtap", "net1", &master("passthru"))?;
        pod.ip("link set net1 netns away name eth7")?;
        let mut call = pod.call("net1", &master("passthru"));
        pod.remove()?;
        if !netns_is_stated {
            call.netns = None;
        }
        node.cni("macvtap", "DEL", &call)?;
        assert_eq!(macvtaps(&node)?, [""; 0]);
    }
    Ok(())
}

fn a_link_of_the_pods_own_does_not_stand_in_for_it() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    pod.add("macvtap", "net1", &master("bridge"))?;
    let index = index(&pod, "net1");
    pod.ip("link del net1")?;
    pod.ip(&format!("link add net1 index {index} type bridge"))?;
    pod.del("macvtap", "net1", &master("bridge"))?;
    assert_eq!(pod.link_names()?, ["net1"], "a bridge is no macvtap");
    assert_eq!(node.list("/run/k8slan/taps"), [""; 0]);
    Ok(())
}

fn a_second_macvtap_of_the_pod_stays() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let config = master("bridge");
    for ifname in ["net1", "net2"] {
        pod.add("macvtap", ifname, &config)?;
    }
    // Another plugin's, on the same master.
    node.ip("link add foreign link eth1 type macvtap mode bridge")?;
    node.ip(&format!("link set foreign netns {}", pod.path()))?;
    pod.ip("link del net1")?;
    pod.del("macvtap", "net1", &config)?;
    assert_eq!(pod.link_names()?, ["foreign", "net2"]);
    pod.del("macvtap", "net2", &config)?;
    assert_eq!(pod.link_names()?, ["foreign"]);
    Ok(())
}

fn an_unrecorded_macvtap_is_found_by_its_index() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let mut other = master("bridge");
    other["master"] = "eth2".into();
    let mut broken = master("bridge");
    broken["mode"] = 5.into();
    // The configuration may have been changed since.
    for late in [master("bridge"), other, broken] {
        pod.add("macvtap", "net1", &master("bridge"))?;
        pod.ip("link set net1 down name eth7")?;
        node.exec(&["rm", "-r", "/run/k8slan/taps"])?;
        pod.del("macvtap", "net1", &late)?;
        assert_eq!(pod.link_names()?, [""; 0], "{late}");
    }
    Ok(())
}

fn gc_finds_what_was_renamed() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    pod.add("macvtap", "net1", &master("bridge"))?;
    pod.ip("link set net1 down name eth7")?;
    let call = pod.call("net1", &master("bridge")).with("cni.dev/valid-attachments", json!([]));
    node.cni("macvtap", "GC", &call)?;
    assert_eq!(pod.link_names()?, [""; 0]);
    Ok(())
}

fn what_was_moved_in_goes_back_from_wherever_it_is() -> Outcome {
    let (_switch, node) = node_to_play_on()?;
    for (what, commands) in PLAYS {
        let pod = node.pod("one")?;
        node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
        let before = node.link("mv0")?.unwrap();
        let call =
            pod.call("net1", &device("mv0")).with("runtimeConfig", json!({"mac": "02:00:00:00:00:05"}));
        node.cni("macvtap", "ADD", &call)?;
        play(&node, &pod, "net1", commands)?;
        node.cni("macvtap", "DEL", &call)?;
        let after = node.link("mv0")?;
        assert_eq!(after.map(|link| link["address"].clone()), Some(before["address"].clone()), "{what}");
        assert_eq!(node.list("/run/k8slan/taps"), [""; 0], "{what}");
        // A second DEL finds it at home.
        node.cni("macvtap", "DEL", &call)?;
        node.ip("link del mv0")?;
        put_away(&node)?;
        pod.remove()?;
    }
    Ok(())
}

/// As macvtap-cni's README has it: a device ID that is no link's name, and an MTU beside it.
fn a_device_of_kubevirts_plugin_gets_its_mtu_and_goes_back_without() -> Outcome {
    let (_switch, node) = node()?;
    for (id, name) in [("dataplaneabMvp7", "mvt594e6d1dc44b"), ("dataplaneaMvp97", "dataplaneaMvp97")] {
        let pod = node.pod("one")?;
        node.ip(&format!("link add {name} link eth1 type macvtap mode bridge"))?;
        let mut config = device(id);
        config["mtu"] = 9000.into();
        let error = pod.add("macvtap", "net1", &config).unwrap_err();
        assert!(error.code == 7 && error.text().contains("9000") && error.text().contains("eth1"), "{error}");
        assert_eq!(node.link(name)?.unwrap()["mtu"], 1500, "it is as before");
        config["mtu"] = 1300.into();
        let result = pod.add("macvtap", "net1", &config)?;
        assert_eq!(
            (&result["interfaces"][0]["mtu"], &pod.link("net1")?.unwrap()["mtu"]),
            (&1300.into(), &1300.into())
        );
        node.cni("macvtap", "CHECK", &pod.call("net1", &config).with("prevResult", result))?;
        pod.del("macvtap", "net1", &config)?;
        assert_eq!(node.link(name)?.unwrap()["mtu"], 1500);
        node.cni("macvtap", "STATUS", &pod.call("net1", &config))?;
        node.ip(&format!("link del {name}"))?;
        pod.remove()?;
    }
    let error = node.pod("two")?.add("macvtap", "net1", &device("dataplaneabMvp7")).unwrap_err();
    assert!(error.code == 11 && error.text().contains("dataplaneabMvp7"), "{error}");
    Ok(())
}

fn a_name_that_is_taken_keeps_no_macvtap_in_the_pod() -> Outcome {
    let (_switch, node) = node()?;
    for (other, left) in [
        // Its device plugin made it anew: one is enough.
        ("link add mv0 link eth1 type macvtap mode bridge", 1),
        // Something else: both stay.
        ("link add mv0 type bridge", 1),
        ("link add mv0 type veth peer name mv1", 1),
    ] {
        let pod = node.pod("one")?;
        node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
        let before = node.link("mv0")?.unwrap();
        pod.add("macvtap", "net1", &device("mv0"))?;
        node.ip(other)?;
        pod.del("macvtap", "net1", &device("mv0"))?;
        assert_eq!(pod.link_names()?, [""; 0], "{other}");
        assert_eq!(macvtaps(&node)?.len(), left, "{other}");
        if !other.contains("macvtap") {
            let back = node.link(&format!("mv{}", before["ifindex"]))?;
            assert_eq!(back.map(|link| link["address"].clone()), Some(before["address"].clone()), "{other}");
            node.ip(&format!("link del mv{}", before["ifindex"]))?;
        }
        node.ip("link del mv0")?;
        assert_eq!(node.list("/run/k8slan/taps"), [""; 0]);
        pod.remove()?;
    }
    Ok(())
}

/// A node with a LAN of two spokes, as the daemon builds it.
fn put_lan(node: &Node) -> Result<(), testnet::Error> {
    for command in ["netns add lan1", "-n lan1 link add br2 up type bridge"] {
        node.ip(command)?;
    }
    node.exec(&["ip", "-n", "lan1", "link", "set", "lo", "up", "alias", "k8slan:lan k8slan-system/lan1"])?;
    for (number, (spoke, attach)) in [("a", "macvtap"), ("b", "veth")].into_iter().enumerate() {
        let record = json!({
            "lan": "k8slan-system/lan1", "spoke": spoke, "netns": "/run/netns/lan1", "bridge": "br2", "mtu": 1426,
            "tapIndex": 1_245_789_213 + number, "attach": attach, "mode": "passthru", "allowedNamespaces": null,
            "kubelet": false, "ready": true, "reason": null,
        });
        node.write(&format!("/run/k8slan/spokes/{spoke}.json"), record.to_string())?;
    }
    Ok(())
}

/// These have an end on the node, which no pod can reach.
fn a_spoke_or_port_goes_whatever_the_pod_made_of_it() -> Outcome {
    let (_switch, node) = node_to_play_on()?;
    put_lan(&node)?;
    for (what, commands) in PLAYS {
        for (plugin, config) in
            [("macvtap", device("a")), ("macvtap", device("b")), ("vlan-bridge", on_bridge())]
        {
            let pod = node.pod("one")?;
            pod.add(plugin, "net1", &config)?;
            play(&node, &pod, "net1", commands)?;
            pod.del(plugin, "net1", &config)?;
            let mut left = node.netns("/run/netns/lan1")?.link_names()?;
            left.extend(node.link_names()?);
            for name in ["away", "full"] {
                left.extend(node.netns(&format!("/run/netns/{name}"))?.link_names()?);
            }
            left.retain(|name| !["br2", "eth1", "taken"].contains(&name.as_str()));
            assert_eq!(left, [""; 0], "{what}: {config}");
            put_away(&node)?;
            pod.remove()?;
        }
    }
    Ok(())
}

/// How `leases` finds the pod's interface at DEL: its flags, as the IPAM plugin sees them.
const LOOK: &str = "nsenter --net=$CNI_NETNS ip -o link show $CNI_IFNAME";

/// Puts an IPAM plugin on the node that is not ours: at DEL it writes down how it finds the pod's interface, then does
/// `at_del`.
fn put_looking_ipam(node: &Node, at_del: &str) -> Result<(), testnet::Error> {
    let script = format!(
        "#!/bin/sh\ncase $CNI_COMMAND in\n\
         ADD) echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.0.0.9/24\"}}]}}';;\n\
         DEL) echo \"DEL $CNI_CONTAINERID $CNI_IFNAME $({LOOK} 2>&1)\" >>{IPAM}/log; {at_del};;\n\
         GC) echo \"GC $CNI_CONTAINERID\" >>{IPAM}/log;;\nesac\n"
    );
    put_program(node, "leases", &script)
}

/// What [`put_looking_ipam`]'s plugin wrote down since.
fn seen(node: &Node) -> Result<Vec<String>, testnet::Error> {
    let log = node.read(&format!("{IPAM}/log"))?;
    node.exec(&["rm", &format!("{IPAM}/log")])?;
    Ok(log.lines().map(str::to_owned).collect())
}

fn was_up(seen: &[String], pod: &Pod<'_>, ifname: &str) -> bool {
    let named = format!("DEL {} {ifname} ", pod.container());
    matches!(seen, [one] if one.starts_with(&named) && one.contains(",UP"))
}

/// On a master, on both kinds of spokes, and on a bridge.
fn everywhere() -> [Case; 6] {
    [
        ("macvtap", on_master(), "net1"),
        ("macvtap", device("a"), "net1"),
        ("macvtap", device("b"), "net1"),
        ("macvtap", device("a"), GUEST),
        ("vlan-bridge", on_bridge(), "net1"),
        ("vlan-bridge", on_bridge(), GUEST),
    ]
}

fn an_ipam_plugin_gets_its_del_while_the_link_is_up() -> Outcome {
    let (_switch, node) = node()?;
    put_lan(&node)?;
    put_looking_ipam(&node, "")?;
    for (plugin, config, ifname) in &everywhere() {
        for change in [None, Some("down"), Some("mtu 1300")] {
            let pod = node.pod("one")?;
            let call = call(&pod, config, ifname);
            node.cni(plugin, "ADD", &call)?;
            if let Some(change) = change {
                pod.ip(&format!("link set {ifname} {change}"))?;
            }
            node.cni(plugin, "DEL", &call)?;
            let seen = seen(&node)?;
            assert!(was_up(&seen, &pod, ifname), "{plugin} {config} {ifname}, {change:?}: {seen:?}");
            assert!(pod.link(ifname)?.is_none(), "{plugin} {config} {ifname}: the link stays");
            pod.remove()?;
        }
    }
    Ok(())
}

fn gc_asks_it_for_each_attachment_while_the_link_is_up() -> Outcome {
    let (_switch, node) = node()?;
    put_lan(&node)?;
    put_looking_ipam(&node, "")?;
    for (plugin, config, ifname) in &everywhere() {
        let pod = node.pod("one")?;
        let mut config = config.clone();
        config["cniVersion"] = "1.1.0".into();
        let call = call(&pod, &config, ifname);
        node.cni(plugin, "ADD", &call)?;
        pod.ip(&format!("link set {ifname} down"))?;
        let gc = CniCall { container: String::new(), ifname: String::new(), netns: None, ..call };
        node.cni(plugin, "GC", &gc.with("cni.dev/valid-attachments", json!([])))?;
        let mut seen = seen(&node)?;
        assert_eq!(seen.pop().as_deref(), Some("GC "), "{plugin} {config}");
        assert!(was_up(&seen, &pod, ifname), "{plugin} {config} {ifname}: {seen:?}");
        assert!(pod.link(ifname)?.is_none());
        pod.remove()?;
    }
    Ok(())
}

fn an_ipam_plugin_that_hangs_does_not_keep_the_link() -> Outcome {
    let (_switch, node) = node()?;
    for (plugin, config, ifname) in &cases() {
        put_looking_ipam(&node, &format!("while [ ! -e {IPAM}/go ]; do sleep 0.05; done"))?;
        let pod = node.pod("one")?;
        let call = call(&pod, config, ifname);
        node.cni(plugin, "ADD", &call)?;
        std::thread::scope(|scope| -> Outcome {
            let del = scope.spawn(|| node.cni(plugin, "DEL", &call));
            std::thread::sleep(ENDED);
            let stood = pod.link(ifname)?.is_some();
            let went = eventually(Duration::from_secs(8), || match pod.link(ifname) {
                Ok(None) => Ok(()),
                _ => Err(format!("{plugin}: the link goes")),
            });
            let waited = !del.is_finished();
            node.write(&format!("{IPAM}/go"), "")?;
            del.join().unwrap()?;
            went?;
            assert!(stood, "{plugin}: the link went at once");
            assert!(waited, "{plugin}: DEL did not wait for its IPAM plugin");
            Ok(())
        })?;
        assert!(was_up(&seen(&node)?, &pod, ifname));
        node.exec(&["rm", "-r", IPAM])?;
    }
    Ok(())
}

fn an_ipam_plugin_that_is_gone_does_not_keep_the_link() -> Outcome {
    let (_switch, node) = node()?;
    for (plugin, config, ifname) in &cases() {
        put_looking_ipam(&node, "")?;
        let pod = node.pod("one")?;
        let call = call(&pod, config, ifname);
        node.cni(plugin, "ADD", &call)?;
        node.exec(&["rm", "-r", IPAM])?;
        let error = node.cni(plugin, "DEL", &call).unwrap_err();
        assert!(error.text().contains("leases"), "{error}");
        assert!(pod.link(ifname)?.is_none(), "{plugin}");
    }
    Ok(())
}

/// An address of ipam-pool is another pod's as soon as it is free: the link goes first, also where ADD fails.
fn ipam_pool_frees_what_no_link_has_any_more() -> Outcome {
    let (_switch, node) = node()?;
    let program = testnet::program("ipam-pool").display().to_string();
    let script = format!(
        "#!/bin/sh\nif [ $CNI_COMMAND = DEL ]; then {LOOK} >>{IPAM}/log 2>&1; fi\n\
         if [ $CNI_COMMAND = ADD ]; then {program} | sed 's/\"ips\"/\"routes\":[{{\"dst\":\"9.9.9.0\\/24\",\"gw\":\"1.2.3.4\"}}],\"ips\"/'; \
         else exec {program}; fi\n"
    );
    put_program(&node, "ipam-pool", &script)?;
    for (plugin, config, ifname) in &cases()[..2] {
        let pod = node.pod("one")?;
        let ipam = json!({"type": "ipam-pool", "subnet": "10.0.0.0/24", "scope": "host"});
        let call = CniCall { path: Some(IPAM.to_owned()), ..pod.call(ifname, config).with("ipam", ipam) };
        let error = node.cni(plugin, "ADD", &call).unwrap_err();
        assert!(error.text().contains("9.9.9.0/24") || error.text().contains("unreachable"), "{error}");
        let seen = seen(&node)?;
        assert!(matches!(&seen[..], [one] if one.contains("does not exist")), "{plugin}: {seen:?}");
        assert!(pod.link(ifname)?.is_none());
    }
    Ok(())
}

/// The reference plugin and a DHCP server of another project.
fn a_dhcp_server_hears_of_the_release() -> Outcome {
    needs("dnsmasq")?;
    needs("/usr/lib/cni/dhcp")?;
    let (switch, node) = node()?;
    let mut server = Node::new("server")?;
    server.connect(&switch, "eth1", 1500)?;
    server.ip("addr add 10.0.0.1/24 dev eth1")?;
    let dnsmasq = "dnsmasq --no-daemon --port=0 --conf-file=/dev/null --user=root --leasefile-ro --no-ping --log-dhcp \
         --interface=eth1 --bind-interfaces --dhcp-range=10.0.0.100,10.0.0.199,1h --dhcp-option=3 --pid-file=/run/dnsmasq.pid";
    let dnsmasq = server.spawn_daemon(&dnsmasq.split_whitespace().collect::<Vec<_>>())?;
    let _dhcp = node.spawn_daemon(&["/usr/lib/cni/dhcp", "daemon", "-socketpath", "/run/dhcp.sock"])?;
    eventually(Duration::from_secs(10), || match node.list("/run").iter().any(|name| name == "dhcp.sock") {
        true => Ok(()),
        false => Err("the DHCP client listens".to_owned()),
    })?;
    // The same, with a route in its answer that cannot be made, so that ADD fails.
    let wrong = "#!/bin/sh\nif [ $CNI_COMMAND = ADD ]; then /usr/lib/cni/dhcp | sed 's/\"ips\"/\"routes\":[{\"dst\":\"9.9.9.0\\/24\",\
         \"gw\":\"1.2.3.4\"}],\"ips\"/'; else exec /usr/lib/cni/dhcp; fi\n";
    put_program(&node, "wrong-dhcp", wrong)?;
    let released = |count: usize| {
        eventually(Duration::from_secs(5), || match dnsmasq.log().matches("DHCPRELEASE(").count() {
            found if found == count => Ok(()),
            found => Err(format!("the server hears of {count} releases, not {found}")),
        })
    };
    let bridge = json!({"cniVersion": "1.0.0", "name": "flat", "type": "vlan-bridge", "bridge": "br7", "uplinks": [{"name": "eth1"}]});
    let mut master = on_master();
    master["cniVersion"] = "1.0.0".into();
    let mut releases = 0;
    for (plugin, config) in [("macvtap", master), ("vlan-bridge", bridge)] {
        for down in [false, true] {
            let pod = node.pod("one")?;
            let ipam = |kind: &str| json!({"type": kind, "daemonSocketPath": "/run/dhcp.sock"});
            let of = |kind: &str| CniCall {
                path: Some(format!("{IPAM}:/usr/lib/cni")),
                ..pod.call("net1", &config).with("ipam", ipam(kind))
            };
            let result = node.cni(plugin, "ADD", &of("dhcp"))?;
            assert!(
                result["ips"][0]["address"].as_str().is_some_and(|ip| ip.starts_with("10.0.0.1")),
                "{result}"
            );
            if down {
                pod.ip("link set net1 down")?;
            }
            node.cni(plugin, "DEL", &of("dhcp"))?;
            releases += 1;
            released(releases)?;
            assert!(pod.link("net1")?.is_none());
            let error = node.cni(plugin, "ADD", &of("wrong-dhcp")).unwrap_err();
            assert!(error.code != 0, "{error}");
            releases += 1;
            released(releases)?;
            assert!(pod.link("net1")?.is_none());
            pod.remove()?;
        }
    }
    Ok(())
}

/// The path may lead anywhere by the time of DEL: its process ended, and another has its number.
fn del_needs_no_namespace() -> Outcome {
    let (_switch, node) = node()?;
    put_lan(&node)?;
    for (plugin, config, ifname) in &everywhere() {
        for path in [Some("/proc/self/ns/net"), Some("/run/netns/none"), None] {
            put_ipam(&node, "")?;
            let pod = node.pod("one")?;
            node.cni(plugin, "ADD", &call(&pod, config, ifname))?;
            let del = CniCall { netns: path.map(str::to_owned), ..call(&pod, config, ifname) };
            node.cni(plugin, "DEL", &del)?;
            assert!(pod.link(ifname)?.is_none(), "{plugin} {ifname} {path:?}: the link stays");
            assert_eq!(leases(&node), 0, "{plugin} {ifname} {path:?}: the lease stays");
            pod.remove()?;
        }
    }
    Ok(())
}

/// Whoever edits a definition while pods run leaves addresses behind, unless the record counts.
fn the_ipam_plugin_of_add_gives_back_whatever_is_configured_by_now() -> Outcome {
    let (_switch, node) = node()?;
    put_lan(&node)?;
    put_program(&node, "other", "#!/bin/sh\n")?;
    // A veth spoke has no record.
    for (plugin, config, ifname) in everywhere().iter().filter(|(_, config, _)| *config != device("b")) {
        for ipam in [Value::Null, json!({}), json!({"type": "other"}), json!({"type": "nonesuch"}), json!(7)]
        {
            put_ipam(&node, "")?;
            let pod = node.pod("one")?;
            let call = call(&pod, config, ifname);
            node.cni(plugin, "ADD", &call)?;
            assert_eq!(leases(&node), 1);
            let done = node.cni(plugin, "DEL", &call.clone().with("ipam", ipam.clone()));
            assert_eq!(done.is_ok(), ipam["type"] != "nonesuch", "{plugin} {ifname} {ipam}: {done:?}");
            assert!(pod.link(ifname)?.is_none(), "{plugin} {ifname} {ipam}: the link stays");
            assert_eq!(leases(&node), 0, "{plugin} {ifname} {ipam}: the lease stays");
            pod.remove()?;
        }
    }
    Ok(())
}

fn a_port_that_was_renamed_on_the_node_goes() -> Outcome {
    let (_switch, node) = node()?;
    for verb in ["DEL", "GC"] {
        put_ipam(&node, "")?;
        let pod = node.pod("one")?;
        let call = call(&pod, &on_bridge(), "net1");
        node.cni("vlan-bridge", "ADD", &call)?;
        let port = node.link_names()?.into_iter().find(|name| name.starts_with("vb")).unwrap();
        node.ip(&format!("link set {port} down"))?;
        node.ip(&format!("link set {port} name admin0"))?;
        let call = call.with("cni.dev/valid-attachments", json!([]));
        node.cni("vlan-bridge", verb, &call)?;
        assert!(pod.link("net1")?.is_none(), "{verb}: the link stays");
        assert_eq!(leases(&node), 0, "{verb}: the lease stays");
        assert!(
            node.link("admin0")?.is_none() && node.link("br7")?.is_none(),
            "{verb}: {:?}",
            node.link_names()?
        );
        pod.remove()?;
    }
    Ok(())
}

fn gc_frees_no_address_while_a_record_does_not_read() -> Outcome {
    let (_switch, node) = node()?;
    for (what, spoil) in [
        ("empty", "truncate -s 0"),
        ("another's text", "sh -c 'echo {\"x\":1} >$0'"),
        ("anybody's", "chmod 666"),
    ] {
        put_ipam(&node, "")?;
        let pod = node.pod("one")?;
        let call = call(&pod, &on_master(), "net1");
        node.cni("macvtap", "ADD", &call)?;
        let record = node.list("/run/k8slan/taps").into_iter().find(|name| name.contains(':')).unwrap();
        node.exec(&["sh", "-c", &format!("{spoil} /run/k8slan/taps/{record}")])?;
        let gc = call.clone().with("cni.dev/valid-attachments", json!([]));
        let error = node.cni("macvtap", "GC", &gc).unwrap_err();
        assert!(error.code == 104 && error.text().contains(&record), "{what}: {error}");
        assert_eq!((leases(&node), pod.link("net1")?.is_some()), (1, true), "{what}");
        node.cni("macvtap", "DEL", &call)?;
        assert_eq!((leases(&node), pod.link("net1")?.is_some()), (0, false), "{what}");
        node.exec(&["rm", "-f", &format!("/run/k8slan/taps/{record}")])?;
        pod.remove()?;
    }
    Ok(())
}
