//! The Kube-DC network from the files of `nad-examples/kube-dc`: two provider networks on a VLAN bridge, a LAN for
//! each project, and routers between them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8slan_tests::{Example, Worker, addresses, announcement, call_in, hears, is_seen, mac_of, route, serve};
use serde_json::{Value, json};
use testnet::{Node, Outcome, PacketSocket, Ping, Pod, Stop, Switch, vlan_kernel};

const HTTP: u16 = 80;
const SSH: u16 = 22;
const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The provider's address in the Internet, which all of ext-cloud shares.
const NAT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PROVIDER: &str = "provider.yaml";

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![projects_have_their_networks_and_the_outside_world])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn files() -> Example {
    Example::named("kube-dc")
}

/// The provider's side and the nodes.
struct Cloud {
    internet: Node,
    gateway: Node,
    nodes: Vec<Worker>,
    _wires: [Switch; 3],
}

fn build() -> Result<Cloud, Stop> {
    let (provider, underlay, outside) = (Switch::new()?, Switch::new()?, Switch::new()?);
    provider.ip("link set dev switch type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    let (mut internet, mut gateway) = (Node::new("internet")?, Node::new("gateway")?);
    internet.connect(&outside, "eth0", 1500)?;
    gateway.connect(&outside, "eth1", 1500)?;
    gateway.connect(&provider, "eth0", 1500)?;
    internet.ip(&format!("addr add {INTERNET}/24 dev eth0"))?;
    // What the Internet routes; ext-cloud is not among it.
    internet.ip(&format!("route add 168.119.17.48/28 via {NAT}"))?;
    serve(&internet, HTTP, "internet")?;
    gateway.ip(&format!("addr add {NAT}/24 dev eth1"))?;
    for (vlan, address) in [(4011, "168.119.17.49/28"), (4013, "100.65.0.1/16")] {
        gateway.ip(&format!("link add link eth0 name eth0.{vlan} type vlan id {vlan}"))?;
        gateway.ip(&format!("addr add {address} dev eth0.{vlan}"))?;
        gateway.ip(&format!("link set dev eth0.{vlan} up"))?;
    }
    gateway.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
    gateway.tool("iptables-legacy", "-t nat -A POSTROUTING -s 100.65.0.0/16 -o eth1 -j MASQUERADE")?;
    serve(&gateway, HTTP, "gateway")?;
    let mut nodes = Vec::new();
    for name in ["node1", "node2", "node3"] {
        let mut node = Node::new(name)?;
        node.connect(&provider, "eth0", 1500)?;
        node.connect(&underlay, "eth1", 1500)?;
        // As the README says.
        node.ip("link add br-ext-cloud type bridge vlan_filtering 1 vlan_default_pvid 0")?;
        node.ip("link set dev eth0 master br-ext-cloud")?;
        node.ip("link set dev br-ext-cloud up")?;
        files().pools_to(&node)?;
        let worker = Worker::on(node)?;
        for project in ["project-a.yaml", "project-b.yaml", "project-demo.yaml"] {
            worker.put_text(project, &files().text(project)?)?;
        }
        nodes.push(worker);
    }
    for port in provider.link_names()?.iter().filter(|name| name.starts_with("port")) {
        for vlan in [4011, 4013] {
            provider.tool("bridge", &format!("vlan add vid {vlan} dev {port}"))?;
        }
    }
    Ok(Cloud { internet, gateway, nodes, _wires: [provider, underlay, outside] })
}

/// A pod, a guest or a router of a project, attached by a spoke of its LAN.
struct Member<'a> {
    pod: Pod<'a>,
    namespace: &'static str,
    file: &'static str,
    spoke: &'static str,
    address: IpAddr,
}

