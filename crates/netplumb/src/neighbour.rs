//! Reading neighbours and forwarding entries.

use std::net::IpAddr;

use net_types::MacAddr;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};

use crate::attrs::{Attrs, u16_at, u32_at};
use crate::netlink::Request;
use crate::{Netlink, Object, Result};

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const AF_BRIDGE: u8 = 7;
const NTF_SELF: u8 = 1 << 1;
const NTF_EXT_LEARNED: u8 = 1 << 4;
const NUD_REACHABLE: u16 = 0x02;
const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;

/// An entry of the ARP or neighbour discovery table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The index of the link (`ndm_ifindex`).
    pub index: u32,
    /// The IP address of the neighbour.
    pub ip: IpAddr,
    /// The neighbour's MAC address; `None` while nothing has answered.
    pub mac: Option<MacAddr>,
    /// `NUD_*` of `linux/neighbour.h`: 2 reachable, 4 stale, 32 failed, 128 permanent.
    pub state: u16,
}

/// An entry of a bridge's or a VXLAN device's forwarding table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Index of the port or VXLAN device.
    pub index: u32,
    /// The index of the bridge, for an entry of a bridge's table; `None` for a device's own.
    pub master: Option<u32>,
    /// The address; `None` for a group or for all zeros, which is a VXLAN's default destination.
    pub mac: Option<MacAddr>,
    /// The tunnel endpoint that a VXLAN device sends to.
    pub remote: Option<IpAddr>,
    /// The VLAN, if the bridge filters by VLAN.
    pub vlan: Option<u16>,
    /// The entry is the device's own (`self` in `bridge fdb`), not learned by its master.
    pub own: bool,
    /// The entry does not age (`NUD_PERMANENT`).
    pub permanent: bool,
    /// The entry was added from outside the kernel (`NTF_EXT_LEARNED`).
    pub ext_learned: bool,
}

impl Netlink {
    /// The neighbours of both families; without an index those of all links.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn neighbours(&self, index: Option<u32>) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.attributes.extend(index.map(NeighbourAttribute::IfIndex));
        let mut all = self.dump_neighbours("read neighbours", &message, neighbour)?;
        all.retain(|neighbour| index.is_none_or(|index| index == neighbour.index));
        Ok(all)
    }

    /// The forwarding entries of a bridge: its ports', and its VXLAN ports' own.
    ///
    /// # Errors
    /// The kernel refuses; a missing bridge is [`crate::Error::is_not_found`].
    pub fn fdb(&self, bridge: u32) -> Result<Vec<FdbEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        self.dump_neighbours("read forwarding table", &message, fdb)
    }

    fn dump_neighbours<T>(
        &self,
        operation: &'static str,
        message: &NeighbourMessage,
        decode: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let object = || Object::from("of the namespace");
        let request = Request { operation, object: &object, kind: RTM_GETNEIGH, flags: 0, body: message };
        self.dump(&request, |kind, body| Ok((kind == RTM_NEWNEIGH).then(|| decode(body)).flatten()))
    }
}

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;

fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let index = u32_at(body, 4)?;
    let state = u16_at(body, 8)?;
    // Entries for multicast and the like, which need no resolution.
    if state & NUD_NOARP != 0 || *body.first()? == AF_BRIDGE {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attr in Attrs::new(body.get(12..)?) {
        match attr.kind {
            NDA_DST => ip = attr.ip(),
            NDA_LLADDR => mac = attr.mac().and_then(|mac| MacAddr::try_from(mac).ok()),
            _ => {}
        }
    }
    Some(Neighbour { index, ip: ip?, mac, state })
}

fn fdb(body: &[u8]) -> Option<FdbEntry> {
    if *body.first()? != AF_BRIDGE {
        return None;
    }
    let state = u16_at(body, 8)?;
    let flags = *body.get(10)?;
    let mut entry = FdbEntry {
        index: u32_at(body, 4)?,
        master: None,
        mac: None,
        remote: None,
        vlan: None,
        own: flags & NTF_SELF != 0,
        permanent: state & NUD_PERMANENT != 0 && state & NUD_REACHABLE == 0,
        ext_learned: flags & NTF_EXT_LEARNED != 0,
    };
    for attr in Attrs::new(body.get(12..)?) {
        match attr.kind {
            NDA_DST => entry.remote = attr.ip(),
            NDA_LLADDR => entry.mac = attr.mac().and_then(|mac| MacAddr::try_from(mac).ok()),
            NDA_VLAN => entry.vlan = attr.u16(),
            NDA_MASTER => entry.master = attr.u32(),
            _ => {}
        }
    }
    Some(entry)
}
