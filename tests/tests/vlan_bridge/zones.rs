//! The zones network as a whole: the switch as its port table says, an ISP, three hosts, two routers, pods in four
//! zones; all from the files of `nad-examples/zones`.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8slan_tests::{Example, Session, route, serve};
use serde_json::Value;
use testnet::{Daemon, Namespaces, Node, Outcome, PacketSocket, Pod, Stop, Switch, eventually, vlan_kernel};

const PLUGIN: &str = "vlan-bridge";
/// The service that every pod and the Internet have: it says who it was called by, then echoes.
const PORT: u16 = 7;
const INTERNET: [u8; 4] = [198, 51, 100, 7];

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![the_zones_network_works_as_its_document_says])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn file(name: &str) -> String {
    Example::named("zones").text(name).unwrap()
}

/// The configuration of a NetworkAttachmentDefinition, as Multus hands it on.
fn network(name: &str) -> Value {
    Example::named("zones").network(&format!("nad-{name}.yaml"), name).unwrap()
}

fn words<'a>(program: &'a str, arguments: &'a str) -> Vec<&'a str> {
    std::iter::once(program).chain(arguments.split_whitespace()).collect()
}

fn bridge(place: &Namespaces, arguments: &str) -> Result<String, Stop> {
    Ok(place.exec(&words("bridge", arguments))?)
}

/// A row of the port table.
struct Row {
    port: u8,
    untagged: Option<u16>,
    tagged: &'static [u16],
}

const TRUNK: &[u16] = &[1, 10, 20, 30, 91];

fn table() -> Vec<Row> {
    (1..=12)
        .map(|port| match port {
            1..=7 => Row { port, untagged: Some(1), tagged: &[] },
            8 => Row { port, untagged: Some(91), tagged: &[] },
            // Port 12 is drawn otherwise in the diagram; the table holds.
            _ => Row { port, untagged: None, tagged: TRUNK },
        })
        .collect()
}

/// Whoever is behind the switch's ports.
struct Network {
    switch: Switch,
    office: Node,
    isp: Node,
    hosts: Vec<Node>,
}

