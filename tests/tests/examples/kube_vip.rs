//! The home LAN of `nad-examples/kube-vip` from its files: attachments beside a virtual address that moves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8slan_tests::{Example, Session, addresses, announcement, call, mac_of, serve};
use testnet::{
    Daemon, Namespaces, Node, Outcome, PacketSocket, Ping, Pod, Stop, Switch, eventually, program,
    vlan_kernel,
};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 230);
/// The Kubernetes API, which both nodes serve.
const API: u16 = 6443;
const WEB: u16 = 80;
const NETWORKS: &str = "networks.yaml";

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![attachments_stay_while_the_virtual_address_moves])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

struct Home {
    _lan: Switch,
    _router: Node,
    _dhcp: Daemon,
    laptop: Node,
    squatter: Node,
    lab: Node,
    cp1: Node,
    cp2: Node,
}

const UDHCPC: &str = "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add $ip/24 dev $interface\nexit 0\n";

fn build() -> Result<Home, Stop> {
    let lan = Switch::new()?;
    lan.ip("link set dev switch type bridge vlan_filtering 1")?;
    let mut nodes = Vec::new();
    for (name, link) in [
        ("router", "eth0"),
        ("laptop", "eth0"),
        ("squatter", "eth0"),
        ("lab", "eth0"),
        ("cp1", "eno1"),
        ("cp2", "eno1"),
    ] {
        let mut node = Node::new(name)?;
        node.connect(&lan, link, 1500)?;
        nodes.push(node);
    }
    // VLAN 40 is everywhere, tagged; who does not know it does not hear it.
    for port in lan.link_names()?.iter().filter(|name| name.starts_with("port")) {
        lan.tool("bridge", &format!("vlan add vid 40 dev {port}"))?;
    }
    let [router, laptop, squatter, lab, cp1, cp2] =
        <[Node; 6]>::try_from(nodes).map_err(|_| Stop::Failed("six nodes".to_owned()))?;
    router.ip("addr add 192.168.1.1/24 dev eth0")?;
    let dhcp: Vec<_> = "dnsmasq --no-daemon --port=0 --conf-file=/dev/null --user=root --leasefile-ro --no-ping \
         --interface=eth0 --bind-interfaces --dhcp-range=192.168.1.100,192.168.1.199,1h --pid-file=/run/dnsmasq.pid"
        .split_whitespace()
        .collect();
    let dhcp = router.spawn_daemon(&dhcp)?;
    laptop.write("/run/udhcpc", UDHCPC)?;
    laptop.exec(&["chmod", "755", "/run/udhcpc"])?;
    laptop.tool("busybox", "udhcpc -f -q -n -t 5 -T 1 -i eth0 -s /run/udhcpc")?;
    squatter.ip("addr add 192.168.1.200/24 dev eth0")?;
    lab.ip("link add link eth0 name eth0.40 type vlan id 40")?;
    lab.ip("addr add 192.168.40.5/24 dev eth0.40")?;
    lab.ip("link set dev eth0.40 up")?;
    cp1.ip("addr add 192.168.1.11/24 dev eno1")?;
    // As Proxmox makes a bridge that is "VLAN aware": VLAN 1 untagged on itself and on its ports.
    cp2.ip("link add vmbr0 type bridge vlan_filtering 1")?;
    cp2.ip("link set dev eno1 master vmbr0")?;
    cp2.ip("link set dev vmbr0 up")?;
    cp2.ip("addr add 192.168.1.12/24 dev vmbr0")?;
    for node in [&cp1, &cp2] {
        Example::named("kube-vip").pools_to(node)?;
        serve(node, API, node.name())?;
    }
    Ok(Home { _lan: lan, _router: router, _dhcp: dhcp, laptop, squatter, lab, cp1, cp2 })
}

/// Does what kube-vip does when its node becomes the leader.
fn lead(node: &Node, link: &str) -> Outcome {
    node.ip(&format!("addr add {VIP}/32 dev {link}"))?;
    PacketSocket::open(node, link)?.send(&announcement(mac_of(node, link)?, VIP))?;
    Ok(())
}

/// And when another one does.
fn resign(node: &Node, link: &str) -> Outcome {
    node.ip(&format!("addr del {VIP}/32 dev {link}"))?;
    Ok(())
}

/// A pod on a network, with a service.
fn pod<'a>(node: &'a Node, network: &str) -> Result<(Pod<'a>, IpAddr), Stop> {
    let config = Example::named("kube-vip").network(NETWORKS, network)?;
    let plugin = config["type"].as_str().unwrap_or_default().to_owned();
    let pod = node.pod(network)?;
    let result = pod.add(&plugin, "net1", &config)?;
    serve(&pod, WEB, network)?;
    let address = addresses(&result).first().copied();
    Ok((pod, address.ok_or_else(|| Stop::Failed(format!("{network}: no address in {result}")))?))
}

/// Who leads, as a caller finds out.
fn leader(place: &Namespaces, timeout: u64) -> Result<Option<String>, Stop> {
    let heard = call(place, SocketAddr::new(VIP.into(), API), Duration::from_millis(timeout))?;
    Ok(heard.map(|heard| heard.name))
}

