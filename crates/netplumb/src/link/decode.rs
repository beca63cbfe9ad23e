//! Decodes `RTM_NEWLINK` into [`Link`]. Numbers are those of `linux/if_link.h`.

use net_types::{MacAddr, MacvtapMode, VlanId};

use super::{
    AddrGenMode, BridgeInfo, BridgePort, Link, LinkKind, MacvlanInfo, VlanInfo, VlanProtocol, VxlanInfo,
};
use crate::attrs::{Attr, Attrs, u32_at};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROTO_DOWN: u16 = 39;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_ALLMULTI: u16 = 61;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

const IFLA_BR_AGEING_TIME: u16 = 4;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
const IFLA_BR_GROUP_FWD_MASK: u16 = 9;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BR_FDB_MAX_LEARNED: u16 = 49;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;

const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_LOCKED: u16 = 39;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_TTL: u16 = 5;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_FLAGS: u16 = 2;
const MACVLAN_FLAG_NOPROMISC: u16 = 1;

const AF_INET6: u16 = 10;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;

const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 1 << 7;
const IFF_PROMISC: u32 = 1 << 8;
const IFF_ALLMULTI: u32 = 1 << 9;
const IFF_MULTICAST: u32 = 1 << 12;
const IFF_LOWER_UP: u32 = 1 << 16;

/// The link in a message's body; `None` if the body is not such a message.
pub(crate) fn link(body: &[u8]) -> Option<Link> {
    let index = u32_at(body, 4)?;
    let flags = u32_at(body, 8)?;
    let attrs = Attrs::new(body.get(16..)?);
    let mut link = Link {
        index,
        name: String::new(),
        mac: None,
        mtu: 0,
        min_mtu: None,
        max_mtu: None,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        operational: false,
        noarp: flags & IFF_NOARP != 0,
        promisc: flags & IFF_PROMISC != 0,
        allmulti: flags & IFF_ALLMULTI != 0,
        allmulti_count: None,
        multicast: flags & IFF_MULTICAST != 0,
        proto_down: false,
        master: None,
        lower: None,
        lower_netnsid: None,
        alias: None,
        group: 0,
        kind: LinkKind::Other(String::new()),
        port: None,
        addr_gen_mode: None,
    };
    let mut state = None;
    for attr in attrs {
        match attr.kind {
            IFLA_ADDRESS => link.mac = attr.mac().and_then(|mac| MacAddr::try_from(mac).ok()),
            IFLA_IFNAME => link.name = attr.text()?,
            IFLA_MTU => link.mtu = attr.u32()?,
            // 0: the lower link is deleted or in a namespace without a number here.
            IFLA_LINK => link.lower = attr.u32().filter(|&lower| lower != 0),
            IFLA_MASTER => link.master = attr.u32().filter(|&master| master != 0),
            IFLA_OPERSTATE => state = attr.u8(),
            IFLA_LINKINFO => link_info(attr, &mut link),
            IFLA_IFALIAS => link.alias = attr.text().filter(|alias| !alias.is_empty()),
            IFLA_AF_SPEC => link.addr_gen_mode = addr_gen_mode(attr),
            IFLA_GROUP => link.group = attr.u32()?,
            IFLA_LINK_NETNSID => link.lower_netnsid = attr.u32().map(u32::cast_signed),
            IFLA_ALLMULTI => link.allmulti_count = attr.u32(),
            IFLA_PROTO_DOWN => link.proto_down = attr.flag().unwrap_or_default(),
            IFLA_MIN_MTU => link.min_mtu = attr.u32(),
            IFLA_MAX_MTU => link.max_mtu = attr.u32().filter(|&max| max != 0),
            _ => {}
        }
    }
    // Links without a real carrier stay "unknown" for ever; these only until the kernel updates the state.
    let settles = matches!(link.kind, LinkKind::Veth | LinkKind::Macvtap(_) | LinkKind::Macvlan(_));
    link.operational =
        link.up && link.carrier && (state == Some(IF_OPER_UP) || state == Some(IF_OPER_UNKNOWN) && !settles);
    Some(link)
}

fn link_info(attr: Attr<'_>, link: &mut Link) {
    let mut kind = String::new();
    let mut data = Attrs::new(&[]);
    let mut port_kind = None;
    let mut port_data = Attrs::new(&[]);
    for info in attr.nested() {
        match info.kind {
            IFLA_INFO_KIND => kind = info.text().unwrap_or_default(),
            IFLA_INFO_DATA => data = info.nested(),
            IFLA_INFO_SLAVE_KIND => port_kind = info.text(),
            IFLA_INFO_SLAVE_DATA => port_data = info.nested(),
            _ => {}
        }
    }
    link.kind = match kind.as_str() {
        "veth" => LinkKind::Veth,
        "bridge" => LinkKind::Bridge(bridge(data)),
        "vxlan" => LinkKind::Vxlan(vxlan(data)),
        "macvtap" => LinkKind::Macvtap(macvlan(data)),
        "macvlan" => LinkKind::Macvlan(macvlan(data)),
        "vlan" => LinkKind::Vlan(vlan(data)),
        _ => LinkKind::Other(kind),
    };
    link.port = (port_kind.as_deref() == Some("bridge")).then(|| bridge_port(port_data));
}

