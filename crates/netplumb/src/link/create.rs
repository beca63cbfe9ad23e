//! Creating links: each by one `RTM_NEWLINK`, so that a crash leaves nothing half made.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use net_types::{IfName, MacvtapMode, UdpPort, VlanId, Vni};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoMacVtap, InfoVeth, InfoVxlan, LinkAttribute,
    LinkFlags, LinkMessage, MacVtapMode,
};
use nix::errno::Errno;

use super::new_link::NewLink;
use super::{LinkChange, RTM_NEWLINK, VlanFiltering};
use crate::attrs::{Attrs, u32_at};
use crate::netlink::{Request, by_name};
use crate::{Error, Netlink, Result};

/// A veth pair to create.
#[derive(Clone, Debug)]
pub struct Veth {
    /// The end that becomes a port of [`Self::master`].
    pub main: NewLink,
    /// The end opposite to `main`.
    pub peer: NewLink,
    /// Index of the bridge that the main end becomes a port of, in the main end's namespace.
    pub master: Option<u32>,
}

/// The indexes of a new veth pair, each in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VethIndexes {
    /// The index of [`Veth::main`] in its namespace.
    pub main: u32,
    /// The index of [`Veth::peer`] in its namespace.
    pub peer: u32,
}

/// A bridge to create.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// What every new link has.
    pub link: NewLink,
    /// Whether the spanning tree protocol is used.
    pub stp: bool,
    /// Whether IGMP and MLD are snooped. The kernel's default is on, here it is off: without a querier on the LAN, a
    /// snooping bridge drops IPv6 groups.
    pub mcast_snooping: bool,
    /// VLAN filtering; off by default.
    pub vlan_filtering: Option<VlanFiltering>,
    /// The link-local groups 01-80-C2-00-00-0X that it forwards, one bit for each X.
    pub group_fwd_mask: Option<u16>,
    /// How long a learned address is kept, in hundredths of a second.
    pub ageing_time: Option<u32>,
    /// How many addresses it learns at most (Linux 6.7; ignored before); `None`: without a limit.
    pub fdb_max_learned: Option<u32>,
}

/// A VXLAN device to create.
#[derive(Clone, Debug)]
pub struct Vxlan {
    /// What every new link has.
    pub link: NewLink,
    /// The network identifier (`IFLA_VXLAN_ID`).
    pub vni: Vni,
    /// Index of the underlay device in the *socket's* namespace, where it stays.
    pub underlay: u32,
    /// Where unknown and broadcast frames are sent: a multicast group, or one remote.
    pub remote: IpAddr,
    /// The UDP port of the tunnel (`IFLA_VXLAN_PORT`).
    pub port: UdpPort,
    /// Time to live of the outer packets; 0 is the kernel's default, which is 1 for multicast.
    pub ttl: u8,
    /// Whether it learns addresses from received frames.
    pub learning: bool,
    /// How many addresses its table has at most (`IFLA_VXLAN_LIMIT`); `None`: without a limit.
    pub limit: Option<u32>,
    /// Index of the bridge that it becomes a port of, in its own namespace.
    pub master: Option<u32>,
}

/// A macvtap to create.
#[derive(Clone, Debug)]
pub struct Macvtap {
    /// What every new link has.
    pub link: NewLink,
    /// The index of its lower link, in the *socket's* namespace.
    pub lower: u32,
    /// What it passes to its siblings (`IFLA_MACVLAN_MODE`).
    pub mode: MacvtapMode,
}

impl Veth {
    /// A pair without a master, with indexes that the kernel chooses.
    #[must_use]
    pub fn new(main: NewLink, peer: NewLink) -> Self {
        Self { main, peer, master: None }
    }
}

impl Bridge {
    /// A bridge of that name that is down, without spanning tree and snooping.
    #[must_use]
    pub fn new(name: IfName) -> Self {
        Self {
            link: NewLink::new(name),
            stp: false,
            mcast_snooping: false,
            vlan_filtering: None,
            group_fwd_mask: None,
            ageing_time: None,
            fdb_max_learned: None,
        }
    }
}

impl Vxlan {
    /// A learning VXLAN device that is down, on port 4789.
    #[must_use]
    pub fn new(name: IfName, vni: Vni, underlay: u32, remote: IpAddr) -> Self {
        const PORT: u64 = 4789;
        Self {
            link: NewLink::new(name),
            vni,
            underlay,
            remote,
            port: UdpPort::try_from(PORT).unwrap_or(UdpPort::MAX),
            ttl: 0,
            learning: true,
            limit: None,
            master: None,
        }
    }
}

impl Macvtap {
    /// A macvtap that is down, with the defaults.
    #[must_use]
    pub fn new(name: IfName, lower: u32, mode: MacvtapMode) -> Self {
        Self { link: NewLink::new(name), lower, mode }
    }
}

