//! host-local's `ipam` sections, and its files on the nodes.

use std::collections::{BTreeMap, BTreeSet};

use lan::pool::{PoolRange, Range};
use net_types::Addr;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::documents::{Documents, name_of};
use super::files::FOLDER;
use super::old::{Definition, Live, Old, OldRange, Plugin, Section, keep, lan_of, sections};

/// The keys of an `ipam` section that mean the same to `ipam-pool`.
const SAME: [&str; 3] = ["dns", "resolvConf", "routes"];

/// The part of an `ipam` section that says which addresses there are.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipam {
    /// The form of one range.
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
    ranges: Vec<Vec<PoolRange>>,
    data_dir: String,
}

/// Reads the definitions and what the nodes have.
pub(super) fn read(documents: &Documents) -> Old {
    let mut old = Old::default();
    for object in &documents.definitions {
        match sections(object, Plugin::HostLocal.name()) {
            Ok(found) => old.definitions.extend(found.iter().map(|section| definition(object, section))),
            Err(error) => old.notes.push(error),
        }
    }
    let mut seen: BTreeMap<(&str, Addr), &str> = BTreeMap::new();
    for node in &documents.nodes {
        for (network, leases) in &node.host_local {
            for lease in leases {
                let container = lease.container.get(..13).unwrap_or(&lease.container);
                let holder = match container {
                    "" => format!("nobody on {}, after a crash", node.node),
                    container => format!("container {container} on {}", node.node),
                };
                let networks = BTreeSet::from([network.clone()]);
                old.live.push(Live { address: lease.address, holder, networks });
                if let Some(other) = seen.insert((network, lease.address), &node.node)
                    && old.definitions.iter().any(|definition| definition.networks.contains(network))
                {
                    old.notes.push(format!(
                        "network {network}: {} is in use on {other} and on {}: one pool is for nodes that are on one network",
                        lease.address, node.node
                    ));
                }
            }
        }
    }
    old
}

fn definition(object: &Value, section: &Section) -> Definition {
    let mut definition = Definition { name: name_of(object), lan: lan_of(object), ..Definition::default() };
    let said: Map<String, Value> = section
        .ipam
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let ipam: Ipam = match serde_json::from_value(Value::Object(said)) {
        Ok(ipam) => ipam,
        Err(error) => {
            definition.refusal = Some(format!("its ipam section is not host-local's: {error}"));
            return definition;
        }
    };
    definition.more = keep(&section.ipam, &SAME);
    definition.networks.insert(section.network.clone());
    if !ipam.data_dir.is_empty() && ipam.data_dir.trim_end_matches('/') != FOLDER {
        definition.refusal =
            Some(format!("its leases are in {} on the nodes, and only {FOLDER} is looked at", ipam.data_dir));
    }
    let alone = ipam.subnet.map(|subnet| PoolRange {
        subnet,
        range_start: ipam.range_start,
        range_end: ipam.range_end,
        gateway: ipam.gateway,
    });
    for range in alone.iter().chain(ipam.ranges.iter().flatten()) {
        match Range::parse(range) {
            Ok(range) => definition.ranges.push(OldRange {
                subnet: range.subnet(),
                length: range.prefix(),
                window: range.addresses(),
                gateway: range.gateway(),
                exclude: Vec::new(),
            }),
            Err(error) => definition.refusal = Some(error.to_string()),
        }
    }
    if definition.ranges.is_empty() && definition.refusal.is_none() {
        definition.refusal = Some("it names no range".to_owned());
    }
    definition
}
