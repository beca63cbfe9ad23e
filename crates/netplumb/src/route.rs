//! Reading and changing routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::attrs::{Attr, Attrs, u32_at};
use crate::netlink::Request;
use crate::{Netlink, Object, Result};

pub(crate) const RTM_NEWROUTE: u16 = 24;
#[cfg(feature = "monitor")]
pub(crate) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTN_UNICAST: u8 = 1;
const RTN_MULTICAST: u8 = 5;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A unicast route (`struct rtmsg` and `RTA_*` of `linux/rtnetlink.h`).
///
/// In [`Netlink::add_route`], `None` leaves a value to the kernel; in the answer of [`Netlink::routes`], it is a
/// value that the kernel did not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; prefix length 0 is the default route. Host bits are cut off.
    pub destination: IpNetwork,
    /// The next hop; an IPv4 route may have an IPv6 router (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// Index of the link it leaves by.
    pub index: Option<u32>,
    /// The preferred source address (`RTA_PREFSRC`).
    pub source: Option<IpAddr>,
    /// The metric: the smallest wins. The kernel gives IPv6 routes 1024 by default.
    pub metric: Option<u32>,
    /// Path MTU of the route in bytes.
    pub mtu: Option<u32>,
    /// TCP segment size that is advertised, in bytes.
    pub advmss: Option<u32>,
    /// The number of the table; 254 is the main one.
    pub table: u32,
    /// Scope: 0 global, 253 link, 254 host. `None`: link if there is no gateway. IPv6 has no scope.
    pub scope: Option<u8>,
    /// The gateway is reachable on the link even if none of the link's networks has it.
    pub onlink: bool,
    /// What made it: 2 the kernel, 3 boot, 4 an administrator (`RTPROT_*`).
    pub protocol: u8,
}

impl Route {
    /// The number of the main table (`RT_TABLE_MAIN`).
    pub const MAIN: u32 = 254;
    /// `RT_SCOPE_LINK` of `linux/rtnetlink.h`; `RT_SCOPE_HOST` and `RT_SCOPE_NOWHERE` are larger.
    pub const SCOPE_LINK: u8 = 253;

    /// A route of an administrator in the main table.
    #[must_use]
    pub fn new(destination: IpNetwork, gateway: Option<IpAddr>, index: Option<u32>) -> Self {
        Self {
            destination,
            gateway,
            index,
            source: None,
            metric: None,
            mtu: None,
            advmss: None,
            table: Self::MAIN,
            scope: None,
            onlink: false,
            protocol: RouteProtocol::Static.into(),
        }
    }

    /// The destination as the kernel keeps it: without host bits.
    fn network(&self) -> IpNetwork {
        IpNetwork::new(self.destination.network(), self.destination.prefix()).unwrap_or(self.destination)
    }
}

