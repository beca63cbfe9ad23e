//! The home network of `nad-examples/homelab` from its files: IoT devices behind the server, services with fixed
//! addresses, and two VPN tenants that do not see each other. Its address plan is in `example_addresses.rs`.

use std::net::IpAddr;

use k8slan_tests::{Example, Worker, addresses, call_in, hears, is_seen, serve};
use testnet::{Node, Outcome, PacketSocket, Pod, Stop, Switch};

const PORT: u16 = 80;

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        iot_devices_are_reached_by_their_pod_and_by_nobody_else,
        services_are_reached_from_the_house,
        vpn_tenants_span_the_sites_and_do_not_see_each_other,
    ]
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn files() -> Example {
    Example::named("homelab")
}

/// The house: a server on the flat network with a card of its own for the IoT devices.
struct House {
    server: Node,
    laptop: Node,
    sensor: Node,
    _wires: [Switch; 2],
}

fn house() -> Result<House, Stop> {
    let (home, iot) = (Switch::new()?, Switch::new()?);
    let (mut server, mut laptop, mut sensor) =
        (Node::new("server")?, Node::new("laptop")?, Node::new("sensor")?);
    server.connect(&home, "eth0", 1500)?;
    server.connect(&iot, "eth1", 1500)?;
    laptop.connect(&home, "eth0", 1500)?;
    sensor.connect(&iot, "eth0", 1500)?;
    laptop.ip("addr add 192.168.2.10/20 dev eth0")?;
    sensor.ip("addr add 192.168.3.100/24 dev eth0")?;
    serve(&sensor, PORT, "sensor")?;
    files().pools_to(&server)?;
    Ok(House { server, laptop, sensor, _wires: [home, iot] })
}

/// A pod of this namespace on a network, with a service of its own name; and its address.
fn pod<'a>(
    node: &'a Node,
    (namespace, name): (&str, &str),
    (file, network): (&str, &str),
) -> Result<(Pod<'a>, IpAddr), Stop> {
    let pod = node.pod(name)?;
    let result =
        node.cni("macvtap", "ADD", &call_in(namespace, &pod, "net1", &files().network(file, network)?))?;
    serve(&pod, PORT, name)?;
    let address = addresses(&result).first().copied();
    Ok((pod, address.ok_or_else(|| Stop::Failed(format!("{network}: no address in {result}")))?))
}

fn iot_devices_are_reached_by_their_pod_and_by_nobody_else() -> Outcome {
    let house = house()?;
    let (automation, address) = pod(&house.server, ("iot", "automation"), ("networks.yaml", "iot"))?;
    check(address == ip("192.168.3.2"), format!("the pod has {address}"))?;
    hears(&automation, "the pod", (ip("192.168.3.100"), PORT), Some(("sensor", address)))?;
    hears(&house.sensor, "the sensor", (address, PORT), Some(("automation", ip("192.168.3.100"))))?;
    // The rest of the house is on another wire, and no way leads there.
    let in_the_house = PacketSocket::open(&house.laptop, "eth0")?;
    let at_the_pod = PacketSocket::open(&automation, "net1")?;
    check(is_seen(&house.sensor, "eth0", &at_the_pod)?, "the pod does not see what a sensor sends")?;
    check(!is_seen(&house.sensor, "eth0", &in_the_house)?, "the house sees what a sensor sends")?;
    hears(&house.laptop, "the laptop", (ip("192.168.3.100"), PORT), None)?;
    hears(&house.sensor, "the sensor", (ip("192.168.2.10"), PORT), None)
}

fn services_are_reached_from_the_house() -> Outcome {
    let house = house()?;
    for (name, network, expected) in [
        ("plex", "lan-services", "192.168.6.60"),
        ("pihole", "lan-services", "192.168.6.99"),
        ("traefik-online", "online-services", "192.168.6.128"),
    ] {
        let (pod, address) = pod(&house.server, ("service", name), ("networks.yaml", network))?;
        check(address == ip(expected), format!("{name} has {address}"))?;
        hears(&house.laptop, "the laptop", (address, PORT), Some((name, ip("192.168.2.10"))))?;
        pod.del("macvtap", "net1", &files().network("networks.yaml", network)?)?;
    }
    // Somebody sits on plex's address: it is not given, and nothing else instead of it.
    house.laptop.ip("addr add 192.168.6.60/20 dev eth0")?;
    match pod(&house.server, ("service", "plex"), ("networks.yaml", "lan-services")) {
        Err(Stop::Failed(text))
            if text.contains("192.168.6.60") && text.contains("taken by another station") =>
        {
            Ok(())
        }
        other => Err(Stop::Failed(format!("192.168.6.60 is taken: {other:?}"))),
    }
}

fn vpn_tenants_span_the_sites_and_do_not_see_each_other() -> Outcome {
    let between = Switch::new()?;
    let mut sites = Vec::new();
    for name in ["server", "remote"] {
        let mut node = Node::new(name)?;
        node.connect(&between, "eth2", 1500)?;
        files().pools_to(&node)?;
        let site = Worker::on(node)?;
        for file in ["vpn-shared.yaml", "vpn-private.yaml"] {
            site.put_text(file, &files().text(file)?)?;
        }
        sites.push(site);
    }
    let [server, remote] = &sites[..] else { unreachable!("two sites") };
    let mut tenants = Vec::new();
    for (tenant, file, net) in [("shared", "vpn-shared.yaml", 2), ("private", "vpn-private.yaml", 4)] {
        let spokes = ["vpn", "1", "2"].map(|kind| format!("{tenant}-{kind}"));
        let [on_vpn, on_near, on_far] = spokes.each_ref().map(String::as_str);
        for (site, spoke) in [(server, on_vpn), (server, on_near), (remote, on_far)] {
            site.ready(spoke)?;
        }
        let (vpn, gateway) = pod(server, (tenant, on_vpn), (file, on_vpn))?;
        let (near, first) = pod(server, (tenant, on_near), (file, on_near))?;
        let (far, second) = pod(remote, (tenant, on_far), (file, on_far))?;
        let expected = [1, 2, 86].map(|last| IpAddr::from([10, 8, net, last]));
        check([gateway, first, second] == expected, format!("{tenant}: {gateway}, {first}, {second}"))?;
        // The tenant's network is one, over both sites.
        hears(&far, on_far, (gateway, PORT), Some((on_vpn, second)))?;
        hears(&near, on_near, (second, PORT), Some((on_far, first)))?;
        tenants.push((vpn, near, far, gateway));
    }
    let [shared, private] = &tenants[..] else { unreachable!("two tenants") };
    for (one, other) in [(shared, private), (private, shared)] {
        for place in [&one.0, &one.1, &one.2] {
            place.ip(&format!("route add default via {}", one.3)).or_else(|error| match place.name() {
                // The VPN server has nobody to send it to.
                name if name.ends_with("-vpn") => Ok(String::new()),
                _ => Err(error),
            })?;
            hears(place, place.name(), (other.3, PORT), None)?;
            for listener in [&other.0, &other.1, &other.2] {
                let socket = PacketSocket::open(listener, "net1")?;
                let seen = is_seen(place, "net1", &socket)?;
                check(!seen, format!("{} sees what {} sends", listener.name(), place.name()))?;
            }
        }
    }
    // Nor does a pod of the other tenant get in by naming the network.
    match pod(server, ("shared", "thief"), ("vpn-private.yaml", "private-2")) {
        Err(Stop::Failed(text)) if text.contains("allowedNamespaces") => Ok(()),
        other => Err(Stop::Failed(format!("a pod of shared on a spoke of private: {other:?}"))),
    }
}
