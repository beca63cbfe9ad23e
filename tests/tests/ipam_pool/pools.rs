//! ipam-pool as runtimes and people use it: the verbs, pool files, owners, bad input, and host-local's own
//! behaviours run against both.

use std::collections::BTreeSet;
use std::fmt::Write;

use k8slan_tests::{Example, call_in};
use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Pod, Stop, Switch, needs, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        as_host_local_where_it_is_right,
        better_than_host_local_where_it_is_not,
        an_attachment_gets_the_same_again_and_gives_it_back,
        addresses_asked_for,
        a_full_pool_answers_cleanly,
        nodes_have_their_parts,
        ranges_of_a_networks_own_end_at_the_host,
        a_bridge_ends_at_the_host_until_something_leads_on,
        a_list_is_used_in_the_order_in_which_it_is_written,
        what_is_shared_is_not_used_up_by_one_network,
        the_documents_pools_are_read_and_lie_beside_one_another,
        sticky_pods_keep_their_address_over_a_reboot,
        sticky_vms_migrate,
        two_living_pods_never_have_one_address,
        a_running_vms_address_is_its_launchers_alone,
        what_a_networks_own_ranges_keep_is_bounded,
        gc_and_sweep_free_what_is_gone,
        a_network_that_is_gone_leaves_no_store,
        names_of_networks_fill_no_disk,
        check_compares_what_was_promised,
        a_pool_that_changed_keeps_its_leases,
        overlapping_pools_are_refused,
        a_namespace_without_permission_gets_nothing,
        taken_addresses_are_quarantined,
        the_wire_is_asked_before_an_address_is_used,
        people_see_and_release,
        what_people_are_told_is_so,
        an_address_that_no_pod_gets_is_not_free,
        host_locals_leases_are_taken_over,
    ]
}

const POOLS: &str = "/var/lib/k8slan/pools.d";

fn network(ipam: &Value) -> Value {
    let mut ipam = ipam.clone();
    if ipam.get("type").is_none() {
        ipam["type"] = json!("ipam-pool");
    }
    // Ranges of a network's own are for networks that end at the host.
    let main = if ipam.get("pool").is_some() { "macvlan" } else { "bridge" };
    json!({ "cniVersion": "1.0.0", "name": "net", "type": main, "ipam": ipam })
}

fn ranges(subnets: &[&str]) -> Value {
    network(&json!({ "ranges": subnets.iter().map(|s| json!([{ "subnet": s }])).collect::<Vec<_>>() }))
}

fn put_pool(node: &Node, name: &str, spec: &str) -> Outcome {
    let mut text =
        format!("apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n");
    for line in spec.lines() {
        let _ = writeln!(text, "  {line}");
    }
    node.write(&format!("{POOLS}/{name}.yaml"), text)?;
    Ok(())
}

fn ips(result: &Value) -> Vec<String> {
    let list = result["ips"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|ip| ip["address"].as_str()).map(str::to_owned).collect()
}

fn add(pod: &Pod<'_>, config: &Value) -> Result<Vec<String>, CniError> {
    pod.add("ipam-pool", "net1", config).map(|result| ips(&result))
}

fn del(pod: &Pod<'_>, config: &Value) -> Outcome {
    pod.del("ipam-pool", "net1", config)?;
    Ok(())
}

fn refused(answer: Result<impl std::fmt::Debug, CniError>, code: u64, part: &str) -> Outcome {
    match answer {
        Err(error) if error.code == code && error.text().contains(part) => Ok(()),
        other => Err(Stop::Failed(format!("expected code {code} with {part:?}, got {other:?}"))),
    }
}

fn by_hand(node: &Node, arguments: &str) -> Result<String, Stop> {
    let program = program("ipam-pool");
    let argv: Vec<&str> =
        std::iter::once(program.to_str().unwrap_or_default()).chain(arguments.split_whitespace()).collect();
    Ok(node.exec(&argv)?)
}

fn in_order(node: &Node) -> Outcome {
    let said = by_hand(node, "check")?;
    assert!(said.contains("are in order"), "{said}");
    Ok(())
}

/// The same cases against Debian's host-local and ours: what is asked, and what both answer.
fn as_host_local_where_it_is_right() -> Outcome {
    needs("/usr/lib/cni/host-local")?;
    let node = Node::new("n")?;
    let pods: Vec<_> = (0..3).map(|i| node.pod(&format!("p{i}"))).collect::<Result<_, _>>()?;
    let cases = [
        json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] }),
        json!({ "ranges": [[{ "subnet": "10.0.1.0/24", "rangeStart": "10.0.1.10", "gateway": "10.0.1.254" }]] }),
        json!({ "ranges": [[{ "subnet": "10.0.2.0/29" }, { "subnet": "10.0.3.0/29" }], [{ "subnet": "fd00::/64" }]] }),
        json!({ "subnet": "10.0.4.0/30" }),
        json!({ "subnet": "10.0.5.0/24", "rangeStart": "10.0.5.7", "rangeEnd": "10.0.5.8", "gateway": "10.0.5.7" }),
        json!({ "ranges": [[{ "subnet": "10.0.6.5/24" }]] }),
        json!({ "ranges": [[{ "subnet": "10.0.6.0/24", "rangeStart": "10.0.7.1" }]] }),
        json!({ "ranges": [[{ "subnet": "10.0.6.0/24", "rangeStart": "10.0.6.9", "rangeEnd": "10.0.6.8" }]] }),
        json!({ "ranges": [[{ "subnet": "10.0.6.0/24" }], [{ "subnet": "10.0.6.0/25" }]] }),
        json!({ "ranges": [[{ "subnet": "10.0.6.0/24" }, { "subnet": "fd00::/64" }]] }),
        json!({ "ranges": [] }),
        json!({ "subnet": "10.0.8.0/24", "resolvConf": "/etc/k8slan-resolv.conf" }),
    ];
    node.write("/etc/k8slan-resolv.conf", "nameserver 10.0.0.53\nsearch example.org\noptions ndots:5\n")?;
    for (i, case) in cases.iter().enumerate() {
        let answers: Vec<Vec<Option<Value>>> = ["host-local", "ipam-pool"]
            .iter()
            .map(|plugin| {
                let mut ipam = case.clone();
                ipam["type"] = json!(plugin);
                let mut config = network(&ipam);
                config["name"] = json!(format!("net{i}"));
                let path = if *plugin == "host-local" { "/usr/lib/cni/host-local" } else { "ipam-pool" };
                let mut answers: Vec<_> =
                    pods.iter().map(|pod| pod.add(path, "eth0", &config).ok()).collect();
                // DEL twice is no error, and an address asked for is given.
                // Ours ends a pod also where the configuration is wrong, theirs does not.
                if let Some(first) = pods.first().filter(|_| answers.iter().all(Option::is_some)) {
                    answers.push(first.del(path, "eth0", &config).ok());
                    answers.push(first.del(path, "eth0", &config).ok());
                    let asked = CniCall {
                        args: "IgnoreUnknown=1;IP=10.0.0.77".to_owned(),
                        ..first.call("eth0", &config)
                    };
                    answers.push(node.cni(path, "ADD", &asked).ok());
                    answers.push(node.cni(path, "ADD", &CniCall { ifname: "eth1".to_owned(), ..asked }).ok());
                }
                answers
            })
            .collect();
        let [theirs, ours] = [&answers[0], &answers[1]].map(|all| {
            // An empty dns object says as much as none.
            let said = |answer: &Option<Value>| {
                let mut answer = answer.clone();
                if let Some(Value::Object(result)) = &mut answer
                    && result.get("dns") == Some(&json!({}))
                {
                    result.remove("dns");
                }
                answer
            };
            all.iter().map(said).collect::<Vec<_>>()
        });
        assert_eq!(theirs, ours, "{case}");
    }
    in_order(&node)
}

/// What host-local gets wrong, and is known for.
fn better_than_host_local_where_it_is_not() -> Outcome {
    let node = Node::new("n")?;
    let all = network(&json!({ "subnet": "10.0.0.0/29", "rangeStart": "10.0.0.0", "rangeEnd": "10.0.0.7" }));
    let mut got = BTreeSet::new();
    for i in 0..5 {
        got.extend(add(&node.pod(&format!("p{i}"))?, &all)?);
    }
    assert_eq!(got.len(), 5, "{got:?}");
    assert!(!got.contains("10.0.0.0/29") && !got.contains("10.0.0.7/29") && !got.contains("10.0.0.1/29"));
    refused(add(&node.pod("p6")?, &all), 130, "no address is free")?;
    let mut huge = ranges(&["fd02::/16", "10.64.0.0/10"]);
    huge["name"] = json!("huge");
    assert_eq!(add(&node.pod("h")?, &huge)?, ["fd02::2/16", "10.64.0.2/10"]);
    // Single addresses and links of two.
    for (i, (subnet, expected)) in [
        ("10.1.0.7/32", vec!["10.1.0.7/32"]),
        ("10.2.0.0/31", vec!["10.2.0.0/31", "10.2.0.1/31"]),
        ("fd00::2/127", vec!["fd00::2/127", "fd00::3/127"]),
        ("fd01::9/128", vec!["fd01::9/128"]),
    ]
    .iter()
    .enumerate()
    {
        let mut config = ranges(&[subnet]);
        config["name"] = json!(format!("small{i}"));
        for (j, address) in expected.iter().enumerate() {
            assert_eq!(add(&node.pod(&format!("s{i}-{j}"))?, &config)?, [*address]);
        }
        refused(add(&node.pod("late")?, &config), 130, "no address is free")?;
    }
    Ok(())
}

