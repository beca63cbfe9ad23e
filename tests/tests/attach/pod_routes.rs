//! Routes and gateways of pods, by every plugin that makes them and every IPAM plugin that asks for them: all that was
//! asked for is there, frames take that way, and CHECK agrees.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::time::Duration;

use k8slan_tests::at_once;
use serde_json::{Value, json};
use testnet::{CniError, Node, Outcome, Ping, Pod, Stop, needs};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        what_a_route_says_counts_in_every_version,
        two_routes_to_one_destination_are_both_made,
        a_route_to_where_another_interface_goes_is_left_out,
        a_gateway_outside_the_subnet_works_on_the_wire,
        a_route_through_nobodys_gateway_is_a_mistake,
        later_plugins_may_change_routes_and_mtu,
        a_result_without_the_pods_interface_is_not_the_attachments,
    ]
}

const MACVTAP: &str = "macvtap";
const VLAN_BRIDGE: &str = "vlan-bridge";

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn refused(answer: Result<Value, CniError>, code: u64, says: &str) -> Outcome {
    match answer {
        Err(error) if error.code == code && error.text().contains(says) => Ok(()),
        other => Err(Stop::Failed(format!("code {code} and {says:?} expected: {other:?}"))),
    }
}

/// A node whose link br0 both plugins take: a bridge is a master for a macvtap, too.
fn node() -> Result<Node, Stop> {
    let node = Node::new("one")?;
    node.ip("link add br0 type bridge")?;
    node.ip("link set dev br0 up")?;
    Ok(node)
}

fn network(plugin: &str, version: &str, ipam: &Value) -> Value {
    let mut config = json!({"cniVersion": version, "name": "net", "type": plugin, "ipam": ipam});
    config[if plugin == MACVTAP { "master" } else { "bridge" }] = json!("br0");
    config
}

fn checked(pod: &Pod<'_>, config: &Value, result: &Value) -> Result<Value, CniError> {
    let plugin = config["type"].as_str().unwrap();
    pod.node().cni(plugin, "CHECK", &pod.call("net1", config).with("prevResult", result.clone()))
}

/// CHECK is content, and no longer when the route is gone.
fn promised(pod: &Pod<'_>, config: &Value, result: &Value, route: &str) -> Outcome {
    if config["cniVersion"] == "0.3.1" {
        return Ok(());
    }
    checked(pod, config, result)?;
    let (family, route) = route.strip_prefix("-6 ").map_or(("-4", route), |route| ("-6", route));
    pod.ip(&format!("{family} route del {route}"))?;
    refused(checked(pod, config, result), 110, "which was promised")
}

fn what_a_route_says_counts_in_every_version() -> Outcome {
    let node = node()?;
    let ipam = json!({
        "type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.9.0.209", "table": 100, "priority": 50, "mtu": 1300, "advmss": 1260},
            {"dst": "::/0", "gw": "fd00::209", "table": 100, "priority": 50, "mtu": 1300, "advmss": 1240},
            {"dst": "10.8.0.0/16", "priority": 7},
            {"dst": "10.50.0.0/16", "scope": 253}, {"dst": "10.51.0.0/16", "gw": "0.0.0.0"}, {"dst": "fd50::/64", "gw": "::"},
        ],
    });
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = node.pod("pod")?;
            let config = network(plugin, version, &ipam);
            let result = pod.add(plugin, "net1", &config)?;
            let at = |what: &str| format!("{plugin}, {version}: {what}");
            let four = pod.ip("-4 route show table 100")?;
            let six = pod.ip("-6 route show table 100")?;
            for (routes, parts) in [
                (&four, ["default via 10.9.0.209 dev net1", "metric 50", "mtu 1300", "advmss 1260"]),
                (&six, ["default via fd00::209 dev net1", "metric 50", "mtu 1300", "advmss 1240"]),
            ] {
                check(parts.iter().all(|part| routes.contains(part)), at(routes))?;
            }
            for family in ["-4", "-6"] {
                let main = pod.ip(&format!("{family} route show table main"))?;
                check(!main.contains("default"), at(&main))?;
            }
            let metric = pod.ip("route show 10.8.0.0/16")?;
            check(metric.contains("via 10.9.0.1") && metric.contains("metric 7"), at(&metric))?;
            // What is on the link is asked of nobody, and a gateway of zeros is none.
            for to in ["10.50.0.0/16", "10.51.0.0/16", "fd50::/64"] {
                let route =
                    pod.ip(&format!("{} route show {to}", if to.contains(':') { "-6" } else { "-4" }))?;
                check(route.contains("dev net1") && !route.contains("via"), at(&format!("{to}: {route}")))?;
            }
            check(result["routes"][0]["table"] == 100, at(&result.to_string()))?;
            promised(&pod, &config, &result, "default table 100")?;
            pod.del(plugin, "net1", &config)?;
            pod.remove()?;
        }
    }
    let mut wide = ipam.clone();
    wide["routes"] = json!([{"dst": "10.8.0.0/16", "scope": 300}]);
    let pod = node.pod("pod")?;
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        refused(pod.add(plugin, "net1", &network(plugin, "1.0.0", &wide)), 164, "scope 300")?;
    }
    Ok(())
}

