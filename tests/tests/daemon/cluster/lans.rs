//! LANs of a cluster on a real node: what the cluster decides, what is refused, what is edited.

use std::collections::BTreeMap;
use std::time::Duration;

use k8slan_tests::kubelet::Kubelet;
use k8slan_tests::{on_spoke, underlay};
use serde_json::{Value, json};
use testnet::{Daemon, Error, Outcome, Ping, Pod, Stop, Switch, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site, failed, kubernetes_node};
use crate::cluster::status::condition;

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        the_underlay_by_host_name_and_the_clusters_mtu_outlive_a_reboot,
        spokes_of_a_refused_lan_are_there_and_unhealthy,
        health_follows_the_underlay,
        bad_lans_say_why_and_good_ones_work,
        edits_touch_only_what_they_must,
    ]
}

fn lan(name: &str, vni: u32, spokes: &[&str]) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "LAN", "metadata": { "namespace": "a", "name": name },
        "spec": {
            "ns": format!("ns{vni}"), "bridge": "br", "vxlan": "vx", "vni": vni, "defaultVxlanDev": "eth1",
            "spokes": spokes,
        },
    })
}

fn resource(spoke: &str) -> String {
    format!("macvtap.k8slan.io/{spoke}")
}

fn is(kubelet: &Kubelet, daemon: &Daemon, spoke: &str, wanted: (usize, usize)) -> Result<(), Stop> {
    let found = kubelet.wait_resource(&resource(spoke), wanted, SOON);
    found.map(drop).map_err(|what| failed(format!("{what}\n{}", daemon.log())))
}

fn mtu_of_the_bridge(site: &Site, netns: &str, wanted: u32) -> Result<(), Error> {
    eventually(SOON, || {
        let inside = site.node.netns(&format!("/run/netns/{netns}")).map_err(|error| error.to_string())?;
        let bridge = inside.link("br").map_err(|error| error.to_string())?.unwrap_or_default();
        if bridge["mtu"] == wanted { Ok(()) } else { Err(bridge.to_string()) }
    })
}

fn the_underlay_by_host_name_and_the_clusters_mtu_outlive_a_reboot() -> Outcome {
    let site = Site::with_hostname("host-1")?;
    let mut object = lan("one", 7, &["p"]);
    // A default that is no link here: whoever takes it, builds nothing.
    object["spec"]["vxlanDevMap"] = json!({ "host-1": "eth1" });
    object["spec"]["defaultVxlanDev"] = json!("none");
    site.server.put("lans", object);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    mtu_of_the_bridge(&site, "ns7", 1426)?;
    let record = site.node.read("/run/k8slan/spokes/p.json")?;
    check!(record.contains("1426"), "{record}");

    // Another node has less room: everything follows, while it runs.
    site.server.put("nodes", kubernetes_node("worker2", "worker2"));
    site.server.put(
        "lannodes",
        json!({
            "apiVersion": GROUP, "kind": "LANNode", "metadata": { "namespace": "a", "name": "one.worker2" },
            "spec": {
                "lan": "one", "node": "worker2", "underlay": "eth1", "mtu": 1300, "room": 1300, "attachments": [],
                "accepted": { "holds": true, "reason": "Accepted", "message": "" },
                "ready": { "holds": true, "reason": "Built", "message": "" },
            },
        }),
    );
    mtu_of_the_bridge(&site, "ns7", 1300)?;
    eventually(SOON, || {
        let report = site.server.get("lannodes", GROUP, "a/one.worker1").unwrap_or_default();
        let (mtu, room) = (&report["spec"]["mtu"], &report["spec"]["room"]);
        if (mtu, room) == (&json!(1300), &json!(1426)) { Ok(()) } else { Err(report.to_string()) }
    })?;
    site.condition("a/one", "MtuUniform", "False", "the LAN has 1300 on every node")?;

    // The node loses power while the API server is away.
    site.server.fault(|faults| faults.refuse = true);
    kubelet.kill();
    daemon.kill()?;
    site.node.ip("netns del ns7")?;
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    mtu_of_the_bridge(&site, "ns7", 1300)?;
    Ok(())
}

