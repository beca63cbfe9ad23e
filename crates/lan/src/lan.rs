use std::collections::{BTreeMap, BTreeSet};

use net_types::{Attach, IfName, MacvtapMode, Mtu, SpokeName, UdpPort, Vni};

use crate::{Group, LanKey, NetnsName};

/// A LAN with a specification that is valid by itself. [`crate::decide`] finds conflicts with other LANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lan {
    /// The namespace and the name of its object.
    pub key: LanKey,
    /// Its network namespace on every node.
    pub netns: NetnsName,
    /// The bridge in the namespace.
    pub bridge: IfName,
    /// The VXLAN device in the namespace.
    pub vxlan: IfName,
    /// The VXLAN network identifier.
    pub vni: Vni,
    /// The multicast group of the nodes.
    pub group: Group,
    /// The UDP port of the VXLAN device.
    pub port: UdpPort,
    /// The underlay of nodes that `underlays` does not name.
    pub default_underlay: Option<IfName>,
    /// Underlays by node name.
    pub underlays: BTreeMap<String, IfName>,
    /// The MTU that every node must have; `None`: the largest that the node's underlay has room for.
    pub mtu: Option<Mtu>,
    /// The largest MTU that all nodes of the cluster have room for, if known; used if `mtu` is absent.
    pub common_mtu: Option<Mtu>,
    /// The spokes with what differs between them.
    pub spokes: BTreeMap<SpokeName, Spoke>,
    /// The namespaces whose pods may attach; `None`: all.
    pub allowed_namespaces: Option<BTreeSet<String>>,
}

/// What the pod gets at its end of a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoke {
    /// Whether it is a macvtap or a bare veth.
    pub attach: Attach,
    /// The mode of the macvtap, if it is one.
    pub mode: MacvtapMode,
}

impl Lan {
    /// The underlay device on a node; `None` if the LAN has none there and is not built.
    #[must_use]
    pub fn underlay(&self, node: &str) -> Option<&IfName> {
        self.underlays.get(node).or(self.default_underlay.as_ref())
    }

    /// The MTU of the LAN on a node whose underlay has this MTU.
    ///
    /// # Errors
    /// The underlay has no room for the requested MTU, or for any.
    pub fn mtu_on(&self, underlay: Mtu) -> Result<Mtu, MtuTooLarge> {
        match (self.mtu, self.room_on(underlay)) {
            (Some(wanted), Some(room)) if wanted <= room => Ok(wanted),
            (None, Some(room)) => Ok(self.common_mtu.map_or(room, |common| common.min(room))),
            _ => {
                Err(MtuTooLarge { underlay, overhead: self.group.encapsulation_overhead(), wanted: self.mtu })
            }
        }
    }

    /// The largest MTU that the LAN could have on a node whose underlay has this MTU.
    #[must_use]
    pub fn room_on(&self, underlay: Mtu) -> Option<Mtu> {
        let room = underlay.get().checked_sub(self.group.encapsulation_overhead())?;
        Mtu::try_from(u64::from(room)).ok()
    }

    /// Makes a node's entry in the map of underlays apply if it is under the node's host name. The node's own name
    /// has precedence.
    pub fn also_known_as(&mut self, node: &str, hostname: &str) {
        if !self.underlays.contains_key(node)
            && let Some(underlay) = self.underlays.get(hostname)
        {
            self.underlays.insert(node.to_owned(), underlay.clone());
        }
    }
}

/// The MTU of the underlay is too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtuTooLarge {
    underlay: Mtu,
    overhead: u32,
    wanted: Option<Mtu>,
}

impl std::fmt::Display for MtuTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { underlay, overhead, wanted } = self;
        match (wanted, underlay.get().checked_sub(*overhead)) {
            (Some(wanted), Some(room)) => write!(
                f,
                "an MTU of {wanted} is more than the {room} that an underlay with {underlay} has room for: \
                 raise the underlay's to {} or lower the LAN's",
                u64::from(wanted.get()) + u64::from(*overhead),
            ),
            _ => {
                write!(
                    f,
                    "an underlay with an MTU of {underlay} has no room for VXLAN's {overhead} bytes: raise it"
                )
            }
        }
    }
}

impl std::error::Error for MtuTooLarge {}

impl Group {
    /// The bytes between an underlay's MTU and the LAN's: the outer IP header, UDP (8), VXLAN (8) and
    /// the inner Ethernet header with one 802.1Q tag (18).
    #[must_use]
    pub fn encapsulation_overhead(self) -> u32 {
        if self.get().is_ipv6() { 40 + 8 + 8 + 18 } else { 20 + 8 + 8 + 18 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{document, key};

    fn on(group: &str, wanted: Option<i64>, underlay: u64) -> Result<u32, String> {
        let mut spec = document();
        spec.vxlan_grp = group.to_owned();
        spec.mtu = wanted;
        let lan = Lan::new(key("a/b"), &spec).unwrap();
        lan.mtu_on(Mtu::try_from(underlay).unwrap()).map(Mtu::get).map_err(|e| e.to_string())
    }

    #[test]
    fn the_mtu_leaves_room_for_the_outer_headers() {
        assert_eq!(on("ff02::14", None, 1500), Ok(1426));
        assert_eq!(on("239.1.1.1", None, 1500), Ok(1446));
        assert_eq!(on("ff02::14", Some(1300), 1500), Ok(1300));
        assert_eq!(on("ff02::14", Some(1426), 1500), Ok(1426));
        let error = on("ff02::14", Some(1500), 1500).unwrap_err();
        assert!(error.contains("more than the 1426") && error.contains("underlay's to 1574"), "{error}");
        assert!(on("ff02::14", None, 100).unwrap_err().contains("no room for VXLAN's 74 bytes"));
    }

    #[test]
    fn no_node_takes_more_than_all_have_room_for() {
        let on = |wanted: Option<i64>, underlay: u64| {
            let mut spec = document();
            spec.mtu = wanted;
            let mut lan = Lan::new(key("a/b"), &spec).unwrap();
            lan.common_mtu = Some(Mtu::try_from(1426_u64).unwrap());
            lan.mtu_on(Mtu::try_from(underlay).unwrap()).map(Mtu::get)
        };
        assert_eq!(on(None, 9000), Ok(1426));
        // A node with less room than the known common MTU uses what it has.
        assert_eq!(on(None, 1400), Ok(1326));
        // A stated MTU is never changed.
        assert_eq!(on(Some(8000), 9000), Ok(8000));
    }

    #[test]
    fn a_node_is_found_by_its_host_name_after_its_own() {
        let mut lan = Lan::new(key("a/b"), &document()).unwrap();
        lan.also_known_as("ip-10-0-0-7", "worker2");
        lan.also_known_as("worker1", "worker2");
        lan.also_known_as("other", "unknown");
        assert_eq!(lan.underlay("ip-10-0-0-7").unwrap().as_str(), "eth2");
        assert_eq!(lan.underlay("worker1").unwrap().as_str(), "eth1");
        assert_eq!(lan.underlay("other").unwrap().as_str(), "eth0.10");
    }

    #[test]
    fn a_node_outside_the_map_takes_the_default() {
        let mut spec = document();
        spec.default_vxlan_dev = None;
        let lan = Lan::new(key("a/b"), &spec).unwrap();
        assert_eq!(lan.underlay("worker2").unwrap().as_str(), "eth2");
        assert_eq!(lan.underlay("worker3"), None);
    }
}
