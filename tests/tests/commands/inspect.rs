//! `k8slan-device-plugin inspect`: what it shows of a node, against what iproute2 sees there.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::{Duration, Instant};

use k8slan_tests::{LanFile, Worker, joined, on_spoke};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Pod, Stop, Switch, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_built_lan_is_shown,
        it_needs_no_daemon,
        what_is_left_over_or_in_the_way_is_named,
        a_lan_that_is_refused_says_why,
        pods_on_links_and_bridges_of_the_node,
        pools_come_from_ipam_pool,
        a_guest_behind_kubevirts_bridge_is_up,
        several_nodes_are_one_drawing,
        only_one_lan,
        a_thousand_spokes_are_shown_at_once,
        files_that_are_none,
    ]
}

fn inspect(node: &Node, arguments: &[&str]) -> Result<String, Stop> {
    let program = program("k8slan-device-plugin");
    let argv: Vec<&str> = [program.to_str().unwrap(), "inspect"].iter().chain(arguments).copied().collect();
    Ok(node.exec(&argv)?)
}

/// What it says where it cannot show anything.
fn refused(node: &Node, arguments: &[&str]) -> String {
    match inspect(node, arguments) {
        Err(Stop::Failed(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn json_of(node: &Node) -> Result<Value, Stop> {
    Ok(serde_json::from_str(&inspect(node, &["--json"])?)?)
}

fn has(text: &str, words: &[&str]) -> Outcome {
    match words.iter().find(|word| !text.contains(**word)) {
        Some(word) => Err(Stop::Failed(format!("{word:?} is not in:\n{text}"))),
        None => Ok(()),
    }
}

fn spoke<'a>(view: &'a Value, name: &str) -> &'a Value {
    let spokes = view["lans"][0]["spokes"].as_array().unwrap();
    spokes.iter().find(|spoke| spoke["name"] == name).unwrap_or(&Value::Null)
}

fn problems(view: &Value) -> String {
    view["problems"].to_string()
}

fn a_built_lan_is_shown() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan =
        LanFile::new("lan1", 222, &["pod1", "pod2", "pod10"]).with("spokeOverrides: {pod2: {attach: veth}}");
    worker.put(&lan)?;
    worker.ready("pod2")?;
    let pod = joined(&worker, "pod1", "10.0.0.1/24")?;
    let bare = joined(&worker, "pod2", "10.0.0.2/24")?;

    let view = json_of(&worker)?;
    assert_eq!(view["node"], "worker1");
    assert_eq!(view["daemon"], worker.daemon_id().unwrap());
    let shown = &view["lans"][0];
    assert_eq!(shown["lan"], "k8slan-system/lan1");
    assert_eq!(shown["ready"]["reason"], "Built");
    assert_eq!((&shown["netns"], &shown["bridge"]["name"]), (&json!("lan1"), &json!("br2")));
    assert_eq!(
        (&shown["vxlan"]["vni"], &shown["vxlan"]["port"], &shown["vxlan"]["group"]),
        (&json!(222), &json!(4789), &json!("ff02::14"))
    );
    assert_eq!(shown["underlay"]["link"]["mtu"], 1500);
    // The pod's interface, as ip has it.
    let net1 = pod.link("net1")?.unwrap();
    let seen = &spoke(&view, "pod1")["attachment"];
    assert_eq!((&seen["pod"], &seen["live"]), (&json!("default/pod1"), &json!(true)));
    assert_eq!((&seen["link"]["index"], &seen["link"]["mac"]), (&net1["ifindex"], &net1["address"]));
    assert_eq!((&seen["link"]["kind"], &seen["link"]["mode"]), (&json!("macvtap"), &json!("passthru")));
    assert_eq!(seen["link"]["addresses"][0], "10.0.0.1/24");
    assert_eq!(spoke(&view, "pod1")["tapIndex"], net1["ifindex"]);
    assert_eq!(spoke(&view, "pod2")["attachment"]["link"]["kind"], "veth");
    assert_eq!(spoke(&view, "pod2")["tapIndex"], Value::Null);
    assert_eq!(spoke(&view, "pod10")["state"], "free");
    assert_eq!(view["problems"], json!([]));

    let tree = inspect(&worker, &[])?;
    let tap = format!("net1, macvtap passthru, /dev/tap{}", net1["ifindex"]);
    has(
        &tree,
        &[
            "worker1, daemon ",
            "LAN k8slan-system/lan1: ready, built, MTU 1426",
            "namespace lan1",
            "VXLAN vx2, up, MTU 1426, VNI 222, group ff02::14, UDP port 4789",
            "underlay eth1, up, MTU 1500, fe80::",
            "bridge br2, up, MTU 1426",
            "spoke pod1: pod default/pod1, port +",
            &tap,
            "10.0.0.1/24",
            "spoke pod2: pod default/pod2",
            "net1, veth",
            "spoke pod10: free, macvtap passthru, /dev/tap",
        ],
    )?;
    assert!(tree.find("spoke pod2").unwrap() < tree.find("spoke pod10").unwrap(), "{tree}");

    // A port that goes down is seen.
    worker.netns(&lan.netns())?.ip(&format!("link set {} down", port_of(&view, "pod1")))?;
    has(&inspect(&worker, &[])?, &[&format!("port {}, down", port_of(&view, "pod1"))])?;
    drop((pod, bare));
    Ok(())
}

fn port_of(view: &Value, name: &str) -> String {
    spoke(view, name)["port"]["name"].as_str().unwrap().to_owned()
}

fn it_needs_no_daemon() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan = LanFile::new("lan1", 222, &["pod1", "pod2"]);
    worker.put(&lan)?;
    let _pod = joined(&worker, "pod1", "10.0.0.1/24")?;
    worker.kill_daemon()?;
    has(
        &inspect(&worker, &[])?,
        &["worker1, no daemon is seen", "LAN k8slan-system/lan1: ready", "spoke pod1: pod default/pod1"],
    )?;
    // What a daemon said is gone as well: the kernel and the records are enough.
    worker.run(|| std::fs::remove_file("/run/k8slan/status.json"))?;
    has(
        &inspect(&worker, &[])?,
        &[
            "LAN k8slan-system/lan1: it stands",
            "spoke pod1: pod default/pod1",
            "spoke pod2: free",
            "note: there is no /run/k8slan/status.json",
        ],
    )?;
    worker.run(|| std::fs::remove_dir_all("/run/k8slan/spokes"))?;
    has(&inspect(&worker, &[])?, &["LAN k8slan-system/lan1: it stands", "spoke pod1: pod default/pod1"])?;
    // A node that has nothing.
    let bare = Node::new("bare")?;
    has(&inspect(&bare, &[])?, &["no LAN, no pod on a bridge or link of the node"])
}

