use net_types::{MacAddr, Mtu};

/// The interface that ADD made in the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodInterface {
    pub(crate) index: u32,
    pub(crate) mac: MacAddr,
    pub(crate) mtu: Mtu,
}
