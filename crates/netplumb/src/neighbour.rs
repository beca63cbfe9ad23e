//! Reading forwarding entries.

use net_types::MacAddr;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};

use crate::attrs::{Attrs, u32_at};
use crate::netlink::Request;
use crate::{Netlink, Object, Result};

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const AF_BRIDGE: u8 = 7;
const NTF_SELF: u8 = 1 << 1;

/// An entry of a bridge's or a VXLAN device's forwarding table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Index of the port or VXLAN device.
    pub index: u32,
    /// The index of the bridge, for an entry of a bridge's table; `None` for a device's own.
    pub master: Option<u32>,
    /// The address; `None` for a group or for all zeros, which is a VXLAN's default destination.
    pub mac: Option<MacAddr>,
    /// The entry is the device's own (`self` in `bridge fdb`), not learned by its master.
    pub own: bool,
}

impl Netlink {
    /// The forwarding entries of a bridge: its ports', and its VXLAN ports' own.
    ///
    /// # Errors
    /// The kernel refuses; a missing bridge is [`crate::Error::is_not_found`].
    pub fn fdb(&self, bridge: u32) -> Result<Vec<FdbEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        let object = || Object::from("of the namespace");
        let operation = "read forwarding table";
        let request = Request { operation, object: &object, kind: RTM_GETNEIGH, flags: 0, body: &message };
        self.dump(&request, |kind, body| Ok((kind == RTM_NEWNEIGH).then(|| fdb(body)).flatten()))
    }
}

const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;

fn fdb(body: &[u8]) -> Option<FdbEntry> {
    if *body.first()? != AF_BRIDGE {
        return None;
    }
    let mut entry =
        FdbEntry { index: u32_at(body, 4)?, master: None, mac: None, own: *body.get(10)? & NTF_SELF != 0 };
    for attr in Attrs::new(body.get(12..)?) {
        match attr.kind {
            NDA_LLADDR => entry.mac = attr.mac().and_then(|mac| MacAddr::try_from(mac).ok()),
            NDA_MASTER => entry.master = attr.u32(),
            _ => {}
        }
    }
    Some(entry)
}
