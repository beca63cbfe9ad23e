//! Attachments without the daemon: a macvtap on a link of the host, an existing one that is moved, and spokes of a
//! LAN that the test makes itself.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8slan_tests::kills::{everywhere, strace};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use testnet::{CniCall, CniError, Frame, Node, Outcome, PacketSocket, Ping, Pod, Switch, Tap, needs, stays};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        two_pods_on_one_master_talk_and_have_their_own_taps,
        check_promises_what_add_made,
        passthru_takes_the_masters_address,
        an_existing_macvtap_moves_in_and_back,
        a_failed_add_moves_it_back,
        garbage_is_collected_without_a_lan,
        the_nodes_policy_decides,
        a_policy_that_others_could_write_is_not_used,
        a_killed_add_leaves_nothing_after_del,
        a_killed_move_is_put_back_by_del,
        what_was_moved_is_as_before_when_it_is_back,
        a_move_that_fails_is_taken_back,
        nothing_that_the_pod_called_a_moved_link_keeps_it_or_comes_along,
        another_plugins_macvtap_is_left_alone,
        a_path_that_leads_to_another_pod_by_now,
        what_stands_on_a_master_already_is_named,
        the_networks_name_servers_are_in_the_result,
        a_guests_link_is_silent,
        a_record_counts_as_it_is_once_the_lock_is_had,
        del_waits_for_an_add_of_the_same_spoke,
        a_device_that_is_not_there_yet_is_no_mistake,
        a_pod_of_an_odd_name_leaves_its_spoke_free,
        a_changed_mtu_is_seen_without_one_in_the_result,
        a_default_route_that_is_there_stays,
        nothing_that_the_pod_set_on_a_moved_link_stays,
        a_moved_macvtap_comes_back_over_a_smaller_link,
        check_sees_that_nothing_passes,
        nothing_stays_counted_on_the_link_of_the_node,
        a_limit_of_the_size_of_files_is_answered,
    ]
}

fn node() -> Result<(Switch, Node), testnet::Error> {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    Ok((switch, node))
}

fn on_master(mode: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "flat", "type": "macvtap", "master": "eth1", "mode": mode})
}

fn device(name: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "flat", "type": "macvtap", "deviceID": name})
}

fn index(pod: &Pod<'_>, ifname: &str) -> u64 {
    pod.link(ifname).unwrap().unwrap()["ifindex"].as_u64().unwrap()
}

/// What a run of the plugin could leave on the node.
fn traces(node: &Node) -> Vec<String> {
    let mut traces = node.list("/run/k8slan/taps");
    traces.extend(node.list("/dev").into_iter().filter(|name| name.contains("tap")));
    traces
}

fn check(pod: &Pod<'_>, config: &Value, result: &Value) -> Result<Value, CniError> {
    let call = pod.call("net1", config).with("prevResult", result.clone());
    pod.node().cni("macvtap", "CHECK", &call)
}

fn two_pods_on_one_master_talk_and_have_their_own_taps() -> Outcome {
    let (_switch, node) = node()?;
    let (one, two) = (node.pod("one")?, node.pod("two")?);
    for (pod, address) in [(&one, "10.0.0.1/24"), (&two, "10.0.0.2/24")] {
        pod.add("macvtap", "net1", &on_master("bridge"))?;
        pod.ip(&format!("addr add {address} dev net1"))?;
    }
    let (first, second) = (index(&one, "net1"), index(&two, "net1"));
    assert_ne!(first, second, "both would be /dev/tap{first}");
    for tap in [first, second] {
        assert!((1 << 29..1 << 30).contains(&tap), "{tap} is in the range of spokes or of the kernel");
        assert_eq!(Tap::open(&node, &format!("/dev/tap{tap}"))?.link()?, "net1");
    }
    Ping::new(Ipv4Addr::new(10, 0, 0, 2)).run(&one)?.perfect().map_err(testnet::Stop::Failed)?;
    for pod in [&one, &two] {
        pod.del("macvtap", "net1", &on_master("bridge"))?;
        assert_eq!(pod.link_names()?, [""; 0]);
    }
    assert_eq!(traces(&node), [""; 0]);
    Ok(())
}