fn an_attachment_gets_the_same_again_and_gives_it_back() -> Outcome {
    let node = Node::new("n")?;
    let config = ranges(&["10.0.0.0/24", "fd00::/64"]);
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let first = add(&a, &config)?;
    assert_eq!(first, ["10.0.0.2/24", "fd00::2/64"]);
    assert_eq!(add(&a, &config)?, first, "ADD is idempotent");
    let other = a.add("ipam-pool", "net2", &config)?;
    assert_eq!(ips(&other), ["10.0.0.3/24", "fd00::3/64"], "another interface is another attachment");
    assert_eq!(add(&b, &config)?, ["10.0.0.4/24", "fd00::4/64"]);
    // DEL needs no valid definition, no namespace and no luck.
    let broken = network(&json!({ "ranges": [[{ "subnet": "nonsense" }]], "sticky": 7 }));
    let call = CniCall { netns: None, args: String::new(), ..a.call("net1", &broken) };
    for _ in 0..2 {
        node.cni("ipam-pool", "DEL", &call)?;
    }
    a.del("ipam-pool", "net2", &config)?;
    // Addresses that were never used come first, then the one that rests longest.
    assert_eq!(add(&node.pod("c")?, &config)?, ["10.0.0.5/24", "fd00::5/64"]);
    // A configuration that names another pool by now finds the lease where it is.
    del(&b, &network(&json!({ "pool": "elsewhere" })))?;
    assert!(!by_hand(&node, "leases")?.contains(&b.container()[..13]));
    // So does one of a network that has another name by now.
    let renamed = node.pod("renamed")?;
    add(&renamed, &config)?;
    let mut other = config.clone();
    other["name"] = json!("another");
    del(&renamed, &other)?;
    assert!(!by_hand(&node, "leases")?.contains(&renamed.container()[..13]));
    // A failed ADD leaves nothing of the sets that could have been served.
    let half = ranges(&["10.9.0.0/24", "10.8.0.0/32"]);
    let mut half = half;
    half["name"] = json!("half");
    add(&node.pod("d")?, &half)?;
    refused(add(&node.pod("e")?, &half), 130, "10.8.0.0")?;
    let leases = by_hand(&node, "leases half")?;
    assert_eq!(leases.lines().count(), 3, "{leases}");
    in_order(&node)
}

fn addresses_asked_for() -> Outcome {
    // An IPv4 address in IPv6's form is that address, as for host-local.
    let mapped = Node::new("m")?;
    let config = network(&json!({ "subnet": "10.0.0.0/24", "rangeStart": "::ffff:10.0.0.7" }));
    assert_eq!(add(&mapped.pod("a")?, &config)?, ["10.0.0.7/24"]);
    let pod = mapped.pod("b")?;
    let call = pod.call("net1", &config);
    let call = CniCall { args: format!("{};IP=::ffff:10.0.0.9", call.args), ..call };
    assert_eq!(ips(&mapped.cni("ipam-pool", "ADD", &call)?), ["10.0.0.9/24"]);
    let no_subnet = network(&json!({ "subnet": "::ffff:10.9.0.0/120" }));
    refused(add(&mapped.pod("c")?, &no_subnet), 100, "::ffff:10.9.0.0/120")?;
    let node = Node::new("n")?;
    let config = network(&json!({
        "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]],
        "exclude": ["10.0.0.8", "10.0.0.16/28", "fd00::5-fd00::9"],
        "reservations": { "default/owner": ["10.0.0.40", "fd00::40"] }
    }));
    let pod = node.pod("a")?;
    let with = |pod: &Pod<'_>, config: &Value, args: &str| {
        let call = pod.call("net1", config);
        node.cni("ipam-pool", "ADD", &CniCall { args: format!("{};{args}", call.args), ..call })
            .map(|r| ips(&r))
    };
    assert_eq!(with(&pod, &config, "IP=10.0.0.50")?, ["10.0.0.50/24", "fd00::2/64"]);
    refused(with(&node.pod("b")?, &config, "IP=10.0.0.50"), 131, "held by default/a/net")?;
    refused(with(&node.pod("b")?, &config, "IP=10.0.0.1"), 132, "a gateway")?;
    refused(with(&node.pod("b")?, &config, "IP=10.0.0.20"), 132, "excluded")?;
    refused(with(&node.pod("b")?, &config, "IP=10.0.0.40"), 132, "reserved for default/owner")?;
    refused(with(&node.pod("b")?, &config, "IP=10.0.1.7"), 135, "10.0.1.7")?;
    refused(with(&pod, &config, "IP=10.0.0.51"), 134, "already holds 10.0.0.50")?;
    assert_eq!(add(&node.pod("owner")?, &config)?, ["10.0.0.40/24", "fd00::40/64"]);
    // The capability counts more than args.cni, and that more than CNI_ARGS.
    let mut by_capability = config.clone();
    by_capability["runtimeConfig"] = json!({ "ips": ["10.0.0.60/24", "fd00::60"] });
    by_capability["args"] = json!({ "cni": { "ips": ["10.0.0.61"] } });
    assert_eq!(with(&node.pod("c")?, &by_capability, "IP=10.0.0.62")?, ["10.0.0.60/24", "fd00::60/64"]);
    let mut by_args = config.clone();
    by_args["args"] = json!({ "cni": { "ips": ["10.0.0.61"] } });
    assert_eq!(with(&node.pod("d")?, &by_args, "IP=10.0.0.62")?[0], "10.0.0.61/24");
    // An address that was just released may be asked for at once: a pod with a fixed one restarts.
    del(&pod, &config)?;
    assert_eq!(with(&node.pod("a")?, &config, "IP=10.0.0.50")?[0], "10.0.0.50/24");
    // runtimeConfig.ipRanges come first, as with host-local.
    let mut with_ranges = config;
    with_ranges["runtimeConfig"] = json!({ "ipRanges": [[{ "subnet": "10.7.0.0/24" }]] });
    assert_eq!(add(&node.pod("e")?, &with_ranges)?[0], "10.7.0.2/24");
    in_order(&node)
}

fn a_full_pool_answers_cleanly() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, "small", "scope: host\nranges: [{subnet: 10.0.0.0/29}]\ncooldown: 1h\n")?;
    let mut config = network(&json!({ "pool": "small" }));
    config["cniVersion"] = json!("1.1.0");
    let status = |config: &Value| {
        let call = CniCall {
            container: String::new(),
            netns: None,
            ifname: String::new(),
            args: String::new(),
            path: None,
            config: config.to_string(),
            under: Vec::new(),
        };
        node.cni("ipam-pool", "STATUS", &call)
    };
    status(&config)?;
    let pods: Vec<_> = (0..5).map(|i| node.pod(&format!("p{i}"))).collect::<Result<_, _>>()?;
    for pod in &pods {
        status(&config)?;
        add(pod, &config)?;
    }
    refused(status(&config), 50, "no address is free")?;
    refused(add(&node.pod("late")?, &config), 130, "no address is free in 10.0.0.1-10.0.0.6")?;
    // A released address rests; who asks for it by name need not wait.
    del(&pods[0], &config)?;
    refused(add(&node.pod("late")?, &config), 130, "the next one rests for another")?;
    refused(status(&config), 50, "rests for another")?;
    let pools = by_hand(&node, "pools")?;
    assert!(pools.contains("pool small"), "{pools}");
    in_order(&node)
}

fn nodes_have_their_parts() -> Outcome {
    let spec =
        "ranges: [{subnet: 10.0.20.0/24}]\nnodes: {worker1: [10.0.20.0/26], worker2: [10.0.20.64/26]}\n";
    let config = network(&json!({ "pool": "iot" }));
    let mut seen = BTreeSet::new();
    for name in ["worker1", "worker2"] {
        let node = Node::new(name)?;
        put_pool(&node, "iot", spec)?;
        refused(add(&node.pod("p")?, &config), 172, "nodeName")?;
        node.write("/etc/k8slan/node.yaml", format!("nodeName: {name}\n"))?;
        for i in 0..5 {
            for address in add(&node.pod(&format!("p{i}"))?, &config)? {
                assert!(seen.insert(address.clone()), "{address} twice");
            }
        }
        let call = node.pod("asks")?.call("net1", &config);
        let other = if name == "worker1" { "10.0.20.70" } else { "10.0.20.7" };
        let call = CniCall { args: format!("{};IP={other}", call.args), ..call };
        refused(node.cni("ipam-pool", "ADD", &call), 132, "handed out by node worker")?;
        node.write("/etc/k8slan/node.yaml", "nodeName: worker9\n")?;
        refused(add(&node.pod("q")?, &config), 125, "no part for node \"worker9\"")?;
        put_pool(&node, "iot", "ranges: [{subnet: 10.0.20.0/24}]\n")?;
        refused(add(&node.pod("r")?, &config), 126, "scope: host")?;
        // A bridge of this host alone needs neither.
        let mut alone = config.clone();
        alone["type"] = json!("bridge");
        assert_eq!(add(&node.pod("s")?, &alone)?.len(), 1);
    }
    Ok(())
}

/// Two nodes would give the same address.
fn ranges_of_a_networks_own_end_at_the_host() -> Outcome {
    let node = Node::new("n")?;
    let pod = node.pod("p")?;
    let of = |main: &str, ipam: Value| {
        let mut config = network(&ipam);
        config["type"] = json!(main);
        config["cniVersion"] = json!("1.1.0");
        config
    };
    let mut held = Vec::new();
    for ipam in [
        json!({ "subnet": "10.0.0.0/24" }),
        json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]] }),
        json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }]], "rangeStart": "", "probe": true }),
    ] {
        for main in ["macvtap", "macvlan", "ipvlan", "vlan", "host-device", "k8slanveth"] {
            let config = of(main, ipam.clone());
            let said = format!("type {main}");
            refused(add(&pod, &config), 126, &said)?;
            refused(add(&pod, &config), 126, "\"scope\": \"host\"")?;
            let call = CniCall {
                container: String::new(),
                netns: None,
                ifname: String::new(),
                ..pod.call("net1", &config)
            };
            refused(node.cni("ipam-pool", "STATUS", &call), 50, &said)?;
        }
    }
    // What the runtime adds is a range as well.
    let mut asked = of("macvtap", json!({}));
    asked["runtimeConfig"] = json!({ "ipRanges": [[{ "subnet": "10.7.0.0/24" }]] });
    refused(add(&pod, &asked), 126, "type macvtap")?;
    assert!(by_hand(&node, "leases")?.contains("no leases"), "nothing was changed");
    for main in ["bridge", "ptp", "loopback", "dummy", "tap"] {
        let pod = node.pod(main)?;
        held.push(add(&pod, &of(main, json!({ "subnet": "10.0.0.0/24" })))?);
    }
    // The interface of a tap may be the port of a bridge.
    node.ip("link add br0 type bridge")?;
    node.ip("link add eth9 type veth peer name far")?;
    node.ip("link set eth9 master br0")?;
    for main in ["bridge", "tap"] {
        let mut wired = of(main, json!({ "subnet": "10.0.0.0/24" }));
        wired["bridge"] = json!("br0");
        refused(add(&pod, &wired), 126, &format!("type {main}, eth9 is a port of bridge br0"))?;
        let mut twice = pod.call("net1", &wired);
        twice.config = twice.config.replacen('{', "{\"bridge\":\"br1\",", 1);
        refused(node.cni("ipam-pool", "ADD", &twice), 126, &format!("type {main}"))?;
    }
    let config = of("macvtap", json!({ "subnet": "10.0.0.0/24", "scope": "host" }));
    held.push(add(&pod, &config)?);
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "{held:?}");
    refused(
        add(&pod, &of("macvtap", json!({ "subnet": "10.0.0.0/24", "scope": "cluster" }))),
        174,
        "cluster",
    )?;
    refused(add(&pod, &of("bridge", json!({ "subnet": "10.0.0.0/24", "scope": 7 }))), 174, "ipam.scope")?;
    put_pool(&node, "p", "ranges: [{subnet: 10.1.0.0/24}]\n")?;
    // Whether a pool's addresses may be given on every node is its file's to say.
    refused(add(&pod, &of("macvtap", json!({ "pool": "p", "scope": "host" }))), 116, "scope")?;
    // What was given before is checked and ended all the same.
    let before = of("macvtap", json!({ "subnet": "10.0.0.0/24" }));
    let mut check = before.clone();
    check["prevResult"] = json!({ "cniVersion": "1.1.0", "ips": [{ "address": held[5][0] }] });
    node.cni("ipam-pool", "CHECK", &pod.call("net1", &check))?;
    del(&pod, &before)?;
    assert_eq!(by_hand(&node, "leases")?.matches("leased").count(), held.len() - 1);
    in_order(&node)
}