fn build() -> Result<Network, Stop> {
    let switch = Switch::new()?;
    switch.ip("link set dev switch type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    let mut office = Node::new("office")?;
    let mut isp = Node::new("isp")?;
    let mut hosts = Vec::new();
    for row in table() {
        match row.port {
            8 => isp.connect(&switch, "eth0", 1500)?,
            9..=11 => {
                let name = format!("talos{}", row.port - 8);
                let mut host = Node::new(&name)?;
                host.connect(&switch, "eth0", 1500)?;
                hosts.push(host);
            }
            port => office.connect(&switch, &format!("eth{port}"), 1500)?,
        }
        if let Some(id) = row.untagged {
            bridge(&switch, &format!("vlan add vid {id} pvid untagged dev port{}", row.port))?;
        }
        for id in row.tagged {
            bridge(&switch, &format!("vlan add vid {id} dev port{}", row.port))?;
        }
    }
    for (at, host) in hosts.iter().enumerate() {
        for command in
            ["link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0", "link set dev eth0 master br0"]
        {
            host.ip(command)?;
        }
        // A port of a bridge has no stack of its own; this one had one before it became a port.
        host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1"))?;
        bridge(host, "vlan add vid 1 dev eth0")?;
        bridge(host, "vlan add vid 1 pvid untagged self dev br0")?;
        host.ip("link set dev br0 up")?;
        host.ip(&format!("addr add 10.0.1.{}/24 dev br0", 11 + at))?;
        Example::named("zones").pools_to(host)?;
    }
    Ok(Network { switch, office, isp, hosts })
}

fn frame(tag: Option<u16>) -> Vec<u8> {
    let tag = tag.map_or_else(Vec::new, |id| [&[0x81, 0][..], &id.to_be_bytes()].concat());
    [&[0xff; 6][..], &[2, 9, 9, 9, 9, 9], &tag, &[0x88, 0xb5], &[0x55; 50]].concat()
}

/// Every row of the port table against frames: what goes in at a port comes out where the table says, with or
/// without its tag.
fn the_port_table_holds(net: &Network) -> Outcome {
    let open = |port: u8| match port {
        8 => PacketSocket::open(&net.isp, "eth0"),
        9..=11 => PacketSocket::open(&net.hosts[usize::from(port) - 9], "eth0"),
        _ => PacketSocket::open(&net.office, &format!("eth{port}")),
    };
    let rows = table();
    let sockets = rows.iter().map(|row| open(row.port)).collect::<Result<Vec<_>, _>>()?;
    let inputs = [None, Some(1), Some(10), Some(20), Some(30), Some(91), Some(40)];
    for (from, sender) in rows.iter().zip(&sockets) {
        for input in inputs {
            let vlan = match input {
                None => from.untagged,
                Some(id) if from.tagged.contains(&id) || from.untagged == Some(id) => Some(id),
                Some(_) => None,
            };
            sender.send(&frame(input))?;
            // The last frame of each round is for all: when it is there, the one before it was, or never will be.
            for (to, receiver) in rows.iter().zip(&sockets) {
                if to.port == from.port {
                    continue;
                }
                let expected = vlan.and_then(|id| {
                    if to.untagged == Some(id) {
                        Some(frame(None))
                    } else {
                        to.tagged.contains(&id).then(|| frame(Some(id)))
                    }
                });
                let timeout = Duration::from_millis(if expected.is_some() { 1000 } else { 1 });
                let seen = receiver.find(timeout, |f| f.bytes[6..12] == [2, 9, 9, 9, 9, 9])?.map(|f| f.bytes);
                check(
                    seen == expected,
                    format!("{input:?} in at port {} came out at port {} as {seen:x?}", from.port, to.port),
                )?;
            }
        }
    }
    Ok(())
}

/// Calls a service; the address that it saw, or none if it cannot be reached.
fn call(place: &Namespaces, to: SocketAddr, timeout: Duration) -> Result<Option<IpAddr>, Stop> {
    Ok(k8slan_tests::call(place, to, timeout)?.map(|heard| heard.by))
}

/// The ISP: DHCP on the WAN, and the Internet behind it.
fn isp(node: &Node) -> Result<Daemon, Stop> {
    node.ip("addr add 203.0.113.1/24 dev eth0")?;
    node.ip("addr add 198.51.100.7/32 dev lo")?;
    serve(node, PORT, "internet")?;
    Ok(node.spawn_daemon(&words(
        "dnsmasq",
        "--no-daemon --port=0 --conf-file=/dev/null --user=root --leasefile-ro --no-ping --interface=eth0 --bind-interfaces \
         --dhcp-range=203.0.113.100,203.0.113.150,1h --pid-file=/run/dnsmasq.pid",
    ))?)
}

/// A router in the place of a VM: attached by the trunk, with the policy's files.
struct Router<'a> {
    pod: Pod<'a>,
    vrrp: Daemon,
    _frr: [Daemon; 2],
    wan: IpAddr,
}

/// The address is the client's business, the route FRR's, as in VyOS.
const UDHCPC: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n\
    ip addr add $ip/24 dev $interface && echo -n $router >@GATEWAY@\n";

/// A daemon of FRR, which `tests/packages.sh` unpacks, since an installed one would be started on the machine.
fn frr(daemon: &str) -> std::path::PathBuf {
    testnet::workspace().join("target/frr/usr/lib/frr").join(daemon)
}

