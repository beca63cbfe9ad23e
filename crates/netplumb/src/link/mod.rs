//! Links: their attributes, and reading them.

mod alt_names;
mod beyond;
mod bridge_vlan;
mod change;
mod create;
mod decode;
mod new_link;
mod settings;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use net_types::{IfName, MacAddr, MacvtapMode, VlanId};
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

pub use bridge_vlan::{BridgeMember, BridgeVlans, VlanFiltering, VlanInfo, VlanLink, VlanProtocol};
pub use change::{BridgeChange, LinkChange, Master, PortChange};
pub use create::{Bridge, Macvtap, Veth, VethIndexes, Vxlan};
pub use new_link::NewLink;
pub use settings::LinkSettings;

use crate::netlink::{Request, by_index, by_name};
use crate::{Errno, Error, Netlink, Object, Result};

/// The index of `lo` in every namespace.
pub const LO: u32 = 1;

/// A link as the kernel describes it (`struct ifinfomsg` and `IFLA_*` of `linux/if_link.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The index in its namespace.
    pub index: u32,
    /// The name in its namespace. Text, since the kernel allows bytes that an [`IfName`] does not.
    pub name: String,
    /// The Ethernet address; `None` for links without one and for all zeros.
    pub mac: Option<MacAddr>,
    /// The MTU in bytes (`IFLA_MTU`).
    pub mtu: u32,
    /// The least MTU that its driver accepts, if it says so.
    pub min_mtu: Option<u32>,
    /// The largest MTU that its driver accepts, if it says so.
    pub max_mtu: Option<u32>,
    /// Set up by an administrator (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`): for a veth, that its peer is up; always false while down.
    pub carrier: bool,
    /// Up, and the kernel has processed the carrier change and passes frames (`IFLA_OPERSTATE` up, or unknown for
    /// links without a real carrier; RFC 2863). It follows the carrier a little later, see
    /// [`Netlink::wait_operational`].
    pub operational: bool,
    /// Uses neither ARP nor neighbour discovery (`IFF_NOARP`).
    pub noarp: bool,
    /// Set promiscuous by an administrator (`IFF_PROMISC`).
    pub promisc: bool,
    /// Set by an administrator to accept every multicast (`IFF_ALLMULTI`).
    pub allmulti: bool,
    /// How many need it to accept every multicast (`IFLA_ALLMULTI`), the links on it among them; kernels before 6.0 do
    /// not say.
    pub allmulti_count: Option<u32>,
    /// Can send and receive multicast (`IFF_MULTICAST`).
    pub multicast: bool,
    /// Kept without a carrier, whatever its lower link has (`IFLA_PROTO_DOWN`).
    pub proto_down: bool,
    /// Index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Index of the link below it, or of its veth peer (`IFLA_LINK`); in the namespace
    /// [`Self::lower_netnsid`] if that is set, else in its own.
    pub lower: Option<u32>,
    /// The other namespace that `lower` is in, as the kernel numbers it in the link's namespace.
    pub lower_netnsid: Option<i32>,
    /// The text that an administrator gave it, at most 255 bytes; k8slan's owner tags are there.
    pub alias: Option<String>,
    /// The number of its link group, 0 by default.
    pub group: u32,
    /// Its kind with the attributes of that kind.
    pub kind: LinkKind,
    /// How it behaves as a port of a bridge, if it is one.
    pub port: Option<BridgePort>,
    /// How IPv6 makes its link-local address; `None` if IPv6 is off.
    pub addr_gen_mode: Option<AddrGenMode>,
}

/// The kind of a link, with the attributes that k8slan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkKind {
    /// One end of a veth pair.
    Veth,
    /// A bridge with its own attributes.
    Bridge(BridgeInfo),
    /// A VXLAN device with its attributes.
    Vxlan(VxlanInfo),
    /// A macvlan with a character device.
    Macvtap(MacvlanInfo),
    /// A macvlan without a character device.
    Macvlan(MacvlanInfo),
    /// A VLAN device with its attributes.
    Vlan(VlanInfo),
    /// Another kind, by the kernel's name; empty for links without one, as physical ones and `lo`.
    Other(String),
}