fn spokes_of_a_refused_lan_are_there_and_unhealthy() -> Outcome {
    let site = Site::new()?;
    let mut first = lan("z-first", 7, &["p", "q"]);
    first["metadata"]["creationTimestamp"] = json!("2026-11-20T00:00:00Z");
    site.server.put("lans", first);
    // It wants the VNI of the older one, and one of its spokes.
    let mut second = lan("a-second", 7, &["q", "r"]);
    second["metadata"]["creationTimestamp"] = json!("2026-11-21T00:00:00Z");
    site.server.put("lans", second.clone());
    // It has a mistake that no schema sees, and names a spoke of its own.
    let mut third = lan("third", 9, &["s"]);
    third["spec"]["vxlanGrp"] = json!("ff01::1");
    site.server.put("lans", third.clone());
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    for (spoke, wanted) in [("p", (1, 1)), ("q", (1, 1)), ("r", (1, 0)), ("s", (1, 0))] {
        is(&kubelet, &daemon, spoke, wanted)?;
    }
    let refused = kubelet.admit("uid", "c", &resource("r"), 1).err().unwrap_or_default();
    check!(refused.contains("macvtap.k8slan.io/r"), "{refused}");
    // Whoever asks all the same is told why.
    let mut client = kubelet.client(&resource("r")).map_err(failed)?;
    let request = proto::kubelet::v1beta1::AllocateRequest {
        container_requests: vec![proto::kubelet::v1beta1::ContainerAllocateRequest {
            devices_ids: vec!["r".to_owned()],
        }],
    };
    let status = kubelet.block_on(client.allocate(request)).err();
    let said = status.map(|status| status.message().to_owned()).unwrap_or_default();
    check!(said.contains("vni 7 belongs to LAN a/z-first already"), "{said}");
    let log = daemon.log();
    check!(log.contains("vni 7 belongs to LAN a/z-first already"), "{log}");
    site.condition("a/a-second", "Accepted", "False", "vni 7 belongs to LAN a/z-first already")?;
    site.condition("a/third", "Accepted", "False", "ff01::1")?;

    // Mended, they are as good as any; the other way round as well.
    third["spec"]["vxlanGrp"] = json!("ff02::15");
    site.server.put("lans", third.clone());
    is(&kubelet, &daemon, "s", (1, 1))?;
    site.condition("a/third", "Ready", "True", "")?;
    third["spec"]["vxlanGrp"] = json!("ff01::1");
    site.server.put("lans", third);
    is(&kubelet, &daemon, "s", (1, 0))?;
    // The older one goes, and the younger one has its turn.
    site.server.delete("lans", GROUP, "a/z-first");
    for (spoke, wanted) in [("q", (1, 1)), ("r", (1, 1)), ("p", (0, 0))] {
        is(&kubelet, &daemon, spoke, wanted)?;
    }
    Ok(())
}

fn health_follows_the_underlay() -> Outcome {
    let site = Site::new()?;
    site.server.put("lans", lan("one", 7, &["p"]));
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    // No carrier is no reason: pods of one node need none. The node says it all the same.
    let reason = |wanted: &str, words: &str| {
        eventually(SOON, || {
            let report = site.server.get("lannodes", GROUP, "a/one.worker1").unwrap_or_default();
            let ready = condition(&report["status"], "Ready");
            let says = ready["message"].as_str().is_some_and(|message| message.contains(words));
            match ready["status"] == "True" && ready["reason"] == wanted && says {
                true => Ok(()),
                false => Err(format!("{wanted}, {words}: {report}")),
            }
        })
    };
    reason("Built", "built")?;
    site.cable("down")?;
    reason("NoCarrier", "underlay eth1 has no carrier")?;
    site.node.ip("link set eth1 down")?;
    reason("UnderlayDown", "underlay eth1 is down")?;
    site.condition("a/one", "Ready", "True", "")?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    site.cable("up")?;
    site.node.ip("link set eth1 up")?;
    reason("Built", "built")?;
    site.node.ip("link set eth1 name away")?;
    is(&kubelet, &daemon, "p", (1, 0))?;
    site.condition("a/one", "Ready", "False", "worker1: underlay eth1 does not exist")?;
    site.node.ip("link set away name eth1")?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    site.condition("a/one", "Ready", "True", "")?;
    Ok(())
}

/// One bad LAN: its name, what is wrong with its specification, and words of what it is told.
type Bad = (&'static str, Value, &'static str);

