use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use lan::Lan;
use net_types::{IfName, MacvtapMode, Mtu};
use netplumb::{LinkKind, Netlink};

/// The least MTU that IPv6 works with (RFC 8200, 5).
const V6_MTU: u32 = 1280;

/// The underlay device of a LAN on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Underlay {
    /// The name that the LAN states.
    pub(super) name: IfName,
    /// The device, if it exists.
    pub(super) link: Option<UnderlayLink>,
}

/// The attributes of an underlay device that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnderlayLink {
    pub(super) index: u32,
    pub(super) mtu: Mtu,
    pub(super) up: bool,
    pub(super) carrier: bool,
    /// Whether it sends and receives multicast.
    pub(super) multicast: bool,
    /// What takes all frames that arrive on it.
    pub(super) frame_taker: Option<FrameTaker>,
    /// The usable addresses of either family.
    pub(super) addresses: Addresses,
}

/// What takes the frames of a link before the node gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FrameTaker {
    /// A bridge, bond or similar link that it is a port of.
    Master(String),
    /// A macvlan or macvtap of the node in mode passthru.
    Passthru(String),
}

/// Which kinds of addresses a link has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) v4: bool,
    /// An IPv6 link-local address.
    pub(super) link_local: bool,
}

impl UnderlayLink {
    fn read(name: &IfName, host: &Netlink, frame_takers: &FrameTakers) -> Result<Option<Self>> {
        let Some(link) = host.link_by_name(name)? else { return Ok(None) };
        let master = link.master.map(|master| host.link_by_index(master)).transpose()?.flatten();
        let frame_taker = match master {
            // A link in a VRF keeps its own stack.
            Some(master) if matches!(&master.kind, LinkKind::Other(kind) if kind == "vrf") => None,
            Some(master) => Some(FrameTaker::Master(master.name)),
            None => None,
        };
        let mut addresses = Addresses::default();
        for address in host.addresses(Some(link.index))?.iter().filter(|address| !address.dad_failed) {
            match address.address.ip() {
                IpAddr::V4(_) => addresses.v4 = true,
                IpAddr::V6(ip) => addresses.link_local |= ip.is_unicast_link_local(),
            }
        }
        Ok(Some(Self {
            index: link.index,
            // Loopback's 65536 is not an MTU that a LAN could have.
            mtu: Mtu::try_from(u64::from(link.mtu)).unwrap_or(if link.mtu > Mtu::MAX.get() {
                Mtu::MAX
            } else {
                Mtu::MIN
            }),
            up: link.up,
            carrier: link.carrier,
            multicast: link.multicast,
            frame_taker: frame_taker
                .or_else(|| frame_takers.0.get(&link.index).cloned().map(FrameTaker::Passthru)),
            addresses,
        }))
    }
}

/// Links of the node in mode passthru, by the index of the link whose frames they take, up or not. Those in other
/// namespaces are not visible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameTakers(BTreeMap<u32, String>);

impl FrameTakers {
    pub(super) fn read(host: &Netlink) -> Result<Self> {
        let links = host.links()?.into_iter().filter(|link| link.lower_netnsid.is_none());
        let taker = |link: netplumb::Link| match &link.kind {
            LinkKind::Macvlan(info) | LinkKind::Macvtap(info) if info.mode == Some(MacvtapMode::Passthru) => {
                Some((link.lower?, link.name))
            }
            _ => None,
        };
        Ok(Self(links.filter_map(taker).collect()))
    }
}

/// The devices that were read in one reconcile, each once for all its LANs; `None`: it does not exist.
pub(super) struct UnderlayCache {
    frame_takers: FrameTakers,
    links: BTreeMap<IfName, Option<UnderlayLink>>,
}

impl UnderlayCache {
    pub(super) fn new(frame_takers: FrameTakers) -> Self {
        Self { frame_takers, links: BTreeMap::new() }
    }
}

