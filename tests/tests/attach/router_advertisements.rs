//! What a pod's link takes from a router that advertises itself on the wire, on every kind of link: nothing where an IPAM
//! plugin gave IPv6 addresses, and no default route where the pod has one.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::{Namespaces, Netns, Node, Outcome, PacketSocket, Pod, Stop};

/// Between two advertisements.
const BETWEEN: Duration = Duration::from_millis(50);

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        addresses_from_ipam_are_the_pods_only_ones,
        without_ipv6_from_ipam_the_kernel_configures_itself,
        another_interfaces_default_route_stays_the_only_one,
        the_network_decides_otherwise,
        what_the_sandbox_had_off_stays_off,
        a_guests_link_takes_nothing_and_is_left_alone,
    ]
}

/// The prefix that the router advertises, and its own address.
const PREFIX: [u8; 8] = [0x20, 0x01, 0x0d, 0xb8, 0, 0xaa, 0, 0];
const ADVERTISED: &str = "2001:db8:aa:";
const ROUTER: &str = "fe80::ff:fe00:99";
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

/// A router's advertisement to all nodes (RFC 4861, section 4.2): half an hour as default router, and a prefix to make
/// addresses from.
fn advertisement() -> Vec<u8> {
    let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0x99];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend([1, 1]);
    icmp.extend(ROUTER_MAC);
    icmp.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    icmp.extend(PREFIX);
    icmp.extend([0; 8]);
    let length = u16::try_from(icmp.len()).unwrap();
    let mut summed = [source, all_nodes].concat();
    summed.extend([0, 0]);
    summed.extend(length.to_be_bytes());
    summed.extend([0, 0, 0, 58]);
    summed.extend(&icmp);
    let sum: u32 = summed.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    icmp[2..4].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(ROUTER_MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(source);
    frame.extend(all_nodes);
    frame.extend(icmp);
    frame
}

/// How a pod is attached, and where the router stands.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Master,
    Moved,
    MacvtapSpoke,
    VethSpoke,
    Bridge,
}

const KINDS: [Kind; 5] = [Kind::Master, Kind::Moved, Kind::MacvtapSpoke, Kind::VethSpoke, Kind::Bridge];

struct Scene {
    node: Node,
    kind: Kind,
}

impl Scene {
    fn new(kind: Kind) -> Result<Self, Stop> {
        let node = Node::new("one")?;
        let scene = Self { node, kind };
        let node = &scene.node;
        let wire = "type veth peer name router";
        match kind {
            Kind::MacvtapSpoke | Kind::VethSpoke => {
                for command in ["netns add lan1", "-n lan1 link add br2 up type bridge mcast_snooping 0"] {
                    node.ip(command)?;
                }
                let mark = "k8slan:lan k8slan-system/lan1";
                node.exec(&["ip", "-n", "lan1", "link", "set", "lo", "up", "alias", mark])?;
                let attach = if matches!(kind, Kind::VethSpoke) { "veth" } else { "macvtap" };
                let record = json!({
                    "lan": "k8slan-system/lan1", "spoke": "a", "netns": "/run/netns/lan1", "bridge": "br2", "mtu": 1426,
                    "tapIndex": 1_245_789_213, "attach": attach, "mode": "passthru", "allowedNamespaces": null,
                    "kubelet": false, "ready": true, "reason": null,
                });
                node.write("/run/k8slan/spokes/a.json", record.to_string())?;
                for command in
                    [&format!("link add up0 {wire}"), "link set up0 master br2 up", "link set router up"]
                {
                    node.ip(&format!("-n lan1 {command}"))?;
                }
            }
            Kind::Master | Kind::Moved | Kind::Bridge => {
                node.ip("link add br0 type bridge mcast_snooping 0")?;
                node.ip("link set dev br0 up")?;
                for command in
                    [&format!("link add up0 {wire}"), "link set up0 master br0 up", "link set router up"]
                {
                    node.ip(command)?;
                }
                if matches!(kind, Kind::Moved) {
                    node.ip("link add mv0 link br0 type macvtap mode bridge")?;
                }
            }
        }
        Ok(scene)
    }