fn a_bridge_ends_at_the_host_until_something_leads_on() -> Outcome {
    let switch = Switch::new()?;
    let mut node = Node::new("n")?;
    node.connect(&switch, "eth1", 1500)?;
    let of = |bridge: &str, more: Value| {
        let mut config = json!({ "cniVersion": "1.0.0", "name": "net", "type": "vlan-bridge", "bridge": bridge,
            "ipam": { "type": "ipam-pool", "subnet": "10.0.0.0/24" } });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    };
    // Made by the plugin: the first pod makes it, the second finds it.
    for name in ["a", "b"] {
        node.pod(name)?.add("vlan-bridge", "net1", &of("made", json!({})))?;
    }
    put_pool(&node, "undivided", "ranges: [{subnet: 10.2.0.0/24}]\n")?;
    let late = node.pod("late")?;
    let add = |config: &Value| late.add("vlan-bridge", "net1", config);
    refused(add(&of("made", json!({ "uplinks": [{ "name": "eth1" }] }))), 126, "with uplinks")?;
    node.ip("link add own type bridge")?;
    refused(add(&of("own", json!({}))), 126, "own is the node's own bridge")?;
    node.ip("link set eth1 master made")?;
    refused(add(&of("made", json!({}))), 126, "eth1 is a port of bridge made")?;
    // Names count in any case.
    let spelled = |keys: &Value| {
        let mut config = of("", json!({}));
        config.as_object_mut().into_iter().for_each(|config| drop(config.remove("bridge")));
        for (key, value) in keys.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    };
    let wired = "eth1 is a port of bridge made";
    for (keys, why) in [
        (json!({ "Bridge": "made" }), wired),
        (json!({ "BRIDGE": "made" }), wired),
        (json!({ "Bridge": "own" }), "own is the node's own bridge"),
        (json!({ "Bridge": "none", "CreateBridge": false }), "none is the node's own bridge"),
        (json!({ "bridge": "none", "createbridge": false }), "none is the node's own bridge"),
        (json!({ "bridge": "made", "Uplinks": [{ "name": "eth1" }] }), "with uplinks"),
        (json!({ "Bridge": "made", "UPLINKS": [{ "Name": "eth1" }] }), "with uplinks"),
    ] {
        let config = spelled(&keys);
        // By the main plugin, which says itself that a bridge of the node's own is missing, and where the IPAM plugin is
        // asked alone.
        let missing = why == "none is the node's own bridge";
        let (code, said) = if missing { (122, "bridge none does not exist") } else { (126, why) };
        refused(add(&config), code, said)?;
        refused(late.add("ipam-pool", "net1", &config), 126, why)?;
        let mut asked = config.clone();
        asked["cniVersion"] = json!("1.1.0");
        let call = CniCall {
            container: String::new(),
            netns: None,
            ifname: String::new(),
            ..late.call("net1", &asked)
        };
        refused(node.cni("ipam-pool", "STATUS", &call), 50, why)?;
        let mut pool = config;
        pool["ipam"] = json!({ "type": "ipam-pool", "pool": "undivided" });
        refused(late.add("ipam-pool", "net1", &pool), 126, why)?;
    }
    let mut alone = of("made", json!({}));
    alone["ipam"]["scope"] = json!("host");
    add(&alone)?;
    node.ip("link set eth1 nomaster")?;
    node.pod("c")?.add("vlan-bridge", "net1", &of("made", json!({})))?;
    // The same goes for pools whose file does not say how nodes share them.
    put_pool(&node, "p", "ranges: [{subnet: 10.1.0.0/24}]\n")?;
    let pool = |bridge: &str| {
        let mut config = of(bridge, json!({ "name": "pool" }));
        config["ipam"] = json!({ "type": "ipam-pool", "pool": "p" });
        config
    };
    node.pod("d")?.add("vlan-bridge", "net1", &pool("made"))?;
    refused(node.pod("e")?.add("vlan-bridge", "net1", &pool("own")), 126, "scope: host")?;
    in_order(&node)
}

fn a_list_is_used_in_the_order_in_which_it_is_written() -> Outcome {
    let node = Node::new("n")?;
    let lists = json!({ "ranges": [[{ "subnet": "10.9.0.0/30" }, { "subnet": "10.8.0.0/30" }, { "subnet": "10.8.5.0/24" }]] });
    let given = |config: &Value, pods: &str| {
        (0..4)
            .map(|i| Ok(add(&node.pod(&format!("{pods}{i}"))?, config)?.concat()))
            .collect::<Result<Vec<_>, Stop>>()
    };
    let written = ["10.9.0.2/30", "10.8.0.2/30", "10.8.5.2/24", "10.8.5.3/24"];
    assert_eq!(given(&network(&lists), "a")?, written);
    put_pool(
        &node,
        "p",
        "scope: host\nranges: [{subnet: 10.9.0.0/30}, {subnet: 10.8.0.0/30}, {subnet: 10.8.5.0/24}]\nroutingDomain: p\n",
    )?;
    assert_eq!(given(&network(&json!({ "pool": "p" })), "b")?, written);
    let mut lowest = network(&lists);
    lowest["name"] = json!("lowest");
    lowest["ipam"]["order"] = json!("lowest");
    assert_eq!(given(&lowest, "c")?, ["10.8.0.2/30", "10.8.5.2/24", "10.8.5.3/24", "10.8.5.4/24"]);
    // One address is one address, however often it is asked for; two of one list are not.
    let (d, e, f) = (node.pod("d")?, node.pod("e")?, node.pod("f")?);
    let asked = |pod: &Pod<'_>, ips: Value| {
        let mut config = network(&lists);
        config["name"] = json!("asked");
        config["runtimeConfig"] = json!({ "ips": ips });
        add(pod, &config)
    };
    assert_eq!(asked(&d, json!(["10.8.5.9", "10.8.5.9"]))?, ["10.8.5.9/24"]);
    assert_eq!(asked(&e, json!(["10.8.5.10/24", "10.8.5.10", "10.8.5.10/24"]))?, ["10.8.5.10/24"]);
    refused(asked(&f, json!(["10.8.5.11", "10.9.0.2"])), 179, "gives one address")?;
    refused(asked(&f, json!(["10.8.5.11", "10.10.0.2"])), 135, "10.10.0.2 was requested, but in no range")?;
    in_order(&node)
}

/// Whoever may write a network definition is not whoever may decide how long others do without an address.
fn what_is_shared_is_not_used_up_by_one_network() -> Outcome {
    let node = Node::new("n")?;
    let pod = node.pod("p")?;
    put_pool(&node, "p", "scope: host\nranges: [{subnet: 10.0.0.0/28}]\n")?;
    let of = |more: Value| {
        let mut ipam = json!({ "pool": "p" });
        for (key, value) in more.as_object().into_iter().flatten() {
            ipam[key] = value.clone();
        }
        network(&ipam)
    };
    refused(add(&pod, &of(json!({ "sticky": "pod" }))), 177, "pool \"p\" has sticky: none")?;
    refused(add(&pod, &of(json!({ "sticky": "vm" }))), 177, "sticky: vm")?;
    refused(add(&pod, &of(json!({ "probe": { "quarantine": "1m" } }))), 116, "probe.quarantine")?;
    refused(add(&pod, &of(json!({ "cooldown": "1m" }))), 116, "cooldown")?;
    for (probe, part) in [
        (json!({ "quarantine": "876000h" }), "quarantine is too long"),
        (json!({ "quarantine": 3601 }), "quarantine is too long"),
        (json!({ "count": 4_000_000_000u32 }), "count 4000000000 is too large"),
        (json!({ "interval": "1h" }), "interval and wait are too long"),
        (json!({ "wait": 31 }), "interval and wait are too long"),
    ] {
        refused(add(&pod, &network(&json!({ "subnet": "10.1.0.0/28", "probe": probe }))), 163, part)?;
    }
    refused(
        add(&pod, &network(&json!({ "subnet": "10.1.0.0/28", "cooldown": "876000h" }))),
        162,
        "too long",
    )?;
    assert!(by_hand(&node, "leases")?.contains("no leases"), "nothing was changed");
    // Short-lived pods leave nothing behind.
    for i in 0..20 {
        let pod = node.pod(&format!("short{i}"))?;
        add(&pod, &of(json!({ "sticky": "none" })))?;
        del(&pod, &of(json!({})))?;
    }
    // One station that answers for everything takes half of it from those that ask, and from the others no more.
    let conflict = |pod: &Pod<'_>, address: &str| {
        let call = pod.call("net1", &of(json!({ "probe": true })));
        let under = vec!["env".to_owned(), format!("K8SLAN_IPAM_CONFLICTS={address}=02:00:00:00:00:99")];
        node.cni("ipam-pool", "ADD", &CniCall { under, ..call }).map(|result| ips(&result))
    };
    let mut mine = add(&pod, &of(json!({ "probe": true })))?;
    for _ in 0..40 {
        let address = mine.concat().replace("/28", "");
        mine = conflict(&pod, &address)?;
    }
    let rows: Value = serde_json::from_str(&by_hand(&node, "pools --json")?)?;
    assert_eq!(rows[0]["quarantined"], 6, "{rows}");
    for i in 0..6 {
        add(&node.pod(&format!("other{i}"))?, &of(json!({})))?;
    }
    // The pool's file says how long, and for whom.
    put_pool(
        &node,
        "q",
        "scope: host\nranges: [{subnet: 10.2.0.0/28}]\nquarantine: 0s\nallowedNamespaces: [default]\n",
    )?;
    let quick = network(&json!({ "pool": "q", "probe": true }));
    let other = node.pod("quick")?;
    assert_eq!(add(&other, &quick)?, ["10.2.0.2/28"]);
    let call = other.call("net1", &quick);
    let foreign = CniCall {
        args: call.args.replace("K8S_POD_NAMESPACE=default", "K8S_POD_NAMESPACE=blue"),
        ..call.clone()
    };
    refused(node.cni("ipam-pool", "ADD", &foreign), 178, "namespace \"blue\"")?;
    let nameless = CniCall { args: String::new(), ..call };
    refused(node.cni("ipam-pool", "ADD", &nameless), 178, "does not pass")?;
    in_order(&node)
}