impl Underlay {
    /// Finds the underlay of a LAN on this node; `None` if it has none here.
    pub(super) fn find(
        lan: &Lan,
        node: &str,
        host: &Netlink,
        cache: &mut UnderlayCache,
    ) -> Result<Option<Self>> {
        let Some(name) = lan.underlay(node) else { return Ok(None) };
        let link = match cache.links.entry(name.clone()) {
            Entry::Occupied(link) => link.get().clone(),
            Entry::Vacant(entry) => {
                entry.insert(UnderlayLink::read(name, host, &cache.frame_takers)?).clone()
            }
        };
        Ok(Some(Self { name: name.clone(), link }))
    }

    /// The MTU of the LAN, or reason and message why there is none.
    pub(super) fn mtu(&self, lan: &Lan) -> Result<Mtu, (&'static str, String)> {
        let Some(link) = &self.link else {
            let message = format!(
                "underlay {} does not exist on this node: create it, or change vxlanDevMap or defaultVxlanDev",
                self.name
            );
            return Err(("UnderlayMissing", message));
        };
        lan.mtu_on(link.mtu).map_err(|error| ("NoRoom", format!("underlay {}: {error}", self.name)))
    }

    /// The largest MTU that the LAN could have.
    pub(super) fn room(&self, lan: &Lan) -> Option<Mtu> {
        lan.room_on(self.link.as_ref()?.mtu)
    }

    /// The link and the IPv6 group that a LAN's VXLAN device makes it join; `None` if the link has no IPv6.
    pub(super) fn joined_group(&self, lan: &Lan) -> Option<(u32, Ipv6Addr)> {
        let (link, IpAddr::V6(group)) = (self.link.as_ref()?, lan.group.get()) else { return None };
        (link.up && link.addresses.link_local).then_some((link.index, group))
    }

    /// Why frames do not reach other nodes although the LAN is built: reason and message. `deaf`: the link has not
    /// joined the group.
    pub(super) fn complaint(&self, lan: &Lan, deaf: bool) -> Option<(&'static str, String)> {
        let (name, link) = (&self.name, self.link.as_ref()?);
        let group = lan.group.get();
        if !link.up {
            return Some(("UnderlayDown", format!("underlay {name} is down")));
        }
        match &link.frame_taker {
            Some(FrameTaker::Master(master)) => {
                let text = format!(
                    "underlay {name} is a port of {master}, which has all its frames, so other nodes are not heard: take it \
                     out there, or make {master} the underlay"
                );
                return Some(("UnderlayTaken", text));
            }
            Some(FrameTaker::Passthru(upper)) => {
                let text = format!(
                    "{upper} on underlay {name} is in mode passthru and has all its frames, so other nodes are not heard: \
                     remove it"
                );
                return Some(("UnderlayTaken", text));
            }
            None => {}
        }
        if !link.carrier {
            return Some(("NoCarrier", format!("underlay {name} has no carrier")));
        }
        if !link.multicast {
            let text = format!(
                "underlay {name} takes no multicast, but group {group} needs it: ip link set {name} multicast on"
            );
            return Some(("NoMulticast", text));
        }
        match group {
            IpAddr::V6(_) if !link.addresses.link_local => {
                let cure = match link.mtu.get() < V6_MTU {
                    true => format!("give it an MTU of {V6_MTU} at least, without which there is no IPv6"),
                    false => {
                        format!("switch IPv6 on there (net.ipv6.conf.{name}.disable_ipv6, addr_gen_mode)")
                    }
                };
                let text = format!(
                    "underlay {name} has no IPv6 link-local address, which group {group} needs: {cure}"
                );
                Some(("NoLinkLocal", text))
            }
            IpAddr::V6(_) if deaf => {
                let text = format!(
                    "underlay {name} is not in group {group}, so other nodes are not heard, and does not join it again: set \
                     every VXLAN device down that uses the group there, then up"
                );
                Some(("NotJoined", text))
            }
            IpAddr::V4(_) if !link.addresses.v4 => {
                let text =
                    format!("underlay {name} has no IPv4 address, which group {group} needs: give it one");
                Some(("NoAddress", text))
            }
            _ => None,
        }
    }
}