fn two_routes_to_one_destination_are_both_made() -> Outcome {
    let node = node()?;
    let ipam = json!({
        "type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.9.0.208"}, {"dst": "0.0.0.0/0", "gw": "10.9.0.209"},
            {"dst": "10.8.0.0/16", "gw": "10.9.0.208"}, {"dst": "10.8.0.0/16", "gw": "10.9.0.209"},
            {"dst": "10.8.0.0/16", "gw": "10.9.0.209"},
            {"dst": "::/0", "gw": "fd00::208"}, {"dst": "::/0", "gw": "fd00::209"}, {"dst": "::/0", "gw": "fe80::9"},
            {"dst": "10.9.0.0/24", "gw": "10.9.0.209"},
        ],
    });
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        for (version, gone) in [
            ("1.0.0", "default via 10.9.0.208"),
            ("1.1.0", "default via 10.9.0.209"),
            ("0.4.0", "10.8.0.0/16 via 10.9.0.208"),
            ("1.0.0", "10.9.0.0/24 via 10.9.0.209"),
        ] {
            let pod = node.pod("pod")?;
            let config = network(plugin, version, &ipam);
            let result = pod.add(plugin, "net1", &config)?;
            let (four, six) = (pod.ip("-4 route show")?, pod.ip("-6 route show default")?);
            let count = |routes: &str, part: &str| routes.lines().filter(|line| line.contains(part)).count();
            for destination in ["default", "10.8.0.0/16"] {
                for gateway in ["10.9.0.208", "10.9.0.209"] {
                    check(count(&four, &format!("{destination} via {gateway} dev net1")) == 1, four.clone())?;
                }
            }
            check(count(&four, "10.9.0.0/24 via 10.9.0.209 dev net1") == 1, four.clone())?;
            for gateway in ["fd00::208", "fd00::209", "fe80::9"] {
                check(count(&six, &format!("via {gateway} dev net1")) == 1, six.clone())?;
            }
            promised(&pod, &config, &result, gone)?;
            pod.del(plugin, "net1", &config)?;
            pod.remove()?;
        }
    }
    let pod = node.pod("pod")?;
    let config = network(MACVTAP, "1.0.0", &ipam);
    let result = pod.add(MACVTAP, "net1", &config)?;
    promised(&pod, &config, &result, "-6 default via fd00::208 dev net1")
}

