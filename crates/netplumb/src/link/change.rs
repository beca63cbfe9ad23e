//! Changing and deleting links.

use std::os::fd::{AsFd, AsRawFd};

use net_types::{IfName, MacAddr, Mtu};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData,
    InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{AddrGenMode, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::{Request, by_index};
use crate::{Netlink, Netns, Result};

const IFLA_NEW_IFINDEX: u16 = 49;
const IFLA_IFALIAS: u16 = 20;

/// A change of a link; `None` leaves an attribute as it is.
#[derive(Clone, Debug, Default)]
pub struct LinkChange {
    /// Whether it is set up or down.
    pub up: Option<bool>,
    /// The new name (of a link that is up only since Linux 6.2).
    pub name: Option<IfName>,
    /// The MTU in bytes (`IFLA_MTU`).
    pub mtu: Option<Mtu>,
    /// The Ethernet address (`IFLA_ADDRESS`).
    pub mac: Option<MacAddr>,
    /// The bridge or bond that it becomes a port of, or none.
    pub master: Option<Master>,
    /// The alias, at most 255 bytes; the empty text removes it.
    pub alias: Option<String>,
    /// The link group (`IFLA_GROUP`), 0 by default.
    pub group: Option<u32>,
    /// Promiscuous mode as an administrator sets it.
    pub promisc: Option<bool>,
    /// Accept every multicast, whatever groups were joined, as an administrator sets it.
    pub allmulti: Option<bool>,
    /// Use neither ARP nor neighbour discovery.
    pub noarp: Option<bool>,
    /// Move it into this namespace, where it gets the name [`Self::name`] at once. Costs an RCU grace period of some
    /// 16 ms.
    pub netns: Option<Netns>,
    /// With [`Self::netns`]: its index there; by default it keeps its index if that is free.
    pub new_index: Option<u32>,
    /// How IPv6 makes its link-local address. Not together with [`Self::netns`]: a move resets it.
    pub addr_gen_mode: Option<AddrGenMode>,
    /// For a bridge: its own attributes.
    pub bridge: Option<BridgeChange>,
    /// For a bridge port: how the bridge treats it.
    pub port: Option<PortChange>,
}

/// The master of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master {
    /// No master: it stops being a port.
    None,
    /// The bridge or bond with this index.
    Index(u32),
}

/// A change of a bridge; `None` leaves an attribute as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeChange {
    /// Whether the spanning tree protocol is used.
    pub stp: Option<bool>,
    /// Whether IGMP and MLD are snooped.
    pub mcast_snooping: Option<bool>,
    /// Whether frames are filtered by VLAN.
    pub vlan_filtering: Option<bool>,
    /// How long a learned address is kept, in hundredths of a second.
    pub ageing_time: Option<u32>,
    /// How many addresses it learns at most, 0: without a limit (Linux 6.7; ignored before).
    pub fdb_max_learned: Option<u32>,
}

/// A change of a bridge port; `None` leaves an attribute as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortChange {
    /// The link-local groups 01-80-C2-00-00-0X that it forwards, one bit for each X; the kernel refuses bit 1
    /// (PAUSE).
    pub group_fwd_mask: Option<u16>,
    /// Whether it forwards only to ports that are not isolated.
    pub isolated: Option<bool>,
    /// Whether it sends frames back to the port that they came from.
    pub hairpin: Option<bool>,
    /// Whether the bridge learns addresses from its frames.
    pub learning: Option<bool>,
    /// Whether frames to unknown addresses leave by it.
    pub unicast_flood: Option<bool>,
    /// Spanning tree state, see [`super::BridgePort::state`]; only without spanning tree.
    pub state: Option<u8>,
}

impl Netlink {
    /// Changes a link, in one message where the kernel allows it. Separate messages, in this order, are needed for
    /// the IPv6 mode of a link that is to be up (the kernel sets it up first, and would make the address), and for
    /// the port attributes of a link that gets a new master (the kernel looks up the master before it sets it).
    ///
    /// The kernel applies the parts of a message one after the other and stops at the first that it refuses
    /// (`do_setlink` in `net/core/rtnetlink.c`).
    ///
    /// # Errors
    /// The kernel refuses; a missing link is [`crate::Error::is_not_found`].
    pub fn set_link(&self, index: u32, change: &LinkChange) -> Result<()> {
        let object = by_index(index);
        let send = |body: &LinkMessage| {
            self.command(&Request {
                operation: "change link",
                object: &object,
                kind: RTM_NEWLINK,
                flags: 0,
                body,
            })
        };
        if change.up == Some(true) && change.addr_gen_mode.is_some() && change.netns.is_none() {
            let first = LinkChange { addr_gen_mode: change.addr_gen_mode, ..LinkChange::default() };
            send(&message(index, &first, None))?;
        }
        match (&change.port, change.master) {
            (Some(port), Some(Master::Index(_))) => {
                send(&message(index, change, None))?;
                send(&message(index, &LinkChange::default(), Some(port)))
            }
            (port, _) => send(&message(index, change, port.as_ref())),
        }
    }

