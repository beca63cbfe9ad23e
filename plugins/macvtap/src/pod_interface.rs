use net_types::{MacAddr, Mtu};

/// The pod's interface, as ADD made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodInterface {
    pub(crate) index: u32,
    pub(crate) mac: MacAddr,
    pub(crate) mtu: Mtu,
}