/// FRR as VyOS runs it: zebra owns the kernel's routes, staticd knows the configured ones.
fn routing<'a>(host: &'a Node, pod: &Pod<'a>, gateway: &str) -> Result<[Daemon; 2], Stop> {
    let run = format!("/run/frr-{}", pod.name());
    let conf = format!("{run}/frr.conf");
    host.write(&conf, file("router/frr.conf").replace("@GATEWAY@", gateway))?;
    // Compiled into it: its own user has to be in that group.
    let group = "grep -q ^frrvty: /etc/group || echo frrvty:x:199:root >>/etc/group";
    host.exec(&["sh", "-c", group])?;
    let libraries = testnet::workspace().join("target/frr/usr/lib");
    let libraries =
        ["x86_64-linux-gnu/frr", "x86_64-linux-gnu", "aarch64-linux-gnu/frr", "aarch64-linux-gnu"]
            .map(|folder| libraries.join(folder).display().to_string())
            .join(":");
    let start = |daemon: &str, conf: &str| -> Result<Daemon, Stop> {
        let place = format!("--net={} env LD_LIBRARY_PATH={libraries}", pod.path());
        let sockets = format!("-i {run}/{daemon}.pid -z {run}/zserv.api --vty_socket {run} -P 0");
        let arguments = format!("{place} {} -u root -g root -f {conf} {sockets}", frr(daemon).display());
        Ok(host.spawn_daemon(&words("nsenter", &arguments))?)
    };
    let zebra = start("zebra", "/dev/null")?;
    // A staticd that does not find it asks again after ten seconds.
    let socket = format!("{run}/zserv.api");
    eventually(Duration::from_secs(10), || {
        if host.run(|| std::path::Path::new(&socket).exists()) { Ok(()) } else { Err(zebra.log()) }
    })?;
    let daemons = [zebra, start("staticd", &conf)?];
    eventually(Duration::from_secs(10), || match pod.ip("route show default") {
        Ok(shown) if shown.contains(&format!("via {gateway} dev net1.91")) => Ok(()),
        shown => Err(format!("{shown:?}\n{}\n{}", daemons[0].log(), daemons[1].log())),
    })?;
    Ok(daemons)
}

/// The fixed MAC address of a VirtualMachine's first interface.
fn mac_of_machine(name: &str) -> Result<String, Stop> {
    let machine: Value = serde_saphyr::from_str(&file(name))?;
    let mac = &machine["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["macAddress"];
    mac.as_str().map(str::to_owned).ok_or_else(|| Stop::Failed(format!("{name} has no macAddress")))
}

fn router<'a>(host: &'a Node, own: u8, priority: u8) -> Result<Router<'a>, Stop> {
    let color = if own == 2 { "blue" } else { "green" };
    let pod = host.pod(&format!("vyos-{color}"))?;
    // KubeVirt has Multus ask for the machine's address.
    let mac = mac_of_machine(&format!("vyos-{color}.yaml"))?;
    let mut call = pod.call("net1", &network("router"));
    call.args += &format!(";MAC={mac}");
    let result = host.cni(PLUGIN, "ADD", &call)?;
    check(result.to_string().contains(&mac), format!("vyos-{color} has not {mac}: {result}"))?;
    route(&pod, &file("router/firewall.rules"))?;
    pod.ip(&format!("addr add 10.0.1.{own}/24 dev net1"))?;
    for (id, subnet) in [(10, "172.26.10"), (20, "10.0.20"), (30, "172.26.30")] {
        pod.ip(&format!("link add link net1 name net1.{id} type vlan id {id}"))?;
        pod.ip(&format!("addr add {subnet}.{own}/24 dev net1.{id}"))?;
        pod.ip(&format!("link set dev net1.{id} up"))?;
    }
    pod.ip("link add link net1 name net1.91 type vlan id 91")?;
    pod.ip("link set dev net1.91 up")?;
    let script = format!("/run/udhcpc-{own}");
    let gateway = format!("/run/gateway-{own}");
    host.write(&script, UDHCPC.replace("@GATEWAY@", &gateway))?;
    host.exec(&["chmod", "755", &script])?;
    pod.exec(&["busybox", "udhcpc", "-f", "-q", "-n", "-t", "5", "-T", "1", "-i", "net1.91", "-s", &script])?;
    let shown = pod.ip_json("addr show dev net1.91")?;
    let wan = shown[0]["addr_info"].as_array().unwrap().iter().find(|a| a["family"] == "inet").unwrap();
    let wan = wan["local"].as_str().unwrap().parse().unwrap();
    let frr = routing(host, &pod, &host.read(&gateway)?)?;
    let conf = format!("/run/keepalived-{own}.conf");
    host.write(&conf, file("router/keepalived.conf").replace("@PRIORITY@", &priority.to_string()))?;
    let net = format!("--net={}", pod.path());
    let pids = format!("-p /run/k{own}.pid -r /run/k{own}v.pid -c /run/k{own}c.pid");
    let arguments = format!("{net} keepalived -n -l -D -P -f {conf} {pids}");
    let vrrp = host.spawn_daemon(&words("nsenter", &arguments))?;
    Ok(Router { pod, vrrp, _frr: frr, wan })
}