fn a_route_to_where_another_interface_goes_is_left_out() -> Outcome {
    let node = node()?;
    let ipam = json!({
        "type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.9.0.208"}, {"dst": "0.0.0.0/0", "gw": "10.9.0.209"},
            {"dst": "::/0", "gw": "fd00::208"}, {"dst": "::/0", "gw": "fd00::209"},
        ],
    });
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        let pod = node.pod("pod")?;
        pod.ip("link add eth0 type veth peer name outside")?;
        pod.ip("addr add 10.244.0.2/24 dev eth0")?;
        pod.ip("addr add fd44::2/64 dev eth0 nodad")?;
        for link in ["eth0", "outside"] {
            pod.ip(&format!("link set {link} up"))?;
        }
        pod.ip("route add default via 10.244.0.1")?;
        pod.ip("-6 route add default via fd44::1")?;
        let config = network(plugin, "1.0.0", &ipam);
        let result = pod.add(plugin, "net1", &config)?;
        for (family, gateway) in [("-4", "10.244.0.1"), ("-6", "fd44::1")] {
            let defaults = pod.ip(&format!("{family} route show default"))?;
            check(defaults.contains(gateway) && !defaults.contains("net1"), defaults)?;
        }
        checked(&pod, &config, &result)?;
        pod.del(plugin, "net1", &config)?;
        pod.remove()?;
    }
    Ok(())
}

/// The pods' way out, with addresses that none of their subnets has, and two hosts behind it.
fn router(node: &Node) -> Result<Pod<'_>, Stop> {
    let router = node.pod("router")?;
    node.ip("link add up0 type veth peer name net1")?;
    node.ip(&format!("link set dev net1 netns {}", router.path()))?;
    node.ip("link set dev up0 master br0 up")?;
    router.ip("link set dev net1 up")?;
    for address in ["fe80::1/64", "2001:db8:77::1/128", "192.0.2.1/32"] {
        router.ip(&format!("addr add {address} dev net1 nodad"))?;
    }
    for address in ["198.51.100.9/32", "2001:db8:9::9/128"] {
        router.ip(&format!("addr add {address} dev lo nodad"))?;
    }
    for subnet in ["10.9.0.0/24", "2001:db8:5:333::/64"] {
        router.ip(&format!("route add {subnet} dev net1"))?;
    }
    Ok(router)
}

const BEHIND: [&str; 2] = ["198.51.100.9", "2001:db8:9::9"];

fn reaches(pod: &Pod<'_>, to: &str) -> Outcome {
    let to: IpAddr = to.parse().unwrap();
    // The router's own duplicate address detection may take a moment.
    let report = Ping::new(to).repeated(40, Duration::from_millis(50)).run(pod)?;
    check(!report.replies.is_empty(), format!("{to} does not answer: {report:?}, {}", pod.ip("route show")?))
}