/// The guest behind a launcher pod's link, which leaves the addresses to it: here the pod's own stack, as cloud-init sets
/// up the guest's.
fn guest(pod: &Pod<'_>, result: &Value) -> Outcome {
    let link = pod.link("net1")?.unwrap_or_default();
    check(
        link["flags"].to_string().contains("NOARP"),
        format!("the launcher pod speaks for its guest: {link}"),
    )?;
    pod.ip("link set net1 arp on")?;
    for ip in result["ips"].as_array().into_iter().flatten() {
        pod.ip(&format!("addr add {} dev net1", text(ip, "address")))?;
        if let Some(gateway) = ip["gateway"].as_str() {
            for route in result["routes"].as_array().into_iter().flatten() {
                pod.ip(&format!("route add {} via {gateway}", text(route, "dst")))?;
            }
        }
    }
    Ok(())
}

impl<'a> Member<'a> {
    fn new(
        worker: &'a Worker,
        (namespace, file): (&'static str, &'static str),
        spoke: &'static str,
        vm: Option<&str>,
    ) -> Result<Self, Stop> {
        worker.ready(spoke)?;
        let name = if spoke.ends_with("-router") { "router-0" } else { spoke };
        let pod = worker.pod(name)?;
        let mut call = call_in(namespace, &pod, "net1", &files().network(file, spoke)?);
        if let Some(vm) = vm {
            // In a cluster the node's daemon finds the machine through the pod's owner.
            call = call.with("args", json!({"cni": {"vm": vm}}));
            call.args = call.args.replace(spoke, &format!("virt-launcher-{vm}-x2x5q"));
        }
        let result = worker.cni("macvtap", "ADD", &call)?;
        let address =
            *addresses(&result).first().ok_or_else(|| Stop::Failed(format!("{spoke}: no address")))?;
        if vm.is_some() {
            guest(&pod, &result)?;
        }
        Ok(Self { pod, namespace, file, spoke, address })
    }

    /// Gives a router its leg outside, its rules and its further addresses, as its StatefulSet says; returns its external
    /// address.
    fn route(&self, worker: &Worker, rules: &str) -> Result<IpAddr, Stop> {
        let set = StatefulSet::of(self.namespace)?;
        let [inside, outside] = &set.networks[..] else {
            return Err(Stop::Failed("not two networks".to_owned()));
        };
        check(
            inside["namespace"] == self.namespace
                && inside["name"] == self.spoke
                && inside["interface"] == "net1",
            format!("{}: {inside}", self.spoke),
        )?;
        let (name, ifname) = (text(outside, "name"), text(outside, "interface"));
        let call = call_in(self.namespace, &self.pod, ifname, &files().network(PROVIDER, name)?);
        let result = worker.cni("vlan-bridge", "ADD", &call)?;
        route(&self.pod, &files().text(rules)?)?;
        for command in set.script.lines().filter_map(|line| line.strip_prefix("ip ")) {
            self.pod.ip(command)?;
        }
        addresses(&result).first().copied().ok_or_else(|| Stop::Failed(format!("{name}: no address")))
    }

    /// Calls a service; who answered, and which caller he saw.
    fn hears(&self, to: &str, port: u16, expected: Option<(&str, IpAddr)>) -> Outcome {
        hears(&self.pod, self.spoke, (ip(to), port), expected)
    }

    fn leave(&self, worker: &Worker) -> Outcome {
        let call = call_in(self.namespace, &self.pod, "net1", &files().network(self.file, self.spoke)?);
        worker.cni("macvtap", "DEL", &call)?;
        Ok(())
    }
}

/// A router of `routers.yaml`.
struct StatefulSet {
    networks: Vec<Value>,
    script: String,
}