fn the_documents_pools_are_read_and_lie_beside_one_another() -> Outcome {
    for (folder, node_name, expected) in [
        (
            "zones",
            "talos1",
            vec![
                ("lan", "10.0.1.16/24"),
                ("mgmt", "172.26.10.64/24"),
                ("iot", "10.0.20.64/24"),
                ("dmz", "172.26.30.64/24"),
            ],
        ),
        (
            "homelab",
            "server",
            vec![
                ("lan-services", "192.168.6.2/24"),
                ("online-services", "192.168.6.129/24"),
                ("iot", "192.168.3.2/24"),
                ("vpn-shared", "10.8.2.2/24"),
                ("vpn-private", "10.8.4.2/24"),
            ],
        ),
        (
            "kube-dc",
            "node1",
            vec![
                ("ext-cloud", "100.65.0.2/16"),
                ("ext-public", "168.119.17.52/28"),
                ("project-a", "10.0.10.2/24"),
                ("project-demo", "10.0.10.2/24"),
                ("project-b", "10.0.20.2/24"),
            ],
        ),
    ] {
        let node = Node::new(node_name)?;
        let example = Example::named(folder);
        example.pools_to(&node)?;
        in_order(&node)?;
        for (pool, address) in &expected {
            let mut config = network(&json!({ "pool": pool }));
            config["name"] = json!(format!("net-{pool}"));
            let namespace = match *pool {
                "project-a" | "project-b" => pool,
                "project-demo" => "shalb-demo",
                _ => "default",
            };
            let pod = node.pod(&format!("pod-{pool}"))?;
            let added = node.cni("ipam-pool", "ADD", &call_in(namespace, &pod, "net1", &config))?;
            assert_eq!(ips(&added), [*address], "{folder}/{pool}");
        }
        for object in example.objects("LANPool")? {
            let pool = object["metadata"]["name"].as_str().unwrap_or_default();
            if expected.iter().any(|(other, _)| *other == pool) {
                continue;
            }
            refused(add(&node.pod("p")?, &network(&json!({ "pool": pool }))), 127, "inventory")?;
        }
        in_order(&node)?;
    }
    Ok(())
}

fn sticky_pods_keep_their_address_over_a_reboot() -> Outcome {
    let mut node = Node::new("n")?;
    put_pool(
        &node,
        "db",
        "scope: host\nranges: [{subnet: 10.0.0.0/24}, {subnet: fd00::/64}]\nsticky: pod\n",
    )?;
    let sticky = network(&json!({ "pool": "db" }));
    let ephemeral = network(&json!({ "pool": "db", "sticky": "none" }));
    let call = node.pod("db-0")?.call("net1", &sticky);
    let first = ips(&node.cni("ipam-pool", "ADD", &call)?);
    assert_eq!(add(&node.pod("web")?, &ephemeral)?, ["10.0.0.3/24", "fd00::3/64"]);
    let second = {
        let pod = node.pod("db-1")?;
        let got = add(&pod, &sticky)?;
        del(&pod, &sticky)?;
        got
    };
    assert!(by_hand(&node, "leases")?.contains("default/db-1/net (sticky)"));
    // Another sandbox of the same pod, while the old one is still on its way out.
    let again = CniCall { args: call.args, ..node.pod("db-0")?.call("net1", &sticky) };
    assert_eq!(ips(&node.cni("ipam-pool", "ADD", &again)?), first);
    // ctr states no pod; podman its container's name alone.
    for args in ["", "IgnoreUnknown=1;K8S_POD_NAME=x;MAC=02:00:00:00:00:77;IP=10.0.0.77"] {
        let call = CniCall { args: args.to_owned(), ..node.pod("x")?.call("net1", &sticky) };
        refused(node.cni("ipam-pool", "ADD", &call), 136, "K8S_POD_NAMESPACE")?;
    }
    node.reboot()?;
    let leases = by_hand(&node, "leases")?;
    assert!(!leases.contains("10.0.0.3"), "ephemeral leases must not survive: {leases}");
    assert_eq!(add(&node.pod("other")?, &ephemeral)?, ["10.0.0.3/24", "fd00::3/64"]);
    assert_eq!(add(&node.pod("db-1")?, &sticky)?, second);
    assert_eq!(add(&node.pod("db-0")?, &sticky)?, first);
    // An operator gives it back.
    del(&node.pod("db-9")?, &sticky)?;
    let refused_release =
        node.output(&[program("ipam-pool").to_str().unwrap_or_default(), "release", "default/db-0"])?;
    assert!(!refused_release.status.success(), "a live pod's address");
    by_hand(&node, "release default/db-0 --force")?;
    node.reboot()?;
    let leases = by_hand(&node, "leases")?;
    assert!(!leases.contains("db-0") && leases.contains("db-1"), "{leases}");
    in_order(&node)
}