/// What the kernel echoes about a new link.
#[derive(Clone, Copy, Default)]
pub(super) struct Echo {
    pub(super) index: Option<u32>,
    lower: Option<u32>,
}

impl Netlink {
    /// Creates a veth pair; both ends have their groups from the start.
    ///
    /// It takes one message, and a second one if the peer is to be up: the kernel refuses to set an end up before it
    /// has a peer (ENOTCONN, `veth_open`), and creates the peer first. If the second message fails, the pair is
    /// deleted again.
    ///
    /// # Errors
    /// The kernel refuses: a name that exists ([`Error::is_exists`]), an MTU out of range, a master that is not a
    /// bridge.
    pub fn create_veth(&self, veth: &Veth) -> Result<VethIndexes> {
        let mut peer = veth.peer.builder(None).build();
        set_down(&mut peer);
        let mut builder =
            veth.main.builder(Some(InfoKind::Veth)).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        if let Some(master) = veth.master {
            builder = builder.controller(master);
        }
        let mut echo = self.create("create veth", &veth.main, &builder.build())?;
        if echo.index.is_none()
            && veth.main.netns.is_none()
            && let Some(link) = self.link_by_name(&veth.main.name)?
        {
            echo = Echo { index: Some(link.index), lower: link.lower };
        }
        let main = self.index_of("create veth", &veth.main, echo.index)?;
        let peer = self.index_of("create veth", &veth.peer, echo.lower)?;
        if veth.peer.up {
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            let done = match &veth.peer.netns {
                Some(netns) => Self::open(netns).and_then(|there| there.set_link(peer, &up)),
                None => self.set_link(peer, &up),
            };
            if let Err(error) = done {
                // The first error is the one to report.
                let _ = match &veth.main.netns {
                    Some(netns) => Self::open(netns).and_then(|there| there.delete_link(main)),
                    None => self.delete_link(main),
                };
                return Err(error);
            }
        }
        Ok(VethIndexes { main, peer })
    }

    /// Creates a bridge and returns its index.
    ///
    /// # Errors
    /// The kernel refuses: a name that exists, an MTU out of range.
    pub fn create_bridge(&self, bridge: &Bridge) -> Result<u32> {
        let stp = if bridge.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
        let mut data = vec![InfoBridge::StpState(stp), InfoBridge::MulticastSnooping(bridge.mcast_snooping)];
        if let Some(vlan) = bridge.vlan_filtering {
            // The default PVID first: a bridge that filters may refuse to change it.
            data.push(InfoBridge::VlanDefaultPvid(vlan.default_pvid.map_or(0, VlanId::get)));
            data.push(InfoBridge::VlanProtocol(vlan.protocol.wire()));
            data.push(InfoBridge::VlanFiltering(true));
        }
        data.extend(bridge.group_fwd_mask.map(InfoBridge::GroupFwdMask));
        data.extend(bridge.ageing_time.map(InfoBridge::AgeingTime));
        data.extend(bridge.fdb_max_learned.map(InfoBridge::FdbMaxLearned));
        let message =
            bridge.link.builder(Some(InfoKind::Bridge)).set_info_data(InfoData::Bridge(data)).build();
        let echo = self.create("create bridge", &bridge.link, &message)?;
        self.index_of("create bridge", &bridge.link, echo.index)
    }

    /// Creates a VXLAN device and returns its index in its namespace. Its underlay and its UDP socket stay in the
    /// socket's namespace.
    ///
    /// # Errors
    /// The kernel refuses: EEXIST also for a VNI and port that another device has, EADDRINUSE for a port that a
    /// collect-metadata device has.
    pub fn create_vxlan(&self, vxlan: &Vxlan) -> Result<u32> {
        let mut data = vec![
            InfoVxlan::Id(vxlan.vni.get()),
            match vxlan.remote {
                IpAddr::V4(ip) => InfoVxlan::Group(ip),
                IpAddr::V6(ip) => InfoVxlan::Group6(ip),
            },
            InfoVxlan::Link(vxlan.underlay),
            InfoVxlan::Port(vxlan.port.get()),
            InfoVxlan::Ttl(vxlan.ttl),
            InfoVxlan::Learning(vxlan.learning),
        ];
        data.extend(vxlan.limit.map(InfoVxlan::Limit));
        let mut builder = vxlan.link.builder(Some(InfoKind::Vxlan)).set_info_data(InfoData::Vxlan(data));
        if let Some(master) = vxlan.master {
            builder = builder.controller(master);
        }
        let echo = self.create("create VXLAN", &vxlan.link, &builder.build())?;
        self.index_of("create VXLAN", &vxlan.link, echo.index)
    }

