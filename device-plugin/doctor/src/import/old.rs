//! What another IPAM plugin has: definitions that use it, and addresses that it gave.

use std::collections::BTreeSet;

use net_types::{Addr, AddrRange, AddrSet, Family};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::documents::name_of;

/// The plugin whose addresses are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Plugin {
    Whereabouts,
    HostLocal,
}

impl Plugin {
    /// `type` of its `ipam` sections.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Whereabouts => "whereabouts",
            Self::HostLocal => "host-local",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Old {
    pub(super) definitions: Vec<Definition>,
    pub(super) live: Vec<Live>,
    /// What of it was not understood.
    pub(super) notes: Vec<String>,
    /// The same of what says which addresses pods have: without it nothing is changed.
    pub(super) unreadable: Vec<String>,
}

/// A NetworkAttachmentDefinition that uses the plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Definition {
    /// `<namespace>/<name>`
    pub(super) name: String,
    /// Ranges of different domains may have the same addresses; empty: the common one.
    pub(super) domain: String,
    /// The networks under which the plugin keeps its addresses, as in [`Live::networks`].
    pub(super) networks: BTreeSet<String>,
    pub(super) ranges: Vec<OldRange>,
    /// What else its `ipam` section has that `ipam-pool` has, too.
    pub(super) more: Map<String, Value>,
    /// The LAN that k8slan made it for.
    pub(super) lan: Option<String>,
    pub(super) notes: Vec<String>,
    /// Why its addresses cannot be taken over.
    pub(super) refusal: Option<String>,
}

/// A range that pods get addresses of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OldRange {
    pub(super) subnet: AddrRange,
    /// The number of the subnet's leading bits.
    pub(super) length: u8,
    /// The addresses of it that are handed out, but for `exclude`.
    pub(super) window: AddrRange,
    pub(super) gateway: Option<Addr>,
    pub(super) exclude: Vec<AddrRange>,
}

/// An address that the plugin has given and not taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) address: Addr,
    /// Who has it, for people.
    pub(super) holder: String,
    /// The network that it is of; several where that cannot be told.
    pub(super) networks: BTreeSet<String>,
}

impl Old {
    /// The addresses that are given in any of these networks, out of `within`.
    pub(super) fn given(&self, networks: &BTreeSet<String>, within: &AddrSet) -> Vec<&Live> {
        let mut given: Vec<&Live> = self.live.iter().collect();
        given.retain(|live| within.contains(live.address) && !live.networks.is_disjoint(networks));
        given.sort_by_key(|live| live.address);
        given
    }
}

/// The addresses of leases.
pub(super) fn addresses(live: &[&Live]) -> AddrSet {
    AddrSet::union(live.iter().map(|live| AddrRange::single(live.address)))
}

/// An `ipam` section of the plugin in a definition, and the name of the network that it is in.
pub(super) struct Section {
    pub(super) network: String,
    pub(super) ipam: Map<String, Value>,
}

/// The sections of a definition with this `ipam.type`; none where its configuration is a file of the nodes.
///
/// # Errors
/// Its configuration is not JSON.
pub(super) fn sections(definition: &Value, plugin: &str) -> Result<Vec<Section>, String> {
    let text = definition["spec"]["config"].as_str().unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let config: Value = serde_json::from_str(text).map_err(|error| {
        format!("definition {}: its configuration is not JSON: {error}", name_of(definition))
    })?;
    let named = config["name"].as_str().filter(|name| !name.is_empty());
    // Multus gives a configuration without a name that of its definition.
    let network = named.or(definition["metadata"]["name"].as_str()).unwrap_or_default();
    let plugins = match config["plugins"].as_array() {
        Some(plugins) => plugins.iter().collect(),
        None => vec![&config],
    };
    let ipam = plugins.into_iter().filter_map(|one| one["ipam"].as_object());
    let of_plugin = ipam.filter(|ipam| ipam.get("type").and_then(Value::as_str) == Some(plugin));
    Ok(of_plugin.map(|ipam| Section { network: network.to_owned(), ipam: ipam.clone() }).collect())
}

/// The LAN whose definition this is.
pub(super) fn lan_of(definition: &Value) -> Option<String> {
    Some(definition["metadata"]["annotations"]["lan.k8slan.io/lan"].as_str()?.to_owned())
}

/// The keys of an `ipam` section that `ipam-pool` has, too, as far as they say something.
pub(super) fn keep(ipam: &Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let kept = ipam.iter().filter(|(key, value)| keys.contains(&key.as_str()) && says(value));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// An address with the length of its prefix, which may have host bits.
pub(super) struct Cidr {
    pub(super) address: Addr,
    pub(super) subnet: AddrRange,
    pub(super) length: u8,
}

pub(super) fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, length) = text.trim().split_once('/')?;
    let address: Addr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    let host = u32::from(address.family().bits().checked_sub(length)?);
    let mask = u128::MAX.checked_shl(host).unwrap_or(0);
    let all = match address.family() {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    let end = |number: u128| Addr::new(address.family(), number & all);
    let subnet = AddrRange::new(end(address.number() & mask)?, end(address.number() | !mask)?)?;
    Some(Cidr { address, subnet, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_may_have_host_bits() {
        for (text, subnet, length) in [
            ("192.168.2.225/28", "192.168.2.224-192.168.2.239", 28),
            ("fd00::5/64", "fd00::-fd00::ffff:ffff:ffff:ffff", 64),
            ("0.0.0.0/0", "0.0.0.0-255.255.255.255", 0),
            ("::1/128", "::1", 128),
        ] {
            let cidr = parse_cidr(text).unwrap();
            assert_eq!((cidr.subnet.to_string().as_str(), cidr.length), (subnet, length));
        }
        for text in ["192.168.2.0", "192.168.2.0/33", "a/8", "192.168.2.0/-1"] {
            assert!(parse_cidr(text).is_none(), "{text}");
        }
    }
}