fn check_promises_what_add_made() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let config = on_master("private");
    let result = pod.add("macvtap", "net1", &config)?;
    check(&pod, &config, &result)?;
    let node_path = format!("/dev/tap{}", index(&pod, "net1"));
    node.run(|| std::os::unix::fs::chown(&node_path, Some(0), Some(0))).unwrap();
    let error = check(&pod, &config, &result).unwrap_err();
    assert_eq!(error.code, 110, "{error}");
    assert!(error.text().contains("owner of /dev/tap"), "{error}");
    let error = check(&pod, &on_master("vepa"), &result).unwrap_err();
    assert!(error.text().contains("mode is private, but vepa"), "{error}");
    Ok(())
}

fn passthru_takes_the_masters_address() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let with_mac =
        |mac: &str| pod.call("net1", &on_master("passthru")).with("args", json!({"cni": {"mac": mac}}));
    let error = node.cni("macvtap", "ADD", &with_mac("02:00:00:00:00:05")).unwrap_err();
    assert_eq!(error.code, 7, "{error}");
    assert_eq!(pod.link_names()?, [""; 0]);
    let result = pod.add("macvtap", "net1", &on_master("passthru"))?;
    let master = node.link("eth1")?.unwrap();
    assert_eq!(result["interfaces"][0]["mac"], master["address"]);
    assert_eq!(pod.link("net1")?.unwrap()["address"], master["address"]);
    Ok(())
}

fn an_existing_macvtap_moves_in_and_back() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    let before = node.link("mv0")?.unwrap();
    let result = pod.add("macvtap", "net1", &device("mv0"))?;
    assert_eq!(result["interfaces"][0]["mac"], before["address"]);
    assert!(node.link("mv0")?.is_none());
    assert_eq!(pod.link("net1")?.unwrap()["ifindex"], before["ifindex"]);
    let tap = format!("/dev/tap{}", before["ifindex"]);
    assert_eq!(Tap::open(&node, &tap)?.link()?, "net1");
    check(&pod, &device("mv0"), &result)?;
    pod.del("macvtap", "net1", &device("mv0"))?;
    let after = node.link("mv0")?.unwrap();
    assert_eq!((&after["address"], &after["ifindex"]), (&before["address"], &before["ifindex"]));
    assert_eq!(pod.link_names()?, [""; 0]);
    pod.del("macvtap", "net1", &device("mv0"))?;
    assert_eq!(traces(&node), [""; 0]);
    Ok(())
}

fn a_failed_add_moves_it_back() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    let mut config = device("mv0");
    config["ipam"] = json!({"type": "no-such-plugin"});
    let error = pod.add("macvtap", "net1", &config).unwrap_err();
    assert!(error.text().contains("no-such-plugin"), "{error}");
    assert!(node.link("mv0")?.is_some());
    assert_eq!(pod.link_names()?, [""; 0]);
    assert_eq!(traces(&node), [""; 0]);
    let error = pod.add("macvtap", "net1", &device("eth1")).unwrap_err();
    assert_eq!(error.code, 11, "a link that is no macvtap is no device: {error}");
    Ok(())
}

fn garbage_is_collected_without_a_lan() -> Outcome {
    let (_switch, node) = node()?;
    let (one, two) = (node.pod("one")?, node.pod("two")?);
    for pod in [&one, &two] {
        pod.add("macvtap", "net1", &on_master("bridge"))?;
    }
    let valid = json!([{"containerID": two.container(), "ifname": "net1"}]);
    let gc = |config: &Value, valid: &Value| {
        let call = one.call("net1", config).with("cni.dev/valid-attachments", valid.clone());
        node.cni("macvtap", "GC", &call)
    };
    let mut other = on_master("bridge");
    other["name"] = "another".into();
    gc(&other, &json!([]))?;
    assert!(one.link("net1")?.is_some(), "GC of another network took it");
    gc(&on_master("bridge"), &valid)?;
    assert!(one.link("net1")?.is_none());
    assert!(two.link("net1")?.is_some());
    Ok(())
}