fn sticky_vms_migrate() -> Outcome {
    let mut node = Node::new("n")?;
    let config = network(&json!({ "subnet": "10.0.0.0/24", "sticky": "vm" }));
    let mut stated = config.clone();
    stated["args"] = json!({ "cni": { "vm": "vyos" } });
    let (source, target) = (node.pod("virt-launcher-vyos-abcde")?, node.pod("virt-launcher-vyos-fghij")?);
    refused(add(&source, &config), 137, "it is not known which one")?;
    let mut bad = config.clone();
    bad["args"] = json!({ "cni": { "vm": "../x" } });
    refused(add(&source, &bad), 175, "../x")?;
    let address = add(&source, &stated)?;
    assert_eq!(add(&target, &stated)?, address, "both launchers hold it during a migration");
    let leases = by_hand(&node, "leases --json")?;
    let leases: Value = serde_json::from_str(&leases)?;
    assert_eq!(leases[0]["holders"].as_array().map(Vec::len), Some(2), "{leases}");
    assert_eq!(leases[0]["owner"], "vm:default/vyos/net");
    del(&source, &stated)?;
    assert_ne!(add(&node.pod("other")?, &ranges(&["10.0.0.0/24"]))?, address, "the target still has it");
    del(&target, &stated)?;
    assert_ne!(add(&node.pod("another")?, &ranges(&["10.0.0.0/24"]))?, address, "the VM still exists");
    drop((source, target));
    node.reboot()?;
    // The node daemon's word is as good as the annotation's.
    let launcher = node.pod("virt-launcher-vyos-klmno")?;
    node.write(&format!("/run/k8slan/owners/uid-{}.json", launcher.container()), r#"{"vm":"vyos"}"#)?;
    assert_eq!(add(&launcher, &config)?, address);
    // A record that is not what was agreed is no VM's, and said to be wrong.
    let broken = node.pod("virt-launcher-vyos-pqrst")?;
    let record = format!("/run/k8slan/owners/uid-{}.json", broken.container());
    for (text, part) in [(r#"{"name":"vyos"}"#, "is not {"), ("", "is not {")] {
        node.write(&record, text)?;
        refused(add(&broken, &config), 176, part)?;
    }
    node.write(&record, r#"{"vm":"vyos"}"#)?;
    node.exec(&["chmod", "666", &record])?;
    refused(add(&broken, &config), 176, "could be written by others")?;
    in_order(&node)
}

/// A pod that was deleted by force lives on beside the one that took its name.
fn two_living_pods_never_have_one_address() -> Outcome {
    let node = Node::new("n")?;
    put_pool(
        &node,
        "db",
        "scope: host\nranges: [{subnet: 10.0.0.0/24}, {subnet: fd00::/64}]\nreservations: {default/fixed: 10.0.0.9}\nsticky: pod\n",
    )?;
    put_pool(&node, "vms", "scope: host\nranges: [{subnet: 10.1.0.0/24}]\nsticky: vm\n")?;
    let sticky = network(&json!({ "pool": "db" }));
    let of_vm = network(&json!({ "pool": "vms" }));
    let ephemeral = network(&json!({ "pool": "db", "sticky": "none" }));
    let record = |pod: &Pod<'_>| {
        let path = format!("/run/k8slan/owners/uid-{}.json", pod.container());
        node.write(&path, json!({ "vm": "v" }).to_string())
    };
    for (name, config) in [("db-0", &sticky), ("fixed", &ephemeral), ("virt-launcher-v-aaaaa", &of_vm)] {
        let (old, new) = (node.pod(name)?, node.pod(name)?);
        if name.starts_with("virt") {
            record(&old)?;
            record(&new)?;
        }
        let address = add(&old, config)?;
        refused(add(&new, config), 11, "its network namespace is still on this node")?;
        assert!(!by_hand(&node, "leases")?.contains(new.container()), "a refused ADD keeps nothing");
        // The runtime makes the sandbox of a pod anew.
        let again = CniCall { container: format!("again-{name}"), ..old.call("net1", config) };
        assert_eq!(ips(&node.cni("ipam-pool", "ADD", &again)?)[0], address[0], "{name}");
        node.cni("ipam-pool", "DEL", &again)?;
        refused(add(&new, config), 11, "Try again")?;
        // It is enough that its DEL came, whatever is left of it …
        del(&old, config)?;
        assert_eq!(add(&new, config)?[0], address[0], "{name}");
        // … and that it is gone, even if none came.
        let last = node.pod(name)?;
        if name.starts_with("virt") {
            record(&last)?;
        }
        refused(add(&last, config), 11, new.container())?;
        new.remove()?;
        // The first list has what is kept or reserved.
        assert_eq!(add(&last, config)?[0], address[0], "{name}");
    }
    in_order(&node)
}

/// Any pod may name a machine in its own annotation.
fn a_running_vms_address_is_its_launchers_alone() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, "vms", "scope: host\nsticky: vm\nranges: [{subnet: 10.2.0.0/24}]\n")?;
    put_pool(
        &node,
        "fixed",
        "scope: host\nsticky: vm\nranges: [{subnet: 10.3.0.0/24}]\nreservations: {'vm:default/v1': 10.3.0.9}\n",
    )?;
    let inline = network(&json!({ "subnet": "10.4.0.0/24", "sticky": "vm" }));
    for (at, config) in [network(&json!({ "pool": "vms" })), network(&json!({ "pool": "fixed" })), inline]
        .into_iter()
        .enumerate()
    {
        let mut stated = config.clone();
        stated["args"] = json!({ "cni": { "vm": "v1" } });
        let named = |of: &str| node.pod(of);
        let (launcher, target) = (named("virt-launcher-v1-aaaaa")?, named("virt-launcher-v1-bbbbb")?);
        let (thief, other) = (named("thief")?, named("other")?);
        let address = add(&launcher, &stated)?;
        refused(add(&thief, &stated), 182, "virt-launcher-v1-aaaaa")?;
        let mut asked = stated.clone();
        asked["runtimeConfig"] = json!({ "ips": [address[0].split('/').next()] });
        refused(add(&thief, &asked), 182, "args.cni.vm")?;
        // By its name.
        assert_eq!(add(&target, &stated)?, address);
        let know = |pod: &Pod<'_>, vm: &str| {
            let record = json!({ "vm": vm, "migrationTarget": true }).to_string();
            node.write(&format!("/run/k8slan/owners/uid-{}.json", pod.container()), record)
        };
        // A launcher pod of another machine, as the daemon knows, is no better.
        let foreign = node.pod("virt-launcher-v2-ccccc")?;
        know(&foreign, "v2")?;
        refused(add(&foreign, &stated), 182, "virt-launcher-v1-aaaaa")?;
        // By the daemon's record, which says that the machine migrates.
        let recorded = node.pod(&format!("recorded-{at}"))?;
        know(&recorded, "v1")?;
        assert_eq!(add(&recorded, &config)?, address);
        refused(add(&thief, &stated), 182, "is the address of vm:default/v1/net")?;
        for pod in [&launcher, &target, &recorded] {
            del(pod, &stated)?;
        }
        // While nobody has it, whoever names the machine gets what is kept for it; a new sandbox of that pod, too.
        assert_eq!(add(&thief, &stated)?, address);
        let again = CniCall { container: format!("again{at}"), ..thief.call("net1", &stated) };
        assert_eq!(ips(&node.cni("ipam-pool", "ADD", &again)?), address);
        refused(add(&other, &stated), 182, "thief")?;
        refused(add(&launcher, &stated), 182, "thief")?;
        node.cni("ipam-pool", "DEL", &again)?;
        del(&thief, &stated)?;
        assert_eq!(add(&launcher, &stated)?, address);
        del(&launcher, &stated)?;
        node.exec(&["rm", "-r", "/run/k8slan/owners"])?;
    }
    in_order(&node)
}

/// Networks of one name share their ranges, whoever writes them.
fn what_a_networks_own_ranges_keep_is_bounded() -> Outcome {
    let mut node = Node::new("n")?;
    let plain = network(&json!({ "subnet": "10.0.0.0/28" }));
    let keeps = |sticky: &str, vm: Option<String>| {
        let mut config = network(&json!({ "subnet": "10.0.0.0/28", "sticky": sticky }));
        if let Some(vm) = vm {
            config["args"] = json!({ "cni": { "vm": vm } });
        }
        config
    };
    // A pod that runs, and one that came first and is away.
    let db = node.pod("db-0")?;
    let held = add(&db, &keeps("pod", None))?;
    let mut kept = Vec::new();
    for i in 0..20 {
        let (sticky, vm) = if i % 2 == 0 { ("pod", None) } else { ("vm", Some(format!("invented-{i}"))) };
        let (pod, config) = (node.pod(&format!("evil-{i}"))?, keeps(sticky, vm));
        kept.push(add(&pod, &config)?);
        del(&pod, &config)?;
    }
    // 14 addresses less the gateway and db-0's.
    assert_eq!(kept.iter().collect::<BTreeSet<_>>().len(), 12, "{kept:?}");
    // Those that left first have given way, in the order in which they left.
    assert_eq!(kept[12..], kept[..8], "{kept:?}");
    let shop = node.pod("shop")?;
    assert_eq!(add(&shop, &plain)?, kept[8]);
    assert_eq!(add(&db, &keeps("pod", None))?, held, "what runs stays");
    assert_eq!(
        add(&node.pod("evil-18")?, &keeps("pod", None))?,
        kept[18],
        "who is away keeps it as long as it can"
    );
    in_order(&node)?;
    node.reboot()?;
    let leases = by_hand(&node, "leases")?;
    assert!(!leases.contains("evil-8/"), "what was given away is not kept over a reboot: {leases}");
    // A pool's file decides otherwise.
    put_pool(&node, "small", "scope: host\nsticky: pod\nranges: [{subnet: 10.1.0.0/30}]\n")?;
    let pool = network(&json!({ "pool": "small" }));
    let owner = node.pod("owner")?;
    add(&owner, &pool)?;
    del(&owner, &pool)?;
    refused(add(&node.pod("late")?, &pool), 130, "no address is free")?;
    in_order(&node)
}

/// What is made after a list is newer than it by its clock, milliseconds.
const LATER: std::time::Duration = std::time::Duration::from_millis(50);

fn gc_and_sweep_free_what_is_gone() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, "shared", "scope: host\nranges: [{subnet: 10.0.0.0/24}]\nsticky: pod\n")?;
    let mut config = network(&json!({ "pool": "shared", "sticky": "none" }));
    config["cniVersion"] = json!("1.1.0");
    let mut other = config.clone();
    other["name"] = json!("other");
    let sticky = network(&json!({ "pool": "shared", "sticky": "pod" }));
    let (kept, gone, foreign, owner) =
        (node.pod("kept")?, node.pod("gone")?, node.pod("foreign")?, node.pod("owner")?);
    add(&kept, &config)?;
    add(&gone, &config)?;
    add(&foreign, &other)?;
    add(&owner, &sticky)?;
    let gc = |valid: Option<Value>| {
        let mut config = config.clone();
        if let Some(valid) = valid {
            config["cni.dev/valid-attachments"] = valid;
        }
        node.cni("ipam-pool", "GC", &kept.call("net1", &config))
    };
    let there = |name: &str| -> Result<bool, Stop> {
        Ok(by_hand(&node, "leases --json")?.contains(&format!("default/{name}/")))
    };
    let leased = || -> Result<usize, Stop> {
        let said = by_hand(&node, "leases --json")?;
        Ok(["leased", "kept"]
            .iter()
            .map(|state| said.matches(&format!("\"state\": \"{state}\"")).count())
            .sum())
    };
    gc(None)?;
    assert_eq!(leased()?, 4, "no list frees nothing");
    gc(Some(json!([{ "containerID": kept.container(), "ifname": "net1" }])))?;
    assert_eq!(leased()?, 3, "gone is freed; the other network's and the sticky owner's stay");
    assert!(there("owner")?);
    gc(Some(json!([])))?;
    assert_eq!(leased()?, 2);
    // The daemon's sweep. What is newer than its list is not judged by it, nor what has no pod UID.
    let now = || -> Result<u64, Stop> {
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        let seconds: f64 = uptime.split_whitespace().next().unwrap_or("0").parse()?;
        Ok((seconds * 1000.0) as u64)
    };
    let live = |as_of: u64, owners: Option<Value>| {
        let mut list = json!({ "asOf": as_of, "attachments": [] });
        if let Some(owners) = owners {
            list["owners"] = owners;
        }
        node.write("/run/live.json", list.to_string())
    };
    let dead = node.pod("dead")?;
    let dead_call = dead.call("net1", &other);
    node.cni("ipam-pool", "ADD", &dead_call)?;
    let nameless = node.pod("nameless")?;
    let nameless_call = CniCall { args: String::new(), ..nameless.call("net1", &other) };
    node.cni("ipam-pool", "ADD", &nameless_call)?;
    dead.remove()?;
    nameless.remove()?;
    live(0, None)?;
    by_hand(&node, "sweep --live /run/live.json")?;
    assert_eq!(leased()?, 4, "all are newer than the list");
    std::thread::sleep(LATER);
    // No list, one that is not the daemon's, and one of another boot free nothing and say why.
    let refuses = |part: &str| -> Outcome {
        match by_hand(&node, "sweep --live /run/live.json") {
            Err(Stop::Failed(error)) if error.contains(part) => Ok(()),
            other => Err(Stop::Failed(format!("expected {part:?}, got {other:?}"))),
        }
    };
    node.run(|| std::fs::remove_file("/run/live.json"))?;
    refuses("No such file")?;
    node.write("/run/live.json", json!({ "asOf": now()?, "attachments": [], "owner": [] }).to_string())?;
    refuses("unknown field `owner`")?;
    node.write("/run/live.json", "{}")?;
    refuses("missing field `asOf`")?;
    live(now()? + 3_600_000, None)?;
    refuses("is not from this boot")?;
    live(now()?, None)?;
    node.exec(&["touch", "-d", "@1000000", "/run/live.json"])?;
    refuses("before the machine was booted")?;
    live(now()?, None)?;
    node.exec(&["chmod", "666", "/run/live.json"])?;
    refuses("could be written by others")?;
    node.exec(&["chmod", "600", "/run/live.json"])?;
    node.exec(&["chown", "107", "/run/live.json"])?;
    refuses("owner 107")?;
    node.run(|| std::fs::remove_file("/run/live.json"))?;
    assert_eq!(leased()?, 4, "nothing was freed");
    live(now()?, None)?;
    let swept = by_hand(&node, "sweep --live /run/live.json")?;
    assert!(swept.contains("default/dead"), "{swept}");
    assert_eq!(leased()?, 3, "foreign has a namespace, nameless no UID, owner is an owner");
    live(now()?, Some(json!(["default/owner"])))?;
    by_hand(&node, "sweep --live /run/live.json")?;
    assert!(there("owner")?);
    live(now()?, Some(json!([])))?;
    let swept = by_hand(&node, "sweep --live /run/live.json")?;
    assert!(swept.contains("default/owner/net"), "{swept}");
    in_order(&node)
}