    fn plugin(&self) -> &'static str {
        if matches!(self.kind, Kind::Bridge) { "vlan-bridge" } else { "macvtap" }
    }

    fn network(&self, fields: Value) -> Value {
        let mut config = fields;
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("net");
        config["type"] = json!(self.plugin());
        let (key, value) = match self.kind {
            Kind::Master => ("master", "br0"),
            Kind::Moved => ("deviceID", "mv0"),
            Kind::MacvtapSpoke | Kind::VethSpoke => ("deviceID", "a"),
            Kind::Bridge => ("bridge", "br0"),
        };
        config[key] = json!(value);
        config
    }

    fn add(&self, pod: &Pod<'_>, ifname: &str, fields: Value) -> Result<Value, Stop> {
        let added = pod.add(self.plugin(), ifname, &self.network(fields));
        added.map_err(|error| Stop::Failed(format!("{:?}: {error}", self.kind)))
    }

    /// Advertises until `done`, or for as long as it takes the kernel to believe anything.
    fn advertise(&self, timeout: Duration, done: impl Fn() -> Result<bool, Stop>) -> Result<bool, Stop> {
        let lan: Option<Netns<'_>>;
        let place: &Namespaces = match self.kind {
            Kind::MacvtapSpoke | Kind::VethSpoke => {
                lan = Some(self.node.netns("/run/netns/lan1")?);
                lan.as_ref().unwrap()
            }
            _ => &self.node,
        };
        let router = PacketSocket::open(place, "router")?;
        let end = Instant::now() + timeout;
        loop {
            router.send(&advertisement())?;
            std::thread::sleep(BETWEEN);
            match (done()?, Instant::now() > end) {
                (true, _) => return Ok(true),
                (false, true) => return Ok(false),
                (false, false) => {}
            }
        }
    }

    /// Advertises for a while, and says what the pod has taken.
    fn taken(&self, pod: &Pod<'_>, ifname: &str) -> Result<(String, String), Stop> {
        self.advertise(Duration::from_millis(600), || Ok(false))?;
        Ok((pod.ip(&format!("-6 addr show dev {ifname}"))?, pod.ip("-6 route show default")?))
    }
}

fn setting(pod: &Pod<'_>, ifname: &str, name: &str) -> Result<String, Stop> {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{name}");
    Ok(pod.exec(&["cat", &path])?.trim().to_owned())
}

fn settings(pod: &Pod<'_>, wanted: [&str; 4]) -> Outcome {
    for (name, wanted) in
        ["accept_ra", "autoconf", "accept_ra_defrtr", "keep_addr_on_down"].iter().zip(wanted)
    {
        let have = setting(pod, "net1", name)?;
        check(have == wanted, format!("{name} is {have}, not {wanted}"))?;
    }
    Ok(())
}

fn ipv6() -> Value {
    json!({"type": "ipam-pool", "scope": "host", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00::/64"}]], "routes": [{"dst": "::/0"}]})
}

fn ipv4() -> Value {
    json!({"type": "ipam-pool", "scope": "host", "subnet": "10.9.0.0/24"})
}

fn addresses_from_ipam_are_the_pods_only_ones() -> Outcome {
    for kind in KINDS {
        let scene = Scene::new(kind)?;
        let pod = scene.node.pod("pod")?;
        scene.add(&pod, "net1", json!({"ipam": ipv6()}))?;
        settings(&pod, ["0", "0", "1", "1"])?;
        let (addresses, defaults) = scene.taken(&pod, "net1")?;
        check(!addresses.contains(ADVERTISED), format!("{kind:?}: {addresses}"))?;
        check(
            defaults.contains("via fd00::1") && !defaults.contains(ROUTER),
            format!("{kind:?}: {defaults}"),
        )?;
        pod.ip("link set net1 down")?;
        pod.ip("link set net1 up")?;
        let addresses = pod.ip("-6 addr show dev net1")?;
        check(addresses.contains("fd00::2/64"), format!("{kind:?}, down and up: {addresses}"))?;
    }
    Ok(())
}

fn without_ipv6_from_ipam_the_kernel_configures_itself() -> Outcome {
    for kind in KINDS {
        for fields in [json!({}), json!({"ipam": ipv4()})] {
            let scene = Scene::new(kind)?;
            let pod = scene.node.pod("pod")?;
            scene.add(&pod, "net1", fields.clone())?;
            settings(&pod, ["1", "1", "1", "0"])?;
            let taken = scene.advertise(Duration::from_secs(5), || {
                let defaults = pod.ip("-6 route show default")?;
                Ok(pod.ip("-6 addr show dev net1")?.contains(ADVERTISED) && defaults.contains(ROUTER))
            })?;
            check(taken, format!("{kind:?}, {fields}: {} {}", pod.ip("-6 addr")?, pod.ip("-6 route")?))?;
        }
    }
    Ok(())
}

/// Another interface with a default route, as the cluster's.
fn with_eth0<'a>(scene: &'a Scene) -> Result<Pod<'a>, Stop> {
    let pod = scene.node.pod("pod")?;
    pod.ip("link add eth0 type veth peer name outside")?;
    for command in ["link set outside up", "link set eth0 up", "addr add fd44::2/64 dev eth0 nodad"] {
        pod.ip(command)?;
    }
    pod.ip("-6 route add default via fd44::1 dev eth0")?;
    Ok(pod)
}

