//! Whether the node itself uses a link that an attachment would take.

use std::fmt;

use ipnetwork::IpNetwork;
use net_types::MacAddr;
use netplumb::{Address, Link, LinkKind, Netlink};
use node::{Attachment, Paths, SafeDir, Underlays};
use serde::Deserialize;

/// How the node uses a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeUse {
    /// A LAN, with this key, has it as underlay.
    Lan(String),
    /// Another link of the node is on top of it.
    Upper(String),
    /// It has this address.
    Address(IpNetwork),
    /// It is the outgoing link of a route.
    Route(IpNetwork),
    /// A link of another namespace, with this MAC address, is on top of it.
    Beyond(MacAddr),
    /// The macvtap of another attachment, in this container, is on top of it.
    Macvtap(String),
    /// It is not known whether a LAN or an attachment has it.
    Unknown,
}

impl NodeUse {
    /// How the node uses a link; `None` if nothing is lost when it is taken. Of the links in other namespaces on top
    /// of it, which the kernel does not show, only those of LANs are known.
    ///
    /// # Errors
    /// The kernel refuses a dump.
    pub fn find(host: &Netlink, link: &Link, underlays: &Underlays) -> netplumb::Result<Option<Self>> {
        if let Some(lan) = Self::lan(link, underlays) {
            return Ok(Some(lan));
        }
        if let Some(own) = not_automatic(&host.addresses(Some(link.index))?, link) {
            return Ok(Some(Self::Address(own)));
        }
        if let Some(upper) = host.links()?.into_iter().find(|other| is_on(other, link.index)) {
            return Ok(Some(Self::Upper(upper.name)));
        }
        let route = host
            .routes_and_group_routes(link.index)?
            .into_iter()
            .find(|route| !everywhere(route.destination));
        Ok(route.map(|route| Self::Route(route.destination)))
    }

    /// How the node, or a pod, uses a link that k8slan made and would remove; `None` if nothing is lost with it. What
    /// is on top of it in another namespace is known from the records of LANs and macvtaps, and from the MAC addresses
    /// that the link accepts for others: a macvlan adds its own while it is up.
    ///
    /// # Errors
    /// The kernel refuses a dump.
    pub fn of_own_link(host: &Netlink, link: &Link, paths: &Paths) -> netplumb::Result<Option<Self>> {
        // A record that cannot be read must not cost anybody the link.
        let Ok(underlays) = Underlays::read(paths) else { return Ok(Some(Self::Unknown)) };
        if let Some(here) = Self::find(host, link, &underlays)? {
            return Ok(Some(here));
        }
        let accepted = host.fdb(link.index)?.into_iter().find(|entry| {
            entry.index == link.index && entry.own && entry.master.is_none() && entry.mac.is_some()
        });
        if let Some(mac) = accepted.and_then(|entry| entry.mac) {
            return Ok(Some(Self::Beyond(mac)));
        }
        Ok(macvtap_on(paths, link.index))
    }

    /// The use by a LAN, if the link carries one.
    #[must_use]
    pub fn lan(link: &Link, underlays: &Underlays) -> Option<Self> {
        underlays.lan_on(&link.name, link.index).map(|lan| Self::Lan(lan.to_owned()))
    }
}

impl fmt::Display for NodeUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lan(lan) => write!(f, "it is the underlay of LAN {lan}"),
            Self::Upper(name) => write!(f, "link {name} is on it"),
            Self::Address(address) => write!(f, "it has address {address}"),
            Self::Route(destination) => write!(f, "the route to {destination} leads over it"),
            Self::Beyond(mac) => write!(f, "a link of another namespace, with MAC address {mac}, is on it"),
            Self::Macvtap(container) => write!(f, "the macvtap of container {container} is on it"),
            Self::Unknown => write!(f, "the records that would say who uses it cannot be read"),
        }
    }
}

/// The part of a macvtap's record that says what it is on.
#[derive(Deserialize)]
struct OnLower {
    attachment: Attachment,
    lower: Option<u32>,
}

/// The live attachment that has a macvtap on the link, if there is one. Its link may be down.
fn macvtap_on(paths: &Paths, index: u32) -> Option<NodeUse> {
    let taps = match SafeDir::open(&paths.taps()) {
        Ok(Some(taps)) => taps,
        Ok(None) => return None,
        Err(_) => return Some(NodeUse::Unknown),
    };
    let Ok(names) = taps.names() else { return Some(NodeUse::Unknown) };
    names.iter().find_map(|name| {
        let record: OnLower = serde_json::from_slice(&taps.read(name).ok()??).ok()?;
        let is_on_it = record.lower == Some(index) && record.attachment.is_live();
        is_on_it.then_some(NodeUse::Macvtap(record.attachment.container_id))
    })
}

