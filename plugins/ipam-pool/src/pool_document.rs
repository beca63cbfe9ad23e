//! What a pool's file says: a `LANPool`, or the older `IPPool`.

use std::collections::{BTreeMap, BTreeSet};

use lan::pool::{LanPoolSpec, ParsedPool, PoolRange};
use net_types::Timespan;
use node::{KeysWithoutValue, yaml_message};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::node_parts::parse_node_parts;
use crate::options::{DEFAULT_QUARANTINE, Reservations, Sticky};
use crate::pool_file::SUFFIX;
use crate::pool_file_error::{API_VERSION, KIND, OLD_KIND};
use crate::{Order, PoolFile, PoolFileError, RangeSetError, RangeSpec, Restrictions};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document<S> {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: S,
}

/// Which kind a file has.
#[derive(Deserialize)]
struct OnlyKind {
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}

/// What the file of a `LANPool` says besides the object's own fields.
#[derive(Default, Deserialize)]
struct OfFile {
    /// `host`: every host has the whole pool for itself, since the networks that use it end at the host.
    scope: Option<String>,
    /// Addresses for one owner each: `default/web-0`, `default/web-0/net`, `vm:default/vyos`. In a cluster, `LANReservation`s are these.
    #[serde(default)]
    reservations: Reservations,
}

impl OfFile {
    const FIELDS: [&str; 2] = ["scope", "reservations"];
}

/// The specification of an `IPPool`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    /// The ranges of the pool, of one or both families.
    ranges: Vec<RangeSpec>,
    /// Each node's own part, by node name: addresses, ranges and subnets. The file is the same on every node.
    nodes: Option<BTreeMap<String, Vec<String>>>,
    /// `host`: every host has the whole pool for itself, since the networks that use it end at the host.
    scope: Option<String>,
    /// Pools of different domains may overlap.
    routing_domain: Option<String>,
    /// The pool documents addresses and hands out none; parts of it may be pools.
    #[serde(default)]
    inventory: bool,
    /// Addresses, ranges (`10.0.0.5-10.0.0.9`) and subnets that are not handed out.
    #[serde(default)]
    exclude: Vec<String>,
    /// Addresses for one owner each: `default/web-0`, `default/web-0/net`, `vm:default/vyos`.
    #[serde(default)]
    reservations: Reservations,
    /// Who keeps an address over restarts: nobody (the default), the pod of that name, or the virtual machine. A network may only set the same, or `none`.
    sticky: Option<Sticky>,
    /// The namespaces whose pods may have addresses; all if it is absent, none if it is empty.
    allowed_namespaces: Option<Vec<String>>,
    /// How long an address that another host has is not handed out; `10m` by default.
    quarantine: Option<Timespan>,
    /// How long a released address rests before it is handed out again; `0s` by default.
    #[serde(default)]
    cooldown: Timespan,
    /// Which address is next: `oldest` (the default: never used ones, range by range as they are listed; then the one that rests longest) or `lowest`.
    #[serde(default)]
    order: Order,
}

/// The keys of a pool file that decide something.
#[derive(Deserialize)]
struct OnlySpec {
    spec: KeysWithoutValue,
}