    /// Deletes a link; a missing link is success. The kernel also deletes what depends on it: the peer of a veth, the
    /// macvtaps on it, in any namespace.
    ///
    /// # Errors
    /// The kernel refuses: EOPNOTSUPP for a physical link.
    pub fn delete_link(&self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let object = by_index(index);
        let request = Request {
            operation: "delete link",
            object: &object,
            kind: RTM_DELLINK,
            flags: 0,
            body: &message,
        };
        match self.command(&request) {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }
}

fn message(index: u32, change: &LinkChange, port: Option<&PortChange>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    for (flag, wanted) in [
        (LinkFlags::Up, change.up),
        (LinkFlags::Promisc, change.promisc),
        (LinkFlags::Allmulti, change.allmulti),
        (LinkFlags::Noarp, change.noarp),
    ] {
        if let Some(on) = wanted {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, on);
        }
    }
    let attributes = &mut message.attributes;
    if let Some(name) = &change.name {
        attributes.push(LinkAttribute::IfName(name.to_string()));
    }
    if let Some(mtu) = change.mtu {
        attributes.push(LinkAttribute::Mtu(mtu.get()));
    }
    if let Some(mac) = change.mac {
        attributes.push(LinkAttribute::Address(mac.octets().to_vec()));
    }
    if let Some(master) = change.master {
        attributes.push(LinkAttribute::Controller(match master {
            Master::None => 0,
            Master::Index(index) => index,
        }));
    }
    if let Some(alias) = &change.alias {
        // Without a final NUL: only an attribute of length 0 removes the alias.
        attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, alias.clone().into_bytes())));
    }
    if let Some(group) = change.group {
        attributes.push(LinkAttribute::Group(group));
    }
    if let Some(netns) = &change.netns {
        attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        if let Some(index) = change.new_index {
            // The crate's type has only the form of an answer, which is the same.
            attributes
                .push(LinkAttribute::Other(DefaultNla::new(IFLA_NEW_IFINDEX, index.to_ne_bytes().into())));
        }
    }
    if let Some(mode) = change.addr_gen_mode {
        let mode = match mode {
            AddrGenMode::Eui64 => In6AddrGenMode::Eui64,
            AddrGenMode::None => In6AddrGenMode::None,
            AddrGenMode::StablePrivacy => In6AddrGenMode::StablePrivacy,
            AddrGenMode::Random => In6AddrGenMode::Random,
            AddrGenMode::Other(mode) => In6AddrGenMode::Other(mode),
        };
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        attributes.push(LinkAttribute::AfSpecUnspec(vec![inet6]));
    }
    let mut info = Vec::new();
    if let Some(bridge) = &change.bridge {
        info.push(LinkInfo::Kind(InfoKind::Bridge));
        info.push(LinkInfo::Data(InfoData::Bridge(bridge_data(bridge))));
    }
    if let Some(port) = port {
        info.push(LinkInfo::PortKind(InfoPortKind::Bridge));
        info.push(LinkInfo::PortData(InfoPortData::BridgePort(port_data(port))));
    }
    if !info.is_empty() {
        attributes.push(LinkAttribute::LinkInfo(info));
    }
    message
}

fn bridge_data(change: &BridgeChange) -> Vec<InfoBridge> {
    let stp = |on| if on { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    [
        change.stp.map(stp).map(InfoBridge::StpState),
        change.mcast_snooping.map(InfoBridge::MulticastSnooping),
        change.vlan_filtering.map(InfoBridge::VlanFiltering),
        change.ageing_time.map(InfoBridge::AgeingTime),
        change.fdb_max_learned.map(InfoBridge::FdbMaxLearned),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn port_data(change: &PortChange) -> Vec<InfoBridgePort> {
    [
        change.group_fwd_mask.map(InfoBridgePort::GroupFwdMask),
        change.isolated.map(InfoBridgePort::Isolated),
        change.hairpin.map(InfoBridgePort::HairpinMode),
        change.learning.map(InfoBridgePort::Learning),
        change.unicast_flood.map(InfoBridgePort::UnicastFlood),
        change.state.map(|state| InfoBridgePort::State(state.into())),
    ]
    .into_iter()
    .flatten()
    .collect()
}
