//! What the three plugins make of what runtimes say, where it is the same for all of them.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::process::ExitCode;

use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Pod, Stop, Switch, needs};

fn main() -> ExitCode {
    testnet::main(testnet::tests![
        gc_takes_null_for_an_empty_list,
        del_takes_everything_whatever_is_wrong_with_the_rest,
        del_of_another_ipam_plugins_address_says_what_it_could_not_do,
        gc_takes_what_it_can,
        a_file_that_is_no_record_keeps_no_pod,
        del_on_a_read_only_node_with_nothing_on_it,
        del_with_a_node_configuration_that_is_wrong,
    ])
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

/// What somebody may have made of a configuration since ADD, or a runtime of its own fields.
fn broken() -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    for key in
        ["name", "cniVersion", "type", "dns", "runtimeConfig", "args", "capabilities", "ipam", "prevResult"]
    {
        for value in [
            json!(5),
            json!("x/y"),
            json!([1]),
            json!({"type": 5, "cni": 5, "mac": 5, "ips": 5, "domain": 5}),
        ] {
            all.push((key, value));
        }
    }
    // Not there at all.
    all.extend(["name", "cniVersion", "type", "ipam"].map(|key| (key, Value::Null)));
    for key in ["master", "bridge", "mtu", "mode", "vlan", "uplinks"] {
        all.push((key, json!({"a": [5]})));
    }
    all
}

fn with(config: &Value, key: &str, value: &Value) -> Value {
    let mut config = config.clone();
    config[key] = value.clone();
    config
}

fn del_takes_everything_whatever_is_wrong_with_the_rest() -> Outcome {
    let (_switch, node) = node()?;
    for (plugin, config) in configs() {
        let pod = node.pod(plugin)?;
        for (key, value) in broken() {
            let say = |error: CniError| Stop::Failed(format!("{plugin}, {key} is {value}: {error}"));
            // Without ipam nobody can know that there was one: what the record says must not be asked for then.
            let nothing_leased = key == "ipam" && value.is_null();
            let mut good = config.clone();
            if nothing_leased && plugin != "ipam-pool" {
                good.as_object_mut().unwrap().remove("ipam");
            }
            pod.add(plugin, "net1", &good).map_err(say)?;
            assert!(is_there(&pod)?, "{plugin}: ADD makes nothing");
            for _ in 0..2 {
                pod.del(plugin, "net1", &with(&good, key, &value)).map_err(say)?;
                assert!(!is_there(&pod)?, "{plugin}, {key} is {value}: something is left");
            }
        }
        // A caller that is broken is told so, and the pod is off the network all the same.
        for stdin in ["", "{\"cniVersion\":\"1.1.0\",", "[]", "null"] {
            pod.add(plugin, "net1", &config)?;
            let call = CniCall { config: stdin.to_owned(), ..pod.call("net1", &config) };
            assert_eq!(node.cni(plugin, "DEL", &call).unwrap_err().code, 6, "{plugin}: {stdin}");
            assert!(!is_there(&pod)?, "{plugin}, {stdin:?}: something is left");
        }
        assert_eq!(node.list("/run/k8slan/taps"), [""; 0]);
        assert_eq!(node.list("/run/k8slan/ports"), [""; 0]);
    }
    Ok(())
}