fn is_master(router: &Pod<'_>) -> bool {
    router.ip("-br addr show").is_ok_and(|shown| {
        ["10.0.1.1/32", "172.26.10.1/32", "10.0.20.1/32", "172.26.30.1/32"]
            .iter()
            .all(|vip| shown.contains(vip))
    })
}

/// What a zone may reach, and whether with its own address (`own`) or the router's (`nat`).
const POLICY: [(&str, [&str; 5]); 4] = [
    //         lan    mgmt   iot    dmz    Internet
    ("lan", ["", "own", "own", "nat", "nat"]),
    ("mgmt", ["own", "", "own", "nat", "nat"]),
    ("iot", ["no", "no", "", "nat", "nat"]),
    ("dmz", ["no", "no", "no", "", "nat"]),
];

struct Zone<'a> {
    name: &'static str,
    pod: Pod<'a>,
    address: IpAddr,
}

fn zone<'a>(host: &'a Node, name: &'static str) -> Result<Zone<'a>, Stop> {
    let pod = host.pod(name)?;
    let mut call = pod.call("net1", &network(name));
    if name == "dmz" {
        // The server that the firewall's rules name.
        call.args += ";IP=172.26.30.200";
    }
    let result = host.cni(PLUGIN, "ADD", &call)?;
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    serve(&pod, PORT, name)?;
    Ok(Zone { name, pod, address })
}

