use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr};

/// What a port of a bridge may send; everything else is dropped, on every VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGuard {
    /// The port. It need not exist yet.
    pub port: IfName,
    /// The MAC addresses of the host on the port.
    pub own: Vec<MacAddr>,
    /// Whether the sources of its frames, the senders in its ARP and the link-layer addresses in its neighbour
    /// discovery must be among these.
    pub check_macs: bool,
    /// The allowed source addresses of its IP packets, senders in its ARP and targets of its advertisements; `None`:
    /// any.
    ///
    /// With its own MAC addresses it may also use the IPv6 link-local addresses derived from them, and send duplicate
    /// address detection for its addresses, DHCP requests without an address, router solicitations and multicast
    /// reports. Frames with a second tag are dropped, since the rules cannot look into them, and router
    /// advertisements too.
    pub addresses: Option<Vec<IpNetwork>>,
    /// The host does not have its addresses yet: it may probe for any.
    pub asking: bool,
}