fn what_is_left_over_or_in_the_way_is_named() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan = LanFile::new("lan1", 222, &["pod1", "pod2"]);
    worker.put(&lan)?;
    let pod = joined(&worker, "pod1", "10.0.0.1/24")?;
    // The other names of the LAN are taken, and a namespace that another wants is somebody's.
    worker.netns(&lan.netns())?.ip("link add pod2 type veth peer name x")?;
    worker.netns(&lan.netns())?.ip("link set x master br2")?;
    worker.ip("netns add lan2")?;
    worker.put(&LanFile::new("lan2", 223, &["q"]))?;
    worker.not_ready("q", "lan2")?;
    worker.kill_daemon()?;
    pod.remove()?;
    let view = json_of(&worker)?;
    let named = problems(&view);
    has(
        &named,
        &[
            "spoke pod1 in namespace lan1 is left over: its pod is gone",
            "link pod2 in namespace lan1 is not k8slan's, and has a name that the LAN needs",
            "link x in namespace lan1 is not k8slan's, and is a port of the LAN's bridge",
            "namespace lan2 is not k8slan's",
            "LAN k8slan-system/lan2: ",
        ],
    )?;
    assert_eq!(spoke(&view, "pod1")["state"], "leftOver");
    let tree = inspect(&worker, &[])?;
    has(
        &tree,
        &[
            "spoke pod1: left over of pod default/pod1",
            "PROBLEM ",
            "LAN k8slan-system/lan2: not ready (Conflict)",
        ],
    )
}

fn a_lan_that_is_refused_says_why() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&LanFile::new("lan1", 222, &["pod1"]))?;
    worker.ready("pod1")?;
    worker.put(&LanFile::new("lan2", 222, &["pod2"]))?;
    worker.status(|status| status.contains("lan2"))?;
    let view = json_of(&worker)?;
    let second = &view["lans"][1];
    assert_eq!((&second["lan"], &second["accepted"]["holds"]), (&json!("k8slan-system/lan2"), &json!(false)));
    assert_eq!(second["stands"], false);
    has(&inspect(&worker, &[])?, &["LAN k8slan-system/lan2: not accepted (", "222"])
}