/// A bridge's own attributes (`IFLA_BR_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeInfo {
    /// Whether the spanning tree protocol is used.
    pub stp: bool,
    /// Whether IGMP and MLD are snooped.
    pub mcast_snooping: bool,
    /// Whether frames are filtered by VLAN.
    pub vlan_filtering: bool,
    /// The tag that the bridge filters by.
    pub vlan_protocol: VlanProtocol,
    /// The VLAN that new members carry untagged.
    pub vlan_default_pvid: Option<VlanId>,
    /// Link-local groups 01-80-C2-00-00-0X that it forwards, a bit for each X.
    pub group_fwd_mask: u16,
    /// How long a learned address is kept, in hundredths of a second.
    pub ageing_time: u32,
    /// How many addresses it learns at most, 0: without a limit; `None`: the kernel has none (before Linux 6.7).
    pub fdb_max_learned: Option<u32>,
}

/// A VXLAN device's attributes (`IFLA_VXLAN_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanInfo {
    /// The network identifier (VNI); the kernel also allows 0.
    pub vni: u32,
    /// Where unknown and broadcast frames are sent: a multicast group or one remote.
    pub remote: Option<IpAddr>,
    /// Index of the underlay device, in the namespace that the VXLAN was created from.
    pub underlay: Option<u32>,
    /// The UDP port of the tunnel (`IFLA_VXLAN_PORT`).
    pub port: u16,
    /// Whether it learns addresses from received frames.
    pub learning: bool,
    /// Time to live of the outer packet, 0: the default (1 for multicast).
    pub ttl: u8,
    /// Takes VNI and remote from each packet's metadata (Open vSwitch, eBPF).
    pub collect_metadata: bool,
}

/// A macvlan's or macvtap's attributes (`IFLA_MACVLAN_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacvlanInfo {
    /// The mode; `None` for `source` and modes that this crate does not know.
    pub mode: Option<MacvtapMode>,
    /// Leaves its lower device's promiscuity alone (`MACVLAN_FLAG_NOPROMISC`).
    pub nopromisc: bool,
}

/// How a bridge treats one of its ports (`IFLA_BRPORT_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// The link-local groups 01-80-C2-00-00-0X that it forwards, one bit for each X.
    pub group_fwd_mask: u16,
    /// Whether it forwards only to ports that are not isolated.
    pub isolated: bool,
    /// Whether it sends frames back to the port that they came from.
    pub hairpin: bool,
    /// Whether the bridge learns addresses from its frames.
    pub learning: bool,
    /// Whether frames to unknown addresses leave by it.
    pub unicast_flood: bool,
    /// Whether multicast frames leave by it.
    pub multicast_flood: bool,
    /// Whether broadcast frames leave by it.
    pub broadcast_flood: bool,
    /// Whether it accepts frames only from addresses with a static entry (`bridge link set … locked on`).
    pub locked: bool,
    /// Whether neighbour discovery and ARP are kept from leaving by it.
    pub neigh_suppress: bool,
    /// Spanning tree state: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking.
    pub state: u8,
}

/// How IPv6 makes a link-local address (`IN6_ADDR_GEN_MODE_*` of `linux/if_link.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddrGenMode {
    /// Derived from the MAC address.
    Eui64,
    /// No link-local address is made.
    None,
    /// RFC 7217 with the secret of the namespace.
    StablePrivacy,
    /// RFC 7217 with a random secret.
    Random,
    /// A number that this crate does not know.
    Other(u8),
}