fn leads(place: &Namespaces, who: &str, expected: Option<&str>) -> Outcome {
    let got = leader(place, if expected.is_some() { 3000 } else { 400 })?;
    check(got.as_deref() == expected, format!("{who} calls {VIP}: {expected:?} expected, got {got:?}"))
}

/// Waits until a node knows at which MAC address the virtual address is.
fn knows(node: &Node, mac: [u8; 6]) -> Outcome {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    Ok(eventually(Duration::from_secs(5), || {
        let known = node.ip(&format!("neigh show to {VIP} dev eth0")).map_err(|error| error.to_string())?;
        if known.contains(&mac) { Ok(()) } else { Err(format!("{VIP} is not known at {mac}: {known}")) }
    })?)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn attachments_stay_while_the_virtual_address_moves() -> Outcome {
    for program in ["dnsmasq", "busybox"] {
        testnet::needs(program)?;
    }
    let home = build()?;
    let (cp1, cp2, laptop) = (&home.cp1, &home.cp2, &home.laptop);
    lead(cp1, "eno1")?;
    leads(laptop, "the laptop", Some("cp1"))?;

    // Somebody sits on the first address of cp1's part: the pod gets the next one, and the node says who it is.
    let (on_eno1, first) = pod(cp1, "home-eno1")?;
    check(first == ip("192.168.1.201"), format!("the pod on eno1 has {first}"))?;
    let squatter = mac_of(&home.squatter, "eth0")?.map(|byte| format!("{byte:02x}")).join(":");
    let shown = cp1.tool(&program("ipam-pool").to_string_lossy(), "show 192.168.1.200")?;
    check(
        shown.contains("quarantined") && shown.contains(&squatter),
        format!("no trace of {squatter}: {shown}"),
    )?;
    let (on_vmbr0, second) = pod(cp2, "home-vmbr0")?;
    check(second == ip("192.168.1.215"), format!("the pod on vmbr0 has {second}"))?;
    let (in_lab, third) = pod(cp2, "lab")?;
    check(third == ip("192.168.40.95"), format!("the pod in the lab has {third}"))?;

    // All are where they should be: on one wire, and VLAN 40 apart from it.
    for (from, to, expected) in [
        (laptop as &Namespaces, first, true),
        (laptop, second, true),
        (&on_eno1, second, true),
        (&home.lab, third, true),
        (&in_lab, ip("192.168.40.5"), true),
        (&in_lab, ip("192.168.1.1"), false),
        (laptop, third, false),
        // The kernel's rule: not its own node by the link that it stands on, but every other one.
        (&on_eno1, ip("192.168.1.11"), false),
        (&on_eno1, ip("192.168.1.12"), true),
        (&on_vmbr0, ip("192.168.1.12"), true),
    ] {
        let timeout = Duration::from_millis(if expected { 3000 } else { 300 });
        let reached = !Ping::new(to).timeout(timeout).run(from)?.replies.is_empty();
        check(reached == expected, format!("{to} is reached: {expected} was expected"))?;
    }
    leads(&on_vmbr0, "the pod on vmbr0", Some("cp1"))?;
    leads(&on_eno1, "the pod on eno1", None)?;

    // The address moves; connections to pods on the same wire, on both nodes, do not notice.
    let open = |to: IpAddr| -> Result<Session, Stop> {
        let session = Session::open(laptop, SocketAddr::new(to, WEB), Duration::from_secs(3))?;
        session.ok_or_else(|| Stop::Failed(format!("no session with {to}")))
    };
    let mut sessions = [open(first)?, open(second)?];
    let before = (on_eno1.ip_json("addr show dev net1")?, on_vmbr0.ip_json("addr show dev net1")?);
    for (from, to, name) in [
        ((cp1, "eno1"), (cp2, "vmbr0"), "cp2"),
        ((cp2, "vmbr0"), (cp1, "eno1"), "cp1"),
        ((cp1, "eno1"), (cp2, "vmbr0"), "cp2"),
    ] {
        sessions.iter_mut().try_for_each(|session| session.say(b"before"))?;
        resign(from.0, from.1)?;
        lead(to.0, to.1)?;
        // The announcement is what tells the laptop: it has called nobody since.
        knows(laptop, mac_of(to.0, to.1)?)?;
        leads(laptop, "the laptop", Some(name))?;
        sessions.iter_mut().try_for_each(|session| session.say(b"after"))?;
    }
    leads(&on_eno1, "the pod on eno1", Some("cp2"))?;
    leads(&on_vmbr0, "the pod on vmbr0", Some("cp2"))?;
    let after = (on_eno1.ip_json("addr show dev net1")?, on_vmbr0.ip_json("addr show dev net1")?);
    check(before == after, "an attachment is not what it was")?;

    // The laptop's lease is the router's, and no pod's.
    let lease = laptop.ip("-br addr show dev eth0")?;
    check(lease.contains("192.168.1.1"), lease)?;
    let carried = |node: &Node| node.tool("bridge", "vlan show dev eno1");
    check(carried(cp2)?.contains("40"), "VLAN 40 is not on eno1")?;
    let config = Example::named("kube-vip").network(NETWORKS, "lab")?;
    in_lab.del("vlan-bridge", "net1", &config)?;
    let left = carried(cp2)?;
    check(!left.contains("40") && left.contains("1 PVID Egress Untagged"), format!("left on eno1: {left}"))
}