/// It cannot be done without its configuration, and must not be kept quiet about.
fn del_of_another_ipam_plugins_address_says_what_it_could_not_do() -> Outcome {
    needs("/usr/lib/cni/host-local")?;
    let (_switch, node) = node()?;
    for (plugin, mut config) in configs().into_iter().take(2) {
        let pod = node.pod(plugin)?;
        config["cniVersion"] = json!("1.0.0");
        config["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "10.8.0.0/24"}]]});
        pod.add(plugin, "net1", &config)?;
        let error = pod.del(plugin, "net1", &with(&config, "ipam", &json!("x"))).unwrap_err();
        assert!(error.text().contains("host-local"), "{error}");
        assert!(pod.link("net1")?.is_none(), "{plugin}: the interface is there");
        // Its own configuration gives the address back.
        pod.del(plugin, "net1", &config)?;
        let folder = format!("/var/lib/cni/networks/of-{plugin}");
        let left: Vec<_> = node.list(&folder).into_iter().filter(|name| name.starts_with("10.")).collect();
        assert_eq!(left, [""; 0]);
    }
    Ok(())
}

fn gc_takes_what_it_can() -> Outcome {
    let (_switch, node) = node()?;
    for (plugin, config) in configs() {
        let pod = node.pod(plugin)?;
        let gc = |key: &str, value: Value| {
            let call = pod.call("net1", &config).with("cni.dev/valid-attachments", json!([]));
            node.cni(plugin, "GC", &call.with(key, value))
        };
        for key in
            ["type", "dns", "runtimeConfig", "args", "capabilities", "prevResult", "mtu", "master", "bridge"]
        {
            pod.add(plugin, "net1", &config)?;
            gc(key, json!([5])).map_err(|error| Stop::Failed(format!("{plugin}, {key}: {error}")))?;
            assert!(!is_there(&pod)?, "{plugin}, {key}: something is left");
        }
        // The addresses stay with whoever gave them, and it is said.
        pod.add(plugin, "net1", &config)?;
        assert_eq!(gc("ipam", json!("x")).unwrap_err().code, 6);
        assert!(pod.link("net1")?.is_none());
        pod.del(plugin, "net1", &config)?;
        // Of which network, or what is valid, is not known: nothing is gone, then.
        pod.add(plugin, "net1", &config)?;
        for (key, value, code) in [
            ("name", json!(""), 7),
            ("name", json!(5), 6),
            ("cniVersion", json!("9.9.9"), 1),
            ("cni.dev/valid-attachments", json!("x"), 6),
            ("cni.dev/valid-attachments", json!([{"containerID": 5}]), 6),
        ] {
            assert_eq!(gc(key, value.clone()).unwrap_err().code, code, "{plugin}, {key} is {value}");
            assert!(is_there(&pod)?, "{plugin}, {key} is {value}: it was taken away");
        }
        pod.del(plugin, "net1", &config)?;
    }
    Ok(())
}

/// One file that others may write, a link or a folder among the records.
fn a_file_that_is_no_record_keeps_no_pod() -> Outcome {
    let (_switch, node) = node()?;
    for (plugin, config) in configs().into_iter().take(2) {
        let pod = node.pod(plugin)?;
        pod.add(plugin, "net1", &config)?;
        for (folder, suffix) in [("/run/k8slan/taps", ""), ("/run/k8slan/ports", ".json")] {
            let name = |name: &str| format!("{folder}/{name}{suffix}");
            node.write(&name("9:1"), "{}")?;
            node.exec(&["chmod", "666", &name("9:1")])?;
            node.exec(&["ln", "-sf", "/dev/zero", &name("9:2")])?;
            node.exec(&["mkdir", "-p", &name("9:3")])?;
        }
        pod.del(plugin, "net1", &config)?;
        assert!(!is_there(&pod)?, "{plugin}: something is left");
    }
    Ok(())
}

fn read_only(node: &Node) -> Outcome {
    node.exec(&["mkdir", "-p", "/run/k8slan"])?;
    node.exec(&["mount", "--bind", "/run/k8slan", "/run/k8slan"])?;
    node.exec(&["mount", "-o", "remount,ro,bind", "/run/k8slan"])?;
    Ok(())
}

fn del_on_a_read_only_node_with_nothing_on_it() -> Outcome {
    let (_switch, node) = node()?;
    let pods: Vec<_> = configs().into_iter().map(|(plugin, _)| node.pod(plugin)).collect::<Result<_, _>>()?;
    let nothing_to_do = || -> Outcome {
        for ((plugin, config), pod) in configs().into_iter().zip(&pods) {
            for verb in ["DEL", "GC"] {
                let call = pod.call("net1", &config).with("cni.dev/valid-attachments", json!([]));
                node.cni(plugin, verb, &call).map_err(|error| Stop::Failed(format!("{plugin}: {error}")))?;
            }
        }
        Ok(())
    };
    read_only(&node)?;
    nothing_to_do()?;
    node.exec(&["umount", "-l", "/run/k8slan"])?;
    assert_eq!(node.list("/run/k8slan"), [""; 0], "something was made");
    // The folders are there and empty, then.
    for ((plugin, config), pod) in configs().into_iter().zip(&pods).take(2) {
        let mut config = config;
        config.as_object_mut().unwrap().remove("ipam");
        pod.add(plugin, "net1", &config)?;
        pod.del(plugin, "net1", &config)?;
    }
    read_only(&node)?;
    nothing_to_do()?;
    node.exec(&["umount", "-l", "/run/k8slan"])?;
    // What stands is taken off the network, and what could not be written is said.
    for ((plugin, config), pod) in configs().into_iter().zip(&pods).take(2) {
        pod.add(plugin, "net1", &config)?;
        read_only(&node)?;
        let error = pod.del(plugin, "net1", &config).unwrap_err();
        assert!(error.text().contains("Read-only"), "{plugin}: {error}");
        assert!(pod.link("net1")?.is_none(), "{plugin}: the interface is there");
        node.exec(&["umount", "-l", "/run/k8slan"])?;
        pod.del(plugin, "net1", &config)?;
        assert!(!is_there(pod)?, "{plugin}: something is left");
    }
    assert_eq!(node.list("/run/k8slan/ports"), [""; 0]);
    Ok(())
}

fn del_with_a_node_configuration_that_is_wrong() -> Outcome {
    const FILE: &str = "/etc/k8slan/node.yaml";
    let (_switch, node) = node()?;
    for (plugin, config) in configs() {
        let pod = node.pod(plugin)?;
        for (text, mode, code) in [
            ("policy: [", "644", None),
            ("polcy: {}", "644", None),
            ("policy: {}", "666", None),
            ("rundir: /x", "644", None),
            ("polcy: {}\nrunDir: /run/k8slan", "644", None),
            // Where things are is not known: what is at the usual place goes, and it is said.
            ("policy: [\nrunDir: /run/k8slan", "644", Some(7)),
            ("runDir: /run/elsewhere", "666", Some(7)),
        ] {
            node.exec(&["rm", "-f", FILE])?;
            pod.add(plugin, "net1", &config)?;
            node.write(FILE, text)?;
            node.exec(&["chmod", mode, FILE])?;
            let done = pod.del(plugin, "net1", &config);
            // An address that was found is no address that may be elsewhere.
            let code = code.filter(|_| plugin != "ipam-pool");
            assert_eq!(done.err().map(|error| error.code), code, "{plugin}: {text}");
            assert!(!is_there_whatever_is_configured(&pod)?, "{plugin}: {text}: something is left");
        }
    }
    Ok(())
}

fn is_there_whatever_is_configured(pod: &Pod<'_>) -> Result<bool, Stop> {
    pod.node().exec(&["rm", "-f", "/etc/k8slan/node.yaml"])?;
    is_there(pod)
}
