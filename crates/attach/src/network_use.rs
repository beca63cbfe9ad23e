//! Whether the node itself has a network in which an attachment would give it an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netplumb::{Address, Netlink, Route};

/// How the node uses a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkUse {
    /// It has an address or a route in it.
    Link {
        /// The name of the link that it uses it by.
        link: String,
        /// The address or route that it has in it.
        what: InNetwork,
    },
    /// Clouds have this address in it, which their nodes reach by the default route.
    Metadata(IpAddr),
}

/// An address or a route in a network, see [`NetworkUse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InNetwork {
    /// The link's address, with the length of its network.
    Address(IpNetwork),
    /// The destination of a route over the link.
    Route(IpNetwork),
}

/// Where nodes in a cloud get what the cloud tells them, credentials among it: whoever answers there is believed. Of
/// Amazon, Azure, Google, OpenStack and others; of Amazon with IPv6; of Alibaba.
const CLOUD_METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

impl NetworkUse {
    /// Finds how the node uses a network by any link except one; `None` if the network is new to it. Link-local IPv6
    /// networks are each link's own, and a default route does not count.
    ///
    /// # Errors
    /// The kernel refuses a dump.
    pub fn find(host: &Netlink, network: IpNetwork, but: Option<u32>) -> netplumb::Result<Option<Self>> {
        let found = match by_address(network, but, &host.addresses(None)?) {
            Some(found) => Some(found),
            None => by_route(network, but, &host.routes(None)?),
        };
        let Some((index, what)) = found else { return Ok(None) };
        let link = host.link_by_index(index)?.map_or_else(|| index.to_string(), |link| link.name);
        Ok(Some(Self::Link { link, what }))
    }

    /// The use by a cloud, if the network has an address in it where a cloud's metadata service answers.
    #[must_use]
    pub fn by_cloud(network: IpNetwork) -> Option<Self> {
        CLOUD_METADATA.into_iter().find(|service| network.contains(*service)).map(Self::Metadata)
    }
}

fn by_address(network: IpNetwork, but: Option<u32>, all: &[Address]) -> Option<(u32, InNetwork)> {
    all.iter()
        .find(|have| Some(have.index) != but && meet(network, have.address))
        .map(|have| (have.index, InNetwork::Address(have.address)))
}

fn by_route(network: IpNetwork, but: Option<u32>, all: &[Route]) -> Option<(u32, InNetwork)> {
    let mut leading_there = all.iter().filter(|route| {
        route.destination.prefix() > 0 && meet(network, route.destination) && route.index != but
    });
    leading_there.find_map(|route| Some((route.index?, InNetwork::Route(route.destination))))
}

/// Whether two networks have common addresses that are not link-local.
fn meet(one: IpNetwork, other: IpNetwork) -> bool {
    let on_every_link = |network: IpNetwork| match network {
        IpNetwork::V4(_) => network.ip().is_multicast(),
        IpNetwork::V6(v6) => v6.network().is_unicast_link_local() || v6.network().is_multicast(),
    };
    !on_every_link(one)
        && !on_every_link(other)
        && (one.contains(other.network()) || other.contains(one.network()))
}

impl fmt::Display for NetworkUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { link, what: InNetwork::Address(address) } => {
                write!(f, "link {link} has address {address}")
            }
            Self::Link { link, what: InNetwork::Route(to) } => {
                write!(f, "the route to {to} leads over link {link}")
            }
            Self::Metadata(service) => {
                write!(f, "{service} is where nodes in a cloud ask its metadata service")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn address(index: u32, text: &str) -> Address {
        Address {
            index,
            address: network(text),
            scope: 0,
            tentative: false,
            dad_failed: false,
            nodad: false,
            noprefixroute: false,
            permanent: true,
            protocol: 0,
        }
    }

    #[test]
    fn networks_meet_where_one_is_in_the_other() {
        for (one, other, wanted) in [
            ("192.0.2.1/25", "192.0.2.10/24", true),
            ("192.0.2.1/24", "192.0.2.10/32", true),
            ("192.0.2.1/32", "192.0.2.10/24", true),
            ("192.0.2.129/25", "192.0.2.10/25", false),
            ("0.0.0.1/0", "192.0.2.10/24", true),
            ("10.0.0.1/8", "fd00::1/64", false),
            ("fd00::1/64", "fd00::9/128", true),
            ("fd00::1/64", "fd00:0:0:1::1/64", false),
            ("fe80::1/64", "fe80::9/64", false),
            ("fd00::1/8", "ff00::/8", false),
            ("169.254.0.1/16", "169.254.20.10/32", true),
        ] {
            assert_eq!(meet(network(one), network(other)), wanted, "{one} and {other}");
            assert_eq!(meet(network(other), network(one)), wanted, "{other} and {one}");
        }
    }

    #[test]
    fn metadata_services_are_the_clouds() {
        for (text, of_cloud) in [
            ("169.254.0.1/16", true),
            ("169.254.169.1/24", true),
            ("169.254.1.1/24", false),
            ("100.64.0.1/10", true),
            ("100.64.0.1/16", false),
            ("fd00::1/16", true),
            ("fd00::1/64", false),
            ("10.0.0.1/8", false),
        ] {
            assert_eq!(NetworkUse::by_cloud(network(text)).is_some(), of_cloud, "{text}");
        }
    }

    #[test]
    fn the_legs_own_link_and_default_routes_do_not_count() {
        let have = [address(1, "127.0.0.1/8"), address(7, "10.9.0.7/24")];
        let leg = network("10.9.0.1/24");
        assert_eq!(by_address(leg, Some(7), &have), None);
        assert_eq!(by_address(leg, None, &have), Some((7, InNetwork::Address(network("10.9.0.7/24")))));
        let route = |to: &str, link: u32| Route::new(network(to), None, Some(link));
        let routes = [route("0.0.0.0/0", 3), route("10.9.0.0/24", 7)];
        assert_eq!(by_route(leg, Some(7), &routes), None);
        // A route with two next hops counts as two.
        let both = [route("10.0.0.0/8", 7), route("10.0.0.0/8", 3)];
        assert_eq!(by_route(leg, Some(7), &both), Some((3, InNetwork::Route(network("10.0.0.0/8")))));
        let nowhere = Route::new(leg, None, None);
        assert_eq!(by_route(leg, Some(7), &[nowhere]), None, "leads nowhere");
    }
}