fn pods_on_links_and_bridges_of_the_node() -> Outcome {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    node.connect(&switch, "eth2", 1400)?;
    node.ip("link add br0 type bridge")?;
    node.ip("link set br0 up")?;
    node.ip("link set eth2 master br0")?;
    let (flat, bridged) = (node.pod("flat")?, node.pod("bridged")?);
    flat.add(
        "macvtap",
        "net1",
        &json!({"cniVersion": "1.1.0", "name": "f", "type": "macvtap", "master": "eth1", "mode": "bridge"}),
    )?;
    bridged.add(
        "vlan-bridge",
        "net2",
        &json!({"cniVersion": "1.1.0", "name": "b", "type": "vlan-bridge", "bridge": "br0"}),
    )?;
    let view = json_of(&node)?;
    let macvtap = &view["masters"][0]["macvtaps"][0];
    assert_eq!((&view["masters"][0]["name"], &macvtap["pod"]), (&json!("eth1"), &json!("default/flat")));
    assert_eq!(macvtap["link"]["index"], flat.link("net1")?.unwrap()["ifindex"]);
    let bridge = &view["bridges"][0];
    assert_eq!((&bridge["name"], &bridge["uplinks"][0]["name"]), (&json!("br0"), &json!("eth2")));
    assert_eq!(bridge["ports"][0]["attachment"]["pod"], "default/bridged");
    has(
        &inspect(&node, &[])?,
        &[
            "macvtaps on eth1, up, MTU 1500",
            "pod default/flat",
            "net1, macvtap bridge, /dev/tap",
            "bridge br0, up",
            "uplink eth2, up, MTU 1400",
            ": pod default/bridged",
        ],
    )?;
    drawn(
        &inspect(&node, &["--svg"])?,
        &["Bridges of the nodes", "Links of the nodes", "default/flat", "eth2"],
    )?;
    // Without a DEL, both are left over; an open file keeps the kernel from taking the port away with its namespace.
    let _held = node.run(|| std::fs::File::open(bridged.path()))?;
    flat.remove()?;
    bridged.remove()?;
    has(&problems(&json_of(&node)?), &["pod default/flat: it is gone", "of bridge br0 is left over"])
}

const POOL: &str = "\
apiVersion: lan.k8slan.io/v1beta1
kind: IPPool
metadata:
  name: iot
spec:
  scope: host
  ranges:
  - subnet: 10.9.0.0/24
";

fn pools_come_from_ipam_pool() -> Outcome {
    let node = Node::new("worker1")?;
    node.write("/var/lib/k8slan/pools.d/iot.yaml", POOL)?;
    let view = json_of(&node)?;
    match view["pools"].as_array().map(Vec::as_slice) {
        Some([pool]) if pool["pool"].as_str().is_some_and(|name| name.contains("iot")) => {}
        _ => return Err(Stop::Failed(format!("{}\n{}", view["pools"], view["notes"]))),
    }
    has(&inspect(&node, &[])?, &["iot", "10.9.0.", ": 0 leased"])
}

/// Whether a drawing is XML, is one, and says all this.
fn drawn(svg: &str, words: &[&str]) -> Outcome {
    let document = roxmltree::Document::parse(svg).map_err(|e| Stop::Failed(format!("{e}:\n{svg}")))?;
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let size: Vec<f64> = root.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    let texts: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
        .collect();
    let all: Vec<String> = texts
        .iter()
        .map(|node| node.children().filter_map(|child| child.text()).collect::<String>())
        .collect();
    has(&all.join("\n"), words)?;
    // Nothing is outside.
    for element in document.descendants().filter(|node| node.attribute("x").is_some()) {
        let at = |name: &str| element.attribute(name).map_or(0.0, |n| n.parse::<f64>().unwrap());
        let (right, lower) = (at("x") + at("width"), at("y") + at("height"));
        assert!(at("x") >= 0.0 && right <= size[2] && at("y") >= 0.0 && lower <= size[3], "{element:?}");
    }
    Ok(())
}

/// KubeVirt's bridge binding: the launcher's link gets another name and becomes a port, and a link that is down keeps name
/// and addresses.
fn a_guest_behind_kubevirts_bridge_is_up() -> Outcome {
    const IFNAME: &str = "pod16477688c0e";
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&LanFile::new("lan1", 222, &["vm"]).with("spokeOverrides: {vm: {attach: veth}}"))?;
    worker.ready("vm")?;
    let pod = worker.pod("virt-launcher-web-aaaaa")?;
    pod.add("macvtap", IFNAME, &on_spoke("vm"))?;
    let bridged = json!({"cniVersion": "1.0.0", "name": "b", "type": "vlan-bridge", "bridge": "br7"});
    pod.add("vlan-bridge", "pod26477688c0e", &bridged)?;
    for hash in ["16477688c0e", "26477688c0e"] {
        for command in [
            format!("link set pod{hash} down"),
            format!("link set pod{hash} name {hash}-nic"),
            format!("link add k6t-{hash} up type bridge"),
            format!("link set {hash}-nic master k6t-{hash} up"),
            format!("link add pod{hash} type veth peer name p{}", &hash[..4]),
            format!("addr add 10.9.0.7/24 dev pod{hash}"),
        ] {
            pod.ip(&command)?;
        }
    }
    let view = json_of(&worker)?;
    let of_spoke = &spoke(&view, "vm")["attachment"]["link"];
    let of_bridge = &view["bridges"][0]["ports"][0]["attachment"]["link"];
    for (link, name) in [(of_spoke, "16477688c0e-nic"), (of_bridge, "26477688c0e-nic")] {
        assert_eq!(
            (&link["kind"], &link["name"], &link["up"]),
            (&json!("veth"), &json!(name), &json!(true)),
            "{link}"
        );
        assert_eq!(link["addresses"][0], "10.9.0.7/24", "{link}");
    }
    let text = inspect(&worker, &[])?;
    has(&text, &["16477688c0e-nic, veth", "10.9.0.7/24"])?;
    assert!(!text.contains(", down, "), "{text}");
    assert!(!inspect(&worker, &["--svg"])?.contains("(down)"));
    Ok(())
}