/// The names of the files of stores, in both folders.
fn store_files(node: &Node) -> Result<BTreeSet<String>, Stop> {
    let found =
        node.exec(&["sh", "-c", "find /run/k8slan/ipam /var/lib/k8slan/ipam -type f 2>/dev/null || true"])?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Nobody says that a network is gone: its store goes when it has nothing in it, by GC (of any network) and by sweep.
fn a_network_that_is_gone_leaves_no_store() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, "shared", "scope: host\nranges: [{subnet: 10.7.0.0/24}]\n")?;
    let named = |name: &str, keys: Value| -> Value {
        let mut ipam = json!({ "type": "ipam-pool", "ranges": [[{ "subnet": "10.0.0.0/24" }]] });
        if let (Some(all), Some(keys)) = (ipam.as_object_mut(), keys.as_object()) {
            all.extend(keys.clone());
        }
        let mut config = network(&ipam);
        config["name"] = json!(name);
        config
    };
    let pod = node.pod("x")?;
    let long = format!("n{}", "o".repeat(220));
    for sweeps in [true, false] {
        let gone =
            [named("gone", json!({})), named(&long, json!({})), named("zero", json!({"cooldown": "0s"}))];
        let stay = [
            (named("rests", json!({"cooldown": "1h"})), false),
            (named("kept", json!({"sticky": "pod"})), false),
            (named("held", json!({})), true),
            (network(&json!({ "pool": "shared" })), false),
        ];
        for (config, holds) in
            gone.iter().map(|config| (config, false)).chain(stay.iter().map(|(c, h)| (c, *h)))
        {
            add(&pod, config)?;
            if !holds {
                del(&pod, config)?;
            }
        }
        in_order(&node)?;
        let before: Value = serde_json::from_str(&by_hand(&node, "leases --json")?)?;
        assert!(before.to_string().contains("\"resting\""), "a network's cooldown is known: {before}");
        if sweeps {
            let said = node.output(&[program("ipam-pool").to_str().unwrap_or_default(), "sweep"])?;
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.contains("removed the store of network gone"), "{said}");
            assert_eq!(said.matches("removed the store of").count(), gone.len(), "{said}");
        } else {
            // Any network's, also one whose own store is none.
            let mut other = named("other", json!({}));
            other["cniVersion"] = json!("1.1.0");
            other["cni.dev/valid-attachments"] = json!([]);
            node.cni("ipam-pool", "GC", &pod.call("net1", &other))?;
        }
        let left = store_files(&node)?;
        let of = |store: &str| left.iter().filter(|file| file.contains(&format!("/{store}."))).count();
        assert_eq!(
            ["gone", "zero", "other", "rests", "held", "shared", "kept"].map(of),
            [0, 0, 0, 3, 3, 3, 4],
            "{left:?}"
        );
        assert!(!left.iter().any(|file| file.contains("/+")), "{left:?}");
        in_order(&node)?;
        let after: Value = serde_json::from_str(&by_hand(&node, "leases --json")?)?;
        let names = |rows: &Value| {
            let rows = rows.as_array().cloned().unwrap_or_default();
            rows.iter()
                .map(|row| format!("{} {} {}", row["address"], row["network"], row["state"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&after), names(&before));
        // A network whose store went is one that was never used, a pool with a file goes on.
        assert_eq!(add(&pod, &gone[0])?, ["10.0.0.2/24"]);
        let next = add(&pod, &stay[3].0)?;
        assert_eq!(next, [if sweeps { "10.7.0.3/24" } else { "10.7.0.5/24" }]);
        for config in [&gone[0], &stay[3].0, &stay[2].0] {
            del(&pod, config)?;
        }
    }
    Ok(())
}

/// Whoever may write networks can make up as many names as there is time. With nobody but ADD and DEL to see it, only so
/// much of the node's memory and disk is used.
fn names_of_networks_fill_no_disk() -> Outcome {
    const NAMES: usize = 120;
    let node = Node::new("n")?;
    let pod = node.pod("x")?;
    let kilobytes = || -> Result<u64, Stop> {
        let said = node.exec(&["du", "-sk", "/run/k8slan"])?;
        Ok(said.split_whitespace().next().unwrap_or_default().parse()?)
    };
    let held = ranges(&["10.1.0.0/24"]);
    add(&pod, &held)?;
    for (i, subnet) in ["10.0.0.0/24", "10.0.0.0/30"].iter().cycle().take(NAMES).enumerate() {
        let mut config = ranges(&[subnet]);
        config["name"] = json!(format!("made-up-{i}"));
        if i == 1 {
            // Its only address is reserved: the ADD fails, and there may be no DEL.
            config["ipam"]["reservations"] = json!({ "other/pod": "10.0.0.2" });
        }
        match add(&pod, &config) {
            Ok(_) => del(&pod, &config)?,
            Err(error) => assert_eq!((i, error.code), (1, 130), "{error}"),
        }
    }
    let networks = node.run(|| std::fs::read_dir("/run/k8slan/ipam/networks").map(Iterator::count))?;
    assert!(networks <= 3 * 45, "{networks} files of {NAMES} networks");
    let used = kilobytes()?;
    assert!(used < 45 * 50, "{used} KiB for {NAMES} networks");
    // The one that is held has its reserve, and nothing of it went.
    in_order(&node)?;
    assert_eq!(add(&pod, &held)?, ["10.1.0.2/24"]);
    by_hand(&node, "sweep")?;
    let left = store_files(&node)?;
    assert_eq!(left.len(), 3, "{left:?}");
    del(&pod, &held)
}

fn check_compares_what_was_promised() -> Outcome {
    let node = Node::new("n")?;
    let mut config = ranges(&["10.0.0.0/24", "fd00::/64"]);
    let pod = node.pod("p")?;
    let result = pod.add("ipam-pool", "net1", &config)?;
    let check = |config: &Value, promised: &Value| {
        let mut config = config.clone();
        config["prevResult"] = promised.clone();
        node.cni("ipam-pool", "CHECK", &pod.call("net1", &config))
    };
    check(&config, &result)?;
    let mut other = result.clone();
    other["ips"][0]["address"] = json!("10.0.0.9/24");
    refused(check(&config, &other), 150, "10.0.0.9")?;
    let mut less = result.clone();
    less["ips"].as_array_mut().map(|ips| ips.remove(1));
    refused(check(&config, &less), 151, "fd00::2")?;
    let with = |interfaces: Value| {
        let mut whole = result.clone();
        whole["interfaces"] = interfaces;
        whole
    };
    check(&config, &with(json!([{"name": "br0"}, {"name": "net1", "sandbox": pod.path()}])))?;
    for others in [json!([{"name": "net1"}]), json!([{"name": "net2", "sandbox": pod.path()}])] {
        refused(check(&config, &with(others)), 153, "no interface net1")?;
    }
    del(&pod, &config)?;
    refused(check(&config, &result), 152, "holds no address")?;
    config["cniVersion"] = json!("0.3.1");
    refused(check(&config, &result), 1, "CHECK")
}

fn a_pool_that_changed_keeps_its_leases() -> Outcome {
    let node = Node::new("n")?;
    put_pool(
        &node,
        "p",
        "scope: host\nranges: [{subnet: 10.0.0.0/24, rangeStart: 10.0.0.10, rangeEnd: 10.0.0.19}]\nsticky: pod\n",
    )?;
    let config = network(&json!({ "pool": "p", "sticky": "none" }));
    let sticky = network(&json!({ "pool": "p", "sticky": "pod" }));
    let pod = node.pod("p")?;
    assert_eq!(add(&pod, &config)?, ["10.0.0.10/24"]);
    let owner = node.pod("owner")?;
    assert_eq!(add(&owner, &sticky)?, ["10.0.0.11/24"]);
    put_pool(
        &node,
        "p",
        "scope: host\nranges: [{subnet: 10.0.0.0/24, rangeStart: 10.0.0.15, rangeEnd: 10.0.0.19}]\nsticky: pod\n",
    )?;
    let pools = by_hand(&node, "pools")?;
    assert!(pools.contains("2 leased addresses are outside the pool, whose ranges were reduced"), "{pools}");
    let said = node.output(&[program("ipam-pool").to_str().unwrap_or_default(), "check"])?;
    assert!(
        !said.status.success() && String::from_utf8_lossy(&said.stdout).contains("whose ranges were reduced")
    );
    assert_eq!(add(&pod, &config)?, ["10.0.0.10/24"], "a live lease stays");
    assert_eq!(add(&owner, &sticky)?, ["10.0.0.11/24"]);
    assert_eq!(add(&node.pod("new")?, &config)?, ["10.0.0.15/24"]);
    // A sticky owner that comes back gets one that the pool has.
    del(&owner, &sticky)?;
    assert_eq!(add(&node.pod("owner")?, &sticky)?, ["10.0.0.16/24"]);
    del(&pod, &config)?;
    in_order(&node)?;
    // Another subnet: nobody gets a second address, and nobody loses the one that it has.
    let last = node.pod("last")?;
    assert_eq!(add(&last, &config)?, ["10.0.0.17/24"]);
    put_pool(&node, "p", "scope: host\nranges: [{subnet: 10.1.0.0/24}]\nsticky: pod\n")?;
    refused(add(&last, &config), 139, "holds 10.0.0.17, but no subnet of 10.1.0.1-10.1.0.254")?;
    assert!(by_hand(&node, "show 10.0.0.17")?.contains("outside the pool"));
    assert_eq!(add(&node.pod("newest")?, &config)?, ["10.1.0.2/24"]);
    del(&last, &config)?;
    assert_eq!(add(&last, &config)?, ["10.1.0.3/24"]);
    node.run(|| std::fs::remove_file(format!("{POOLS}/p.yaml")))?;
    refused(add(&node.pod("late")?, &config), 120, "unknown pool \"p\"")?;
    del(&node.pod("any")?, &config)
}

