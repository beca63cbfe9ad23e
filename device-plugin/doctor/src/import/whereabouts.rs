//! Whereabouts' objects: `IPPool` and `OverlappingRangeIPReservation` of `whereabouts.cni.cncf.io/v1alpha1`, and the `ipam`
//! sections that it reads.

use std::collections::{BTreeMap, BTreeSet};

use net_types::{Addr, AddrRange};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::documents::{Documents, name_of};
use super::old::{Definition, Live, Old, OldRange, Plugin, Section, keep, lan_of, parse_cidr, sections};

/// The keys of an `ipam` section that mean the same to `ipam-pool`.
const SAME: [&str; 2] = ["dns", "routes"];

#[derive(Debug, Deserialize)]
struct IpPool {
    range: String,
    /// By the distance from the range's address.
    #[serde(default)]
    allocations: BTreeMap<String, Allocation>,
}

#[derive(Debug, Deserialize)]
struct Allocation {
    #[serde(default)]
    podref: String,
}

/// The part of an `ipam` section that says which addresses there are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(flatten)]
    first: OneRange,
    #[serde(rename = "ipRanges")]
    more: Vec<OneRange>,
    gateway: String,
    network_name: String,
    node_slice_size: String,
    addresses: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OneRange {
    range: String,
    range_start: String,
    range_end: String,
    exclude: Vec<String>,
}

/// Reads the objects. `networks`: the names of networks that are known beside those of the definitions.
pub(super) fn read(documents: &Documents, networks: &BTreeSet<String>) -> Old {
    let mut old = Old::default();
    for object in &documents.definitions {
        match sections(object, Plugin::Whereabouts.name()) {
            Ok(found) => old.definitions.extend(found.iter().map(|section| definition(object, section))),
            Err(error) => old.notes.push(error),
        }
    }
    let mut known = networks.clone();
    known.extend(old.definitions.iter().map(|definition| definition.domain.clone()));
    known.insert(String::new());
    for object in &documents.ip_pools {
        match allocated(object, &known) {
            Ok(live) => old.live.extend(live),
            Err(error) => old.unreadable.push(format!("IPPool {}: {error}", name_of(object))),
        }
    }
    for object in &documents.reservations {
        let reserved = reserved(object, &known);
        if reserved.is_empty() {
            let name = name_of(object);
            old.notes
                .push(format!("OverlappingRangeIPReservation {name} names no address of a known network"));
        }
        old.live.extend(reserved);
    }
    old
}

fn definition(object: &Value, section: &Section) -> Definition {
    let mut definition = Definition { name: name_of(object), lan: lan_of(object), ..Definition::default() };
    let ipam: Ipam = match serde_json::from_value(Value::Object(without_nulls(&section.ipam))) {
        Ok(ipam) => ipam,
        Err(error) => {
            definition.refusal = Some(format!("its ipam section is not whereabouts': {error}"));
            return definition;
        }
    };
    definition.more = keep(&section.ipam, &SAME);
    definition.domain.clone_from(&ipam.network_name);
    definition.networks.insert(ipam.network_name);
    let gateway: Option<Addr> = ipam.gateway.parse().ok();
    let first = Some(&ipam.first).filter(|first| !first.range.is_empty());
    for range in first.into_iter().chain(&ipam.more) {
        match parse_range(range, gateway) {
            Ok(range) => definition.ranges.push(range),
            Err(error) => definition.refusal = Some(error),
        }
    }
    if definition.ranges.is_empty() && definition.refusal.is_none() {
        definition.refusal = Some("it names no range: a file of the nodes does".to_owned());
    }
    if !ipam.node_slice_size.is_empty() {
        definition.notes.push("node_slice_size is not needed: nodes claim blocks of a pool".to_owned());
    }
    if !ipam.addresses.is_empty() {
        definition.notes.push(
            "it has addresses, which every pod gets beside that of the range: a pool does not give them"
                .to_owned(),
        );
    }
    let of_first = definition.ranges.first().map(|range| range.subnet.family());
    let others = definition.ranges.iter().skip(1);
    if others.clone().any(|range| Some(range.subnet.family()) == of_first) || others.count() > 1 {
        definition.notes.push(
            "it gives a pod an address of each range; a pool gives one of each family: a network for each is needed"
                .to_owned(),
        );
    }
    definition
}