impl Netlink {
    /// The unicast routes of all tables, of one link or of all links. A route with several next hops is returned once
    /// for each of them: IPv6 merges routes to one destination into one.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn routes(&self, index: Option<u32>) -> Result<Vec<Route>> {
        self.routes_of_types(index, &[RTN_UNICAST])
    }

    /// The same of one link, with its multicast routes, which say where packets to groups leave.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn routes_and_group_routes(&self, index: u32) -> Result<Vec<Route>> {
        self.routes_of_types(Some(index), &[RTN_UNICAST, RTN_MULTICAST])
    }

    fn routes_of_types(&self, index: Option<u32>, types: &'static [u8]) -> Result<Vec<Route>> {
        let mut all = Vec::new();
        // One family at a time: the kernel filters only dumps of one family.
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            all.extend(self.routes_of(family, index, types)?);
        }
        // A kernel before 5.0 ignores the filter.
        all.retain(|route: &Route| index.is_none() || route.index == index);
        Ok(all)
    }

    /// The IPv6 default routes of the main table, on all links.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn default_routes_ipv6(&self) -> Result<Vec<Route>> {
        let mut routes = self.routes_of(AddressFamily::Inet6, None, &[RTN_UNICAST])?;
        routes.retain(|route| route.destination.prefix() == 0 && route.table == Route::MAIN);
        Ok(routes)
    }

    fn routes_of(
        &self,
        family: AddressFamily,
        index: Option<u32>,
        types: &'static [u8],
    ) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.attributes.extend(index.map(RouteAttribute::Oif));
        let object = || index.map_or_else(|| "of the namespace".into(), |i| format!("of link {i}").into());
        let request = Request {
            operation: "read routes",
            object: &object,
            kind: RTM_GETROUTE,
            flags: 0,
            body: &message,
        };
        match self.dump(&request, |kind, body| Ok((kind == RTM_NEWROUTE).then(|| decode_each(body, types)))) {
            Ok(routes) => Ok(routes.into_iter().flatten().collect()),
            // A kernel without IPv6.
            Err(error) if error.errno() == Some(crate::Errno::EOPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// The kernel refuses: EEXIST for a route to the same network with the same metric in that table, ENETUNREACH for
    /// a gateway outside the link's networks (unless [`Route::onlink`] is set).
    pub fn add_route(&self, route: &Route) -> Result<()> {
        self.new_route(route, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route beside those to the same network with the same metric in that table: before them with IPv4, as
    /// one more next hop with IPv6.
    ///
    /// # Errors
    /// The kernel refuses: EEXIST for an identical route, ENETUNREACH as for [`Netlink::add_route`].
    pub fn add_route_beside(&self, route: &Route) -> Result<()> {
        self.new_route(route, NLM_F_CREATE)
    }

    fn new_route(&self, route: &Route, flags: u16) -> Result<()> {
        self.command(&Request {
            operation: "add route",
            object: &object(route),
            kind: RTM_NEWROUTE,
            flags,
            body: &message(route),
        })
    }
}

fn object(route: &Route) -> impl Fn() -> Object {
    move || {
        let mut text = format!("to {}", route.network());
        if let Some(gateway) = route.gateway {
            text += &format!(" via {gateway}");
        }
        if let Some(index) = route.index {
            text += &format!(" on link {index}");
        }
        Object::Text(text)
    }
}

fn message(route: &Route) -> RouteMessage {
    let network = route.network();
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = if network.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    header.destination_prefix_length = network.prefix();
    header.protocol = route.protocol.into();
    header.kind = RouteType::Unicast;
    header.scope = match (route.scope, route.gateway) {
        (Some(scope), _) => scope.into(),
        (None, None) if network.is_ipv4() => RouteScope::Link,
        (None, _) => RouteScope::Universe,
    };
    if route.onlink {
        header.flags |= RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    match u8::try_from(route.table) {
        Ok(table) => header.table = table,
        Err(_) => attributes.push(RouteAttribute::Table(route.table)),
    }
    if network.prefix() != 0 {
        attributes.push(RouteAttribute::Destination(network.ip().into()));
    }
    match route.gateway {
        Some(IpAddr::V6(gateway)) if network.is_ipv4() => {
            attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
        }
        Some(gateway) => attributes.push(RouteAttribute::Gateway(gateway.into())),
        None => {}
    }
    attributes.extend(route.index.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    let metrics: Vec<_> = [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)]
        .into_iter()
        .flatten()
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// The route in a message's body; `None` unless it is a unicast route with one next hop.
#[cfg(feature = "monitor")]
pub(crate) fn decode(body: &[u8]) -> Option<Route> {
    let mut routes = decode_each(body, &[RTN_UNICAST]);
    routes.pop().filter(|_| routes.is_empty())
}

/// The route in a message's body, once for each next hop.
fn decode_each(body: &[u8], types: &[u8]) -> Vec<Route> {
    decode_hops(body, types).unwrap_or_default()
}

fn decode_hops(body: &[u8], types: &[u8]) -> Option<Vec<Route>> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTA_METRICS: u16 = 8;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTAX_MTU: u16 = 2;
    const RTAX_ADVMSS: u16 = 8;
    let &[family, prefix, _, _, table, protocol, scope, kind, ..] = body else { return None };
    if !types.contains(&kind) {
        return None;
    }
    let any: IpAddr = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route::new(IpNetwork::new(any, prefix).ok()?, None, None);
    route.table = table.into();
    route.protocol = protocol;
    route.scope = (family == AF_INET).then_some(scope);
    route.onlink = RouteFlags::from_bits_retain(u32_at(body, 8)?).contains(RouteFlags::Onlink);
    let mut hops = None;
    for attr in Attrs::new(body.get(12..)?) {
        match attr.kind {
            RTA_DST => route.destination = IpNetwork::new(attr.ip()?, prefix).ok()?,
            RTA_OIF => route.index = attr.u32(),
            RTA_GATEWAY | RTA_VIA => route.gateway = gateway(&attr),
            RTA_PRIORITY => route.metric = attr.u32(),
            RTA_PREFSRC => route.source = attr.ip(),
            RTA_TABLE => route.table = attr.u32()?,
            RTA_MULTIPATH => hops = Some(attr.value),
            RTA_METRICS => {
                for metric in attr.nested() {
                    match metric.kind {
                        RTAX_MTU => route.mtu = metric.u32(),
                        RTAX_ADVMSS => route.advmss = metric.u32(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match hops {
        Some(hops) => next_hops(&route, hops),
        None => Some(vec![route]),
    }
}

const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;

/// The gateway of an `RTA_GATEWAY`, or of an `RTA_VIA`, which begins with the family.
fn gateway(attr: &Attr<'_>) -> Option<IpAddr> {
    match attr.kind {
        RTA_VIA => Attr { kind: RTA_VIA, value: attr.value.get(2..)? }.ip(),
        _ => attr.ip(),
    }
}

/// A route for each `struct rtnexthop`: length, flags, weight, index of the link, attributes.
fn next_hops(route: &Route, mut rest: &[u8]) -> Option<Vec<Route>> {
    const HEADER: usize = 8;
    let mut routes = Vec::new();
    while let &[low, high, flags, ..] = rest {
        let len = usize::from(u16::from_ne_bytes([low, high]));
        let hop = rest.get(..len).filter(|hop| hop.len() >= HEADER)?;
        let mut one = Route { gateway: None, index: u32_at(hop, 4), ..route.clone() };
        one.onlink = RouteFlags::from_bits_retain(flags.into()).contains(RouteFlags::Onlink);
        for attr in Attrs::new(hop.get(HEADER..)?) {
            if matches!(attr.kind, RTA_GATEWAY | RTA_VIA) {
                one.gateway = gateway(&attr);
            }
        }
        routes.push(one);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(routes)
}
