use attach::FromRouters;
use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr, Mtu, VlanId, VlanSet};
use netplumb::{BridgeVlans, VlanProtocol};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, node_address};

/// The names of the keys, nested ones too; they are accepted in any case.
pub(crate) const NAMES: &[&str] = &[
    "address",
    "adopt",
    "ageing",
    "allowedAddresses",
    "allowedMacs",
    "bridge",
    "createBridge",
    "disableContainerInterface",
    "enabledad",
    "follow",
    "forceAddress",
    "gateway",
    "groupFwdMask",
    "hairpinMode",
    "host",
    "id",
    "ipMasq",
    "ipMasqBackend",
    "ipspoofchk",
    "isDefaultGateway",
    "isGateway",
    "macspoofchk",
    "maxID",
    "mcastSnooping",
    "minID",
    "mtu",
    "name",
    "nativeVlan",
    "portIsolation",
    "preserveDefaultVlan",
    "promiscMode",
    "qinq",
    "stp",
    "tagged",
    "trunk",
    "untagged",
    "uplinks",
    "vlan",
    "vlanTrunk",
    "vrrp",
];

/// The plugin's own keys of a network configuration: every one of the reference plugin `bridge` with the same
/// meaning, and more.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The bridge, `cni0` by default.
    #[serde(default = "cni0")]
    pub bridge: IfName,
    /// Access port: the one VLAN, without a tag; absent or 0: none.
    #[serde(default, deserialize_with = "vlan_or_nothing")]
    pub vlan: Option<VlanId>,
    /// Trunk: the VLANs with their tags.
    pub trunk: Option<VlanSet>,
    /// The reference plugin's name for `trunk`.
    pub vlan_trunk: Option<VlanSet>,
    /// Trunk: the VLAN without a tag; absent or 0: none.
    #[serde(default, deserialize_with = "vlan_or_nothing")]
    pub native_vlan: Option<VlanId>,
    /// Keep the bridge's default VLAN on the port, untagged, also where a trunk has it. As in the reference plugin since
    /// 1.8.0, it is not kept unless this says so: nothing may leak into VLAN 1.
    #[serde(default)]
    pub preserve_default_vlan: bool,
    /// Links of the node that must be ports of the bridge.
    #[serde(default)]
    pub uplinks: Vec<Uplink>,
    /// The bridge sorts by 802.1ad tags; customers' tags pass inside.
    #[serde(default)]
    pub qinq: bool,
    /// A bridge that is made: spanning tree.
    #[serde(default)]
    pub stp: bool,
    /// A bridge that is made: IGMP and MLD snooping.
    #[serde(default)]
    pub mcast_snooping: bool,
    /// A bridge that is made: link-local groups to forward, a bit for each.
    pub group_fwd_mask: Option<u16>,
    /// A bridge that is made: how long an address is kept, in seconds.
    pub ageing: Option<u32>,
    /// MTU in bytes; absent or 0: that of the bridge.
    #[serde(default, deserialize_with = "mtu_or_nothing")]
    pub mtu: Option<Mtu>,
    /// The port talks only to ports that are not isolated.
    #[serde(default)]
    pub port_isolation: bool,
    /// The port gets its own frames back.
    #[serde(default)]
    pub hairpin_mode: bool,
    /// The bridge receives every frame.
    #[serde(default)]
    pub promisc_mode: bool,
    /// Drop frames from other MAC addresses than the pod's.
    #[serde(default)]
    pub macspoofchk: bool,
    /// Drop IP packets, ARP and neighbour discovery that claim other addresses than the pod's.
    #[serde(default)]
    pub ipspoofchk: bool,
    /// MAC addresses that are allowed besides.
    #[serde(default)]
    pub allowed_macs: Vec<MacAddr>,
    /// Addresses, or networks like `fe80::/64`, that are allowed besides.
    #[serde(default, deserialize_with = "addresses_and_networks")]
    pub allowed_addresses: Vec<IpNetwork>,
    /// VRRP routers whose virtual MAC addresses are allowed (RFC 5798, IPv4 and IPv6).
    #[serde(default)]
    pub vrrp: Vec<u8>,
    /// The node is the gateway: it gets the gateway's address in the pod's VLAN.
    #[serde(default)]
    pub is_gateway: bool,
    /// The same, and the pod's default route goes there.
    #[serde(default)]
    pub is_default_gateway: bool,
    /// Replace another address of the gateway.
    #[serde(default)]
    pub force_address: bool,
    /// Addresses of the node in VLANs.
    #[serde(default)]
    pub gateway: Vec<Gateway>,
    /// The node has a link of its own in the pod's VLAN.
    #[serde(default)]
    pub host: bool,
    /// What leaves the pod's network gets the node's address.
    #[serde(default)]
    pub ip_masq: bool,
    /// The reference plugin's choice between two programs. Here it is always nftables, and no program is
    /// started, so either is taken and makes no difference.
    pub ip_masq_backend: Option<MasqueradeBackend>,
    /// IPv6 addresses are used only when nobody else has them.
    #[serde(default)]
    pub enabledad: bool,
    /// The interface in the container stays down.
    #[serde(default)]
    pub disable_container_interface: bool,
    /// An existing bridge that does not filter VLANs is made to.
    #[serde(default)]
    pub adopt: bool,
    /// A bridge that is not there is made; false: it is the node's own, and that it is missing is an error.
    #[serde(default = "yes")]
    pub create_bridge: bool,
    /// IPv6: take routers' advertisements (`accept_ra` 2, so also in a pod that forwards); absent: unless the IPAM plugin gives IPv6 addresses.
    pub accept_ra: Option<bool>,
    /// IPv6: make addresses from what routers advertise (`autoconf`); absent: unless the IPAM plugin gives IPv6 addresses.
    pub autoconf: Option<bool>,
    /// IPv6: take who advertises for a default router (`accept_ra_defrtr`); absent: unless another interface of the pod has a default route.
    pub accept_ra_defrtr: Option<bool>,
    /// IPv6: addresses stay when the interface goes down (`keep_addr_on_down`); absent: if the IPAM plugin gives IPv6 addresses.
    pub keep_addr_on_down: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MasqueradeBackend {
    Iptables,
    Nftables,
}

