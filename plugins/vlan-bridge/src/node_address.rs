//! Which addresses the node may get as the gateway of pods: those that a host can have, that the pods reach it by, and
//! in a network that is not most of the world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::Error;

/// The node's address as the gateway of a pod with this address: the one that the IPAM plugin named, or the first host
/// of the pod's network.
///
/// # Errors
/// No gateway follows from the pod's address; or the node and the pod would not reach each other by it.
pub(crate) fn of_gateway(pod: IpNetwork, named: Option<IpAddr>) -> Result<IpNetwork, Error> {
    let follows = || first_host(pod).filter(|&first| pod.contains(first) && first != pod.ip());
    let gateway = named.or_else(follows).ok_or(Error::NoGateway(pod))?;
    let refuse = |why| Error::NotTheNodes { address: gateway, why };
    if gateway.is_ipv4() != pod.is_ipv4() {
        return Err(refuse("it is of another family than the pod's"));
    }
    if gateway == pod.ip() {
        return Err(refuse("it is the pod's own"));
    }
    let address = IpNetwork::new(gateway, pod.prefix()).map_err(|_| Error::NoGateway(pod))?;
    check(address)?;
    if pod.contains(gateway) { Ok(address) } else { Err(Error::GatewayOutside { gateway, pod }) }
}

/// The shortest prefix of a network of hosts, as of 10.0.0.0/8 and fd00::/8, and of one with addresses of the Internet
/// (2000::/3), of which providers get a /32. With a shorter one, much of what the node reaches by its default route would
/// lead to the pods. One of length 0 is found to be the node's own.
const LARGEST_V4: u8 = 8;
const LARGEST_V6: u8 = 8;
const LARGEST_GLOBAL_V6: u8 = 32;
const TOO_LARGE: &str =
    "its network is too large, so that much of what the node reaches elsewhere would lead to the pods";

/// Checks that a host can have the address, and a node as a gateway its network.
///
/// # Errors
/// None can.
pub(crate) fn check(address: IpNetwork) -> Result<(), Error> {
    let why = match address {
        IpNetwork::V4(v4) => {
            let (ip, broadcast) = (v4.ip(), v4.prefix() < 31 && v4.ip() == v4.broadcast());
            let named = [
                (ip.octets()[0] == 0, "it means \"this network\" (RFC 791)"),
                (ip.is_loopback(), "it is a loopback address"),
                (ip.is_multicast(), "it is a multicast group"),
                (ip.is_broadcast() || broadcast, "it is a broadcast address"),
                ((1..LARGEST_V4).contains(&v4.prefix()), TOO_LARGE),
            ];
            named.into_iter().find(|(is, _)| *is)
        }
        IpNetwork::V6(v6) => {
            let ip = v6.ip();
            let global = ip.segments()[0] >> 13 == 1;
            let named = [
                (ip.is_unspecified(), "it means \"no address\""),
                (ip.is_loopback(), "it is the loopback address"),
                (ip.is_multicast(), "it is a multicast group"),
                (ip.to_ipv4_mapped().is_some(), "it is an IPv4 address in IPv6 notation"),
                ((1..if global { LARGEST_GLOBAL_V6 } else { LARGEST_V6 }).contains(&v6.prefix()), TOO_LARGE),
            ];
            named.into_iter().find(|(is, _)| *is)
        }
    };
    match why {
        Some((_, why)) => Err(Error::NotTheNodes { address: address.ip(), why }),
        None => Ok(()),
    }
}

/// The first host address of a network, which is its gateway by default.
fn first_host(address: IpNetwork) -> Option<IpAddr> {
    match address.network() {
        IpAddr::V4(network) => network.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(network) => network.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(pod: &str, named: &str) -> String {
        let named = (!named.is_empty()).then(|| named.parse().unwrap());
        of_gateway(pod.parse().unwrap(), named).map_or_else(|error| error.to_string(), |ip| ip.to_string())
    }

    #[test]
    fn a_gateway_is_a_host_of_the_pods_network() {
        for (pod, named, says) in [
            ("10.5.0.7/24", "", "10.5.0.1/24"),
            ("10.5.0.7/24", "10.5.0.9", "10.5.0.9/24"),
            ("10.5.0.7/31", "10.5.0.6", "10.5.0.6/31"),
            ("fd05::7/64", "", "fd05::1/64"),
            ("fd05::7/64", "fd05::", "fd05::/64"),
            ("fe80::7/64", "fe80::1", "fe80::1/64"),
            ("10.5.0.1/24", "", "no gateway follows from address 10.5.0.1/24"),
            ("10.5.0.7/32", "", "no gateway follows from address 10.5.0.7/32"),
            ("255.255.255.255/32", "", "no gateway follows"),
            ("10.5.0.1/24", "10.5.0.1", "it is the pod's own"),
            ("10.5.0.7/24", "8.8.8.8", "8.8.8.8 is outside the network of the pod's address 10.5.0.7/24"),
            ("10.5.0.7/32", "169.254.1.1", "169.254.1.1 is outside"),
            ("fd05::7/64", "fd06::1", "fd06::1 is outside"),
            ("fd05::7/64", "fe80::1", "fe80::1 is outside"),
            ("10.5.0.7/24", "fd05::1", "another family"),
            ("10.9.9.9/24", "255.255.255.255", "a broadcast address"),
            ("10.9.9.9/24", "10.9.9.255", "a broadcast address"),
            ("10.9.9.9/24", "0.0.0.0", "this network"),
            ("0.1.2.3/8", "0.0.0.1", "this network"),
            ("224.0.0.5/24", "224.0.0.18", "a multicast group"),
            ("127.0.0.5/8", "", "a loopback address"),
            ("fd05::7/64", "ff02::1", "a multicast group"),
            ("fd05::7/64", "::", "no address"),
            ("::7/64", "::1", "the loopback address"),
            ("::ffff:192.0.2.77/120", "::ffff:192.0.2.1", "an IPv4 address in IPv6 notation"),
            ("10.5.0.7/8", "", "10.0.0.1/8"),
            ("128.0.0.7/1", "", "its network is too large"),
            ("64.0.0.7/7", "64.0.0.1", "its network is too large"),
            ("fd05::7/8", "", "fd00::1/8"),
            ("fc00::7/7", "", "its network is too large"),
            ("2001:db8::7/32", "", "2001:db8::1/32"),
            ("2001:db8::7/31", "", "its network is too large"),
            ("2000::7/3", "2000::1", "its network is too large"),
            ("8000::7/1", "", "its network is too large"),
            ("fe80::7/10", "", "fe80::1/10"),
        ] {
            let said = gateway(pod, named);
            assert!(said.contains(says), "{pod} by {named:?}: {said}");
        }
    }
}
