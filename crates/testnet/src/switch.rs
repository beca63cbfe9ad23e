use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Namespaces};

/// An underlay: a plain bridge in a namespace of its own that joins nodes on layer 2 and floods multicast.
#[derive(Debug)]
pub struct Switch {
    pub(crate) place: Arc<Namespaces>,
}

pub(crate) const BRIDGE: &str = "switch";

impl Switch {
    /// Makes a switch without ports; [`crate::Node::connect`] plugs nodes in.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> Result<Self, Error> {
        let place = Namespaces::with_own_mounts(crate::mounts::own_sysfs)?;
        place.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")).ok();
        place.ip(&format!("link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0"))?;
        place.ip(&format!("link set {BRIDGE} up"))?;
        Ok(Self { place: Arc::new(place) })
    }
}

impl Deref for Switch {
    type Target = Namespaces;

    fn deref(&self) -> &Namespaces {
        &self.place
    }
}

/// Plugs a new link `ifname` of the namespace `inside` into a switch; returns the name of its port.
pub(crate) fn plug(
    switch: &Namespaces,
    inside: &Namespaces,
    ifname: &str,
    mtu: u32,
) -> Result<String, Error> {
    static PORTS: AtomicU32 = AtomicU32::new(1);
    let port = format!("port{}", PORTS.fetch_add(1, Ordering::Relaxed));
    let other = inside.net_path();
    switch.ip(&format!("link add {port} mtu {mtu} type veth peer name {ifname} mtu {mtu} netns {other}"))?;
    switch.ip(&format!("link set {port} master {BRIDGE} up"))?;
    inside.ip(&format!("link set {ifname} up"))?;
    Ok(port)
}
