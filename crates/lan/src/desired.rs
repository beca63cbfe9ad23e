use std::collections::BTreeMap;

use net_types::{IfName, Mtu, SpokeName, UdpPort, Vni};

use crate::{Group, LanKey};

/// What one node should have of one LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Whose it is.
    pub lan: LanKey,
    /// The bridge.
    pub bridge: IfName,
    /// The VXLAN device's name.
    pub vxlan: IfName,
    /// Its network identifier.
    pub vni: Vni,
    /// Its multicast group.
    pub group: Group,
    /// Its UDP port.
    pub port: UdpPort,
    /// The index of the underlay in the node's namespace; `None` while it is not there. A VXLAN device
    /// on any other underlay has to go.
    pub underlay: Option<u32>,
    /// The MTU of everything in the LAN; `None` while it cannot be told, which leaves what there is and
    /// makes no VXLAN device.
    pub mtu: Option<Mtu>,
    /// The spokes that pods may have, with the names of their bridge ports.
    pub spokes: BTreeMap<SpokeName, IfName>,
}

/// One of the kernel's settings in a LAN's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Below `/proc/sys/net`.
    pub path: &'static str,
    /// What it has to be, where this kernel has it.
    pub value: &'static str,
}

/// What makes of a namespace a piece of wire: no addresses of its own, no routing, and no netfilter on
/// what the bridge forwards (a new namespace starts with that on, and the node's FORWARD policy would
/// then decide about the LAN's frames).
pub const SETTINGS: [Setting; 7] = [
    Setting { path: "ipv6/conf/all/disable_ipv6", value: "1" },
    Setting { path: "ipv6/conf/default/disable_ipv6", value: "1" },
    // New namespaces inherit it from the node's (net.core.devconf_inherit_init_net).
    Setting { path: "ipv4/ip_forward", value: "0" },
    Setting { path: "ipv6/conf/all/forwarding", value: "0" },
    Setting { path: "bridge/bridge-nf-call-arptables", value: "0" },
    Setting { path: "bridge/bridge-nf-call-ip6tables", value: "0" },
    Setting { path: "bridge/bridge-nf-call-iptables", value: "0" },
];

/// The link-local groups 01-80-C2-00-00-0X that VXLAN device and spokes forward, a bit for each X: all
/// but X = 1 (PAUSE), which the kernel does not let out. LACP, LLDP and 802.1X cross the LAN so.
pub const GROUP_FWD_MASK: u16 = 0xfffd;