fn another_interfaces_default_route_stays_the_only_one() -> Outcome {
    for kind in KINDS {
        for fields in [json!({}), json!({"ipam": ipv4()})] {
            let scene = Scene::new(kind)?;
            let pod = with_eth0(&scene)?;
            scene.add(&pod, "net1", fields.clone())?;
            settings(&pod, ["1", "1", "0", "0"])?;
            let has_address = || Ok(pod.ip("-6 addr show dev net1")?.contains(ADVERTISED));
            check(
                scene.advertise(Duration::from_secs(5), has_address)?,
                format!("{kind:?}, {fields}: no address"),
            )?;
            let (_, defaults) = scene.taken(&pod, "net1")?;
            check(
                defaults.contains("via fd44::1") && !defaults.contains("net1"),
                format!("{kind:?}, {fields}: {defaults}"),
            )?;
        }
    }
    Ok(())
}

fn the_network_decides_otherwise() -> Outcome {
    for kind in [Kind::Master, Kind::VethSpoke, Kind::Bridge] {
        // Both: addresses of the IPAM plugin, routes and addresses of the router.
        let scene = Scene::new(kind)?;
        let pod = scene.node.pod("pod")?;
        scene.add(
            &pod,
            "net1",
            json!({"ipam": ipv6(), "acceptRa": true, "autoconf": true, "keepAddrOnDown": false}),
        )?;
        settings(&pod, ["2", "1", "1", "0"])?;
        let taken = scene.advertise(Duration::from_secs(5), || {
            let addresses = pod.ip("-6 addr show dev net1")?;
            Ok(addresses.contains(ADVERTISED)
                && addresses.contains("fd00::2")
                && pod.ip("-6 route")?.contains(ROUTER))
        })?;
        check(taken, format!("{kind:?}: {} {}", pod.ip("-6 addr")?, pod.ip("-6 route")?))?;

        // Routes of the router alone.
        let scene = Scene::new(kind)?;
        let pod = scene.node.pod("pod")?;
        scene.add(&pod, "net1", json!({"ipam": ipv6(), "acceptRa": true}))?;
        settings(&pod, ["2", "0", "1", "1"])?;

        // Its default route beside the cluster's.
        let scene = Scene::new(kind)?;
        let pod = with_eth0(&scene)?;
        scene.add(&pod, "net1", json!({"acceptRaDefrtr": true}))?;
        settings(&pod, ["1", "1", "1", "0"])?;
        let taken = || Ok(pod.ip("-6 route show default")?.contains(ROUTER));
        check(scene.advertise(Duration::from_secs(5), taken)?, format!("{kind:?}: no default"))?;

        // Nothing, without any IPAM plugin.
        let scene = Scene::new(kind)?;
        let pod = scene.node.pod("pod")?;
        scene.add(&pod, "net1", json!({"acceptRa": false, "keepAddrOnDown": true}))?;
        settings(&pod, ["0", "1", "1", "1"])?;
        let (addresses, defaults) = scene.taken(&pod, "net1")?;
        check(
            !addresses.contains(ADVERTISED) && defaults.is_empty(),
            format!("{kind:?}: {addresses}, {defaults}"),
        )?;
    }
    Ok(())
}

fn what_the_sandbox_had_off_stays_off() -> Outcome {
    for kind in KINDS {
        let scene = Scene::new(kind)?;
        let pod = scene.node.pod("pod")?;
        pod.exec(&["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra"])?;
        scene.add(&pod, "net1", json!({"ipam": ipv4()}))?;
        settings(&pod, ["0", "1", "1", "0"])?;
    }
    Ok(())
}

fn a_guests_link_takes_nothing_and_is_left_alone() -> Outcome {
    for kind in KINDS {
        let scene = Scene::new(kind)?;
        let pod = scene.node.pod("launcher")?;
        scene.add(&pod, "pod16477688c0e", json!({"ipam": ipv4()}))?;
        check(setting(&pod, "pod16477688c0e", "disable_ipv6")? == "1", "the launcher's stack speaks IPv6")?;
        let (addresses, defaults) = scene.taken(&pod, "pod16477688c0e")?;
        check(addresses.is_empty() && defaults.is_empty(), format!("{kind:?}: {addresses}, {defaults}"))?;
    }
    Ok(())
}