fn the_nodes_policy_decides() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.write("/etc/k8slan/node.yaml", "policy:\n  blue:\n    masters: [eth1]\n")?;
    let of = |namespace: &str| {
        let mut call = pod.call("net1", &on_master("bridge"));
        call.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web");
        call
    };
    let error = node.cni("macvtap", "ADD", &of("red")).unwrap_err();
    assert_eq!(error.code, 101, "{error}");
    assert!(error.text().contains("\"red\" may not use master \"eth1\""), "{error}");
    let mut unstated = of("red");
    unstated.args = String::new();
    assert_eq!(node.cni("macvtap", "ADD", &unstated).unwrap_err().code, 101);
    assert_eq!(pod.link_names()?, [""; 0]);
    node.cni("macvtap", "ADD", &of("blue"))?;
    Ok(())
}

fn a_policy_that_others_could_write_is_not_used() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.write("/etc/k8slan/node.yaml", "policy: {}\n")?;
    node.run(|| {
        std::fs::set_permissions("/etc/k8slan/node.yaml", std::os::unix::fs::PermissionsExt::from_mode(0o666))
    })
    .unwrap();
    let error = pod.add("macvtap", "net1", &on_master("bridge")).unwrap_err();
    assert_eq!(error.code, 7, "{error}");
    assert!(error.text().contains("could be written by others than root"), "{error}");
    Ok(())
}

fn a_killed_add_leaves_nothing_after_del() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let config = on_master("bridge");
    // What a kill between the kernel's answer and the record leaves: a macvtap and no record.
    pod.add("macvtap", "net1", &config)?;
    node.run(|| std::fs::remove_dir_all("/run/k8slan/taps")).unwrap();
    pod.del("macvtap", "net1", &config)?;
    assert_eq!(pod.link_names()?, [""; 0]);
    Ok(())
}

fn a_killed_move_is_put_back_by_del() -> Outcome {
    needs("strace")?;
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.ip("link add mv0 link eth1 address 02:00:00:00:00:07 type macvtap mode bridge")?;
    let before = node.link("mv0")?.unwrap();
    let call = pod.call("net1", &device("mv0")).with("runtimeConfig", json!({"mac": "02:00:00:00:00:05"}));
    let deaths = everywhere(&["sendto", "openat", "write", "mknodat", "rename"], |name, number| {
        let killed = CniCall { under: strace(name, number), ..call.clone() };
        let lived = node.cni("macvtap", "ADD", &killed).is_ok();
        node.cni("macvtap", "DEL", &call)?;
        let back = node.link("mv0")?;
        assert_eq!(back.as_ref().map(|link| &link["address"]), Some(&before["address"]), "{name} {number}");
        assert_eq!(pod.link_names()?, [""; 0], "{name} {number}");
        assert_eq!(traces(&node), [""; 0], "{name} {number}");
        Ok(lived)
    })?;
    assert!(deaths > 15, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

fn what_was_moved_is_as_before_when_it_is_back() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("launcher")?;
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    let before = node.link("mv0")?.unwrap();
    let mut config = device("mv0");
    config["promiscMode"] = true.into();
    config["runtimeConfig"] = json!({"mac": "02:00:00:00:00:05"});
    let result = pod.add("macvtap", "pod16477688c0e", &config)?;
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:05");
    pod.del("macvtap", "pod16477688c0e", &config)?;
    let after = node.link("mv0")?.unwrap();
    assert_eq!((&after["address"], &after["flags"]), (&before["address"], &before["flags"]));
    Ok(())
}

fn a_move_that_fails_is_taken_back() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    node.ip("link add other link eth1 address 02:00:00:00:00:05 up type macvtap mode bridge")?;
    let call = pod.call("net1", &device("mv0")).with("runtimeConfig", json!({"mac": "02:00:00:00:00:05"}));
    let error = node.cni("macvtap", "ADD", &call).unwrap_err();
    assert!(error.text().contains("Address already in use"), "{error}");
    assert!(node.link("mv0")?.is_some(), "it stays in the pod");
    assert_eq!(pod.link_names()?, [""; 0]);
    assert_eq!(traces(&node), [""; 0]);
    Ok(())
}

