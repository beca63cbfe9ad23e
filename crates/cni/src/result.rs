use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr};
use serde::{Deserialize, Deserializer, Serialize};

use crate::decode::{What, object};
use crate::{Error, Version};

/// The result of ADD, independent of the version: it can be read from and written in any.
///
/// Source: SPEC.md, section 5, "ADD Success". An IPAM plugin leaves `interfaces` empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    /// All interfaces that were made, also those on the host.
    pub interfaces: Vec<Interface>,
    /// The addresses of those interfaces, or those that an IPAM plugin gives.
    pub ips: Vec<IpConfig>,
    /// Routes for the container's namespace.
    pub routes: Vec<Route>,
    /// The settings of the container's resolver.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Interface {
    /// The interface's name where it is.
    pub name: String,
    /// The hardware address as text, since another plugin's interface may not be Ethernet.
    #[serde(default, deserialize_with = "text")]
    pub mac: Option<String>,
    /// The MTU in bytes. Written since 1.1.0.
    #[serde(default, deserialize_with = "positive")]
    pub mtu: Option<u32>,
    /// The path of the network namespace that it is in (`CNI_NETNS`); `None` on the host.
    #[serde(default, deserialize_with = "path")]
    pub sandbox: Option<PathBuf>,
    /// The path of a socket that belongs to it. Written since 1.1.0.
    #[serde(default, rename = "socketPath", deserialize_with = "path")]
    pub socket_path: Option<PathBuf>,
    /// The ID of its PCI device. Written since 1.1.0.
    #[serde(default, rename = "pciID", deserialize_with = "text")]
    pub pci_id: Option<String>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IpConfig {
    /// The index in [`AddResult::interfaces`]; `None` from an IPAM plugin.
    #[serde(default, deserialize_with = "index")]
    pub interface: Option<usize>,
    /// The address with the length of its prefix.
    #[serde(deserialize_with = "cidr")]
    pub address: IpNetwork,
    /// The default gateway of that subnet.
    #[serde(default, deserialize_with = "address")]
    pub gateway: Option<IpAddr>,
}

/// A route of a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// The destination with the length of its prefix.
    #[serde(deserialize_with = "cidr")]
    pub dst: IpNetwork,
    /// The next hop; `None`: the gateway of an address may be used.
    #[serde(default, deserialize_with = "address")]
    pub gw: Option<IpAddr>,
    /// The MTU along the path, in bytes. This field and those below came with 1.1.0, but are written in every
    /// version, as libcni does: readers that do not know them ignore them, and without them the wrong route would be
    /// made.
    #[serde(default, deserialize_with = "positive")]
    pub mtu: Option<u32>,
    /// The segment size to advertise for TCP, in bytes.
    #[serde(default, deserialize_with = "positive")]
    pub advmss: Option<u32>,
    /// The priority (metric): lower is preferred.
    #[serde(default, deserialize_with = "positive")]
    pub priority: Option<u32>,
    /// The number of the routing table.
    pub table: Option<u32>,
    /// The scope: 0 global, 253 link, 254 host.
    #[serde(default, deserialize_with = "scope")]
    pub scope: Option<u8>,
}

/// Settings of a resolver, as in resolv.conf(5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Dns {
    /// Name servers' addresses, by priority.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search, by priority.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl AddResult {
    /// Checks that every address is of an interface in the list, or of none. CHECK would otherwise take an address for
    /// another plugin's, and not look at it.
    pub(crate) fn with_valid_interfaces(self) -> Result<Self, Error> {
        let count = self.interfaces.len();
        let beyond = |(at, ip): (usize, &IpConfig)| Some((at, ip.interface.filter(|&index| index >= count)?));
        match self.ips.iter().enumerate().find_map(beyond) {
            Some((at, index)) => Err(Error::PrevResultInterface { at, index, count }),
            None => Ok(self),
        }
    }
}

impl Interface {
    /// An interface on the host.
    #[must_use]
    pub fn on_host(name: &IfName, mac: Option<MacAddr>) -> Self {
        Self { name: name.to_string(), mac: mac.map(|mac| mac.to_string()), ..Self::default() }
    }

    /// An interface in a container.
    #[must_use]
    pub fn in_container(name: &IfName, mac: Option<MacAddr>, netns: impl Into<PathBuf>) -> Self {
        Self { sandbox: Some(netns.into()), ..Self::on_host(name, mac) }
    }
}

impl IpConfig {
    /// An address of the interface with that index in [`AddResult::interfaces`].
    #[must_use]
    pub fn new(address: IpNetwork, gateway: Option<IpAddr>, interface: Option<usize>) -> Self {
        Self { interface, address, gateway }
    }
}