/// A link of the node that carries VLANs of the bridge outwards.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// VLANs that it carries with their tags.
    #[serde(default, skip_serializing_if = "VlanSet::is_empty")]
    pub tagged: VlanSet,
    /// The VLAN that it carries without a tag; absent or 0: none.
    #[serde(default, deserialize_with = "vlan_or_nothing", skip_serializing_if = "Option::is_none")]
    pub untagged: Option<VlanId>,
    /// It carries what the ports of this node need, with tags.
    #[serde(default)]
    pub follow: bool,
    /// Its own MTU in bytes, if that is larger than the bridge's for the sake of VLANs that are not the bridge's.
    #[serde(default, deserialize_with = "mtu_or_nothing", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
}

/// An address of the node in a VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The VLAN.
    pub vlan: VlanId,
    /// The address with the length of its prefix.
    pub address: IpNetwork,
}

/// The groups of spanning tree, of pauses and of link aggregation: the kernel never forwards them by a bridge's mask
/// (`BR_GROUPFWD_RESTRICTED` in `net/bridge/br_private.h`).
const NEVER_FORWARDED: u16 = 0b111;

fn yes() -> bool {
    true
}

fn cni0() -> IfName {
    const NAME: &str = "cni0";
    NAME.parse().unwrap_or_else(|_| unreachable!("{NAME} is a name"))
}

/// Refuses an address with host bits and a prefix length: it could mean the one address or the whole network.
fn addresses_and_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNetwork>, D::Error> {
    let given = Vec::<IpNetwork>::deserialize(deserializer)?;
    match given.iter().find(|network| network.network() != network.ip()) {
        None => Ok(given),
        Some(host) => Err(serde::de::Error::custom(format_args!(
            "{host} is an address with the length of its network: write {} for the address, or {}/{} for all of the network",
            host.ip(),
            host.network(),
            host.prefix()
        ))),
    }
}

/// An optional VLAN ID: the reference plugin treats 0 as absent, and people write it.
fn vlan_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<VlanId>, D::Error> {
    match Option::<i64>::deserialize(deserializer)? {
        None | Some(0) => Ok(None),
        Some(given) => VlanId::deserialize(given.into_deserializer()).map(Some),
    }
}

fn mtu_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mtu>, D::Error> {
    match Option::<u64>::deserialize(deserializer)? {
        None | Some(0) => Ok(None),
        Some(given) => Mtu::try_from(given).map(Some).map_err(serde::de::Error::custom),
    }
}

impl Config {
    /// What the pod's interface accepts from routers.
    #[must_use]
    pub fn from_routers(&self) -> FromRouters {
        FromRouters {
            accept_ra: self.accept_ra,
            autoconf: self.autoconf,
            accept_ra_defrtr: self.accept_ra_defrtr,
            keep_addr_on_down: self.keep_addr_on_down,
        }
    }