/// Alternative names go along into other namespaces, and whoever may change the pod's network gives them.
fn nothing_that_the_pod_called_a_moved_link_keeps_it_or_comes_along() -> Outcome {
    let (_switch, node) = node()?;
    node.ip("link add mv0 link eth1 up type macvtap mode bridge")?;
    node.ip("link set mv0 alias mine group 7")?;
    let before = node.link("mv0")?.unwrap();
    let taken: Vec<String> = (0..16)
        .map(|n| if n == 0 { "mv{}".to_owned() } else { format!("mv{{}}.{n:x}") })
        .map(|name| format!("link add {} type bridge", name.replace("{}", &before["ifindex"].to_string())))
        .collect();
    let cases = [
        vec!["link property add dev net1 altname eth1".to_owned()],
        vec!["link property add dev net1 altname mv0".to_owned()],
        vec![
            "link set net1 down".into(),
            "link set net1 name x".into(),
            "link property add dev x altname net1".into(),
        ],
        vec!["link set net1 group 1798861676".into(), "link set net1 alias another".into()],
        taken,
    ];
    for commands in cases {
        let pod = node.pod("one")?;
        pod.add("macvtap", "net1", &device("mv0"))?;
        for command in &commands {
            pod.ip(command)?;
        }
        pod.del("macvtap", "net1", &device("mv0"))?;
        let after =
            node.link("mv0")?.ok_or_else(|| testnet::Stop::Failed(format!("{commands:?}: it is gone")))?;
        for field in ["address", "flags", "ifalias", "group", "altnames", "ifindex"] {
            assert_eq!(after[field], before[field], "{commands:?}: {field}");
        }
        let own = pod.link_names()?;
        assert!(own.iter().all(|name| name.starts_with("mv") && !taken_is_empty(&commands)), "{own:?}");
        assert_eq!(traces(&node), [""; 0], "{commands:?}");
    }
    Ok(())
}

/// Whether the commands make no links of the pod's own.
fn taken_is_empty(commands: &[String]) -> bool {
    commands.iter().all(|command| !command.starts_with("link add"))
}

fn another_plugins_macvtap_is_left_alone() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.ip("link add foreign link eth1 type macvtap mode bridge")?;
    node.ip(&format!("link set foreign netns {} name net1", pod.path()))?;
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    for config in [on_master("bridge"), device("mv0")] {
        let error = pod.add("macvtap", "net1", &config).unwrap_err();
        assert_eq!(error.code, 103, "{error}");
        assert!(error.text().contains("the pod has an interface net1 already"), "{error}");
        pod.del("macvtap", "net1", &config)?;
        assert_eq!(pod.link_names()?, ["net1"], "DEL took what ADD had not made: {config}");
        assert!(node.link("mv0")?.is_some());
    }
    Ok(())
}

fn a_path_that_leads_to_another_pod_by_now() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    for config in [on_master("bridge"), device("mv0")] {
        pod.add("macvtap", "net1", &config)?;
        // /proc/<pid>/ns/net of a process that is gone, whose number another pod's process has.
        let late = CniCall { container: "gone".into(), ..pod.call("net1", &config) };
        node.cni("macvtap", "DEL", &late)?;
        assert_eq!(pod.link_names()?, ["net1"], "a late DEL took another pod's interface: {config}");
        pod.del("macvtap", "net1", &config)?;
    }
    Ok(())
}

fn what_stands_on_a_master_already_is_named() -> Outcome {
    let (_switch, node) = node()?;
    let (one, two) = (node.pod("one")?, node.pod("two")?);
    one.add("macvtap", "net1", &on_master("passthru"))?;
    for mode in ["passthru", "bridge"] {
        let text = two.add("macvtap", "net1", &on_master(mode)).unwrap_err().text();
        for word in ["eth1", mode, "passthru", "Invalid argument"] {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }
    one.del("macvtap", "net1", &on_master("passthru"))?;
    node.ip("link add br0 type bridge")?;
    node.ip("link set eth1 master br0")?;
    let text = two.add("macvtap", "net1", &on_master("bridge")).unwrap_err().text();
    assert!(text.contains("eth1") && text.contains("port of a bridge"), "{text}");
    Ok(())
}

fn the_networks_name_servers_are_in_the_result() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let mut config = on_master("bridge");
    config["dns"] = json!({"nameservers": ["10.0.0.53"]});
    let result = pod.add("macvtap", "net1", &config)?;
    assert_eq!(result["dns"], config["dns"]);
    Ok(())
}