fn overlapping_pools_are_refused() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, "a", "scope: host\nranges: [{subnet: 10.0.0.0/24}]\n")?;
    let (a, b) = (network(&json!({ "pool": "a" })), network(&json!({ "pool": "b" })));
    add(&node.pod("p0")?, &a)?;
    put_pool(&node, "b", "scope: host\nranges: [{subnet: 10.0.0.128/25}]\n")?;
    refused(add(&node.pod("p1")?, &b), 124, "\"a\" and \"b\" overlap at 10.0.0.129")?;
    refused(add(&node.pod("p1")?, &a), 124, "\"a\" and \"b\" overlap")?;
    put_pool(&node, "b", "scope: host\nroutingDomain: other\nranges: [{subnet: 10.0.0.128/25}]\n")?;
    assert_eq!(add(&node.pod("p1")?, &b)?, ["10.0.0.130/25"]);
    assert_eq!(add(&node.pod("p2")?, &a)?, ["10.0.0.3/24"]);
    in_order(&node)
}

fn a_namespace_without_permission_gets_nothing() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, "dmz", "scope: host\nranges: [{subnet: 172.26.30.0/24}]\n")?;
    let config = network(&json!({ "pool": "dmz" }));
    node.write("/etc/k8slan/node.yaml", "policy:\n  default:\n    pools: [iot]\n")?;
    refused(add(&node.pod("p")?, &config), 138, "\"default\" may not use pool \"dmz\"")?;
    node.write("/etc/k8slan/node.yaml", "policy:\n  default:\n    pools: [dmz]\n")?;
    add(&node.pod("p")?, &config)?;
    let call = CniCall { args: String::new(), ..node.pod("q")?.call("net1", &config) };
    refused(node.cni("ipam-pool", "ADD", &call), 138, "states none")
}

/// ipam-pool's side of the conflict probe: the main plugin says who answered.
fn taken_addresses_are_quarantined() -> Outcome {
    let node = Node::new("n")?;
    let config = network(&json!({ "subnet": "10.0.0.0/29", "probe": { "quarantine": "1h" } }));
    let pod = node.pod("p")?;
    assert_eq!(add(&pod, &config)?, ["10.0.0.2/29"]);
    let again = |pod: &Pod<'_>, config: &Value, conflicts: &str, args: &str| {
        let call = pod.call("net1", config);
        let under = vec!["env".to_owned(), format!("K8SLAN_IPAM_CONFLICTS={conflicts}")];
        node.cni("ipam-pool", "ADD", &CniCall { under, args: format!("{};{args}", call.args), ..call })
            .map(|r| ips(&r))
    };
    assert_eq!(again(&pod, &config, "10.0.0.2=02:00:00:00:00:99", "X=1")?, ["10.0.0.3/29"]);
    let shown = by_hand(&node, "show 10.0.0.2")?;
    assert!(shown.contains("quarantined") && shown.contains("02:00:00:00:00:99"), "{shown}");
    // Somebody else's address cannot be taken away so.
    let other = node.pod("other")?;
    assert_eq!(again(&other, &config, "10.0.0.3=02:00:00:00:00:99", "X=1")?, ["10.0.0.4/29"]);
    assert_eq!(add(&pod, &config)?, ["10.0.0.3/29"]);
    // What was asked for is not replaced by something else.
    let fixed = node.pod("fixed")?;
    let asked = CniCall { args: "IgnoreUnknown=1;IP=10.0.0.6".to_owned(), ..fixed.call("net1", &config) };
    node.cni("ipam-pool", "ADD", &asked)?;
    refused(again(&fixed, &config, "10.0.0.6=02:00:00:00:00:77", "IP=10.0.0.6"), 133, "02:00:00:00:00:77")?;
    del(&fixed, &config)?;
    // The quarantined address is nobody's until its time is over.
    let mut got = BTreeSet::new();
    for i in 0..2 {
        got.extend(add(&node.pod(&format!("p{i}"))?, &config)?);
    }
    assert!(!got.contains("10.0.0.2/29"), "{got:?}");
    refused(add(&node.pod("late")?, &config), 130, "no address is free")?;
    refused(again(&pod, &config, "nonsense", "X=1"), 4, "nonsense")?;
    by_hand(&node, "release 10.0.0.2")?;
    assert_eq!(add(&node.pod("late")?, &config)?, ["10.0.0.2/29"]);
    in_order(&node)
}

/// The whole way: somebody on the network has what the pool would give first, IPv4 and IPv6.
fn the_wire_is_asked_before_an_address_is_used() -> Outcome {
    let switch = Switch::new()?;
    let (mut node, mut other) = (Node::new("n")?, Node::new("squatter")?);
    node.connect(&switch, "eth1", 1500)?;
    other.connect(&switch, "eth1", 1500)?;
    for address in ["10.0.0.2/24", "10.0.0.3/24", "fd00::2/64"] {
        other.ip(&format!("addr add {address} dev eth1 nodad"))?;
    }
    let mac = other.link("eth1")?.unwrap_or_default()["address"].as_str().unwrap_or_default().to_owned();
    let config = |probe: Value| {
        json!({ "cniVersion": "1.1.0", "name": "net", "type": "macvtap", "master": "eth1", "mode": "bridge",
            "ipam": { "type": "ipam-pool", "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]],
                "scope": "host", "probe": probe } })
    };
    let pod = node.pod("p")?;
    let timing = json!({ "count": 2, "interval": "60ms", "wait": "200ms", "quarantine": "1h" });
    let result = pod.add("macvtap", "net1", &config(timing.clone()))?;
    assert_eq!(ips(&result), ["10.0.0.4/24", "fd00::3/64"], "{result}");
    for address in ["10.0.0.2", "10.0.0.3", "fd00::2"] {
        let shown = by_hand(&node, &format!("show {address}"))?;
        assert!(shown.contains("quarantined") && shown.contains(&mac), "{shown}");
    }
    // Its own address is no conflict for the one that is asked again, and others find it taken.
    pod.del("macvtap", "net1", &config(timing.clone()))?;
    // What was asked for by name is not replaced.
    let asked = pod.call("net1", &config(timing));
    let asked = CniCall { args: format!("{};IP=10.0.0.2", asked.args), ..asked };
    match node.cni("macvtap", "ADD", &asked) {
        Err(error) => assert!(error.text().contains(&mac) && error.text().contains("10.0.0.2"), "{error}"),
        Ok(result) => return Err(Stop::Failed(format!("10.0.0.2 is taken: {result}"))),
    }
    assert_eq!(pod.link_names()?, [""; 0], "undone");
    assert!(!by_hand(&node, "leases")?.contains("leased"), "undone");
    // Without the probe nobody asks.
    let trusting = json!({ "cniVersion": "1.1.0", "name": "other", "type": "macvtap", "master": "eth1", "mode": "bridge",
        "ipam": { "type": "ipam-pool", "subnet": "10.0.0.0/24", "scope": "host" } });
    assert_eq!(ips(&pod.add("macvtap", "net1", &trusting)?), ["10.0.0.2/24"]);
    pod.del("macvtap", "net1", &trusting)?;
    in_order(&node)
}

fn people_see_and_release() -> Outcome {
    let node = Node::new("n")?;
    put_pool(
        &node,
        "p",
        "scope: host\nranges: [{subnet: 10.0.0.0/24}, {subnet: fd00::/64}]\nexclude: [10.0.0.9]\nreservations: {default/web-0: 10.0.0.40}\n",
    )?;
    let config = network(&json!({ "pool": "p" }));
    let pod = node.pod("p")?;
    add(&pod, &config)?;
    let pools: Value = serde_json::from_str(&by_hand(&node, "pools --json")?)?;
    assert_eq!(pools[0]["leased"], 2);
    // 254 - gateway - excluded - reserved - leased; 2^64 - 1 - gateway - leased.
    let free = 250u128 + (1 << 64) - 3;
    assert!(pools[0]["free"].is_number(), "{pools}");
    assert!(by_hand(&node, "pools --json")?.contains(&format!("\"free\": {free},")), "all digits");
    assert_eq!(pools[0]["pool"], "p");
    for (address, part) in [
        ("10.0.0.2", "leased"),
        ("10.0.0.1", "gateway"),
        ("10.0.0.9", "excluded"),
        ("10.0.0.40", "reserved for default/web-0"),
        ("fd00::77", "never used"),
    ] {
        let shown = by_hand(&node, &format!("show {address}"))?;
        assert!(shown.contains(part), "{address}: {shown}");
    }
    assert!(by_hand(&node, "show 10.1.0.1").is_err());
    assert!(by_hand(&node, "release 10.0.0.2").is_err(), "its namespace exists");
    pod.remove()?;
    let released = by_hand(&node, "release 10.0.0.2")?;
    assert!(released.contains("10.0.0.2"), "{released}");
    assert!(by_hand(&node, "release nobody/there").is_err());
    // It is anybody's at once, unless the pool says how long it rests.
    let shown = by_hand(&node, "show 10.0.0.2")?;
    assert!(shown.contains("free") && !shown.contains("resting"), "{shown}");
    assert!(!by_hand(&node, "leases")?.contains("10.0.0.2"), "it is no lease");
    assert_eq!(serde_json::from_str::<Value>(&by_hand(&node, "pools --json")?)?[0]["resting"], 0);
    put_pool(
        &node,
        "p",
        "scope: host\nranges: [{subnet: 10.0.0.0/24}, {subnet: fd00::/64}]\ncooldown: 10m\n",
    )?;
    assert!(by_hand(&node, "show 10.0.0.2")?.contains("resting"));
    assert!(by_hand(&node, "leases")?.contains("resting"));
    // Of both families.
    let resting = serde_json::from_str::<Value>(&by_hand(&node, "pools --json")?)?[0]["resting"].clone();
    assert_eq!(resting, if by_hand(&node, "show fd00::2")?.contains("resting") { 2 } else { 1 });
    in_order(&node)
}