fn a_gateway_outside_the_subnet_works_on_the_wire() -> Outcome {
    needs("/usr/lib/cni/host-local")?;
    let ranges = |six: &str| {
        json!([
            [{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.20", "gateway": "192.0.2.1"}],
            [{"subnet": "2001:db8:5:333::/64", "rangeStart": "2001:db8:5:333::20", "gateway": six}],
        ])
    };
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let ipams = [
        json!({"type": "ipam-pool", "scope": "host", "ranges": ranges("fe80::1"), "routes": routes}),
        json!({"type": "ipam-pool", "scope": "host", "ranges": ranges("2001:db8:77::1"), "routes": routes}),
        // The same route written out: the gateway is the link's all the same.
        json!({"type": "ipam-pool", "scope": "host", "ranges": ranges("2001:db8:77::1"),
            "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}, {"dst": "::/0", "gw": "fe80::1"}]}),
        json!({"type": "ipam-pool", "pool": "out", "routes": routes}),
        json!({"type": "host-local", "ranges": ranges("fe80::1"), "routes": routes}),
        json!({"type": "static", "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}, {"dst": "::/0", "gw": "2001:db8:77::1"}],
            "addresses": [{"address": "10.9.0.5/32"}, {"address": "2001:db8:5:333::5/128"}]}),
    ];
    let both =
        [MACVTAP, VLAN_BRIDGE].into_iter().flat_map(|plugin| ipams.iter().map(move |ipam| (plugin, ipam)));
    at_once(both, |(plugin, ipam)| {
        let node = node()?;
        let _router = router(&node)?;
        node.write("/var/lib/k8slan/pools.d/out.yaml", POOL)?;
        let pod = node.pod("pod")?;
        let config = network(plugin, "1.0.0", ipam);
        let result = pod.add(plugin, "net1", &config).map_err(|e| Stop::Failed(format!("{config}: {e}")))?;
        for to in BEHIND {
            reaches(&pod, to)?;
        }
        promised(&pod, &config, &result, "default")?;
        pod.del(plugin, "net1", &config)?;
        pod.remove()?;
        Ok(())
    })
}

/// A pool with gateways outside its subnets.
const POOL: &str = "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: out\nspec:\n  scope: host\n  ranges:\n  \
    - {subnet: 10.9.0.0/24, rangeStart: 10.9.0.60, gateway: 192.0.2.1}\n  \
    - {subnet: \"2001:db8:5:333::/64\", rangeStart: \"2001:db8:5:333::60\", gateway: \"fe80::1\"}\n";

fn a_route_through_nobodys_gateway_is_a_mistake() -> Outcome {
    let node = node()?;
    let ipam = json!({
        "type": "ipam-pool", "scope": "host", "subnet": "10.9.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "10.99.0.1"}],
    });
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        let pod = node.pod("pod")?;
        refused(pod.add(plugin, "net1", &network(plugin, "1.0.0", &ipam)), 100, "10.99.0.1")?;
        check(pod.link_names()?.is_empty(), "the interface is left")?;
    }
    Ok(())
}

/// The chain that code 124 and the decisions advise: plugins that change the link behind our back.
fn later_plugins_may_change_routes_and_mtu() -> Outcome {
    for plugin in ["sbr", "tuning"] {
        needs(&format!("/usr/lib/cni/{plugin}"))?;
    }
    let node = node()?;
    let ipam = json!({
        "type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.9.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16"}],
    });
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        for version in ["0.4.0", "1.0.0"] {
            let pod = node.pod("pod")?;
            let config = network(plugin, version, &ipam);
            let after = |kind: &str, previous: &Value| {
                let mut config =
                    json!({"cniVersion": version, "name": "net", "type": kind, "prevResult": previous});
                if kind == "tuning" {
                    config["mtu"] = json!(1300);
                }
                pod.add(&format!("/usr/lib/cni/{kind}"), "net1", &config)
            };
            let own = pod.add(plugin, "net1", &config)?;
            let last = after("tuning", &after("sbr", &own)?)?;
            let moved = pod.ip("route show table 100")?;
            check(moved.contains("default via 10.9.0.1"), format!("{plugin}: sbr did nothing: {moved}"))?;
            check(!pod.ip("route show table main")?.contains("default"), "sbr left the default route")?;
            check(pod.link("net1")?.unwrap()["mtu"] == 1300, "tuning did nothing")?;
            checked(&pod, &config, &last)
                .map_err(|error| Stop::Failed(format!("{plugin}, {version}: {error}")))?;
            pod.ip("route del default table 100")?;
            refused(checked(&pod, &config, &last), 110, "0.0.0.0/0")?;
            pod.del(plugin, "net1", &config)?;
            pod.remove()?;
        }
    }
    Ok(())
}

fn a_result_without_the_pods_interface_is_not_the_attachments() -> Outcome {
    let node = node()?;
    for plugin in [MACVTAP, VLAN_BRIDGE] {
        let pod = node.pod("pod")?;
        let config =
            network(plugin, "1.0.0", &json!({"type": "ipam-pool", "scope": "host", "subnet": "10.9.0.0/24"}));
        let result = pod.add(plugin, "net1", &config)?;
        checked(&pod, &config, &result)?;
        let list = result["interfaces"].as_array().unwrap();
        let on_host: Vec<&Value> = list.iter().filter(|interface| interface["sandbox"].is_null()).collect();
        let renamed: Vec<Value> = list
            .iter()
            .map(|interface| {
                let mut other = interface.clone();
                other["name"] = json!("net2");
                other
            })
            .collect();
        for interfaces in [json!(null), json!([]), json!(on_host), json!(renamed)] {
            let mut other = result.clone();
            other["interfaces"] = interfaces;
            for ip in other["ips"].as_array_mut().unwrap() {
                ip.as_object_mut().unwrap().remove("interface");
            }
            refused(checked(&pod, &config, &other), 110, "net1")?;
        }
        pod.del(plugin, "net1", &config)?;
        pod.remove()?;
    }
    Ok(())
}