fn a_guests_link_is_silent() -> Outcome {
    let (switch, node) = node()?;
    let mut other = Node::new("other")?;
    other.connect(&switch, "eth1", 1500)?;
    let pod = node.pod("launcher")?;
    let ifname = "pod16477688c0e";
    let mut config = on_master("bridge");
    config["cniVersion"] = "1.0.0".into();
    config["ipam"] = json!({"type": "static", "addresses": [{"address": "10.0.0.7/24"}]});
    let wire = PacketSocket::open(&other, "eth1")?;
    let result = pod.add("macvtap", ifname, &config)?;
    assert_eq!(result["ips"][0]["address"], "10.0.0.7/24", "the guest's address stands in the result");
    let mac = result["interfaces"][0]["mac"].as_str().unwrap().to_owned();
    let from_guest = |frame: &Frame| {
        frame.bytes[6..12].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":") == mac
    };
    // The kernel's first router solicitation and its duplicate address detection come within this time.
    assert_eq!(wire.find(Duration::from_millis(1500), from_guest)?, None, "the launcher pod spoke");
    let link = pod.link(ifname)?.unwrap();
    let flags = link["flags"].to_string();
    assert!(flags.contains("NOARP") && flags.contains("\"UP\""), "{flags}");
    assert_eq!(pod.ip(&format!("-o addr show dev {ifname}"))?.trim(), "");
    pod.del("macvtap", ifname, &config)?;
    Ok(())
}

const RECORD: &str = "/run/k8slan/spokes/a.json";
const LOCK: &str = "/run/k8slan/spokes/a.lock";

/// What the daemon writes about spoke `a`, whose LAN is built.
fn record() -> Value {
    json!({
        "lan": "k8slan-system/lan1", "spoke": "a", "netns": "/run/netns/lan1", "bridge": "br2", "mtu": 1426,
        "tapIndex": 1_245_789_213, "attach": "macvtap", "mode": "passthru", "allowedNamespaces": null,
        "kubelet": false, "ready": true, "reason": null,
    })
}

/// A node with the LAN of [`record`], as the daemon builds it.
fn node_with_a_lan() -> Result<Node, testnet::Error> {
    let node = Node::new("worker1")?;
    for command in ["netns add lan1", "-n lan1 link add br2 up type bridge"] {
        node.ip(command)?;
    }
    node.exec(&["ip", "-n", "lan1", "link", "set", "lo", "up", "alias", "k8slan:lan k8slan-system/lan1"])?;
    node.write(RECORD, record().to_string())?;
    Ok(node)
}

fn on_spoke(version: &str) -> Value {
    json!({"cniVersion": version, "name": "lan", "type": "macvtap", "deviceID": "a"})
}

fn locked(node: &Node) -> Flock<File> {
    let file = node.run(|| File::create(LOCK)).unwrap();
    Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap()
}

fn lan_links(node: &Node) -> Result<Vec<String>, testnet::Error> {
    let mut names = node.netns("/run/netns/lan1")?.link_names()?;
    names.retain(|name| name != "br2");
    Ok(names)
}

/// Who does not wait for the lock has long ended by then.
const ENDED: Duration = Duration::from_millis(300);

fn waits<T>(call: &std::thread::ScopedJoinHandle<'_, T>) -> Result<(), testnet::Error> {
    stays(ENDED, || if call.is_finished() { Err("it did not wait for the lock".to_owned()) } else { Ok(()) })
}

fn a_record_counts_as_it_is_once_the_lock_is_had() -> Outcome {
    let node = node_with_a_lan()?;
    let pod = node.pod("late")?;
    let lock = locked(&node);
    let error = std::thread::scope(|scope| -> Result<_, testnet::Error> {
        let waiting = scope.spawn(|| pod.add("macvtap", "net1", &on_spoke("1.0.0")));
        waits(&waiting)?;
        let mut record = record();
        record["ready"] = false.into();
        record["reason"] = "it is being removed".into();
        node.write(RECORD, record.to_string())?;
        drop(lock);
        Ok(waiting.join().unwrap().unwrap_err())
    })?;
    assert_eq!(error.code, 11, "{error}");
    assert!(error.text().contains("it is being removed"), "{error}");
    assert_eq!(lan_links(&node)?, [""; 0]);
    Ok(())
}