impl Link {
    /// The name as a type; `None` if it is one that the kernel allows and an [`IfName`] does not.
    #[must_use]
    pub fn if_name(&self) -> Option<IfName> {
        self.name.parse().ok()
    }
}

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
/// The size of `struct ifinfomsg` in bytes.
const IFINFOMSG: usize = 16;

impl Netlink {
    /// The link with that name in this namespace, also by one of its alternative names.
    ///
    /// # Errors
    /// The kernel refuses; a missing link is `None`.
    pub fn link_by_name(&self, name: &IfName) -> Result<Option<Link>> {
        let message = get_message(0, vec![LinkAttribute::IfName(name.to_string())]);
        self.read_link(&message, &by_name(name), decode::link)
    }

    /// The link with that index in this namespace.
    ///
    /// # Errors
    /// The kernel refuses; a missing link is `None`.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        self.read_link(&get_message(index, Vec::new()), &by_index(index), decode::link)
    }

    /// Reads one link, with a parser for the body of `RTM_NEWLINK`. A missing link is `None`.
    fn read_link<T>(
        &self,
        message: &LinkMessage,
        object: &dyn Fn() -> Object,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let request =
            Request { operation: "read link", object, kind: RTM_GETLINK, flags: NLM_F_ACK, body: message };
        let mut read = None;
        match self.request(&request, |kind, body| {
            if kind == RTM_NEWLINK {
                read = parse(body);
            }
            Ok(())
        }) {
            Ok(()) => Ok(read),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until a link passes frames; returns whether it does. After the carrier comes up, the kernel takes some
    /// time to start the link's queue, and the bridge its port; until then frames are lost silently.
    ///
    /// On kernels since 6.7, reading a link makes the kernel do it at once (`linkwatch_sync_dev`), so there is
    /// nothing to wait for; on older ones this reads the link every two milliseconds. A link without a carrier uses
    /// up all the time.
    ///
    /// # Errors
    /// The kernel refuses; a missing link is ENODEV.
    pub fn wait_operational(&self, index: u32, at_most: Duration) -> Result<bool> {
        let end = Instant::now() + at_most;
        loop {
            let link = self
                .link_by_index(index)?
                .ok_or_else(|| Error::system("wait for link", index, Errno::ENODEV))?;
            if link.operational {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(Duration::from_millis(2)));
        }
    }

    /// All links of this namespace.
    ///
    /// # Errors
    /// The kernel refuses, or the table changes faster than it can be read.
    pub fn links(&self) -> Result<Vec<Link>> {
        self.dump_links(Vec::new())
    }

    /// The ports of a bridge or bond; the kernel filters them.
    ///
    /// # Errors
    /// As [`Self::links`].
    pub fn ports(&self, master: u32) -> Result<Vec<Link>> {
        let mut ports = self.dump_links(vec![LinkAttribute::Controller(master)])?;
        // A kernel without this filter sends all links.
        ports.retain(|link| link.master == Some(master));
        Ok(ports)
    }

    /// The links of a group. The kernel has no such filter (`rtnl_dump_ifinfo`), so all are read.
    ///
    /// # Errors
    /// As [`Self::links`].
    pub fn links_in_group(&self, group: u32) -> Result<Vec<Link>> {
        let mut links = self.links()?;
        links.retain(|link| link.group == group);
        Ok(links)
    }

    fn dump_links(&self, filter: Vec<LinkAttribute>) -> Result<Vec<Link>> {
        let message = get_message(0, filter);
        let object = || Object::from("of the namespace");
        let request =
            Request { operation: "read links", object: &object, kind: RTM_GETLINK, flags: 0, body: &message };
        self.dump(&request, |kind, body| Ok((kind == RTM_NEWLINK).then(|| decode::link(body)).flatten()))
    }
}

/// A request to read links; without statistics, the largest part of an answer.
fn get_message(index: u32, mut attributes: Vec<LinkAttribute>) -> LinkMessage {
    attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

#[cfg(feature = "monitor")]
pub(crate) use decode::link as decode_link;