fn several_nodes_are_one_drawing() -> Outcome {
    let switch = Switch::new()?;
    let names = ["worker1", "worker2"];
    let mut workers = Vec::new();
    let lan = LanFile::new("lan1", 222, &["pod1", "pod2"]);
    for name in names {
        let worker = Worker::new(name, &switch, 1500)?;
        worker.put(&lan)?;
        workers.push(worker);
    }
    let _one = joined(&workers[0], "pod1", "10.0.0.1/24")?;
    let _two = joined(&workers[1], "pod2", "10.0.0.2/24")?;
    for worker in &workers {
        let text = inspect(worker, &["--json"])?;
        workers[0].write(&format!("/run/{}.json", worker.name()), text)?;
    }
    let svg = inspect(&workers[0], &["--svg", "--from", "/run/worker1.json", "/run/worker2.json"])?;
    drawn(
        &svg,
        &[
            "worker1",
            "worker2",
            "k8slan-system/lan1",
            "default/pod1",
            "default/pod2",
            "2 nodes",
            "2 pods",
            "10.0.0.2/24",
        ],
    )?;
    assert_eq!(svg.matches(">k8slan-system/lan1<").count(), 1, "the LAN is one");
    drawn(&inspect(&workers[1], &["--svg"])?, &["worker2", "free on this node: pod1"])?;
    has(&refused(&workers[1], &["--from", "/run/nothing.json"]), &["/run/nothing.json"])?;
    has(
        &inspect(&workers[0], &["--from", "/run/worker1.json", "/run/worker2.json"])?,
        &["worker1, daemon", "worker2, daemon"],
    )
}

fn only_one_lan() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&LanFile::new("lan1", 222, &["pod1"]))?;
    worker.put(&LanFile::new("lan2", 223, &["pod2"]))?;
    worker.ready("pod1")?;
    worker.ready("pod2")?;
    for name in ["lan2", "k8slan-system/lan2"] {
        let tree = inspect(&worker, &["--lan", name])?;
        has(&tree, &["lan2"])?;
        assert!(!tree.contains("lan1"), "{tree}");
    }
    has(
        &refused(&worker, &["--lan", "lan3"]),
        &["there is no LAN lan3", "k8slan-system/lan1, k8slan-system/lan2"],
    )
}

fn a_thousand_spokes_are_shown_at_once() -> Outcome {
    const PODS: usize = 50;
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let names: Vec<String> = (0..1000).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    worker.put(&LanFile::new("lan1", 222, &names))?;
    worker.ready("s999")?;
    let mut pods: Vec<Pod<'_>> = Vec::new();
    for name in &names[..PODS] {
        let pod = worker.pod(name)?;
        pod.add("macvtap", "net1", &on_spoke(name))?;
        pods.push(pod);
    }
    let start = Instant::now();
    let tree = inspect(&worker, &[])?;
    let took = start.elapsed();
    eprintln!("inspect of 1,000 spokes, {PODS} of them with pods: {took:?}");
    has(&tree, &["spoke s49: pod default/s49", "spoke s50: free", "spoke s999: free"])?;
    assert_eq!(tree.matches("spoke ").count(), 1000);
    assert!(took < Duration::from_secs(2), "{took:?}");
    drawn(&inspect(&worker, &["--svg"])?, &["default/s49", "more"])
}

fn files_that_are_none() -> Outcome {
    let node = Node::new("worker1")?;
    for text in ["", "[]", "{\"node\": 1}"] {
        node.write("/run/x.json", text)?;
        has(&refused(&node, &["--from", "/run/x.json"]), &["is not what 'inspect --json' writes"])?;
    }
    Ok(())
}