    /// Creates a macvtap and returns its index in its namespace.
    ///
    /// # Errors
    /// The kernel refuses: EINVAL for an MTU above the lower link's or a lower link that has a passthru macvtap
    /// already, EBUSY or EEXIST for an index that is taken.
    pub fn create_macvtap(&self, macvtap: &Macvtap) -> Result<u32> {
        let mode = match macvtap.mode {
            MacvtapMode::Bridge => MacVtapMode::Bridge,
            MacvtapMode::Private => MacVtapMode::Private,
            MacvtapMode::Vepa => MacVtapMode::Vepa,
            MacvtapMode::Passthru => MacVtapMode::Passthrough,
        };
        let message = macvtap
            .link
            .builder(Some(InfoKind::MacVtap))
            .link(macvtap.lower)
            .set_info_data(InfoData::MacVtap(vec![InfoMacVtap::Mode(mode)]))
            .build();
        let echo = self.create("create macvtap", &macvtap.link, &message)?;
        self.index_of("create macvtap", &macvtap.link, echo.index)
    }

    /// Creates the link; the kernel echoes it only to its own namespace.
    pub(super) fn create(
        &self,
        operation: &'static str,
        link: &NewLink,
        message: &LinkMessage,
    ) -> Result<Echo> {
        match (self.send_new(operation, link, message), &link.netns) {
            (Err(error), Some(netns)) if error.is_exists() => {
                let there = Self::open(netns)?;
                // Kernels before 6.14 also refuse a name that exists in the socket's namespace.
                if there.link_by_name(&link.name)?.is_some() || self.link_by_name(&link.name)?.is_none() {
                    return Err(error);
                }
                self.create_under_another_name(operation, link, message, &there)
            }
            (result, _) => result,
        }
    }

    /// Creates the link under a temporary name, and renames it in its namespace.
    fn create_under_another_name(
        &self,
        operation: &'static str,
        link: &NewLink,
        message: &LinkMessage,
        there: &Self,
    ) -> Result<Echo> {
        let name = passing_name();
        let mut message = message.clone();
        for attribute in &mut message.attributes {
            if let LinkAttribute::IfName(text) = attribute {
                *text = name.to_string();
            }
        }
        // Kernels before 6.2 do not rename a link that is up.
        set_down(&mut message);
        self.send_new(operation, link, &message)?;
        let passing = NewLink { name, netns: None, ..link.clone() };
        let index = there.index_of(operation, &passing, None)?;
        let change = LinkChange {
            name: Some(link.name.clone()),
            up: link.up.then_some(true),
            ..LinkChange::default()
        };
        there.set_link(index, &change).map_err(|error| {
            // The first error is the one to report.
            let _ = there.delete_link(index);
            error.about(operation, &link.name)
        })?;
        Ok(Echo { index: Some(index), lower: None })
    }

    /// Sends the message for exactly this name and namespace.
    fn send_new(&self, operation: &'static str, link: &NewLink, message: &LinkMessage) -> Result<Echo> {
        // In another namespace the echo would go to the socket there that has this one's port number, and the index
        // is known or looked up; with a given index there is nothing to learn.
        let echo = if link.netns.is_none() && link.index.is_none() { NLM_F_ECHO } else { 0 };
        let object = by_name(&link.name);
        let request = Request {
            operation,
            object: &object,
            kind: RTM_NEWLINK,
            flags: NLM_F_CREATE | NLM_F_EXCL | echo,
            body: message,
        };
        let mut seen = Echo { index: link.index, lower: None };
        self.request(&request, |kind, body| {
            if kind == RTM_NEWLINK {
                const IFLA_LINK: u16 = 5;
                seen.index = u32_at(body, 4);
                seen.lower = body
                    .get(16..)
                    .and_then(|attrs| Attrs::new(attrs).find(|attr| attr.kind == IFLA_LINK))
                    .and_then(|attr| attr.u32())
                    .filter(|&lower| lower != 0);
            }
            Ok(())
        })?;
        Ok(seen)
    }

    /// The index of a link just created; looked up where the kernel did not echo it.
    pub(super) fn index_of(
        &self,
        operation: &'static str,
        link: &NewLink,
        known: Option<u32>,
    ) -> Result<u32> {
        if let Some(index) = link.index.or(known) {
            return Ok(index);
        }
        let found = match &link.netns {
            Some(netns) => Self::open(netns)?.link_by_name(&link.name)?,
            None => self.link_by_name(&link.name)?,
        };
        // Somebody deleted it in the meantime.
        found.map(|link| link.index).ok_or_else(|| Error::system(operation, &link.name, Errno::ENODEV))
    }
}

/// Takes the flag off by which the kernel sets a new link up.
fn set_down(message: &mut LinkMessage) {
    message.header.flags.remove(LinkFlags::Up);
    message.header.change_mask.remove(LinkFlags::Up);
}

/// A random temporary name for a link.
fn passing_name() -> IfName {
    let mut random = RandomState::new().hash_one(std::process::id());
    loop {
        // 13 characters, so always a valid name.
        if let Ok(name) = format!("~{:012x}", random & 0xffff_ffff_ffff).parse() {
            return name;
        }
        random = random.wrapping_add(1);
    }
}
