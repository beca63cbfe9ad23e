//! Where routes lead, whatever way they go there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;

use crate::attrs::{Attrs, u32_at};
use crate::netlink::Request;
use crate::route::RTM_NEWROUTE;
use crate::{Netlink, Object, Result};

const RTM_GETROUTE: u16 = 26;

/// A network, and the links by which a route leads there: several where it has several next hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where to; prefix length 0 is the default route.
    pub destination: IpNetwork,
    /// The links' indices.
    pub links: Vec<u32>,
}

impl Netlink {
    /// Where the unicast routes of all tables lead, those with several next hops included.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn reaches(&self) -> Result<Vec<Reach>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let object = || Object::from("of the namespace");
            let request = Request {
                operation: "read routes",
                object: &object,
                kind: RTM_GETROUTE,
                flags: 0,
                body: &message,
            };
            let reaches =
                self.dump(&request, |kind, body| Ok((kind == RTM_NEWROUTE).then(|| decode(body)).flatten()));
            match reaches {
                Ok(reaches) => all.extend(reaches),
                // A kernel without IPv6.
                Err(error) if error.errno() == Some(crate::Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// The route in a message (`struct rtmsg`, `RTA_*` and `struct rtnexthop` of `linux/rtnetlink.h`).
fn decode(body: &[u8]) -> Option<Reach> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const RTN_UNICAST: u8 = 1;
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_MULTIPATH: u16 = 9;
    let &[family, prefix, _, _, _, _, _, kind, ..] = body else { return None };
    if kind != RTN_UNICAST {
        return None;
    }
    let any: IpAddr = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut reach = Reach { destination: IpNetwork::new(any, prefix).ok()?, links: Vec::new() };
    for attr in Attrs::new(body.get(12..)?) {
        match attr.kind {
            RTA_DST => reach.destination = IpNetwork::new(attr.ip()?, prefix).ok()?,
            RTA_OIF => reach.links.extend(attr.u32()),
            RTA_MULTIPATH => {
                let mut rest = attr.value;
                while let Some(index) = u32_at(rest, 4) {
                    reach.links.push(index);
                    let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).next_multiple_of(4);
                    match rest.get(length..) {
                        Some(next) if length >= 8 => rest = next,
                        _ => break,
                    }
                }
            }
            _ => {}
        }
    }
    Some(reach)
}