fn del_waits_for_an_add_of_the_same_spoke() -> Outcome {
    let node = node_with_a_lan()?;
    let pod = node.pod("one")?;
    pod.add("macvtap", "net1", &on_spoke("1.0.0"))?;
    let lock = locked(&node);
    std::thread::scope(|scope| -> Outcome {
        let waiting = scope.spawn(|| pod.del("macvtap", "net1", &on_spoke("1.0.0")));
        waits(&waiting)?;
        drop(lock);
        waiting.join().unwrap()?;
        Ok(())
    })?;
    assert_eq!(lan_links(&node)?, [""; 0]);
    Ok(())
}

fn a_device_that_is_not_there_yet_is_no_mistake() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("one")?;
    let mut config = device("spoke1");
    config["attach"] = "veth".into();
    let error = pod.add("macvtap", "net1", &config).unwrap_err();
    assert_eq!(error.code, 11, "the daemon may know it in a moment: {error}");
    Ok(())
}

fn a_pod_of_an_odd_name_leaves_its_spoke_free() -> Outcome {
    let node = node_with_a_lan()?;
    let pod = node.pod("one")?;
    let mut call = pod.call("net1", &on_spoke("1.0.0"));
    call.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a b;K8S_POD_NAME=c/d e".into();
    node.cni("macvtap", "ADD", &call)?;
    node.cni("macvtap", "DEL", &call)?;
    assert_eq!(lan_links(&node)?, [""; 0]);
    assert_eq!(traces(&node), [""; 0]);
    Ok(())
}

fn a_changed_mtu_is_seen_without_one_in_the_result() -> Outcome {
    let node = node_with_a_lan()?;
    let pod = node.pod("one")?;
    let config = on_spoke("1.0.0");
    let result = pod.add("macvtap", "net1", &config)?;
    assert_eq!(result["interfaces"][0]["mtu"], Value::Null);
    check(&pod, &config, &result)?;
    // A later plugin of the chain may have made it smaller; on the LAN's side nobody may.
    pod.ip("link set net1 mtu 1300")?;
    check(&pod, &config, &result)?;
    let port = lan_links(&node)?.into_iter().find(|name| name.starts_with('+')).unwrap();
    for (link, mtu) in [(port.as_str(), 1400), ("a", 1400), (port.as_str(), 1500)] {
        node.ip(&format!("-n lan1 link set dev {link} mtu {mtu}"))?;
        let error = check(&pod, &config, &result).unwrap_err();
        assert_eq!(error.code, 110, "{error}");
        assert!(error.text().contains(&format!("{mtu}, but 1426")), "{error}");
        node.ip(&format!("-n lan1 link set dev {link} mtu 1426"))?;
        check(&pod, &config, &result)?;
    }
    Ok(())
}