fn bad() -> Vec<Bad> {
    vec![
        ("no-spec", Value::Null, "missing field `ns`"),
        ("types", json!({ "vni": "many" }), "invalid i64"),
        ("vni-0", json!({ "vni": 0 }), "VNI 0 is out of range"),
        ("vni-large", json!({ "vni": 16_777_216 }), "VNI 16777216 is out of range"),
        ("group", json!({ "vxlanGrp": "10.0.0.1" }), "not a multicast address"),
        ("port", json!({ "vxlanPort": 70_000 }), "UDP port 70000 is out of range"),
        ("mtu", json!({ "mtu": 1 }), "MTU 1 is out of range"),
        ("mtu-large", json!({ "mtu": 9000 }), "9000"),
        ("name-long", json!({ "bridge": "a-name-of-16-byt" }), "bridge"),
        ("name-slash", json!({ "vxlan": "a/b" }), "vxlan"),
        ("same-names", json!({ "vxlan": "br" }), "already the name of the LAN's bridge"),
        ("ns", json!({ "ns": "../etc" }), "ns"),
        ("underlay", json!({ "defaultVxlanDev": "eth 1" }), "defaultVxlanDev"),
        ("spoke-twice", json!({ "spokes": ["x", "x"] }), "listed more than once"),
        ("spoke-name", json!({ "spokes": ["tap0"] }), "KubeVirt"),
        ("override", json!({ "spokeOverrides": { "nobody": { "attach": "veth" } } }), "not in spokes"),
        ("mode", json!({ "mode": "source" }), "unknown macvtap mode"),
        ("attach", json!({ "attach": "bridge" }), "unknown attach"),
        ("namespaces", json!({ "allowedNamespaces": ["Web"] }), "not a namespace's name"),
        ("shared-ns", json!({ "ns": "ns1" }), "ns ns1 belongs to LAN a/good already"),
        ("shared-vni", json!({ "vni": 1 }), "vni 1 belongs to LAN a/good already"),
        ("shared-spoke", json!({ "spokes": ["p"] }), "spoke p belongs to LAN a/good already"),
    ]
}