    /// The VLANs of the port; `None`: the configuration has none.
    ///
    /// # Errors
    /// Two keys contradict one another.
    pub fn port_vlans(&self) -> Result<Option<BridgeVlans>, Error> {
        let trunk = match (&self.trunk, &self.vlan_trunk) {
            (Some(_), Some(_)) => return Err(Error::TrunkTwice),
            (Some(trunk), None) | (None, Some(trunk)) => Some(trunk).filter(|trunk| !trunk.is_empty()),
            (None, None) => None,
        };
        match (self.vlan, trunk, self.native_vlan) {
            (None, None, None) => Ok(None),
            (Some(vlan), None, None) => Ok(Some(BridgeVlans::access(vlan))),
            (Some(vlan), None, Some(native)) => Err(Error::NativeOnAccess { vlan, native }),
            (Some(vlan), Some(_), Some(native)) if vlan != native => {
                Err(Error::VlanAndNative { vlan, native })
            }
            // With a trunk, vlan is the reference plugin's name for nativeVlan.
            (vlan, Some(trunk), native) => Ok(Some(BridgeVlans::trunk(trunk, native.or(vlan)))),
            (None, None, Some(native)) => Err(Error::NativeWithoutTrunk(native)),
        }
    }

    /// The tag that the bridge filters by.
    #[must_use]
    pub fn protocol(&self) -> VlanProtocol {
        if self.qinq { VlanProtocol::Dot1ad } else { VlanProtocol::Dot1q }
    }