fn bridge(data: Attrs<'_>) -> BridgeInfo {
    let mut bridge = BridgeInfo::default();
    for attr in data {
        match attr.kind {
            IFLA_BR_AGEING_TIME => bridge.ageing_time = attr.u32().unwrap_or_default(),
            IFLA_BR_STP_STATE => bridge.stp = attr.u32().is_some_and(|state| state != 0),
            IFLA_BR_VLAN_FILTERING => bridge.vlan_filtering = attr.flag().unwrap_or_default(),
            IFLA_BR_VLAN_PROTOCOL => {
                bridge.vlan_protocol = VlanProtocol::from_wire(attr.u16_be().unwrap_or_default());
            }
            IFLA_BR_VLAN_DEFAULT_PVID => {
                bridge.vlan_default_pvid = attr.u16().and_then(|id| VlanId::try_from(u64::from(id)).ok());
            }
            IFLA_BR_GROUP_FWD_MASK => bridge.group_fwd_mask = attr.u16().unwrap_or_default(),
            IFLA_BR_FDB_MAX_LEARNED => bridge.fdb_max_learned = attr.u32(),
            IFLA_BR_MCAST_SNOOPING => bridge.mcast_snooping = attr.flag().unwrap_or_default(),
            _ => {}
        }
    }
    bridge
}

fn bridge_port(data: Attrs<'_>) -> BridgePort {
    let mut port = BridgePort::default();
    for attr in data {
        match attr.kind {
            IFLA_BRPORT_STATE => port.state = attr.u8().unwrap_or_default(),
            IFLA_BRPORT_MODE => port.hairpin = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_LEARNING => port.learning = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_UNICAST_FLOOD => port.unicast_flood = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_GROUP_FWD_MASK => port.group_fwd_mask = attr.u16().unwrap_or_default(),
            IFLA_BRPORT_ISOLATED => port.isolated = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_MCAST_FLOOD => port.multicast_flood = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_BCAST_FLOOD => port.broadcast_flood = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_NEIGH_SUPPRESS => port.neigh_suppress = attr.flag().unwrap_or_default(),
            IFLA_BRPORT_LOCKED => port.locked = attr.flag().unwrap_or_default(),
            _ => {}
        }
    }
    port
}

fn vxlan(data: Attrs<'_>) -> VxlanInfo {
    let mut vxlan = VxlanInfo {
        vni: 0,
        remote: None,
        underlay: None,
        port: 0,
        learning: false,
        ttl: 0,
        collect_metadata: false,
    };
    for attr in data {
        match attr.kind {
            IFLA_VXLAN_ID => vxlan.vni = attr.u32().unwrap_or_default(),
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => vxlan.remote = attr.ip(),
            IFLA_VXLAN_LINK => vxlan.underlay = attr.u32().filter(|&index| index != 0),
            IFLA_VXLAN_TTL => vxlan.ttl = attr.u8().unwrap_or_default(),
            IFLA_VXLAN_LEARNING => vxlan.learning = attr.flag().unwrap_or_default(),
            IFLA_VXLAN_PORT => vxlan.port = attr.u16_be().unwrap_or_default(),
            IFLA_VXLAN_COLLECT_METADATA => vxlan.collect_metadata = attr.flag().unwrap_or(true),
            _ => {}
        }
    }
    vxlan
}

fn vlan(data: Attrs<'_>) -> VlanInfo {
    let mut vlan = VlanInfo { id: 0, protocol: VlanProtocol::Dot1q };
    for attr in data {
        match attr.kind {
            IFLA_VLAN_ID => vlan.id = attr.u16().unwrap_or_default(),
            IFLA_VLAN_PROTOCOL => {
                vlan.protocol = VlanProtocol::from_wire(attr.u16_be().unwrap_or_default());
            }
            _ => {}
        }
    }
    vlan
}

fn macvlan(data: Attrs<'_>) -> MacvlanInfo {
    let mut macvlan = MacvlanInfo { mode: None, nopromisc: false };
    for attr in data {
        match attr.kind {
            IFLA_MACVLAN_MODE => {
                macvlan.mode = match attr.u32() {
                    Some(1) => Some(MacvtapMode::Private),
                    Some(2) => Some(MacvtapMode::Vepa),
                    Some(4) => Some(MacvtapMode::Bridge),
                    Some(8) => Some(MacvtapMode::Passthru),
                    _ => None,
                };
            }
            IFLA_MACVLAN_FLAGS => {
                macvlan.nopromisc = attr.u16().is_some_and(|flags| flags & MACVLAN_FLAG_NOPROMISC != 0);
            }
            _ => {}
        }
    }
    macvlan
}

fn addr_gen_mode(attr: Attr<'_>) -> Option<AddrGenMode> {
    let mode = attr
        .nested()
        .find(|family| family.kind == AF_INET6)?
        .nested()
        .find(|attr| attr.kind == IFLA_INET6_ADDR_GEN_MODE)?
        .u8()?;
    Some(match mode {
        0 => AddrGenMode::Eui64,
        1 => AddrGenMode::None,
        2 => AddrGenMode::StablePrivacy,
        3 => AddrGenMode::Random,
        other => AddrGenMode::Other(other),
    })
}
