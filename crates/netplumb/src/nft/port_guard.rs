use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr};

/// What may come in by a port of a bridge; all else is dropped, on every VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGuard {
    /// The port. It need not exist yet.
    pub port: IfName,
    /// The MAC addresses of who is on the port.
    pub own: Vec<MacAddr>,
    /// Whether only these may be sources of its frames, senders in its ARP and link-layer addresses in its neighbour
    /// discovery.
    pub check_macs: bool,
    /// The source addresses of its IP packets, the senders in its ARP, the targets that it advertises; none: any.
    ///
    /// Besides, for its own MAC addresses only: the IPv6 link-local addresses that these lead to, questions whether
    /// anybody has one of its addresses, DHCP of one that has none yet, router solicitations, reports of groups. Frames
    /// with a second tag are dropped then, since nothing in them can be looked at, as are router advertisements.
    pub addresses: Option<Vec<IpNetwork>>,
    /// It does not know its addresses yet: it may ask whether anybody has any.
    pub asking: bool,
}