impl StatefulSet {
    /// The one in this namespace.
    fn of(namespace: &str) -> Result<Self, Stop> {
        let all: Vec<Value> = serde_saphyr::from_multiple(&files().text("routers.yaml")?)?;
        let set = all.iter().find(|set| set["metadata"]["namespace"] == namespace);
        let set = set.ok_or_else(|| Stop::Failed(format!("{namespace} has no router")))?;
        check(set["metadata"]["name"] == "router", "its pod is not called router-0")?;
        let template = &set["spec"]["template"];
        let networks = text(&template["metadata"]["annotations"], "k8s.v1.cni.cncf.io/networks");
        let script = template["spec"]["containers"][0]["args"][0].as_str().unwrap_or_default().to_owned();
        Ok(Self { networks: serde_json::from_str(networks)?, script })
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

const A: (&str, &str) = ("project-a", "project-a.yaml");
const B: (&str, &str) = ("project-b", "project-b.yaml");
const DEMO: (&str, &str) = ("shalb-demo", "project-demo.yaml");

fn projects_have_their_networks_and_the_outside_world() -> Outcome {
    for program in ["iptables-legacy", "iptables-legacy-restore"] {
        testnet::needs(program)?;
    }
    let cloud = build()?;
    let [node1, node2, node3] = &cloud.nodes[..] else { unreachable!("three nodes") };
    let a_router = Member::new(node1, A, "a-router", None)?;
    let a_web = Member::new(node1, A, "a-web", None)?;
    let a_shop = Member::new(node2, A, "a-shop", None)?;
    let demo_router = Member::new(node2, DEMO, "demo-router", None)?;
    let demo_web = Member::new(node1, DEMO, "demo-web", None)?;
    let fedora = Member::new(node2, DEMO, "fedora", Some("fedora-arti"))?;
    let debian = Member::new(node3, DEMO, "debian", Some("debian"))?;
    let b_router = Member::new(node3, B, "b-router", None)?;
    let b_web = Member::new(node3, B, "b-web", None)?;
    for (member, address) in [
        (&a_router, "10.0.10.1"),
        (&demo_router, "10.0.10.1"),
        (&b_router, "10.0.20.1"),
        // The same address in two projects, on one node.
        (&a_web, "10.0.10.2"),
        (&demo_web, "10.0.10.2"),
        (&fedora, "10.0.10.171"),
    ] {
        check(member.address == ip(address), format!("{}: {}", member.spoke, member.address))?;
    }
    for (router, worker, rules, eip) in [
        (&a_router, node1, "router/project-a.rules", "100.65.0.102"),
        (&demo_router, node2, "router/project-demo.rules", "168.119.17.61"),
        (&b_router, node3, "router/project-b.rules", "168.119.17.51"),
    ] {
        let got = router.route(worker, rules)?;
        check(got == ip(eip), format!("{} has the external address {got}", router.spoke))?;
    }
    for member in [&a_web, &a_shop, &demo_web, &fedora, &b_web] {
        serve(&member.pod, HTTP, member.spoke)?;
    }
    serve(&debian.pod, SSH, debian.spoke)?;

    // A project's network spans the nodes; the same address is another host in each project.
    a_shop.hears("10.0.10.2", HTTP, Some(("a-web", a_shop.address)))?;
    fedora.hears("10.0.10.2", HTTP, Some(("demo-web", fedora.address)))?;
    debian.hears("10.0.10.171", HTTP, Some(("fedora", debian.address)))?;
    // SNAT: out by the project's own address; what is on ext-cloud shares the provider's.
    a_shop.hears("100.65.0.1", HTTP, Some(("gateway", ip("100.65.0.102"))))?;
    a_shop.hears("198.51.100.7", HTTP, Some(("internet", NAT.into())))?;
    b_web.hears("198.51.100.7", HTTP, Some(("internet", ip("168.119.17.51"))))?;
    demo_web.hears("198.51.100.7", HTTP, Some(("internet", ip("168.119.17.61"))))?;
    // FIP: one to one, both ways.
    fedora.hears("198.51.100.7", HTTP, Some(("internet", ip("168.119.17.62"))))?;
    let internet = |to, port, expected| hears(&cloud.internet, "the Internet", (ip(to), port), expected);
    internet("168.119.17.62", HTTP, Some(("fedora", INTERNET.into())))?;
    // DNAT: 2222 is 22 of one machine, and nothing else is open.
    internet("168.119.17.61", 2222, Some(("debian", INTERNET.into())))?;
    internet("168.119.17.61", 2223, None)?;
    internet("100.65.0.102", HTTP, None)?;
    // A project reaches another one's external address, as the whole world does.
    a_web.hears("168.119.17.62", HTTP, Some(("fedora", ip("100.65.0.102"))))?;

    projects_are_isolated(&cloud, &[&a_web, &a_shop], &[&demo_web, &fedora, &debian], &b_web)?;
    nobody_takes_a_gateways_address(&cloud, &a_router.pod)?;

    // The bridge of each node carries what its own routers need, and nothing afterwards.
    let carried = |worker: &Worker| worker.tool("bridge", "-compressvlans vlan show dev eth0");
    for (worker, own, other) in [(node1, "4013", "4011"), (node2, "4011", "4013"), (node3, "4011", "4013")] {
        let shown = carried(worker)?;
        check(shown.contains(own) && !shown.contains(other), format!("{}: {shown}", worker.name()))?;
    }
    for (router, worker, network) in [
        (&a_router, node1, "ext-cloud"),
        (&demo_router, node2, "ext-public-demo"),
        (&b_router, node3, "ext-public"),
    ] {
        let config = files().network(PROVIDER, network)?;
        worker.cni("vlan-bridge", "DEL", &call_in(router.namespace, &router.pod, "net2", &config))?;
        router.leave(worker)?;
        let shown = carried(worker)?;
        check(!shown.contains("401"), format!("left on {}: {shown}", worker.name()))?;
    }
    Ok(())
}

fn projects_are_isolated(cloud: &Cloud, a: &[&Member<'_>], demo: &[&Member<'_>], b: &Member<'_>) -> Outcome {
    // Nothing of one LAN is seen in another, not even what goes to all.
    for member in a {
        for other in demo {
            let seen = is_seen(&member.pod, "net1", &PacketSocket::open(&other.pod, "net1")?)?;
            check(!seen, format!("{} sees a frame of {}", other.spoke, member.spoke))?;
        }
        let none = Ping::new(ip("10.0.10.171")).timeout(Duration::from_millis(200)).run(&member.pod)?;
        check(none.replies.is_empty(), format!("{} reaches a machine of project demo", member.spoke))?;
    }
    // Nor is there a way around, even if the provider's router knew one.
    a[0].hears(&b.address.to_string(), HTTP, None)?;
    cloud.gateway.ip("route add 10.0.20.0/24 via 168.119.17.51")?;
    cloud.gateway.ip("route add 10.0.10.0/24 via 168.119.17.61")?;
    a[0].hears(&b.address.to_string(), HTTP, None)?;
    b.hears("10.0.10.171", HTTP, None)?;
    hears(&cloud.gateway, "the provider's router", (ip("10.0.10.171"), HTTP), None)?;
    // A pod of another namespace does not get onto the LAN.
    let node = &cloud.nodes[2];
    let stranger = node.pod("stranger")?;
    let call = call_in("shalb-demo", &stranger, "net1", &files().network("project-a.yaml", "a-web")?);
    match node.cni("macvtap", "ADD", &call) {
        Err(error) if error.text().contains("shalb-demo") && error.text().contains("allowedNamespaces") => {
            Ok(())
        }
        other => Err(Stop::Failed(format!("a pod of shalb-demo on a spoke of project a: {other:?}"))),
    }
}

/// The router of a project says that the provider's address were its own: nobody hears it.
fn nobody_takes_a_gateways_address(cloud: &Cloud, router: &Pod<'_>) -> Outcome {
    let mac = mac_of(router, "net2")?;
    let (wire, out) = (PacketSocket::open(&cloud.gateway, "eth0.4013")?, PacketSocket::open(router, "net2")?);
    for (address, passes) in [([100, 65, 0, 1], false), ([100, 65, 0, 101], false), ([100, 65, 0, 102], true)]
    {
        let claim = announcement(mac, address.into());
        out.send(&claim)?;
        let timeout = Duration::from_millis(if passes { 2000 } else { 100 });
        let seen = wire.find(timeout, |frame| frame.bytes.starts_with(&claim))?.is_some();
        check(seen == passes, format!("ARP that claims {address:?}: seen {seen}"))?;
    }
    Ok(())
}
