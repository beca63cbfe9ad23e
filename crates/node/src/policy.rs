use std::collections::BTreeMap;
use std::fmt;

use ipnetwork::IpNetwork;
use net_types::{IfName, VlanSet};
use serde::Deserialize;

/// Which shared resources of the node the attachments of a pod namespace may use.
///
/// Keys are pod namespaces; `"*"` stands for every namespace without a key of its own. What a namespace's entry does
/// not list, it may not use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Policy(BTreeMap<String, Allowed>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Allowed {
    /// Links of the node that a macvtap may be put on, or that may be uplinks of a bridge.
    masters: Vec<IfName>,
    /// Those of them that may be taken although the node uses them; the node then loses that use.
    used_links: Vec<IfName>,
    /// The pools that may be named.
    pools: Vec<String>,
    /// The VLANs of each bridge; a bridge without any may be used only by ports that speak of no VLAN.
    bridges: BTreeMap<IfName, VlanSet>,
    /// Networks in which attachments may give the node an address, as their `gateway` and `isGateway` do. `fe80::/64`
    /// is for `host`, whose link only gets a link-local address.
    node_addresses: Vec<IpNetwork>,
    /// Networks in which they may, although the node has addresses or routes there: it then has two paths to them.
    used_networks: Vec<IpNetwork>,
}

impl Allowed {
    /// The VLANs of a bridge, by its name.
    fn bridge(&self, name: &str) -> Option<&VlanSet> {
        self.bridges.iter().find_map(|(bridge, vlans)| (bridge == name).then_some(vlans))
    }
}

/// A shared resource of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A link of the node that a macvtap is put on, or that becomes the uplink of a bridge.
    Master(&'a str),
    /// A link that the node uses, and that an attachment would take away from it.
    UsedLink(&'a str),
    /// An address pool, by its name.
    Pool(&'a str),
    /// An address that an attachment gives to the node.
    NodeAddress(IpNetwork),
    /// A network that the node already has addresses in or routes to, where an attachment gives it one more.
    UsedNetwork(IpNetwork),
    /// A bridge of the node, with the VLANs of a port.
    Bridge {
        /// The name of the bridge.
        name: &'a str,
        /// The VLANs that a port would carry; `None`: all that pass, since the bridge does not filter by VLAN.
        vlans: Option<&'a VlanSet>,
    },
}

/// Why the policy refuses an attachment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum PolicyError {
    #[error("pod namespace {namespace:?} may not use {resource}: the policy in node.yaml does not list it")]
    NotAllowed { namespace: String, resource: String },
    /// A policy is set, but the pod's namespace is not known.
    #[error(
        "the policy in node.yaml decides by pod namespace, but the runtime states none (K8S_POD_NAMESPACE), so {0} is refused"
    )]
    NoNamespace(String),
}

impl Policy {
    /// Whether a pod of `namespace` may use `resource`.
    ///
    /// # Errors
    /// It may not, or the runtime states no namespace.
    pub fn check(&self, namespace: Option<&str>, resource: Resource<'_>) -> Result<(), PolicyError> {
        let namespace = namespace.ok_or_else(|| PolicyError::NoNamespace(resource.to_string()))?;
        let listed = self.0.get(namespace).or_else(|| self.0.get("*")).is_some_and(|allowed| {
            let listed = |list: &[IfName], name: &str| list.iter().any(|entry| entry == name);
            match resource {
                Resource::Master(name) => listed(&allowed.masters, name),
                Resource::UsedLink(name) => listed(&allowed.used_links, name),
                Resource::Pool(name) => allowed.pools.iter().any(|entry| entry == name),
                // A network that may be used although the node uses it may be used in any case.
                Resource::NodeAddress(address) => {
                    covers(&allowed.node_addresses, address) || covers(&allowed.used_networks, address)
                }
                Resource::UsedNetwork(network) => covers(&allowed.used_networks, network),
                Resource::Bridge { name, vlans } => {
                    allowed.bridge(name).is_some_and(|allowed| match vlans {
                        Some(vlans) => vlans.without(allowed).is_empty(),
                        // Every VLAN passes there, which a list of some VLANs does not allow.
                        None => allowed.is_empty() || *allowed == VlanSet::all(),
                    })
                }
            }
        });
        if listed {
            return Ok(());
        }
        Err(PolicyError::NotAllowed { namespace: namespace.to_owned(), resource: resource.to_string() })
    }
}

/// Whether one of the networks contains another one completely.
fn covers(all: &[IpNetwork], network: IpNetwork) -> bool {
    all.iter().any(|one| one.prefix() <= network.prefix() && one.contains(network.network()))
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(name) => write!(f, "master {name:?}"),
            Self::UsedLink(name) => write!(f, "link {name:?}, which the node uses"),
            Self::Pool(name) => write!(f, "pool {name:?}"),
            Self::NodeAddress(address) => write!(f, "address {address} of the node"),
            Self::UsedNetwork(network) => write!(f, "network {network}, which the node uses"),
            Self::Bridge { name, vlans: None } => write!(f, "bridge {name:?} without VLANs"),
            Self::Bridge { name, vlans: Some(vlans) } => write!(f, "bridge {name:?} with VLANs {vlans}"),
        }
    }
}