fn bad_lans_say_why_and_good_ones_work() -> Outcome {
    let site = Site::new()?;
    let mut good = lan("good", 1, &["p"]);
    good["metadata"]["creationTimestamp"] = json!("2026-11-20T00:00:00Z");
    site.server.put("lans", good);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    let object = |number: usize, (name, edit, _): &Bad| {
        let vni = 100 + u32::try_from(number).unwrap();
        let mut object = lan(name, vni, &[&format!("s{vni}")]);
        match edit.as_object() {
            Some(edit) => {
                for (field, value) in edit {
                    object["spec"][field] = value.clone();
                }
            }
            None => drop(object.as_object_mut().unwrap().remove("spec")),
        }
        object
    };
    let told = |name: &str, words: &str| -> Result<(), Error> {
        eventually(SOON, || {
            let lan = site.server.get("lans", GROUP, &format!("a/{name}")).unwrap_or_default();
            let conditions = lan["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let mut bad = conditions.iter().filter(|c| c["status"] == "False");
            let is_told = bad.any(|c| c["message"].as_str().is_some_and(|message| message.contains(words)));
            if is_told { Ok(()) } else { Err(format!("{name}: {}", lan["status"])) }
        })
    };
    let before = site.node.list("/run/netns");
    // All of them at once, and a second good one in between.
    let all = bad();
    for (number, one) in all.iter().enumerate() {
        site.server.put("lans", object(number, one));
    }
    site.server.put("lans", lan("late", 2, &["late"]));
    is(&kubelet, &daemon, "late", (1, 1))?;
    for (name, _, words) in &all {
        told(name, words)?;
    }
    is(&kubelet, &daemon, "p", (1, 1))?;
    for one in ["a/good", "a/late"] {
        site.condition(one, "Ready", "True", "")?;
    }
    // Nothing of the bad ones was built, and each is told in an event.
    let mut expected = before.clone();
    expected.push("ns2".to_owned());
    let mut found = site.node.list("/run/netns");
    // The node has no room for an MTU of 9000: the LAN is as good as any, but not built there.
    found.retain(|name| name != "ns107");
    expected.sort();
    found.sort();
    check!(found == expected, "{found:?} {expected:?}");
    // One at a time: it goes, and comes back alone.
    for (number, one) in all.iter().enumerate().skip(1).step_by(5) {
        let key = format!("a/{}", one.0);
        site.server.delete("lans", GROUP, &key);
        eventually(SOON, || match site.server.get("lans", GROUP, &key) {
            None => Ok(()),
            Some(lan) => Err(lan.to_string()),
        })?;
        site.server.put("lans", object(number, one));
        told(one.0, one.2)?;
        is(&kubelet, &daemon, "p", (1, 1))?;
    }
    Ok(())
}

/// The LAN's links with their indexes, and the pods' own: what is made anew has another index.
fn indexes(site: &Site, pods: &[&Pod<'_>]) -> Result<BTreeMap<String, Value>, Error> {
    let mut indexes = BTreeMap::new();
    for link in site.node.netns("/run/netns/ns7")?.ip_json("link show")? {
        indexes.insert(link["ifname"].to_string(), link["ifindex"].clone());
    }
    for pod in pods {
        let link = pod.link("net1")?.unwrap_or_default();
        indexes.insert(pod.name().to_owned(), link["ifindex"].clone());
    }
    Ok(indexes)
}

fn edits_touch_only_what_they_must() -> Outcome {
    let mut site = Site::new()?;
    let other = Switch::new()?;
    site.node.connect(&other, "eth2", 9000)?;
    let mut object = lan("one", 7, &["p", "q"]);
    site.server.put("lans", object.clone());
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole()?;
    is(&kubelet, &daemon, "p", (1, 1))?;
    is(&kubelet, &daemon, "q", (1, 1))?;
    let pod = |spoke: &str, address: &str| -> Result<Pod<'_>, Stop> {
        let pod = site.node.pod(spoke)?;
        pod.add("macvtap", "net1", &on_spoke(spoke))?;
        pod.ip(&format!("addr add {address} dev net1"))?;
        Ok(pod)
    };
    let (p, q) = (pod("p", "10.0.0.1/24")?, pod("q", "10.0.0.2/24")?);
    let ping = || -> Result<(), Error> {
        eventually(SOON, || if ping_once(&p) { Ok(()) } else { Err(daemon.log()) })
    };
    ping()?;
    let before = indexes(&site, &[&p, &q])?;
    let vxlan = |what: &str, is: &dyn Fn(&Value) -> bool| -> Result<(), Error> {
        eventually(SOON, || {
            let inside = site.node.netns("/run/netns/ns7").map_err(|error| error.to_string())?;
            let vxlan = inside.link("vx").map_err(|error| error.to_string())?.unwrap_or_default();
            if is(&vxlan) { Ok(()) } else { Err(format!("{what}: {vxlan}")) }
        })
    };
    // The kernel changes neither group, port nor underlay of a VXLAN device: it alone is made anew.
    object["spec"]["vxlanGrp"] = json!("239.1.1.1");
    site.server.put("lans", object.clone());
    vxlan("group", &|vxlan| vxlan["linkinfo"]["info_data"]["group"] == "239.1.1.1")?;
    object["spec"]["vxlanPort"] = json!(4790);
    site.server.put("lans", object.clone());
    vxlan("port", &|vxlan| vxlan["linkinfo"]["info_data"]["port"] == 4790)?;
    object["spec"]["vxlanDevMap"] = json!({ "worker1": "eth2" });
    site.server.put("lans", object.clone());
    vxlan("underlay", &|vxlan| {
        let below = site.node.netns("/run/netns/ns7").and_then(|inside| underlay(&site.node, &inside, vxlan));
        below.is_ok_and(|below| below.as_deref() == Some("eth2"))
    })?;
    object["spec"]["mtu"] = json!(1300);
    site.server.put("lans", object.clone());
    vxlan("MTU", &|vxlan| vxlan["mtu"] == 1300)?;
    mtu_of_the_bridge(&site, "ns7", 1300)?;
    eventually(SOON, || match p.link("net1").ok().flatten() {
        Some(link) if link["mtu"] == 1300 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ping()?;
    let after = indexes(&site, &[&p, &q])?;
    let made_anew: Vec<_> = after.iter().filter(|(name, index)| before.get(*name) != Some(*index)).collect();
    check!(made_anew.len() == 1 && made_anew[0].0 == "\"vx\"", "{made_anew:?} of {before:?}");

    // A spoke goes under its pod, and comes back: nothing of it was deleted.
    object["spec"]["spokes"] = json!(["p", "r"]);
    site.server.put("lans", object.clone());
    is(&kubelet, &daemon, "r", (1, 1))?;
    is(&kubelet, &daemon, "q", (0, 0))?;
    let silent = || match ping_once(&p) {
        true => Err("10.0.0.2 still answers".to_owned()),
        false => Ok(()),
    };
    eventually(SOON, silent)?;
    check!(q.link("net1")?.is_some(), "the macvtap was taken from a live pod");
    object["spec"]["spokes"] = json!(["p", "q", "r"]);
    site.server.put("lans", object);
    is(&kubelet, &daemon, "q", (1, 1))?;
    ping()?;
    check!(indexes(&site, &[&p, &q])? == after, "something was made anew");
    Ok(())
}

fn ping_once(from: &Pod<'_>) -> bool {
    let to: std::net::IpAddr = "10.0.0.2".parse().unwrap();
    Ping::new(to).timeout(Duration::from_millis(200)).run(from).is_ok_and(|report| report.lost() == 0)
}