/// Whether a link is on top of the one with that index. A veth's "lower" link is its peer.
fn is_on(link: &Link, index: u32) -> bool {
    let pair = match &link.kind {
        LinkKind::Veth => true,
        LinkKind::Other(kind) => kind == "netkit" || kind == "vxcan",
        _ => false,
    };
    let vxlan = match &link.kind {
        LinkKind::Vxlan(vxlan) => vxlan.underlay,
        _ => None,
    };
    !pair && link.lower_netnsid.is_none() && (link.lower == Some(index) || vxlan == Some(index))
}

/// The first configured address of the link: any except the link-local one that IPv6 makes itself.
fn not_automatic(addresses: &[Address], link: &Link) -> Option<IpNetwork> {
    let told = addresses.iter().any(|address| address.protocol == Address::KERNEL_LINK_LOCAL);
    let automatic = |address: &Address| {
        let IpNetwork::V6(v6) = address.address else { return false };
        v6.ip().is_unicast_link_local()
            && (address.protocol == Address::KERNEL_LINK_LOCAL
                // Kernels before 5.18 do not report it.
                || !told && link.mac.is_some_and(|mac| v6.ip() == mac.link_local()))
    };
    addresses.iter().find(|address| !automatic(address)).map(|address| address.address)
}

/// Destinations that every link has a route to, by the kernel: link-local ones and all groups, of IPv6 alone. A route to
/// one group or some is somebody's.
fn everywhere(destination: IpNetwork) -> bool {
    match destination {
        IpNetwork::V4(_) => false,
        IpNetwork::V6(v6) => {
            v6.ip().is_unicast_link_local()
                || v6.ip().is_multicast() && v6.prefix() == 8 && v6.ip().segments()[0] == 0xff00
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: LinkKind, lower: Option<u32>) -> Link {
        Link {
            index,
            name: "eth1".into(),
            mac: "02:00:00:00:00:01".parse().ok(),
            mtu: 1500,
            min_mtu: None,
            max_mtu: None,
            up: true,
            carrier: true,
            operational: true,
            noarp: false,
            promisc: false,
            allmulti: false,
            allmulti_count: None,
            multicast: true,
            proto_down: false,
            master: None,
            lower,
            lower_netnsid: None,
            alias: None,
            group: 0,
            kind,
            port: None,
            addr_gen_mode: None,
        }
    }

    fn address(text: &str, protocol: u8) -> Address {
        Address {
            index: 3,
            address: text.parse().unwrap(),
            scope: 253,
            tentative: false,
            dad_failed: false,
            nodad: false,
            noprefixroute: false,
            permanent: true,
            protocol,
        }
    }

    #[test]
    fn only_the_automatic_link_local_address_is_nobodys() {
        let eth = link(3, LinkKind::Other(String::new()), None);
        let used = |addresses: &[Address]| not_automatic(addresses, &eth).map(|a| a.to_string());
        assert_eq!(used(&[]), None);
        assert_eq!(used(&[address("fe80::ff:fe00:1/64", 3)]), None);
        assert_eq!(used(&[address("fe80::1234/64", 3)]), None, "made by RFC 7217");
        assert_eq!(used(&[address("fe80::ff:fe00:1/64", 0)]), None, "an old kernel");
        for (text, with_one_of_the_kernels) in [
            ("fe80::1/64", false),
            ("fe80::1/64", true),
            ("169.254.3.4/16", true),
            ("192.0.2.1/32", true),
            ("2001:db8::1/64", true),
        ] {
            let mut addresses = vec![address(text, 0)];
            if with_one_of_the_kernels {
                addresses.insert(0, address("fe80::ff:fe00:1/64", 3));
            }
            assert_eq!(used(&addresses).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_stands_on_a_link_and_what_is_beside_it() {
        let macvlan = || LinkKind::Other("macvlan".into());
        assert!(is_on(&link(9, macvlan(), Some(3)), 3));
        assert!(!is_on(&link(9, macvlan(), Some(4)), 3));
        assert!(!is_on(&link(9, LinkKind::Veth, Some(3)), 3), "a veth's peer");
        let mut elsewhere = link(9, macvlan(), Some(3));
        elsewhere.lower_netnsid = Some(0);
        assert!(!is_on(&elsewhere, 3), "on a link of that index in another namespace");
    }

    #[test]
    fn routes_that_every_link_has_are_no_use() {
        for (text, every) in [
            ("fe80::/64", true),
            ("ff00::/8", true),
            ("ff05::/16", false),
            ("ff02::/16", false),
            ("239.0.0.0/8", false),
            ("224.0.0.0/4", false),
            ("10.0.0.0/8", false),
            ("0.0.0.0/0", false),
            ("::/0", false),
        ] {
            assert_eq!(everywhere(text.parse().unwrap()), every, "{text}");
        }
    }
}