impl PoolFile {
    /// Parses a file's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, PoolFileError> {
        let kind = serde_saphyr::from_str::<OnlyKind>(text).map(|OnlyKind { kind }| kind);
        let file = if kind.is_ok_and(|kind| kind == OLD_KIND) {
            Self::of_old_kind(name, parse_document(name, text, OLD_KIND)?)
        } else {
            Self::of_kind(name, parse_document(name, text, KIND)?)
        }?;
        // An error must show on every node, not only on those that it affects.
        file.all_sets()?;
        Ok(file)
    }

    fn of_kind(name: &str, spec: Value) -> Result<Self, PoolFileError> {
        let invalid = |message| PoolFileError::Syntax { name: name.to_owned(), message };
        check_fields(name, &spec, "spec", &[&LanPoolSpec::FIELDS[..], &OfFile::FIELDS[..]].concat())?;
        for range in spec["ranges"].as_array().into_iter().flatten() {
            check_fields(name, range, "a range", &PoolRange::FIELDS)?;
        }
        for (key, instead) in [("namespaceSelector", "allowedNamespaces"), ("nodeSelector", "nodes")] {
            if !spec[key].is_null() {
                return Err(PoolFileError::OfCluster { pool: name.to_owned(), key, instead });
            }
        }
        let has_nodes = !spec["nodes"].is_null();
        let of_file: OfFile =
            serde_path_to_error::deserialize(&spec).map_err(|error| invalid(error.to_string()))?;
        let spec: LanPoolSpec =
            serde_path_to_error::deserialize(&spec).map_err(|error| invalid(error.to_string()))?;
        let parsed = ParsedPool::parse(&spec)
            .map_err(|error| PoolFileError::Spec(name.to_owned(), Box::new(error)))?;
        let host_scope = is_of_host(name, of_file.scope.as_deref(), has_nodes)?;
        let mut file = Self { host_scope, ..Self::of_spec(name, spec, &parsed, invalid)? };
        // Parts for no node are parts: who has none gets nothing.
        file.nodes = file.nodes.or(has_nodes.then(BTreeMap::new));
        file.restrictions.reservations = of_file.reservations.0;
        Ok(file)
    }

    fn of_old_kind(name: &str, spec: Spec) -> Result<Self, PoolFileError> {
        let set_error = |error: RangeSetError| PoolFileError::RangeSet(name.to_owned(), error.into());
        let mut ranges = Vec::with_capacity(spec.ranges.len());
        for range in &spec.ranges {
            let parsed = range
                .parse()
                .map_err(|error| set_error(RangeSetError::Range(range.subnet.clone(), error.into())))?;
            ranges.push(parsed);
        }
        let host_scope = is_of_host(name, spec.scope.as_deref(), spec.nodes.is_some())?;
        let nodes = spec.nodes.map(|nodes| parse_node_parts(name, &ranges, nodes)).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            ranges,
            nodes,
            host_scope,
            of_cluster: false,
            is_old_kind: true,
            in_charge: true,
            routing_domain: spec.routing_domain.unwrap_or_default(),
            inventory: spec.inventory,
            restrictions: Restrictions { exclude: spec.exclude, reservations: spec.reservations.0 },
            sticky: spec.sticky,
            cooldown: spec.cooldown,
            order: spec.order,
            quarantine: spec.quarantine.unwrap_or(DEFAULT_QUARANTINE.into()),
            allowed_namespaces: spec.allowed_namespaces.into(),
            reserved: BTreeSet::new(),
        })
    }
}

/// Reads a file of one kind down to its specification.
fn parse_document<S: DeserializeOwned>(name: &str, text: &str, kind: &str) -> Result<S, PoolFileError> {
    let pool = || name.to_owned();
    let syntax = |message| PoolFileError::Syntax { name: pool(), message };
    let keys = serde_saphyr::from_str::<OnlySpec>(text).map(|OnlySpec { spec }| spec.message(None));
    let document: Document<S> = match (serde_saphyr::from_str(text), keys) {
        (Ok(document), Ok(None)) => document,
        (Err(error), keys) => {
            return Err(match (error.without_snippet(), keys) {
                (serde_saphyr::Error::SerdeUnknownField { .. }, _) => {
                    PoolFileError::UnknownKey { name: pool(), message: yaml_message(&error) }
                }
                (_, Ok(Some(message))) => syntax(message),
                _ => syntax(yaml_message(&error)),
            });
        }
        (Ok(_), Ok(Some(message))) => return Err(syntax(message)),
        (Ok(_), Err(error)) => return Err(syntax(yaml_message(&error))),
    };
    if document.api_version != API_VERSION || document.kind != kind {
        let found = format!("{} in {}", document.kind, document.api_version);
        return Err(PoolFileError::Kind { name: pool(), found });
    }
    if document.metadata.name != name {
        let file = format!("{name}{SUFFIX}");
        return Err(PoolFileError::Misnamed { file, name: document.metadata.name });
    }
    Ok(document.spec)
}

/// Whether every host has all of the pool.
fn is_of_host(pool: &str, scope: Option<&str>, has_nodes: bool) -> Result<bool, PoolFileError> {
    match scope {
        None => Ok(false),
        Some("host") if has_nodes => Err(PoolFileError::NodesAndScope(pool.to_owned())),
        Some("host") => Ok(true),
        Some(scope) => Err(PoolFileError::Scope { name: pool.to_owned(), scope: scope.to_owned() }),
    }
}

/// `of`: what the fields are of.
fn check_fields(name: &str, value: &Value, of: &str, known: &[&str]) -> Result<(), PoolFileError> {
    let keys = value.as_object().into_iter().flat_map(|object| object.keys());
    match keys.into_iter().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let message = format!("{of} has {key:?}, which is none of {}", known.join(", "));
            Err(PoolFileError::UnknownKey { name: name.to_owned(), message })
        }
    }
}
