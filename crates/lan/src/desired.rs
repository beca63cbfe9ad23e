use std::collections::BTreeMap;

use net_types::{IfName, Mtu, SpokeName, UdpPort, Vni};

use crate::{Group, LanKey};

/// What one node should have of one LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The LAN that it is about.
    pub lan: LanKey,
    /// The bridge's name in the LAN's namespace.
    pub bridge: IfName,
    /// The VXLAN device's name.
    pub vxlan: IfName,
    /// The VXLAN network identifier of the device.
    pub vni: Vni,
    /// The multicast group that the device sends to.
    pub group: Group,
    /// The UDP port of the VXLAN tunnel.
    pub port: UdpPort,
    /// The index of the underlay in the node's namespace; `None` while it does not exist. A VXLAN device on any other
    /// underlay is removed.
    pub underlay: Option<u32>,
    /// The MTU of everything in the LAN; `None` while it is not known: then links keep theirs, and no VXLAN device is
    /// created.
    pub mtu: Option<Mtu>,
    /// The spokes that pods may have, with the names of their bridge ports.
    pub spokes: BTreeMap<SpokeName, IfName>,
}

/// A setting of the kernel in a LAN's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The path below `/proc/sys/net`.
    pub path: &'static str,
    /// The value that it must have, if this kernel has the setting.
    pub value: &'static str,
}

/// Settings that make a namespace a piece of wire: no addresses of its own, no routing, and no netfilter on what the
/// bridge forwards (which is on in a new namespace, so that the node's FORWARD policy would decide about the LAN's
/// frames).
pub const SETTINGS: [Setting; 7] = [
    Setting { path: "ipv6/conf/all/disable_ipv6", value: "1" },
    Setting { path: "ipv6/conf/default/disable_ipv6", value: "1" },
    // New namespaces inherit the node's value (net.core.devconf_inherit_init_net).
    Setting { path: "ipv4/ip_forward", value: "0" },
    Setting { path: "ipv6/conf/all/forwarding", value: "0" },
    Setting { path: "bridge/bridge-nf-call-arptables", value: "0" },
    Setting { path: "bridge/bridge-nf-call-ip6tables", value: "0" },
    Setting { path: "bridge/bridge-nf-call-iptables", value: "0" },
];

/// The link-local groups 01-80-C2-00-00-0X that the VXLAN device and the spokes forward, one bit for each X: all but
/// X = 1 (PAUSE), which the kernel never forwards. So LACP, LLDP and 802.1X cross the LAN.
pub const GROUP_FWD_MASK: u16 = 0xfffd;
