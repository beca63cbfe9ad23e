//! What the three plugins make of what runtimes say, where it is the same for all of them.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use k8slan_tests::at_once;
use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Pod, Stop, Switch, needs};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        every_key_is_known_in_any_case,
        null_and_empty_are_absent_and_names_count_in_any_case,
        what_came_before_goes_through,
        gc_takes_null_for_an_empty_list,
        del_takes_everything_whatever_is_wrong_with_the_rest,
        del_of_another_ipam_plugins_address_says_what_it_could_not_do,
        gc_takes_what_it_can,
        a_file_that_is_no_record_keeps_no_pod,
        del_on_a_read_only_node_with_nothing_on_it,
        del_with_a_node_configuration_that_is_wrong,
    ]
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

/// Every key of the reference is counted in any case, nested ones too: what is not known here is ignored without a word.
fn every_key_is_known_in_any_case() -> Outcome {
    let page = std::fs::read_to_string(testnet::workspace().join("docs/reference.md"))?;
    let plugins: [(&str, &[&[&str]]); 3] = [
        ("`macvtap`", <macvtap::Macvtap as cni::Plugin>::NAMES),
        ("`vlan-bridge`", <vlan_bridge::VlanBridge as cni::Plugin>::NAMES),
        ("`ipam-pool`", <ipam_pool::IpamPool as cni::Plugin>::NAMES),
    ];
    let protocol = cni::PROTOCOL_NAMES;
    for (plugin, names) in plugins {
        let mut seen = 0;
        for part in page.split("\n## ").filter(|part| part.starts_with(plugin)) {
            for key in part.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()) {
                let known = names.iter().any(|names| names.contains(&key)) || protocol.contains(&key);
                assert!(known, "{plugin}: {key} is not in the list of names");
                seen += 1;
            }
        }
        assert!(seen > 5, "{plugin}: the page has {seen} keys");
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
    at_once(configs(), |(plugin, config)| {
        let (_switch, node) = node()?;
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
        Ok(())
    })
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

/// As the reference plugins read a configuration.
fn null_and_empty_are_absent_and_names_count_in_any_case() -> Outcome {
    let (_switch, node) = node()?;
    let pod = node.pod("p")?;
    let null = Value::Null;
    for (plugin, config) in configs() {
        let mut absent = config.clone();
        for key in [
            "dns",
            "runtimeConfig",
            "args",
            "capabilities",
            "prevResult",
            "mtu",
            "promiscMode",
            "spoke",
            "attach",
            "mode",
            "owner",
            "group",
            "deviceID",
            "vlan",
            "trunk",
            "vlanTrunk",
            "nativeVlan",
            "preserveDefaultVlan",
            "uplinks",
            "qinq",
            "stp",
            "mcastSnooping",
            "groupFwdMask",
            "ageing",
            "portIsolation",
            "hairpinMode",
            "macspoofchk",
            "ipspoofchk",
            "allowedMacs",
            "allowedAddresses",
            "vrrp",
            "isGateway",
            "isDefaultGateway",
            "forceAddress",
            "gateway",
            "host",
            "ipMasq",
            "ipMasqBackend",
            "enabledad",
            "disableContainerInterface",
            "adopt",
            "createBridge",
        ] {
            absent[key] = null.clone();
        }
        for key in [
            "pool",
            "ranges",
            "rangeStart",
            "rangeEnd",
            "gateway",
            "routes",
            "resolvConf",
            "dns",
            "exclude",
            "reservations",
            "sticky",
            "cooldown",
            "order",
            "probe",
            "dataDir",
        ] {
            absent["ipam"][key] = null.clone();
        }
        let mut empty = config.clone();
        for (key, value) in [
            ("deviceID", json!("")),
            ("spoke", json!("")),
            ("attach", json!("")),
            ("mode", json!("")),
            ("mtu", json!(0)),
            ("vlan", json!(0)),
            ("nativeVlan", json!(0)),
            ("vlanTrunk", json!([])),
            ("uplinks", json!([])),
            ("runtimeConfig", json!({"mac": "", "ips": [], "deviceID": "", "ipRanges": []})),
            ("args", json!({"cni": {"mac": "", "ips": null, "vm": ""}})),
            ("dns", json!({"domain": "", "search": null})),
            ("prevResult", null.clone()),
        ] {
            empty[key] = value;
        }
        for key in ["pool", "rangeStart", "rangeEnd", "gateway", "resolvConf", "dataDir", "order"] {
            empty["ipam"][key] = json!("");
        }
        let mut ranges = config.clone();
        let range = json!({"subnet": "10.9.0.0/24", "rangeStart": "", "rangeEnd": null, "gateway": ""});
        let route = json!({"dst": "192.0.2.0/24", "gw": "", "mtu": 0, "advmss": 0, "priority": null});
        ranges["ipam"] = json!({"type": "ipam-pool", "ranges": [[range]], "routes": [route], "subnet": null, "scope": "host"});
        let mut last = Value::Null;
        for config in [config.clone(), absent, empty, ranges] {
            let say = |error: CniError| Stop::Failed(format!("{plugin}, {config}: {error}"));
            let mut result = pod.add(plugin, "net1", &config).map_err(say)?;
            pod.del(plugin, "net1", &config).map_err(say)?;
            // One address after the other is given, and the last one has a route.
            let address = result["ips"][0].as_object_mut().unwrap().remove("address").unwrap();
            assert!(address.as_str().unwrap().starts_with("10.9.0."), "{address}");
            assert_eq!(result["ips"][0]["gateway"], "10.9.0.1", "{result}");
            result.as_object_mut().unwrap().remove("routes");
            result.as_object_mut().unwrap().remove("interfaces");
            assert!(last.is_null() || last == result, "{plugin}, {config}: {result} and not {last}");
            last = result;
        }
    }
    // A limit or a guard that is written in another case counts.
    let [(_, mut macvtap), (_, mut bridge), (_, mut pool)] = configs();
    macvtap["MTU"] = json!(1400);
    macvtap["IPAM"] = macvtap.as_object_mut().unwrap().remove("ipam").unwrap();
    macvtap["IPAM"]["RangeStart"] = json!("10.9.0.100");
    let result = pod.add("macvtap", "net1", &macvtap)?;
    assert_eq!(result["interfaces"][0]["mtu"], 1400);
    assert_eq!(result["ips"][0]["address"], "10.9.0.100/24");
    pod.del("macvtap", "net1", &macvtap)?;
    bridge["macSpoofChk"] = json!(true);
    bridge["ISGATEWAY"] = json!(true);
    let result = pod.add("vlan-bridge", "net1", &bridge)?;
    assert!(
        node.exec(&["nft", "list", "ruleset"])?.contains(result["interfaces"][1]["name"].as_str().unwrap())
    );
    assert!(node.ip("-br addr show dev br0")?.contains("10.9.0.1/24"));
    pod.del("vlan-bridge", "net1", &bridge)?;
    assert!(!is_there(&pod)?);
    pool["ipam"] = json!({"Type": "ipam-pool", "Ranges": [[{"Subnet": "10.9.0.0/24", "rangestart": "10.9.0.200",
        "RANGEEND": "10.9.0.200"}]], "scope": "host"});
    assert_eq!(pod.add("ipam-pool", "net1", &pool)?["ips"][0]["address"], "10.9.0.200/24");
    let refused = pod.add("ipam-pool", "net2", &pool).unwrap_err();
    assert_eq!(refused.code, 130, "{refused}");
    pod.del("ipam-pool", "net1", &pool)?;
    // Which of the two counts is nothing to guess.
    for (plugin, key, also, value) in
        [("macvtap", "mtu", "Mtu", json!(1400)), ("vlan-bridge", "macspoofchk", "macSpoofChk", json!(false))]
    {
        let (_, config) = configs().into_iter().find(|(name, _)| *name == plugin).unwrap();
        let config = with(&with(&config, key, &value), also, &value);
        let error = pod.add(plugin, "net1", &config).unwrap_err();
        assert!(error.text().contains(&format!("duplicate field `{key}`")), "{error}");
    }
    Ok(())
}

/// SPEC.md, section 2: what a plugin before this one made is in the result, with what this one made behind it.
fn what_came_before_goes_through() -> Outcome {
    let (_switch, node) = node()?;
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        for (plugin, mut config) in configs() {
            config["cniVersion"] = json!(version);
            config["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24", "gw": "10.9.0.1"}]);
            config["ipam"]["dns"] = json!({"nameservers": ["10.9.0.1"], "search": ["own"]});
            let pod = node.pod(&format!("{plugin}-{version}"))?;
            let mut before = json!({
                "cniVersion": version,
                "interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": pod.path()}],
                "ips": [
                    {"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 1},
                    {"address": "fd01::5/64", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.96.0.0/12"}],
                "dns": {"nameservers": ["10.1.0.53"], "domain": "cluster", "search": ["cluster"], "options": ["ndots:5"]},
            });
            if plugin == "ipam-pool" {
                // It makes no interface itself: the one that its addresses are for is there.
                before["interfaces"][1]["name"] = json!("net1");
            }
            if version < "1.0.0" {
                before["ips"][0]["version"] = json!("4");
                before["ips"][1]["version"] = json!("6");
            }
            for with_ipam in [true, false] {
                if !with_ipam && plugin == "ipam-pool" {
                    continue;
                }
                if !with_ipam {
                    config.as_object_mut().unwrap().remove("ipam");
                }
                let call = pod.call("net1", &config);
                let result = node.cni(plugin, "ADD", &call.clone().with("prevResult", before.clone()))?;
                let say = || format!("{plugin} {version}: {result}");
                for part in ["interfaces", "ips", "routes"] {
                    for (at, one) in before[part].as_array().unwrap().iter().enumerate() {
                        assert_eq!(result[part][at], *one, "{}", say());
                    }
                }
                let own: Vec<_> = result["ips"].as_array().unwrap().iter().skip(2).collect();
                assert_eq!(own.len(), usize::from(with_ipam), "{}", say());
                for ip in own.iter().filter(|_| plugin != "ipam-pool") {
                    let at = usize::try_from(ip["interface"].as_u64().unwrap())?;
                    assert_eq!(result["interfaces"][at]["name"], "net1", "{}", say());
                    assert_eq!(result["interfaces"][at]["sandbox"], pod.path(), "{}", say());
                }
                let routes = result["routes"].as_array().unwrap();
                assert_eq!(routes.iter().any(|route| route["dst"] == "192.0.2.0/24"), with_ipam, "{}", say());
                let servers = if with_ipam { json!(["10.1.0.53", "10.9.0.1"]) } else { json!(["10.1.0.53"]) };
                assert_eq!(result["dns"]["nameservers"], servers, "{}", say());
                assert_eq!(result["dns"]["domain"], "cluster", "{}", say());
                assert_eq!(result["dns"]["options"], json!(["ndots:5"]), "{}", say());
                // What the other plugin made is not asked of this one's interface.
                if version != "0.3.1" {
                    node.cni(plugin, "CHECK", &call.clone().with("prevResult", result.clone()))
                        .map_err(|error| Stop::Failed(format!("{}: {error}", say())))?;
                }
                node.cni(plugin, "DEL", &call.with("prevResult", result))?;
                assert!(!is_there(&pod)?, "{plugin}: something is left");
            }
        }
    }
    Ok(())
}