fn what_people_are_told_is_so() -> Outcome {
    let node = Node::new("n")?;
    let json =
        |arguments: &str| -> Result<Value, Stop> { Ok(serde_json::from_str(&by_hand(&node, arguments)?)?) };
    let check = || -> Result<(bool, String), Stop> {
        let said = node.output(&[program("ipam-pool").to_str().unwrap_or_default(), "check"])?;
        let text = [&*said.stdout, &*said.stderr].map(String::from_utf8_lossy).concat();
        Ok((said.status.success(), text))
    };
    // A file that ends in .yml is a pool's as well; two for one pool are a mistake.
    put_pool(&node, "p", "scope: host\nranges: [{subnet: 10.0.0.0/24}]\nexclude: [10.0.0.9]\n")?;
    node.exec(&["mv", &format!("{POOLS}/p.yaml"), &format!("{POOLS}/p.yml")])?;
    let config = network(&json!({ "pool": "p" }));
    let pod = node.pod("p")?;
    assert_eq!(add(&pod, &config)?, ["10.0.0.2/24"]);
    assert!(by_hand(&node, "pools")?.contains("10.0.0.1-10.0.0.254"));
    node.exec(&["cp", &format!("{POOLS}/p.yml"), &format!("{POOLS}/p.yaml")])?;
    refused(add(&node.pod("q")?, &config), 181, "p.yaml and p.yml")?;
    let (fine, said) = check()?;
    assert!(!fine && said.contains("p.yaml and p.yml"), "{said}");
    node.exec(&["rm", &format!("{POOLS}/p.yaml")])?;
    // What else lies there is named, and nothing else.
    node.write(&format!("{POOLS}/p.json"), "{}")?;
    let (fine, said) = check()?;
    assert!(fine && said.contains("p.json") && said.contains("ignored"), "{said}");
    // An address is what it is.
    for (address, state) in
        [("10.0.0.1", "gateway"), ("10.0.0.9", "excluded"), ("10.0.0.2", "leased"), ("10.0.0.77", "free")]
    {
        let shown = json(&format!("show {address} --json"))?;
        assert_eq!((&shown[0]["state"], &shown[0]["pool"]), (&json!(state), &json!("p")), "{shown}");
    }
    let lease = json("leases --json")?;
    assert!(lease[0]["ageSeconds"].is_u64() && lease[0]["pool"] == "p", "{lease}");
    add(&node.pod("own")?, &network(&json!({ "subnet": "10.5.0.0/24" })))?;
    let pools = json("pools --json")?;
    assert!(pools.as_array().is_some_and(|all| all.iter().any(|row| row["network"] == "net")), "{pools}");
    pod.remove()?;
    assert_eq!(json("release 10.0.0.2 --json")?, json!([{ "address": "10.0.0.2", "pool": "p" }]));
    // A mistake is told in one line of the table.
    node.write(&format!("{POOLS}/bad.yaml"), "apiVersion: [\n  - x\n: y\n")?;
    let table = by_hand(&node, "pools")?;
    assert_eq!(table.lines().count(), 4, "heading, bad, p and net: {table}");
    assert!(table.contains("pool bad"), "{table}");
    let (fine, said) = check()?;
    assert!(!fine && said.contains("pool bad"), "{said}");
    node.exec(&["rm", &format!("{POOLS}/bad.yaml")])?;
    // Pools of which this node gets nothing are not in order.
    put_pool(&node, "shared", "ranges: [{subnet: 10.1.0.0/24}]\nnodes: {worker1: [10.1.0.0/25]}\n")?;
    let (fine, said) = check()?;
    assert!(
        !fine && said.contains("pool shared") && said.contains("the name of this node is not known"),
        "{said}"
    );
    node.write("/etc/k8slan/node.yaml", "nodeName: worker2\n")?;
    let (fine, said) = check()?;
    assert!(!fine && said.contains("no part for node \"worker2\""), "{said}");
    node.write("/etc/k8slan/node.yaml", "nodeName: worker1\n")?;
    put_pool(&node, "none", "scope: host\nranges: [{subnet: 10.2.0.0/30}]\nexclude: [10.2.0.2]\n")?;
    let (fine, said) = check()?;
    assert!(!fine && said.contains("pool none") && said.contains("no address can be given out"), "{said}");
    put_pool(
        &node,
        "none",
        "scope: host\nranges: [{subnet: 10.2.0.0/30}]\nexclude: [10.2.0.2]\ninventory: true\n",
    )?;
    let (fine, said) = check()?;
    assert!(fine, "{said}");
    // Somebody else than root is told so.
    let program = program("ipam-pool").to_string_lossy().into_owned();
    node.exec(&["cp", &program, "/run/ipam-pool"])?;
    let said = node.output(&["setpriv", "--reuid=65534", "--clear-groups", "/run/ipam-pool", "pools"])?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains("run it as root"), "{text}");
    in_order(&node)
}

/// What no pod gets is not called free.
fn an_address_that_no_pod_gets_is_not_free() -> Outcome {
    let node = Node::new("n")?;
    node.write("/etc/k8slan/node.yaml", "nodeName: n1\n")?;
    let json = |arguments: &str| -> Result<Value, Stop> {
        Ok(serde_json::from_str(&by_hand(&node, &format!("{arguments} --json"))?)?)
    };
    put_pool(&node, "large", "scope: host\nranges: [{subnet: 10.1.0.0/24}]\n")?;
    put_pool(&node, "small", "scope: host\nranges: [{subnet: 10.1.0.128/25}]\n")?;
    put_pool(&node, "closed", "scope: host\nallowedNamespaces: []\nranges: [{subnet: 10.2.0.0/24}]\n")?;
    put_pool(&node, "theirs", "nodes: {n9: [10.3.0.0/26]}\nranges: [{subnet: 10.3.0.0/24}]\n")?;
    put_pool(&node, "open", "scope: host\nranges: [{subnet: 10.4.0.0/24}]\n")?;
    let pod = node.pod("p")?;
    for (pool, code, part) in [
        ("large", 124, "large and small"),
        ("small", 124, "large and small"),
        ("closed", 178, "gives no addresses"),
        ("theirs", 125, "no part for node"),
    ] {
        let _ = refused(add(&pod, &network(&json!({ "pool": pool }))), code, "");
        let rows = json("pools")?;
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["pool"] == pool)).cloned();
        let row = row.unwrap_or_default();
        assert!(row["free"].as_u64().is_none_or(|free| free == 0), "{pool}, {part}: {row}");
        assert!(row["notes"].as_array().is_some_and(|notes| !notes.is_empty()), "{pool}: {row}");
    }
    refused(add(&pod, &network(&json!({ "pool": "small" }))), 124, "")?;
    refused(add(&pod, &network(&json!({ "pool": "closed" }))), 178, "")?;
    add(&pod, &network(&json!({ "pool": "open" })))?;
    for (address, state, part) in [
        ("10.1.0.200", "refused", "small"),
        ("10.2.0.5", "refused", "allowedNamespaces is empty"),
        ("10.3.0.5", "elsewhere", "handed out by node n9"),
        ("10.3.0.200", "elsewhere", "in no node's part"),
        ("10.4.0.200", "free", "never used"),
    ] {
        let shown = json(&format!("show {address}"))?;
        for row in shown.as_array().into_iter().flatten() {
            assert_eq!(row["state"], state, "{shown}");
            assert!(row["note"].to_string().contains(part), "{shown}");
        }
        assert!(shown.as_array().is_some_and(|rows| !rows.is_empty()), "{address}");
    }
    let said = node.output(&[&program("ipam-pool").to_string_lossy(), "check"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("pool closed") && said.contains("allowedNamespaces is empty"), "{said}");
    // Others than root are told what to do by every program.
    for (name, arguments) in [("vlan-bridge", "trunk show"), ("k8slan-device-plugin", "agent status")] {
        node.exec(&["cp", &program(name).to_string_lossy(), &format!("/run/{name}")])?;
        let line = format!("setpriv --reuid=65534 --clear-groups /run/{name} {arguments}");
        let said = node.output(&line.split_whitespace().collect::<Vec<_>>())?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && text.contains("run it as root"), "{name}: {text}");
    }
    Ok(())
}

fn host_locals_leases_are_taken_over() -> Outcome {
    needs("/usr/lib/cni/host-local")?;
    let node = Node::new("n")?;
    let with = |plugin: &str| {
        network(
            &json!({ "type": plugin, "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]] }),
        )
    };
    let (old, new) = (with("host-local"), with("ipam-pool"));
    let pods: Vec<_> = (0..4).map(|i| node.pod(&format!("p{i}"))).collect::<Result<_, _>>()?;
    let given: Vec<_> = pods
        .iter()
        .map(|pod| pod.add("/usr/lib/cni/host-local", "net1", &old).map(|result| ips(&result)))
        .collect::<Result<_, _>>()?;
    node.write("/var/lib/cni/networks/net/10.0.0.99", "")?;
    by_hand(&node, "import-host-local /var/lib/cni/networks/net")?;
    // A pod comes and another goes before the configuration is changed: the import is repeated.
    let late = node.pod("late")?;
    let late_ips = ips(&late.add("/usr/lib/cni/host-local", "net1", &old)?);
    pods[3].del("/usr/lib/cni/host-local", "net1", &old)?;
    let said = by_hand(&node, "import-host-local /var/lib/cni/networks/net")?;
    assert!(said.contains(late.container()), "{said}");
    // From now on it is ours: nothing is given twice, what runs keeps what it has, and DEL frees it.
    for (pod, ips) in pods.iter().zip(&given).take(3) {
        assert_eq!(&add(pod, &new)?, ips);
    }
    assert_eq!(add(&late, &new)?, late_ips);
    let fresh = add(&node.pod("fresh")?, &new)?;
    assert!(given.iter().take(3).chain([&late_ips]).all(|ips| *ips != fresh), "{fresh:?}");
    del(&pods[0], &new)?;
    assert!(by_hand(&node, "show 10.0.0.2")?.contains("free"));
    in_order(&node)
}
