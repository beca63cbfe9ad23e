//! The type `k8slanveth` of k8slan (Go) since its version of 2025-11-24: the pod gets the spoke's veth end.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni::{AddResult, IpConfig, Request, Route};
use ipnetwork::IpNetwork;
use net_types::{Attach, SpokeName};
use serde::{Deserialize, Deserializer};

use crate::{Config, Error};

/// The value of `type` in the configuration.
const TYPE: &str = "k8slanveth";

/// The names of the keys; they are accepted in any case.
pub(crate) const NAMES: &[&str] =
    &["addrs", "disableTxChecksum", "enableDad", "peerNS", "routes", "to", "veth", "via"];

/// The keys that only this type has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct K8slanVeth {
    /// The spoke. It must be the one that the kubelet handed out.
    #[serde(deserialize_with = "cni::unless_empty")]
    pub veth: Option<SpokeName>,
    /// Addresses of the interface, beside those of `ipam`.
    pub addrs: Vec<InterfaceAddress>,
    /// Routes over the interface. They need an address.
    pub routes: Vec<RouteOverVeth>,
    /// IPv6 addresses are used only after the kernel has looked for others that have them.
    pub enable_dad: bool,
    /// What reaches the pod has its checksums: the kernel makes those that pods and guests of this node leave to a network
    /// card (`tx-checksum-ip-generic` off on the bridge's port). For routers in containers that drop what lacks them.
    pub disable_tx_checksum: bool,
    /// Read, and of no effect: the daemon knows the LAN's namespace.
    #[serde(rename = "peerNS")]
    pub peer_ns: String,
}

/// An element of `addrs`, with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress(IpNetwork);

/// An element of `routes`: a route over the interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RouteOverVeth {
    /// Where to.
    to: IpNetwork,
    /// The next hop, of the same family.
    via: IpAddr,
}

impl<'de> Deserialize<'de> for InterfaceAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |what: &str| {
            Err(serde::de::Error::custom(format_args!(
                "{text:?} is not an interface's address: {what}, like 10.0.0.1/24"
            )))
        };
        if !text.contains('/') {
            return wrong("it takes the length of the prefix");
        }
        let address: IpNetwork = match text.parse() {
            Ok(address) => address,
            Err(_) => return wrong("it takes an IP address and the length of the prefix"),
        };
        match address.ip() {
            ip if ip.is_unspecified() || ip.is_multicast() => wrong("it takes the address of one host"),
            _ => Ok(Self(address)),
        }
    }
}

impl K8slanVeth {
    /// The keys of a request of this type; `None` for another type.
    ///
    /// # Errors
    /// An invalid value of a key, or keys that exclude each other.
    pub(crate) fn parse(request: &Request<Config>) -> Result<Option<Self>, Error> {
        if request.plugin_type.as_deref() != Some(TYPE) {
            return Ok(None);
        }
        let keys: Self = request.fields()?;
        let config = &request.config;
        let not_here = [
            (config.master.is_some(), "master"),
            (config.spoke.is_some(), "spoke"),
            (config.mode.is_some(), "mode"),
            (config.attach == Some(Attach::Macvtap), "attach"),
        ];
        if let Some((_, key)) = not_here.iter().find(|(given, _)| *given) {
            return Err(Error::NotOfK8slanveth(key));
        }
        if !keys.routes.is_empty() && keys.addrs.is_empty() && request.ipam().is_none() {
            return Err(Error::RoutesWithoutAddress);
        }
        let mixed = keys.routes.iter().find(|route| route.to.is_ipv4() != route.via.is_ipv4());
        if let Some(RouteOverVeth { to, via }) = mixed {
            return Err(Error::RouteFamilies { to: *to, via: *via });
        }
        Ok(Some(keys))
    }

    /// The spoke, checked against the device that the kubelet gave out.
    ///
    /// # Errors
    /// The configuration names no spoke, or another one.
    pub(crate) fn spoke(&self, device: Option<&str>) -> Result<SpokeName, Error> {
        let veth = self.veth.clone().ok_or(Error::NoVeth)?;
        match device.filter(|device| *device != veth.as_str()) {
            Some(device) => Err(Error::VethDiffers { veth, device: device.to_owned() }),
            None => Ok(veth),
        }
    }

    /// The addresses and routes of the configuration itself.
    pub(crate) fn stated(&self) -> AddResult {
        let mut seen = BTreeSet::new();
        let addresses = self.addrs.iter().map(|InterfaceAddress(address)| *address);
        AddResult {
            ips: addresses
                .filter(|address| seen.insert(*address))
                .map(|address| IpConfig::new(address, None, Some(0)))
                .collect(),
            routes: self.routes.iter().map(|route| Route::new(route.to, Some(route.via))).collect(),
            ..AddResult::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<K8slanVeth, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn the_configurations_of_upstream_are_read() {
        let of_v0_0_2 =
            keys(r#"{"cniVersion":"0.3.1","name":"k8slan-veth-srl","type":"k8slanveth","veth":"srl"}"#)
                .unwrap();
        assert_eq!(of_v0_0_2.spoke(Some("srl")).unwrap().as_str(), "srl");
        assert!(of_v0_0_2.stated() == AddResult::default() && !of_v0_0_2.disable_tx_checksum);
        let later = keys(
            r#"{"type":"k8slanveth","ipam":{},"dns":{},"veth":"srl","addrs":["10.0.0.1/24","fd00::1/64","10.0.0.1/24"],
                "routes":[{"to":"10.1.0.0/16","via":"10.0.0.254"}],"disableTxChecksum":true,"peerNS":"/run/k8slan/netns/lan"}"#,
        )
        .unwrap();
        let stated = later.stated();
        assert_eq!((stated.ips.len(), stated.routes.len()), (2, 1), "an address that is given twice is one");
        assert!(later.disable_tx_checksum && !later.enable_dad);
    }

    #[test]
    fn the_spoke_is_the_one_that_was_handed_out() {
        let none = keys(r#"{"veth":""}"#).unwrap();
        assert!(matches!(none.spoke(Some("srl")), Err(Error::NoVeth)));
        let other = keys(r#"{"veth":"srl"}"#).unwrap().spoke(Some("vm")).unwrap_err().to_string();
        assert!(other.contains("srl") && other.contains("\"vm\""), "{other}");
    }

    #[test]
    fn mistakes_are_named() {
        for (bad, words) in [
            (r#"{"addrs":["10.0.0.1"]}"#, "length of the prefix"),
            (r#"{"addrs":["10.0.0.1/33"]}"#, "10.0.0.1/33"),
            (r#"{"addrs":["0.0.0.0/0"]}"#, "one host"),
            (r#"{"addrs":["ff02::1/64"]}"#, "one host"),
            (r#"{"addrs":"10.0.0.1/24"}"#, "sequence"),
            (r#"{"routes":[{"to":"10.0.0.0/8"}]}"#, "via"),
            (r#"{"routes":[{"to":"default","via":"10.0.0.1"}]}"#, "default"),
            (r#"{"routes":[{"to":"10.0.0.0/8","via":""}]}"#, "IP address"),
            (r#"{"veth":"-x"}"#, "-x"),
            (r#"{"enableDad":"yes"}"#, "yes"),
        ] {
            let error = keys(bad).unwrap_err().to_string();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
