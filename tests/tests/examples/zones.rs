//! The trunk of `nad-examples/zones` as a VyOS machine has it: behind the bridge that KubeVirt's `bridge` binding makes in
//! the launcher pod, with the machine's fixed MAC address and the addresses of its cloud-config.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8slan_tests::{Example, announcement, mac_of};
use serde_json::Value;
use testnet::{Node, Outcome, PacketSocket, Ping, Pod, Stop, Switch, vlan_kernel};

/// What KubeVirt calls the launcher's link of a network (a hash of the network's name).
const LINK: &str = "pod16477688c0e";

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![a_machines_trunk_reaches_every_zone])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn files() -> Example {
    Example::named("zones")
}

/// A host as the README has it, and a switch that carries all VLANs with tags.
fn host() -> Result<(Node, Switch), Stop> {
    let switch = Switch::new()?;
    switch.ip("link set dev switch type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    let mut host = Node::new("talos1")?;
    host.connect(&switch, "eth0", 1500)?;
    host.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    host.ip("link set dev eth0 master br0")?;
    host.tool("bridge", "vlan add vid 1 dev eth0")?;
    host.tool("bridge", "vlan add vid 1 pvid untagged self dev br0")?;
    host.ip("link set dev br0 up")?;
    files().pools_to(&host)?;
    Ok((host, switch))
}

/// The MAC address that the machine asks for.
fn mac_of_machine() -> Result<String, Stop> {
    let machine: Value = serde_saphyr::from_str(&files().text("vyos-blue.yaml")?)?;
    let interface = &machine["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0];
    check(interface["bridge"].is_object(), "the machine has another binding")?;
    interface["macAddress"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Stop::Failed("no macAddress".to_owned()))
}

/// The machine's addresses by VLAN, from its cloud-config.
fn addresses() -> Result<BTreeMap<u16, String>, Stop> {
    let config: BTreeMap<String, Vec<String>> =
        serde_saphyr::from_str(&files().text("cloud-config.userdata")?)?;
    let mut addresses = BTreeMap::new();
    for command in config.values().flatten() {
        let words: Vec<&str> = command.split(' ').collect();
        let (vlan, address) = match words[..] {
            ["set", "interfaces", "ethernet", "eth0", "address", address] => (1, address),
            ["set", "interfaces", "ethernet", "eth0", "vif", vlan, "address", address] => {
                (vlan.parse().unwrap_or_default(), address)
            }
            _ => continue,
        };
        if address != "'dhcp'" {
            addresses.insert(vlan, address.trim_matches('\'').to_owned());
        }
    }
    Ok(addresses)
}

/// The launcher pod and the guest behind it: what KubeVirt makes of its link.
fn machine(host: &Node) -> Result<(Pod<'_>, Pod<'_>), Stop> {
    let (launcher, guest) = (host.pod("virt-launcher-vyos-blue-k7x2p")?, host.pod("guest")?);
    let mac = mac_of_machine()?;
    let mut call = launcher.call(LINK, &files().network("nad-router.yaml", "router")?);
    call.args += &format!(";MAC={mac}");
    host.cni("vlan-bridge", "ADD", &call)?;
    check(
        mac_of(&launcher, LINK)?.map(|byte| format!("{byte:02x}")).join(":") == mac,
        "the link has another MAC",
    )?;
    // The bridge binding: the link gives its address to the guest and becomes a port beside the guest's tap, here a veth.
    for command in [
        "link add k6t-16477688c0e type bridge".to_owned(),
        format!("link set {LINK} down"),
        format!("link set {LINK} address 02:aa:bb:cc:dd:ee"),
        format!("link set {LINK} master k6t-16477688c0e"),
        format!("link add tap1 type veth peer name eth0 address {mac} netns {}", guest.path()),
        "link set tap1 master k6t-16477688c0e".to_owned(),
        "link set tap1 up".to_owned(),
        "link set k6t-16477688c0e up".to_owned(),
        format!("link set {LINK} up"),
    ] {
        launcher.ip(&command)?;
    }
    guest.ip("link set eth0 up")?;
    for (vlan, address) in addresses()? {
        let link = if vlan == 1 { "eth0".to_owned() } else { format!("eth0.{vlan}") };
        if vlan != 1 {
            guest.ip(&format!("link add link eth0 name {link} type vlan id {vlan}"))?;
            guest.ip(&format!("link set {link} up"))?;
        }
        guest.ip(&format!("addr add {address} dev {link}"))?;
    }
    Ok((launcher, guest))
}

fn a_machines_trunk_reaches_every_zone() -> Outcome {
    let (host, switch) = host()?;
    let port = switch.link_names()?.into_iter().find(|name| name.starts_with("port"));
    let wire = PacketSocket::open(&switch, &port.unwrap_or_default())?;
    let (launcher, guest) = machine(&host)?;
    for (zone, own) in
        [("lan", "10.0.1.2"), ("mgmt", "172.26.10.2"), ("iot", "10.0.20.2"), ("dmz", "172.26.30.2")]
    {
        let pod = host.pod(zone)?;
        pod.add("vlan-bridge", "net1", &files().network(&format!("nad-{zone}.yaml"), zone)?)?;
        let own: IpAddr = own.parse().map_err(|_| Stop::Failed(format!("{own} is no address")))?;
        Ping::new(own).repeated(3, Duration::from_millis(5)).run(&pod)?.perfect().map_err(Stop::Failed)?;
    }
    // What leaves the host has its tag: also the machine's untagged network. What passes for somebody else does not leave.
    let own = mac_of(&guest, "eth0")?;
    let socket = PacketSocket::open(&guest, "eth0")?;
    let virtual_router = [0, 0, 0x5e, 0, 1, 1];
    for (mac, passes) in [(own, true), (virtual_router, true), ([2, 9, 9, 9, 9, 9], false)] {
        for vlan in [1_u16, 10, 91, 40] {
            let frame = announcement(mac, Ipv4Addr::new(192, 0, 2, 1));
            let tag = [&[0x81, 0][..], &vlan.to_be_bytes()].concat();
            let tagged = [&frame[..12], &tag, &frame[12..]].concat();
            socket.send(if vlan == 1 { &frame } else { &tagged })?;
            let expected = passes && vlan != 40;
            let timeout = Duration::from_millis(if expected { 2000 } else { 60 });
            let seen = wire.find(timeout, |seen| seen.bytes.starts_with(&tagged))?.is_some();
            check(seen == expected, format!("{mac:x?} in VLAN {vlan}: seen on the wire {seen}"))?;
        }
    }
    // The launcher's own stack has said nothing: its random address is not the machine's, and would be dropped.
    launcher.del("vlan-bridge", LINK, &files().network("nad-router.yaml", "router")?)?;
    let left = host.tool("bridge", "-compressvlans vlan show dev eth0")?;
    check(!left.contains("91"), format!("the WAN's VLAN is left on the uplink: {left}"))
}