/// A key without a value is absent.
fn without_nulls(ipam: &Map<String, Value>) -> Map<String, Value> {
    ipam.iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// `192.168.2.0/24`, or `192.168.2.10-192.168.2.50/24`.
fn parse_range(range: &OneRange, gateway: Option<Addr>) -> Result<OldRange, String> {
    let no_range = || format!("{:?} is not a range", range.range);
    let (from, text) = match range.range.split_once('-') {
        Some((from, text)) => (Some(from.trim().parse::<Addr>().map_err(|_| no_range())?), text),
        None => (None, range.range.as_str()),
    };
    let cidr = parse_cidr(text).ok_or_else(no_range)?;
    let usable = cidr.subnet.first().next().zip(cidr.subnet.last().prev());
    let (first, last) = usable.filter(|(first, last)| first <= last).ok_or_else(|| {
        format!("the range {:?} has no usable address, which whereabouts refuses as well", range.range)
    })?;
    // The last address of an IPv6 subnet is an ordinary one.
    let last = if first.family() == net_types::Family::V6 { cidr.subnet.last() } else { last };
    // What is outside is ignored, as whereabouts does.
    let inside = |address: &Addr, from: Addr| from <= *address && *address <= last;
    let start =
        from.or_else(|| range.range_start.parse().ok()).filter(|at| inside(at, first)).unwrap_or(first);
    let end = from.map(|_| cidr.address).or_else(|| range.range_end.parse().ok());
    let end = end.filter(|at| inside(at, start)).unwrap_or(last);
    let window = AddrRange::new(start, end).ok_or_else(no_range)?;
    let exclude = range.exclude.iter().map(|text| {
        let single = || text.trim().parse().ok().map(AddrRange::single);
        let range = parse_cidr(text).map(|cidr| cidr.subnet).or_else(single);
        range.ok_or_else(|| format!("exclude {text:?} is neither a subnet nor an address"))
    });
    let exclude: Vec<AddrRange> = exclude.collect::<Result<_, _>>()?;
    Ok(OldRange {
        subnet: cidr.subnet,
        length: cidr.length,
        window,
        gateway: gateway.filter(|gateway| gateway.family() == cidr.subnet.family()),
        exclude: exclude.into_iter().filter(|part| part.overlaps(window)).collect(),
    })
}

/// What an IPPool has given.
fn allocated(object: &Value, known: &BTreeSet<String>) -> Result<Vec<Live>, String> {
    let pool: IpPool =
        serde_json::from_value(object["spec"].clone()).map_err(|error| format!("not understood: {error}"))?;
    let cidr = parse_cidr(&pool.range).ok_or_else(|| format!("{:?} is not a range", pool.range))?;
    let networks = networks_of(object["metadata"]["name"].as_str().unwrap_or_default(), &pool.range, known);
    let live = pool.allocations.into_iter().map(|(offset, allocation)| {
        let number = offset.parse::<u64>().ok().and_then(|by| cidr.address.number().checked_add(by.into()));
        let address = number.and_then(|number| Addr::new(cidr.address.family(), number));
        let address = address.ok_or_else(|| format!("{offset:?} is no distance from {}", pool.range))?;
        Ok(Live { address, holder: holder(&allocation.podref), networks: networks.clone() })
    });
    live.collect()
}

/// An IPPool is named `[<network>-][<node>-]<range>`: which of the known networks it may be of.
fn networks_of(name: &str, range: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let unnamed = || BTreeSet::from([String::new()]);
    let Some(before) = name.strip_suffix(&range.replace([':', '/'], "-")) else { return known.clone() };
    let before = before.strip_suffix('-').unwrap_or(before);
    if before.is_empty() {
        return unnamed();
    }
    let begins = |network: &str| {
        !network.is_empty()
            && before.strip_prefix(network).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut networks: BTreeSet<String> = known.iter().filter(|network| begins(network)).cloned().collect();
    // A node may be called as a network begins.
    if !networks.contains(before) {
        networks.extend(unnamed());
    }
    networks
}

/// An OverlappingRangeIPReservation is named `[<network>-]<address>`, with `-` in place of `:`.
fn reserved(object: &Value, known: &BTreeSet<String>) -> Vec<Live> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let podref = object["spec"]["podref"].as_str().unwrap_or_default();
    let of_network = |network: &String| {
        let text = match network.as_str() {
            "" => name,
            network => name.strip_prefix(network)?.strip_prefix('-')?,
        };
        let address = text.parse().or_else(|_| text.replace('-', ":").parse()).ok()?;
        Some(Live { address, holder: holder(podref), networks: BTreeSet::from([network.clone()]) })
    };
    known.iter().filter_map(of_network).collect()
}

fn holder(podref: &str) -> String {
    if podref.is_empty() { "a pod that is not named".to_owned() } else { format!("pod {podref}") }
}