    /// Whether the node is to be a gateway.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.is_gateway || self.is_default_gateway
    }

    /// Finds mistakes that do not depend on the node.
    ///
    /// # Errors
    /// The first mistake.
    pub fn validate(&self, has_ipam: bool) -> Result<(), Error> {
        let vlans = self.port_vlans()?;
        if self.hairpin_mode && self.promisc_mode {
            return Err(Error::HairpinAndPromisc);
        }
        if self.disable_container_interface && has_ipam {
            return Err(Error::DisabledWithIpam);
        }
        if !self.vrrp.is_empty() && !self.macspoofchk {
            return Err(Error::AllowedWithoutCheck { key: "vrrp", check: "macspoofchk" });
        }
        if !self.allowed_macs.is_empty() && !self.macspoofchk {
            return Err(Error::AllowedWithoutCheck { key: "allowedMacs", check: "macspoofchk" });
        }
        if !self.allowed_addresses.is_empty() && !self.ipspoofchk {
            return Err(Error::AllowedWithoutCheck { key: "allowedAddresses", check: "ipspoofchk" });
        }
        if self.group_fwd_mask.is_some_and(|mask| mask & NEVER_FORWARDED != 0) {
            return Err(Error::GroupNeverForwarded);
        }
        if self.vrrp.contains(&0) {
            return Err(Error::VrrpZero);
        }
        if self.ipspoofchk && !has_ipam && self.allowed_addresses.is_empty() {
            return Err(Error::NoAddressToAllow);
        }
        if (self.host || self.is_gateway()) && vlans.as_ref().is_some_and(|vlans| vlans.pvid.is_none()) {
            return Err(Error::HostInterfaceWithoutVlan);
        }
        if vlans.is_none() && (self.host || !self.gateway.is_empty()) {
            return Err(Error::HostInterfaceWithoutVlan);
        }
        for gateway in &self.gateway {
            node_address::check(gateway.address)?;
        }
        for (at, uplink) in self.uplinks.iter().enumerate() {
            let name = &uplink.name;
            if uplink.follow && (!uplink.tagged.is_empty() || uplink.untagged.is_some()) {
                return Err(Error::FollowAndVlans(name.clone()));
            }
            if let Some(untagged) = uplink.untagged.filter(|&id| uplink.tagged.contains(id)) {
                return Err(Error::TaggedAndUntagged { uplink: name.clone(), vlan: untagged });
            }
            if self.uplinks.iter().take(at).any(|other| other.name == *name) {
                return Err(Error::UplinkTwice(name.clone()));
            }
            if *name == self.bridge {
                return Err(Error::UplinkIsBridge(name.clone()));
            }
            if vlans.is_none() && (!uplink.tagged.is_empty() || uplink.untagged.is_some()) {
                return Err(Error::UplinkVlansAlone(name.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, serde_json::Error> {
        serde_json::from_str(text)
    }

    fn mistake(text: &str) -> String {
        match config(text) {
            Err(error) => error.to_string(),
            Ok(config) => config.validate(false).expect_err(text).to_string(),
        }
    }

    fn vlans(text: &str) -> String {
        let config = config(text).unwrap();
        config.validate(false).unwrap_or_else(|e| panic!("{text}: {e}"));
        config.port_vlans().unwrap().map_or_else(|| "none".to_owned(), |vlans| vlans.to_string())
    }

    #[test]
    fn what_a_port_carries() {
        assert_eq!(vlans("{}"), "none");
        assert_eq!(vlans(r#"{"vlan": 0}"#), "none");
        assert_eq!(vlans(r#"{"vlan": 0, "vlanTrunk": [10], "nativeVlan": 0}"#), "10 tagged (no PVID)");
        assert_eq!(vlans(r#"{"vlan": 10}"#), "10 untagged (PVID 10)");
        assert_eq!(vlans(r#"{"trunk": "10,20,30-39"}"#), "10,20,30-39 tagged (no PVID)");
        assert_eq!(
            vlans(r#"{"vlanTrunk": [{"minID": 10, "maxID": 12}, {"id": 20}]}"#),
            "10-12,20 tagged (no PVID)"
        );
        assert_eq!(vlans(r#"{"trunk": "1-4094", "nativeVlan": 1}"#), "2-4094 tagged, 1 untagged (PVID 1)");
        assert_eq!(vlans(r#"{"trunk": [10], "nativeVlan": 1}"#), "10 tagged, 1 untagged (PVID 1)");
        assert_eq!(vlans(r#"{"trunk": [10], "nativeVlan": 1, "vlan": 1}"#), "10 tagged, 1 untagged (PVID 1)");
        assert_eq!(vlans(r#"{"vlanTrunk": [{"id": 10}], "vlan": 2}"#), "10 tagged, 2 untagged (PVID 2)");
    }

    #[test]
    fn each_mistake_has_its_message() {
        let mistakes = [
            (r#"{"vlan": -1}"#, "VLAN ID -1 is out of range"),
            (r#"{"vlan": 4095}"#, "VLAN ID 4095 is out of range"),
            (r#"{"trunk": "20-10"}"#, "VLAN range 20-10 is reversed"),
            (r#"{"trunk": ["10-20", 15]}"#, "VLAN 15 is named twice"),
            (r#"{"trunk": [10], "nativeVlan": 2, "vlan": 1}"#, "vlan 1 and nativeVlan 2 differ"),
            (r#"{"nativeVlan": 2, "vlan": 1}"#, "not allowed on an access port"),
            (r#"{"nativeVlan": 2}"#, "needs a trunk"),
            (r#"{"vlanTrunk": [{"id": 2}], "trunk": [3]}"#, "trunk and vlanTrunk"),
            (r#"{"hairpinMode": true, "promiscMode": true}"#, "hairpinMode and promiscMode"),
            (r#"{"bridge": "a/b"}"#, "a/b"),
            (r#"{"bridge": "br%d"}"#, "\"br%d\" contains '%'"),
            (r#"{"uplinks": [{"name": "eth%d"}]}"#, "\"eth%d\" contains '%'"),
            (r#"{"bridge": "default"}"#, "a link cannot be named \"default\""),
            (r#"{"mtu": 10}"#, "MTU 10 is out of range"),
            (r#"{"uplinks": [{"name": "e", "follow": true, "tagged": "10"}]}"#, "follow"),
            (r#"{"uplinks": [{"name": "e", "untagged": 10, "tagged": "10"}]}"#, "both tagged and untagged"),
            (r#"{"uplinks": [{"name": "e"}, {"name": "e"}]}"#, "listed twice"),
            (r#"{"uplinks": [{"name": "cni0"}]}"#, "bridge itself"),
            (r#"{"uplinks": [{"name": "e", "tagged": "10"}]}"#, "give vlan or trunk"),
            (r#"{"uplinks": [{"name": "e", "vlans": "10"}]}"#, "unknown field `vlans`"),
            (r#"{"vrrp": [1]}"#, "macspoofchk"),
            (r#"{"vrrp": [0], "macspoofchk": true}"#, "VRRP"),
            (r#"{"ipspoofchk": true}"#, "no address"),
            (
                r#"{"ipspoofchk": true, "allowedAddresses": ["10.9.0.100/24"]}"#,
                "write 10.9.0.100 for the address, or 10.9.0.0/24",
            ),
            (r#"{"trunk": [10], "host": true}"#, "VLAN of its own"),
            (
                r#"{"vlan": 10, "gateway": [{"vlan": 10, "address": "255.255.255.255/32"}]}"#,
                "255.255.255.255: it is a broadcast address",
            ),
            (
                r#"{"vlan": 10, "gateway": [{"vlan": 10, "address": "ff02::1/64"}]}"#,
                "ff02::1: it is a multicast group",
            ),
            (r#"{"groupFwdMask": 7}"#, "65528 (0xfff8) is all others"),
            (r#"{"ipMasqBackend": "ebtables"}"#, "unknown variant `ebtables`"),
        ];
        let mut seen = Vec::new();
        for (text, says) in mistakes {
            let message = mistake(text);
            assert!(message.contains(says), "{text}: {message}");
            assert!(!seen.contains(&message), "{text}: the same as another: {message}");
            seen.push(message);
        }
    }
}