/// As with the reference plugins: the pod's first interface keeps it, unless Multus (`default-route`) took it away before.
fn a_default_route_that_is_there_stays() -> Outcome {
    let (_switch, node) = node()?;
    let mut network = on_master("bridge");
    network["ipam"] = json!({"type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.0.20.0/24", "gateway": "10.0.20.1"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16"}]});
    for (first, expected) in
        [(true, "default via 10.244.0.1 dev eth0"), (false, "default via 10.0.20.1 dev net1")]
    {
        let pod = node.pod(if first { "first" } else { "taken" })?;
        pod.ip("link add eth0 type veth peer name outside")?;
        pod.ip("addr add 10.244.0.2/24 dev eth0")?;
        for link in ["eth0", "outside"] {
            pod.ip(&format!("link set {link} up"))?;
        }
        if first {
            pod.ip("route add default via 10.244.0.1")?;
        }
        let result = pod.add("macvtap", "net1", &network)?;
        let routes = pod.ip("route show")?;
        let defaults: Vec<&str> = routes.lines().filter(|line| line.starts_with("default")).collect();
        assert!(matches!(defaults[..], [one] if one.trim().starts_with(expected)), "{routes}");
        assert!(routes.contains("10.9.0.0/16 via 10.0.20.1 dev net1"), "{routes}");
        // CHECK finds what ADD left.
        let check =
            || node.cni("macvtap", "CHECK", &pod.call("net1", &network).with("prevResult", result.clone()));
        check()?;
        pod.ip("route del default")?;
        let error = check().unwrap_err();
        assert!(error.code == 110 && error.text().contains("0.0.0.0/0"), "{error}");
        pod.del("macvtap", "net1", &network)?;
    }
    Ok(())
}

/// The settings of a link that `ip` shows, without what tells nothing about the link: the number of the namespace below.
fn settings(node: &Node, name: &str) -> Value {
    let text = node.ip(&format!("-d -j link show {name}")).unwrap();
    let mut link: Value = serde_json::from_str(&text).unwrap();
    link[0].take()
}

/// A moved macvtap is the next pod's, so it must not be as the last one wanted it.
fn nothing_that_the_pod_set_on_a_moved_link_stays() -> Outcome {
    let (_switch, node) = node()?;
    node.ip("link add mv0 link eth1 up txqueuelen 700 type macvtap mode bridge bcqueuelen 900")?;
    node.ip("link set mv0 multicast off dynamic on")?;
    let before = settings(&node, "mv0");
    for command in [
        "link set net1 protodown on",
        "link set net1 broadcast 02:00:00:00:00:01",
        "link set net1 type macvtap mode private",
        "link set net1 type macvtap mode vepa",
        "link set net1 type macvtap bcqueuelen 5",
        "link set net1 arp off multicast on allmulticast on promisc on",
        "link set net1 dynamic off trailers off",
        "link set net1 txqueuelen 7",
        "link set net1 mtu 600",
        "link set net1 gso_max_size 2000 gso_max_segs 1",
        "link set net1 mode dormant",
        "link set net1 address 02:00:00:00:00:99",
        "link set net1 down",
    ] {
        let pod = node.pod("one")?;
        let result = pod.add("macvtap", "net1", &device("mv0"))?;
        check(&pod, &device("mv0"), &result)?;
        pod.ip(command)?;
        pod.del("macvtap", "net1", &device("mv0"))?;
        assert_eq!(settings(&node, "mv0"), before, "{command}");
    }
    Ok(())
}

/// A setting that the kernel refuses by now, since the lower link became smaller, must not keep the link from the node.
fn a_moved_macvtap_comes_back_over_a_smaller_link() -> Outcome {
    let (_switch, node) = node()?;
    node.ip("link add mv0 link eth1 up mtu 1400 type macvtap mode bridge")?;
    let pod = node.pod("one")?;
    pod.add("macvtap", "net1", &device("mv0"))?;
    pod.ip("link set net1 address 02:00:00:00:00:99")?;
    node.ip("link set eth1 mtu 1200")?;
    pod.del("macvtap", "net1", &device("mv0"))?;
    let back = node.link("mv0")?.expect("mv0 is back under its name");
    assert_eq!(back["mtu"], 1200, "{back}");
    assert_ne!(back["address"], "02:00:00:00:00:99", "{back}");
    assert!(back["flags"].as_array().unwrap().contains(&json!("UP")), "{back}");
    // The next pod gets it.
    pod.add("macvtap", "net1", &device("mv0"))?;
    pod.del("macvtap", "net1", &device("mv0"))?;
    Ok(())
}

/// A macvtap without a carrier passes nothing, whoever took it away.
fn check_sees_that_nothing_passes() -> Outcome {
    let (_switch, node) = node()?;
    node.ip("link add mv0 link eth1 up type macvtap mode bridge")?;
    for config in [on_master("bridge"), device("mv0")] {
        let pod = node.pod("one")?;
        let result = pod.add("macvtap", "net1", &config)?;
        check(&pod, &config, &result)?;
        pod.ip("link set net1 protodown on")?;
        let error = check(&pod, &config, &result).unwrap_err();
        assert!(error.code == 110 && error.text().contains("protodown"), "{error}");
        pod.ip("link set net1 protodown off")?;
        check(&pod, &config, &result)?;
        node.ip("link set eth1 down")?;
        let error = check(&pod, &config, &result).unwrap_err();
        assert!(error.code == 110 && error.text().contains("link eth1"), "{error}");
        node.ip("link set eth1 up")?;
        check(&pod, &config, &result)?;
        pod.del("macvtap", "net1", &config)?;
        // What was so when ADD came is no difference from what it made, until it is up.
        node.ip("link set eth1 down")?;
        let result = pod.add("macvtap", "net1", &config)?;
        check(&pod, &config, &result)?;
        node.ip("link set eth1 up")?;
        check(&pod, &config, &result)?;
        pod.del("macvtap", "net1", &config)?;
    }
    Ok(())
}

/// How many accept every multicast on the node's link, and how many every frame.
fn counted(node: &Node) -> (Value, Value) {
    let link = settings(node, "eth1");
    (link["allmulti"].clone(), link["promiscuity"].clone())
}

/// The kernel forgets what it counted on the lower link of a macvtap in mode passthru.
fn nothing_stays_counted_on_the_link_of_the_node() -> Outcome {
    let (_switch, node) = node()?;
    node.ip("link add mv0 link eth1 up type macvtap mode passthru")?;
    let moved = counted(&node);
    let guest = "pod16477688c0e";
    for (ifname, commands) in [
        (guest, vec![]),
        ("net1", vec!["link set net1 allmulticast on"]),
        ("net1", vec!["link set net1 down", "link set net1 allmulticast on", "link set net1 up"]),
    ] {
        let pod = node.pod("one")?;
        pod.add("macvtap", ifname, &device("mv0"))?;
        if ifname == guest {
            assert_eq!(pod.link(ifname)?.unwrap()["flags"].to_string().matches("ALLMULTI").count(), 1);
        }
        for command in &commands {
            pod.ip(command)?;
        }
        pod.del("macvtap", ifname, &device("mv0"))?;
        assert_eq!(counted(&node), moved, "{ifname} {commands:?}");
    }
    node.ip("link del mv0")?;
    let bare = counted(&node);
    assert_eq!(bare.0, 0);
    let config = on_master("passthru");
    let pod = node.pod("one")?;
    pod.add("macvtap", "net1", &config)?;
    pod.ip("link set net1 allmulticast on")?;
    assert_eq!(counted(&node).0, 1);
    pod.del("macvtap", "net1", &config)?;
    assert_eq!(counted(&node), bare, "a pod on a master");
    Ok(())
}

/// `ulimit -f` ends programs by SIGXFSZ, of which a runtime learns nothing.
fn a_limit_of_the_size_of_files_is_answered() -> Outcome {
    needs("/usr/bin/prlimit")?;
    let (_switch, node) = node()?;
    let ipam = json!({"type": "ipam-pool", "subnet": "10.9.0.0/24", "scope": "host", "sticky": "pod"});
    let bridge =
        json!({"cniVersion": "1.1.0", "name": "flat", "type": "vlan-bridge", "bridge": "b1", "ipam": ipam});
    let mut macvtap = on_master("bridge");
    macvtap["ipam"] = ipam;
    for (plugin, config) in [("macvtap", &macvtap), ("vlan-bridge", &bridge), ("ipam-pool", &bridge)] {
        for limit in ["--fsize=0", "--fsize=1024", "--fsize=8192"] {
            let pod = node.pod("one")?;
            let limited = CniCall { under: vec!["prlimit".into(), limit.into()], ..pod.call("net1", config) };
            if let Err(error) = node.cni(plugin, "ADD", &limited) {
                assert!(
                    error.code != 0 && error.status.is_some_and(|status| status.code() == Some(1)),
                    "{plugin} {limit}: {error}"
                );
                assert_eq!(pod.link_names()?, [""; 0], "{plugin} {limit}: {error}");
            }
            pod.del(plugin, "net1", config)?;
        }
        let pod = node.pod("two")?;
        pod.add(plugin, "net1", config)?;
        pod.del(plugin, "net1", config)?;
    }
    assert_eq!(traces(&node), [""; 0]);
    Ok(())
}