impl Route {
    /// A route with only a destination and a next hop.
    #[must_use]
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// A result as read, of any version. As in the reference plugins, `null` counts as absent.
#[derive(Deserialize)]
pub(crate) struct ResultDocument {
    #[serde(rename = "cniVersion")]
    cni_version: Option<String>,
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<IpConfig>>,
    routes: Option<Vec<Route>>,
    dns: Option<Dns>,
}

impl ResultDocument {
    /// The result, or its version if that is unknown. A missing version means the configuration's, as in libcni.
    pub(crate) fn into_result(self) -> Result<AddResult, String> {
        match self.cni_version {
            Some(version) if !version.is_empty() && Version::parse(&version).is_none() => Err(version),
            _ => Ok(AddResult {
                interfaces: self.interfaces.unwrap_or_default(),
                ips: self.ips.unwrap_or_default(),
                routes: self.routes.unwrap_or_default(),
                dns: self.dns.unwrap_or_default(),
            }),
        }
    }
}

impl AddResult {
    /// Appends this result to that of the plugins before in the chain, which is passed on whole (SPEC.md, section 2,
    /// "ADD"): the indices of its interfaces follow theirs, and their name servers come first.
    #[must_use]
    pub fn behind(self, previous: Option<&Self>) -> Self {
        let Some(previous) = previous else { return self };
        let mut all = previous.clone();
        let before = all.interfaces.len();
        all.interfaces.extend(self.interfaces);
        all.ips.extend(self.ips.into_iter().map(|mut ip| {
            ip.interface = ip.interface.map(|index| index + before);
            ip
        }));
        all.routes.extend(self.routes);
        let Dns { nameservers, domain, search, options } = self.dns;
        let join = |list: &mut Vec<String>, more: Vec<String>| {
            for one in more {
                if !list.contains(&one) {
                    list.push(one);
                }
            }
        };
        join(&mut all.dns.nameservers, nameservers);
        join(&mut all.dns.search, search);
        join(&mut all.dns.options, options);
        all.dns.domain = all.dns.domain.or(domain);
        all
    }

    /// Parses the text of `prevResult`.
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        object::<ResultDocument>(json.as_bytes(), What::PrevResult)?
            .into_result()
            .map_err(Error::PrevResultVersion)
    }
}

/// Text, of which the empty one counts as absent.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// A number, of which 0 counts as absent.
fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::deserialize(deserializer)?.filter(|number| *number != 0))
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    text(deserializer).map(|text| text.map(PathBuf::from))
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An index; some old plugins write -1 for an absent one.
fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    Ok(Option::<i64>::deserialize(deserializer)?.and_then(|index| usize::try_from(index).ok()))
}

fn scope<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let given = Option::<i64>::deserialize(deserializer)?;
    let parsed = given.map(u8::try_from).transpose();
    parsed.map_err(|_| {
        serde::de::Error::custom(format_args!(
            "scope {} is out of range: it must be 0 to 255",
            given.unwrap_or_default()
        ))
    })
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    text(deserializer)?.map(|text| text.parse().map_err(|_| no_address(&text, "10.0.0.1"))).transpose()
}

/// An address with the length of its prefix. `IpNetwork`'s own parser would also accept one without it, and netmasks.
fn cidr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNetwork, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bad = || no_address(&text, "10.0.0.1/24");
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let address = address.parse().map_err(|_| bad())?;
    IpNetwork::new(address, prefix.parse().map_err(|_| bad())?).map_err(|_| bad())
}

fn no_address<E: serde::de::Error>(text: &str, example: &str) -> E {
    E::custom(format_args!("{text:?} is not an address like {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, address: &str, server: &str) -> AddResult {
        let (ifname, address) = (name.parse().unwrap(), address.parse().unwrap());
        AddResult {
            interfaces: vec![
                Interface::on_host(&ifname, None),
                Interface::in_container(&ifname, None, "/pod"),
            ],
            ips: vec![IpConfig::new(address, None, Some(1)), IpConfig::new(address, None, None)],
            routes: vec![Route::new(address, None)],
            dns: Dns { nameservers: vec![server.to_owned(), "10.0.0.53".to_owned()], ..Dns::default() },
        }
    }

    #[test]
    fn a_result_stands_behind_the_one_before() {
        let (first, second) =
            (result("eth0", "10.1.0.5/24", "10.1.0.1"), result("net1", "10.2.0.5/24", "10.2.0.1"));
        assert_eq!(second.clone().behind(None), second);
        let both = second.behind(Some(&first));
        assert_eq!(both.interfaces[..2], first.interfaces[..]);
        assert_eq!(both.ips[..2], first.ips[..]);
        assert_eq!(both.ips[2..].iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(3), None]);
        assert_eq!(both.routes.len(), 2);
        assert_eq!(both.dns.nameservers, ["10.1.0.1", "10.0.0.53", "10.2.0.1"]);
    }
}
