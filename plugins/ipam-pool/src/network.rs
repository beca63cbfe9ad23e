//! The `ipam` section of a network's configuration: host-local's keys, and more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cni::{Dns, Request, Route};
use net_types::{Probe, Timespan};
use node::Paths;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::address_state::MAX_COOLDOWN;
use crate::blocks::Blocks;
use crate::network_scope;
use crate::options::{DEFAULT_QUARANTINE, Reservations, Sticky};
use crate::store::PoolKey;
use crate::{
    Addr, AllowedNamespaces, NetworkError, Order, PoolFile, RangeSet, RangeSetError, RangeSpec,
    RequestedIpsError, Restrictions, Rules,
};

/// All keys in the `ipam` section, nested ones too, and `allowPersistentIPs` beside it, so that a key in another case is recognised.
pub(crate) const NAMES: &[&str] = &[
    "allowPersistentIPs",
    "cooldown",
    "count",
    "dataDir",
    "exclude",
    "gateway",
    "interval",
    "order",
    "pool",
    "probe",
    "quarantine",
    "rangeEnd",
    "rangeStart",
    "ranges",
    "reservations",
    "resolvConf",
    "routes",
    "sticky",
    "subnet",
    "wait",
];

/// The `ipam` section, not parsed, so that DEL works when it is invalid.
#[derive(Debug, Deserialize)]
pub struct Config {
    ipam: Option<Box<RawValue>>,
    /// Whether an `IPAMClaim` that the pod names owns the address.
    #[serde(rename = "allowPersistentIPs", default)]
    allow_persistent_ips: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipam {
    /// A named pool in place of ranges: `/var/lib/k8slan/pools.d/<name>.yaml`, else the cluster's `LANPool` of that name. Many networks may name one.
    #[serde(deserialize_with = "cni::unless_empty")]
    pool: Option<String>,
    /// One address from each outer list; an inner list is one pool of ranges.
    ranges: Vec<Vec<RangeSpec>>,
    /// `host`: every host has these ranges for itself. Without it they are refused (126) where the network goes beyond the host.
    #[serde(deserialize_with = "cni::unless_empty")]
    scope: Option<String>,
    /// A single range, as in older configurations: the link's subnet.
    subnet: Option<String>,
    /// The first address of that range; the subnet's first usable one by default.
    #[serde(deserialize_with = "cni::unless_empty")]
    range_start: Option<String>,
    /// The last address of that range; the subnet's last usable one by default.
    #[serde(deserialize_with = "cni::unless_empty")]
    range_end: Option<String>,
    /// The gateway of that range: the subnet's first usable address by default, `none` where there is none. It may be
    /// outside the subnet, link-local too, or the first address of an IPv6 subnet, which is all its routers'.
    #[serde(deserialize_with = "cni::unless_empty")]
    gateway: Option<String>,
    /// Routes for the pod.
    routes: Vec<Route>,
    /// A file in the form of resolv.conf, of 64 KiB at most, with the resolver's settings; it has precedence over `dns`.
    resolv_conf: Option<String>,
    /// The resolver's settings.
    dns: Option<Dns>,
    /// Addresses, ranges (`10.0.0.5-10.0.0.9`) and subnets that are not handed out. Beside a pool of the cluster it is refused (116): the `LANPool` has its own.
    exclude: Vec<String>,
    /// Addresses for one owner each: `default/web-0`, `default/web-0/net`, `vm:default/vyos`.
    reservations: Reservations,
    /// Who keeps an address over restarts: nobody (the default for pods), the pod of that name, or the virtual machine (the default for a VM's guest). With `pool`, its file sets it, and this can only be the same or `none`. Without, what is kept for owners that are away gives way when no other address is free, the one longest away first.
    sticky: Option<Sticky>,
    /// How long a released address rests before it is handed out again; `0s` by default, 30 days (`720h`) at most.
    cooldown: Option<Timespan>,
    /// Which address is next: `oldest` (the default: never used ones, range by range as they are listed; then the one that rests longest) or `lowest`.
    #[serde(deserialize_with = "cni::unless_empty")]
    order: Option<Order>,
    /// Probe the link for another host with the address before it is used: 10 times and for 30 s at most. An address that another host has is not handed out for `quarantine`: `10m` by default, `1h` at most; with `pool`, its file sets it.
    #[serde(deserialize_with = "crate::options::probe")]
    probe: Option<Probe>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// Keys that are accepted and ignored: `dataDir` is host-local's, whose paths are fixed here (D3).
const IGNORED_KEYS: [&str; 3] = ["type", "dataDir", "name"];

/// Only the name of the pool, for verbs that need no more.
#[derive(Deserialize)]
struct PoolName {
    #[serde(default, deserialize_with = "cni::unless_empty")]
    pool: Option<String>,
}

/// A network's valid configuration, with that of its pool.
#[derive(Debug)]
pub struct Network {
    pub key: PoolKey,
    pub sets: Vec<RangeSet>,
    /// How addresses are handed out.
    pub rules: Rules,
    /// Who keeps an address, if it is configured.
    pub sticky: Option<Sticky>,
    /// Whether each node has all addresses for itself.
    pub host_scope: bool,
    /// Whether the pool is an object of the cluster.
    pub of_cluster: bool,
    /// Where nodes share the pool in blocks: those of this node.
    pub blocks: Option<Blocks>,
    /// Whether an `IPAMClaim` that a pod names owns its address.
    pub allows_claims: bool,
    /// The owners for whom addresses of it are reserved on every node, without a network.
    pub reserved: BTreeSet<String>,
    /// How long an address is quarantined after another host answered a probe for it.
    pub quarantine: Duration,
    /// The namespaces whose pods may have addresses.
    pub allowed_namespaces: AllowedNamespaces,
    pub routes: Vec<Route>,
    pub dns: Dns,
    /// Messages that are not errors.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the `ipam` section of a document that is otherwise invalid.
    pub(crate) fn parse_ipam_only(stdin: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct IpamOnly {
            ipam: Option<Box<RawValue>>,
        }
        let IpamOnly { ipam } = serde_json::from_slice(stdin).ok()?;
        Some(Self { ipam, allow_persistent_ips: None })
    }

    /// The store of this network's leases; other errors in the section are ignored.
    ///
    /// # Errors
    /// The pool's name is invalid.
    pub fn key<C>(&self, request: &Request<C>) -> Result<PoolKey, NetworkError> {
        let named = self
            .ipam
            .as_ref()
            .and_then(|ipam| serde_json::from_str::<PoolName>(ipam.get()).ok())
            .and_then(|ipam| ipam.pool);
        match named {
            Some(pool) => {
                PoolFile::check_name(&pool)?;
                Ok(PoolKey::Named(pool))
            }
            None => Ok(PoolKey::Network(request.network.to_string())),
        }
    }

    /// Parses the whole section and reads the file of its pool.
    pub fn network(
        &self,
        request: &Request<Self>,
        paths: &Paths,
        node: Option<&str>,
    ) -> Result<Network, NetworkError> {
        let text = self.ipam.as_ref().map_or("{}", |ipam| ipam.get());
        let ipam: Ipam = serde_json::from_str(text).map_err(|error| Ipam::invalid_key(text, &error))?;
        let mut warnings = Vec::new();
        for key in ipam.others.keys().filter(|key| !IGNORED_KEYS.contains(&key.as_str())) {
            warnings.push(format!(
                "unknown key {key:?} in the ipam section of network {} is ignored",
                request.network
            ));
        }
        let dns = read_dns(&ipam, request)?;
        let network = Network {
            key: self.key(request)?,
            sets: Vec::new(),
            rules: Rules { probing: ipam.probe.is_some(), ..Rules::default() },
            sticky: ipam.sticky,
            host_scope: true,
            of_cluster: false,
            blocks: None,
            allows_claims: self.allow_persistent_ips.unwrap_or_default(),
            reserved: BTreeSet::new(),
            quarantine: ipam.probe.and_then(|probe| probe.quarantine).unwrap_or(DEFAULT_QUARANTINE),
            allowed_namespaces: AllowedNamespaces::All,
            routes: Vec::new(),
            dns,
            warnings,
        };
        match &ipam.pool {
            Some(pool) => from_pool(network, ipam.restrictions(), &ipam, pool, request, (paths, node)),
            None => from_own_ranges(network, ipam, request),
        }
    }
}

impl Ipam {
    /// Finds the invalid key by parsing each key alone.
    fn invalid_key(text: &str, error: &serde_json::Error) -> NetworkError {
        let section: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let failed = section.into_iter().find_map(|(key, value)| {
            let alone = Value::Object([(key.clone(), value)].into_iter().collect());
            let error = serde_json::from_value::<Self>(alone).err()?;
            Some(NetworkError::Value { key: format!("ipam.{key}"), message: error.to_string() })
        });
        failed.unwrap_or_else(|| NetworkError::Syntax(error.to_string()))
    }

    fn restrictions(&self) -> Restrictions {
        Restrictions { exclude: self.exclude.clone(), reservations: self.reservations.0.clone() }
    }
}

fn from_pool(
    mut network: Network,
    restrictions: Restrictions,
    ipam: &Ipam,
    pool: &str,
    request: &Request<Config>,
    (paths, node): (&Paths, Option<&str>),
) -> Result<Network, NetworkError> {
    let own_ranges = ip_ranges(request)?.is_some();
    for (key, given) in [
        ("ranges", !ipam.ranges.is_empty()),
        ("subnet", ipam.subnet.is_some()),
        ("rangeStart", ipam.range_start.is_some()),
        ("rangeEnd", ipam.range_end.is_some()),
        ("gateway", ipam.gateway.is_some()),
        ("scope", ipam.scope.is_some()),
        ("the capability ipRanges", own_ranges),
        ("reservations", !restrictions.reservations.is_empty()),
        ("cooldown", ipam.cooldown.is_some()),
        ("order", ipam.order.is_some()),
        ("probe.quarantine", ipam.probe.is_some_and(|probe| probe.quarantine.is_some())),
    ] {
        if given {
            return Err(NetworkError::PoolAnd(key));
        }
    }
    let file = PoolFile::find(paths, pool)?;
    // Blocks would be claimed of which the network can have nothing.
    if file.of_cluster && !restrictions.exclude.is_empty() {
        return Err(NetworkError::ExcludeOfCluster(pool.to_owned()));
    }
    let blocks = file.blocks(paths);
    let is_shared = file.is_shared_explicitly() || blocks.is_some();
    let spans_nodes = if is_shared { None } else { network_scope::why_it_spans_nodes(request)? };
    network.sets =
        file.sets_for_node(node, spans_nodes.as_deref()).map_err(|error| inventory_error(error, request))?;
    if !restrictions.exclude.is_empty() {
        let restrictions = Restrictions {
            exclude: file.restrictions.exclude.iter().chain(&restrictions.exclude).cloned().collect(),
            reservations: Vec::new(),
        };
        RangeSet::restrict(&mut network.sets, &restrictions)?;
    }
    network.rules.cooldown = file.cooldown.millis();
    network.rules.order = file.order;
    // A kept address is lost to all other users of the pool, so one network alone must not decide it.
    let kept = file.sticky.unwrap_or_default();
    network.sticky = match ipam.sticky {
        Some(asked) if asked != Sticky::No && asked != kept => {
            return Err(NetworkError::Sticky { pool: pool.to_owned(), asked, kept });
        }
        asked => asked.or(file.sticky),
    };
    network.host_scope = !file.is_divided() && blocks.is_none();
    network.of_cluster = file.of_cluster;
    network.blocks = blocks;
    network.reserved.clone_from(&file.reserved);
    network.quarantine = file.quarantine.get();
    network.allowed_namespaces.clone_from(&file.allowed_namespaces);
    network.routes.clone_from(&ipam.routes);
    Ok(network)
}

/// Names the pod that requests an address from an inventory: some inventories exist to find these.
fn inventory_error(error: crate::PoolFileError, request: &Request<Config>) -> NetworkError {
    let crate::PoolFileError::Inventory(pool) = error else { return error.into() };
    let args = &request.args;
    let asker = match (&args.pod_namespace, &args.pod_name) {
        (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
        _ => "a container that the runtime does not name".to_owned(),
    };
    NetworkError::Inventory { pool, network: request.network.to_string(), asker }
}

fn from_own_ranges(
    mut network: Network,
    ipam: Ipam,
    request: &Request<Config>,
) -> Result<Network, NetworkError> {
    let restrictions = ipam.restrictions();
    let every_host = match ipam.scope.as_deref() {
        None => false,
        Some("host") => true,
        Some(scope) => return Err(NetworkError::Scope(scope.to_owned())),
    };
    let mut lists = Vec::new();
    // The order is host-local's: the runtime's ranges, the single range, the lists.
    lists.extend(ip_ranges(request)?.unwrap_or_default());
    if let Some(subnet) = ipam.subnet {
        let Ipam { range_start, range_end, gateway, .. } = ipam;
        lists.push(vec![RangeSpec { subnet, range_start, range_end, gateway }]);
    }
    lists.extend(ipam.ranges);
    if lists.is_empty() {
        return Err(NetworkError::NoRanges);
    }
    if lists.len() > 255 {
        return Err(NetworkError::TooMany(lists.len()));
    }
    for (index, list) in (0u8..).zip(&lists) {
        let mut ranges = Vec::with_capacity(list.len());
        for spec in list {
            ranges
                .push(spec.parse().map_err(|error| RangeSetError::Range(spec.subnet.clone(), error.into()))?);
        }
        let set = RangeSet::new(index, ranges)?;
        for (other, before) in network.sets.iter().enumerate() {
            if let Some(at) = before.pool().shared_with(set.pool()) {
                return Err(NetworkError::ListsOverlap { first: other, second: index.into(), at });
            }
        }
        network.sets.push(set);
    }
    RangeSet::restrict(&mut network.sets, &restrictions)?;
    if !every_host && let Some(network) = network_scope::why_it_spans_nodes(request)? {
        return Err(NetworkError::Spanning { network });
    }
    let cooldown = ipam.cooldown.unwrap_or_default();
    if cooldown.get() > MAX_COOLDOWN {
        let message = "it is too long: the maximum in a network is 720h, only a pool's file may set more";
        return Err(NetworkError::Value { key: "ipam.cooldown".to_owned(), message: message.to_owned() });
    }
    network.rules.cooldown = cooldown.millis();
    network.rules.order = ipam.order.unwrap_or_default();
    // Networks of one name share these ranges, and each may say sticky.
    network.rules.kept_gives_way = true;
    network.routes = ipam.routes;
    Ok(network)
}

/// The ranges that the runtime passes; an empty list counts as none.
fn ip_ranges(request: &Request<Config>) -> Result<Option<Vec<Vec<RangeSpec>>>, NetworkError> {
    let Some(raw) = &request.runtime_config.ip_ranges else { return Ok(None) };
    let asked: Vec<_> = serde_json::from_str(raw.get()).map_err(|error| NetworkError::Value {
        key: "runtimeConfig.ipRanges".to_owned(),
        message: error.to_string(),
    })?;
    Ok(Some(asked).filter(|asked| !asked.is_empty()))
}

/// The largest resolv.conf, in bytes.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// `resolvConf` has precedence over `ipam.dns`, which has precedence over the network's `dns`.
fn read_dns(ipam: &Ipam, request: &Request<Config>) -> Result<Dns, NetworkError> {
    let Some(path) = ipam.resolv_conf.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(ipam.dns.clone().unwrap_or_else(|| request.dns.clone()));
    };
    let text = node::read_regular(path.as_ref(), MAX_RESOLV_CONF)
        .map_err(|source| NetworkError::ResolvConf { path: path.to_owned(), source })?
        .ok_or_else(|| NetworkError::NoResolvConf(path.to_owned()))?;
    Ok(parse_resolv_conf(&String::from_utf8_lossy(&text)))
}

/// Parses resolv.conf(5), as far as a CNI result has its keys.
fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.nameservers.extend(words.next().map(str::to_owned)),
            Some("domain") => dns.domain = words.next().map(str::to_owned),
            Some("search") => dns.search = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

impl Network {
    /// The address requested from each set. An address that is requested twice counts once.
    ///
    /// # Errors
    /// An address is in no set, or another address of its set is requested.
    pub fn requested_per_set(&self, asked: &[IpAddr]) -> Result<Vec<Option<Addr>>, RequestedIpsError> {
        let mut per_set: Vec<Option<Addr>> = vec![None; self.sets.len()];
        let mut left = Vec::new();
        for address in asked.iter().copied().map(Addr::from) {
            // Sets share no address, so at most one contains it.
            let home = self.sets.iter().zip(&mut per_set).find(|(set, _)| set.pool().contains(address));
            match home {
                Some((_, state @ None)) => *state = Some(address),
                Some((_, Some(other))) if *other == address => {}
                Some((_, Some(other))) => {
                    return Err(RequestedIpsError::OneEach {
                        first: *other,
                        second: address,
                        pool: self.key.to_string(),
                    });
                }
                None => left.push(address),
            }
        }
        if left.is_empty() {
            Ok(per_set)
        } else {
            Err(RequestedIpsError::NoRange { addresses: left, pool: self.key.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(lists: &[&[&str]]) -> Network {
        let range = |subnet: &&str| {
            RangeSpec { subnet: (*subnet).to_owned(), ..RangeSpec::default() }.parse().unwrap()
        };
        let set =
            |(index, list): (u8, &&[&str])| RangeSet::new(index, list.iter().map(range).collect()).unwrap();
        Network {
            key: PoolKey::Network("net".to_owned()),
            sets: (0u8..).zip(lists).map(set).collect(),
            rules: Rules::default(),
            sticky: None,
            host_scope: true,
            of_cluster: false,
            blocks: None,
            allows_claims: false,
            reserved: BTreeSet::new(),
            quarantine: DEFAULT_QUARANTINE,
            allowed_namespaces: AllowedNamespaces::All,
            routes: Vec::new(),
            dns: Dns::default(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn one_address_asked_for_twice_is_one_address() {
        let network = lists(&[&["10.0.0.0/24", "10.0.1.0/24"], &["fd00::/64"]]);
        let asked = |texts: &[&str]| {
            let asked: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            network.requested_per_set(&asked).map(|given| {
                given
                    .into_iter()
                    .map(|one| one.map_or("-".to_owned(), |one| one.to_string()))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(asked(&[]).unwrap(), ["-", "-"]);
        assert_eq!(asked(&["fd00::9", "10.0.1.7"]).unwrap(), ["10.0.1.7", "fd00::9"]);
        assert_eq!(asked(&["10.0.0.7", "10.0.0.7", "fd00::9", "10.0.0.7"]).unwrap(), ["10.0.0.7", "fd00::9"]);
        let two = asked(&["10.0.0.7", "10.0.1.7"]).unwrap_err();
        assert!(matches!(two, RequestedIpsError::OneEach { .. }), "{two}");
        let none = asked(&["10.0.0.7", "10.9.0.1"]).unwrap_err().to_string();
        assert!(none.contains("10.9.0.1 was requested, but in no range"), "{none}");
    }

    #[test]
    fn reads_resolv_conf() {
        let dns = parse_resolv_conf(
            "# x\nnameserver 10.0.0.53\nnameserver fd00::53\nsearch a b\ndomain example.org\noptions ndots:5 rotate\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.53", "fd00::53"]);
        assert_eq!(dns.search, ["a", "b"]);
        assert_eq!(dns.domain.as_deref(), Some("example.org"));
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }
}
