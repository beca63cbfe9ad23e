//! A `LANPool` that exists, and what its annotation says of the import.

use std::collections::BTreeSet;

use lan::pool::{LanPoolSpec, ParsedPool, PoolSpecError, Range, parse_part};
use net_types::{AddrRange, AddrSet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::old::Plugin;

/// The annotation: [`Imported`] as JSON.
pub(super) const IMPORTED: &str = "lan.k8slan.io/imported";

/// What the import added to a pool, and takes away again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Imported {
    pub(super) from: Plugin,
    /// The networks under which the plugin keeps the addresses.
    pub(super) networks: BTreeSet<String>,
    /// The entries of `exclude` that are the import's.
    pub(super) addresses: Vec<AddrRange>,
    /// Whether the pool gives nobody an address until no definition uses the plugin.
    #[serde(default)]
    pub(super) closed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct LanPool {
    pub(super) name: String,
    /// The object as it was read.
    pub(super) object: Value,
    pub(super) domain: String,
    pub(super) subnets: Vec<AddrRange>,
    pub(super) addresses: AddrSet,
    /// `exclude`, as it is written.
    pub(super) exclude: Vec<String>,
    pub(super) imported: Option<Imported>,
    /// Whether it gives nobody an address, since it says so.
    pub(super) closed: bool,
    /// The same, since all of its addresses are excluded.
    pub(super) full: bool,
}

impl LanPool {
    /// Parses an object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(object: &Value) -> Result<Self, String> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let invalid = |error: &dyn std::fmt::Display| format!("LANPool {name}: {error}");
        let spec: LanPoolSpec =
            serde_json::from_value(object["spec"].clone()).map_err(|error| invalid(&error))?;
        let (parsed, full) = match ParsedPool::parse(&spec) {
            Err(PoolSpecError::NothingLeft) => {
                let all = LanPoolSpec { exclude: Vec::new(), ..spec.clone() };
                (ParsedPool::parse(&all).map_err(|error| invalid(&error))?, true)
            }
            parsed => (parsed.map_err(|error| invalid(&error))?, false),
        };
        let annotation = object["metadata"]["annotations"][IMPORTED].as_str();
        let imported = annotation.map(serde_json::from_str).transpose();
        let imported = imported.map_err(|error| invalid(&format!("the annotation {IMPORTED}: {error}")))?;
        Ok(Self {
            subnets: parsed.parts().iter().map(Range::subnet).collect(),
            addresses: parsed.ranges().clone(),
            domain: spec.routing_domain.unwrap_or_default(),
            exclude: spec.exclude,
            imported,
            closed: spec.allowed_namespaces.is_some_and(|namespaces| namespaces.is_empty()),
            full,
            object: object.clone(),
            name,
        })
    }

    /// The entries of `exclude` that are not the import's.
    pub(super) fn own_exclude(&self) -> Vec<String> {
        let ours: BTreeSet<String> =
            self.imported.iter().flat_map(|imported| &imported.addresses).map(ToString::to_string).collect();
        self.exclude.iter().filter(|entry| !ours.contains(*entry)).cloned().collect()
    }

    /// The object with another `exclude` and annotation; `open`: with addresses for all namespaces.
    pub(super) fn with(&self, own: &[String], imported: Option<&Imported>, open: bool) -> Value {
        let mut object = self.object.clone();
        set_exclude(&mut object, own, imported);
        if let (Some(spec), true) = (object["spec"].as_object_mut(), open) {
            spec.remove("allowedNamespaces");
        }
        object
    }
}

/// The addresses that entries exclude; what is none is left out, which the API server does not take anyway.
pub(super) fn addresses_of(entries: &[String]) -> AddrSet {
    AddrSet::union(entries.iter().filter_map(|entry| parse_part(entry).ok()))
}

/// Puts `exclude` and the annotation into an object.
pub(super) fn set_exclude(object: &mut Value, own: &[String], imported: Option<&Imported>) {
    let mut exclude = own.to_vec();
    exclude.extend(imported.iter().flat_map(|imported| &imported.addresses).map(ToString::to_string));
    if let Some(spec) = object["spec"].as_object_mut() {
        match exclude.is_empty() {
            true => drop(spec.remove("exclude")),
            false => drop(spec.insert("exclude".to_owned(), json!(exclude))),
        }
    }
    match imported.and_then(|imported| serde_json::to_string(imported).ok()) {
        Some(text) => object["metadata"]["annotations"][IMPORTED] = json!(text),
        None => {
            if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.remove(IMPORTED);
            }
        }
    }
}
