//! IP addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};

use crate::attrs::{Attrs, u32_at};
use crate::netlink::Request;
use crate::{Netlink, Object, Result};

pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

/// An address on a link (`struct ifaddrmsg` and `IFA_*` of `linux/if_addr.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The index of the link (`ifa_index`).
    pub index: u32,
    /// The address itself, with the prefix length of its network (host bits are kept).
    pub address: IpNetwork,
    /// Scope: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// IPv6 is still looking for a duplicate; the address cannot be used yet.
    pub tentative: bool,
    /// IPv6 found a duplicate; the address is not used.
    pub dad_failed: bool,
    /// Used without duplicate address detection (`IFA_F_NODAD`).
    pub nodad: bool,
    /// The kernel made no route to its network (`IFA_F_NOPREFIXROUTE`).
    pub noprefixroute: bool,
    /// Set by an administrator, not by router advertisement or DHCP.
    pub permanent: bool,
    /// What made it (`IFAPROT_*`), known since Linux 5.18; 0: unknown.
    pub protocol: u8,
}

impl Address {
    /// The protocol of the link-local addresses that IPv6 makes by itself (`IFAPROT_KERNEL_LL`).
    pub const KERNEL_LINK_LOCAL: u8 = 3;
}

/// An address to put on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAddress {
    /// The address itself, with the prefix length of its network. An IPv4 address gets the network's
    /// broadcast address, as tools do, from /30 down.
    pub address: IpNetwork,
    /// IPv6: use it at once, without looking for a duplicate.
    pub nodad: bool,
    /// Do not make the route to its network.
    pub noprefixroute: bool,
    /// What makes it, for whoever looks later ([`Address::protocol`]); 0: nothing is said. Linux before 5.18 ignores it.
    pub protocol: u8,
}

impl NewAddress {
    /// An address with duplicate detection and the route to its network.
    #[must_use]
    pub fn new(address: IpNetwork) -> Self {
        Self { address, nodad: false, noprefixroute: false, protocol: 0 }
    }
}

impl Netlink {
    /// The addresses of one link; without an index those of all links.
    ///
    /// # Errors
    /// The kernel refuses; a missing link is [`crate::Error::is_not_found`].
    pub fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>> {
        let mut message = AddressMessage::default();
        message.header.index = index.unwrap_or(0);
        let object = || index.map_or_else(|| "of the namespace".into(), |i| format!("of link {i}").into());
        let request = Request {
            operation: "read addresses",
            object: &object,
            kind: RTM_GETADDR,
            flags: 0,
            body: &message,
        };
        let mut all =
            self.dump(&request, |kind, body| Ok((kind == RTM_NEWADDR).then(|| decode(body)).flatten()))?;
        // A kernel before 4.20 ignores the filter.
        all.retain(|address| index.is_none_or(|index| index == address.index));
        Ok(all)
    }

    /// Adds an address to a link.
    ///
    /// # Errors
    /// The kernel refuses: EEXIST for an address that the link has.
    pub fn add_address(&self, index: u32, new: &NewAddress) -> Result<()> {
        let mut message = message(index, new.address);
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, new.nodad);
        flags.set(AddressFlags::Noprefixroute, new.noprefixroute);
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        if new.protocol != 0 {
            message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(new.protocol)));
        }
        if let Some(broadcast) = broadcast(new.address) {
            message.attributes.push(AddressAttribute::Broadcast(broadcast));
        }
        self.command(&Request {
            operation: "add address",
            object: &object(index, new.address),
            kind: RTM_NEWADDR,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: &message,
        })
    }

    /// Removes an address from a link; a missing address and a missing link are success.
    ///
    /// # Errors
    /// The kernel refuses the removal.
    pub fn delete_address(&self, index: u32, address: IpNetwork) -> Result<()> {
        let done = self.command(&Request {
            operation: "delete address",
            object: &object(index, address),
            kind: RTM_DELADDR,
            flags: 0,
            body: &message(index, address),
        });
        match done {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }
}

fn object(index: u32, address: IpNetwork) -> impl Fn() -> Object {
    move || Object::Text(format!("{address} on link {index}"))
}

fn message(index: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix();
    message.header.family = match address {
        IpNetwork::V4(_) => AddressFamily::Inet,
        IpNetwork::V6(_) => AddressFamily::Inet6,
    };
    let link_local = match address.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    message.header.scope = if link_local { AddressScope::Link } else { AddressScope::Universe };
    message.attributes.push(AddressAttribute::Local(address.ip()));
    if address.is_ipv4() {
        message.attributes.push(AddressAttribute::Address(address.ip()));
    }
    message
}

fn broadcast(address: IpNetwork) -> Option<Ipv4Addr> {
    match address {
        IpNetwork::V4(net) if net.prefix() < 31 => Some(net.broadcast()),
        _ => None,
    }
}

/// The address in a message's body; `None` if the body is not such a message.
pub(crate) fn decode(body: &[u8]) -> Option<Address> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const IFA_PROTO: u16 = 11;
    let prefix = *body.get(1)?;
    let mut flags = u32::from(*body.get(2)?);
    let scope = *body.get(3)?;
    let index = u32_at(body, 4)?;
    let (mut address, mut local, mut protocol) = (None, None, 0);
    for attr in Attrs::new(body.get(8..)?) {
        match attr.kind {
            IFA_ADDRESS => address = attr.ip(),
            IFA_LOCAL => local = attr.ip(),
            IFA_FLAGS => flags = attr.u32()?,
            IFA_PROTO => protocol = attr.u8()?,
            _ => {}
        }
    }
    let flags = AddressFlags::from_bits_retain(flags);
    Some(Address {
        index,
        // With a peer, IFA_ADDRESS is the peer's address.
        address: IpNetwork::new(local.or(address)?, prefix).ok()?,
        scope,
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
        nodad: flags.contains(AddressFlags::Nodad),
        noprefixroute: flags.contains(AddressFlags::Noprefixroute),
        permanent: flags.contains(AddressFlags::Permanent),
        protocol,
    })
}