fn the_policy_holds(zones: &[Zone<'_>], isp: &Node, wan: IpAddr) -> Outcome {
    let (yes, no) = (Duration::from_secs(3), Duration::from_millis(400));
    for (from, (name, rights)) in zones.iter().zip(POLICY) {
        assert_eq!(from.name, name);
        let internet = (5, IpAddr::from(INTERNET));
        for ((at, to), right) in zones.iter().map(|z| z.address).enumerate().chain([internet]).zip(rights) {
            let timeout = if right == "no" { no } else { yes };
            if right.is_empty() {
                continue;
            }
            let seen = call(&from.pod, SocketAddr::new(to, PORT), timeout)?;
            let fits = match (right, seen) {
                ("no", None) => true,
                ("own", Some(by)) => by == from.address,
                ("nat", Some(by)) => by == if at == 5 { wan } else { "172.26.30.2".parse().unwrap() },
                _ => false,
            };
            check(fits, format!("{name} to {to}: {right:?} expected, seen as {seen:?}"))?;
        }
    }
    // From outside: the DMZ's service by the router's address, and nothing else, whoever knows the way.
    for subnet in ["10.0.1.0/24", "172.26.10.0/24", "10.0.20.0/24", "172.26.30.0/24"] {
        isp.ip(&format!("route add {subnet} via {wan}"))?;
    }
    let by = call(isp, SocketAddr::new(wan, 8080), yes)?;
    check(by == Some([203, 0, 113, 1].into()), format!("the DMZ's service from outside: {by:?}"))?;
    for zone in zones {
        let seen = call(isp, SocketAddr::new(zone.address, PORT), no)?;
        check(seen.is_none(), format!("{} is reached from outside", zone.name))?;
    }
    Ok(())
}

/// Kills the first router under an established connection that is not translated; how long it was silent.
fn takeover(zones: &[Zone<'_>], first: Router<'_>, second: &Router<'_>) -> Result<Duration, Stop> {
    let to = SocketAddr::new(zones[1].address, PORT);
    let session = Session::open(&zones[0].pod, to, Duration::from_secs(3))?;
    let mut session = session.ok_or_else(|| Stop::Failed(format!("no session with {to}")))?;
    session.say(b"before")?;
    // The VM is gone at once: its process, its port, its links.
    let call = first.pod.call("net1", &network("router"));
    let host = first.pod.node();
    let start = Instant::now();
    // The link first: what a dying keepalived would still say is not heard.
    first.pod.ip("link set dev net1 down")?;
    first.vrrp.kill()?;
    session.say(b"after")?;
    let silent = start.elapsed();
    eventually(Duration::from_secs(2), || match is_master(&second.pod) {
        true => Ok(()),
        false => Err("the second router has not all gateways".to_owned()),
    })?;
    session.say(b"and on")?;
    host.cni(PLUGIN, "DEL", &call)?;
    Ok(silent)
}

fn the_zones_network_works_as_its_document_says() -> Outcome {
    for program in ["keepalived", "dnsmasq", "busybox", "iptables-legacy-restore", "nsenter"] {
        testnet::needs(program)?;
    }
    testnet::needs(&frr("zebra").to_string_lossy())?;
    let net = build()?;
    the_port_table_holds(&net)?;
    nothing_untagged_leaks(&net, || the_zones_work(&net))?;
    let left = bridge(&net.hosts[2], "-compressvlans vlan show dev eth0")?;
    check(!left.contains("10") && !left.contains("30"), format!("VLANs are left on the uplink: {left}"))
}

/// Whatever the hosts send meanwhile has a tag. All of it is looked at: a socket that nobody reads is full long before
/// the end.
fn nothing_untagged_leaks(net: &Network, meanwhile: impl FnOnce() -> Outcome) -> Outcome {
    let listening: Vec<_> = (9..=11)
        .map(|port| PacketSocket::open(&net.switch, &format!("port{port}")))
        .collect::<Result<_, _>>()?;
    let over = AtomicBool::new(false);
    let watch = |socket: &PacketSocket| -> Result<(usize, Option<Vec<u8>>), Stop> {
        let (mut frames, mut untagged) = (0, None);
        while !over.load(Ordering::Relaxed) {
            let Some(frame) = socket.receive(Duration::from_millis(100))? else { continue };
            frames += 1;
            if frame.ethertype() != 0x8100 {
                untagged.get_or_insert(frame.bytes);
            }
        }
        Ok((frames, untagged))
    };
    std::thread::scope(|scope| {
        let watching: Vec<_> = listening.iter().map(|socket| scope.spawn(|| watch(socket))).collect();
        let done = meanwhile();
        over.store(true, Ordering::Relaxed);
        for (watcher, port) in watching.into_iter().zip(9..) {
            let (frames, untagged) = watcher.join().unwrap()?;
            println!("port {port}: {frames} frames");
            check(untagged.is_none(), format!("an untagged frame at port {port}: {untagged:x?}"))?;
            check(frames > 0, format!("no frame was seen at port {port}"))?;
        }
        done
    })
}

fn the_zones_work(net: &Network) -> Outcome {
    let _dhcp = isp(&net.isp)?;
    let first = router(&net.hosts[0], 2, 200)?;
    let second = router(&net.hosts[1], 3, 100)?;
    eventually(Duration::from_secs(20), || match is_master(&first.pod) && !is_master(&second.pod) {
        true => Ok(()),
        false => Err(format!("{}\n{}", first.vrrp.log(), second.vrrp.log())),
    })?;
    let zones = ["lan", "mgmt", "iot", "dmz"]
        .into_iter()
        .map(|name| zone(&net.hosts[2], name))
        .collect::<Result<Vec<_>, _>>()?;
    the_policy_holds(&zones, &net.isp, first.wan)?;
    // A workstation of the office is in the LAN, like the hosts themselves.
    net.office.ip("addr add 10.0.1.50/24 dev eth1")?;
    net.office.ip("route add default via 10.0.1.1")?;
    let by = call(&net.office, SocketAddr::new(IpAddr::from(INTERNET), PORT), Duration::from_secs(3))?;
    check(by == Some(first.wan), format!("a workstation in the Internet: {by:?}"))?;
    let to_host = call(&net.office, SocketAddr::new(zones[0].address, PORT), Duration::from_secs(3))?;
    check(to_host.is_some(), "a workstation does not reach a pod in the LAN")?;
    let silent = takeover(&zones, first, &second)?;
    println!("takeover: an established connection was silent for {} ms", silent.as_millis());
    check(silent < Duration::from_secs(4), format!("the takeover took {silent:?}"))?;
    let by = call(&zones[2].pod, SocketAddr::new(IpAddr::from(INTERNET), PORT), Duration::from_secs(3))?;
    check(by == Some(second.wan), format!("IoT in the Internet after the takeover: {by:?}"))?;
    for zone in zones {
        zone.pod.del(PLUGIN, "net1", &network(zone.name))?;
    }
    Ok(())
}
