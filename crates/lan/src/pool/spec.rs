use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::schema;
use crate::Condition;

/// A pool of addresses for the whole cluster, as its author wrote it. Either `subnets` or `ranges` says which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "crd",
    derive(kube::CustomResource, schemars::JsonSchema),
    kube(
        group = "lan.k8slan.io",
        version = "v1beta1",
        kind = "LANPool",
        plural = "lanpools",
        root = "LanPool",
        category = "k8slan",
        status = "LanPoolStatus",
        doc = "Addresses that the cluster's nodes hand out, without asking one another.",
        derive = "PartialEq",
        printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.size"}"#,
        printcolumn = r#"{"name": "Used", "type": "string", "jsonPath": ".status.used"}"#,
        printcolumn = r#"{"name": "Free", "type": "string", "jsonPath": ".status.free"}"#,
        printcolumn = r#"{"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"}"#,
        printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
        printcolumn = r#"{"name": "Reason", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
        printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
    ),
    schemars(description = "What the pool has, and who gets it.", extend("x-kubernetes-validations" = schema::pool_rules())),
)]
pub struct LanPoolSpec {
    /// The subnets, each as a whole: the first usable address is the gateway's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::subnets"))]
    pub subnets: Vec<String>,
    /// The same where it is not whole subnets, or another gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "ranges"))]
    pub ranges: Vec<PoolRange>,
    /// Addresses, ranges (10.0.0.5-10.0.0.9) and subnets that are not handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::exclude"))]
    pub exclude: Vec<String>,
    /// Who keeps an address over restarts. Auto: a virtual machine its own, a StatefulSet's pod its own (not with nodes), nobody else.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::sticky"))]
    pub sticky: PoolSticky,
    /// How long a released address rests before it is handed out again.
    #[serde(default = "default_cooldown")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::timespan"))]
    pub cooldown: String,
    /// How long an address that another host answered for is not handed out.
    #[serde(default = "default_quarantine")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::timespan"))]
    pub quarantine: String,
    /// Which address is next. Oldest: those never used, then the one that rests longest.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::order"))]
    pub order: PoolOrder,
    /// Pools of different domains may overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::routing_domain"))]
    pub routing_domain: Option<String>,
    /// The pool documents addresses and hands out none; parts of it may be pools.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::flag"))]
    pub inventory: bool,
    /// The namespaces whose pods may have addresses. Absent: all; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::schema::allowed_namespaces"))]
    pub allowed_namespaces: Option<Vec<String>>,
    /// The same by labels of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::labels"))]
    pub namespace_selector: Option<BTreeMap<String, String>>,
    /// The nodes that may claim blocks, by their labels. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::labels"))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// How many addresses a node claims at a time. Absent: by the pool's size, 1 up to 256 addresses. It never changes: what a node has is
    /// named by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::block_size"))]
    pub block_size: Option<i64>,
    /// Fixed parts for nodes, in place of blocks: addresses, ranges and subnets by node name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::nodes"))]
    pub nodes: BTreeMap<String, Vec<String>>,
}

impl LanPoolSpec {
    /// The names of its fields, as people write them.
    pub const FIELDS: [&'static str; 14] = [
        "subnets",
        "ranges",
        "exclude",
        "sticky",
        "cooldown",
        "quarantine",
        "order",
        "routingDomain",
        "inventory",
        "allowedNamespaces",
        "namespaceSelector",
        "nodeSelector",
        "blockSize",
        "nodes",
    ];
}

impl PoolRange {
    /// The names of its fields, as people write them.
    pub const FIELDS: [&'static str; 4] = ["subnet", "rangeStart", "rangeEnd", "gateway"];
}

/// A range, in host-local's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct PoolRange {
    /// The link's subnet in CIDR notation.
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::subnet"))]
    pub subnet: String,
    /// The first address handed out; the subnet's first usable one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::address"))]
    pub range_start: Option<String>,
    /// The last address handed out; the subnet's last usable one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::address"))]
    pub range_end: Option<String>,
    /// The gateway, which is never handed out, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::gateway"))]
    pub gateway: Option<String>,
}

/// Who keeps an address over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolSticky {
    /// A virtual machine its own, a StatefulSet's pod its own, nobody else.
    #[default]
    Auto,
    /// Nobody.
    None,
    /// Every pod of that name.
    Pod,
    /// Virtual machines alone.
    #[serde(rename = "VM")]
    Vm,
}

/// Which address is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolOrder {
    /// Those never used, then the one that rests longest.
    #[default]
    Oldest,
    /// The lowest one.
    Lowest,
}

/// How a pool stands: counts and conditions only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "crd",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = schema::pool_status_rules()))
)]
pub struct LanPoolStatus {
    /// The generation of the specification that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The generation that was accepted last. Absent: none was, and it waits for files of its name on nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_generation: Option<i64>,
    /// The length of an IPv4 block, chosen once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_length_v4: Option<i64>,
    /// The length of an IPv6 block, chosen once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_length_v6: Option<i64>,
    /// How many addresses it has: a text, since a /64 has more than a number holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// How many are in blocks that nodes have, or follow an owner, whether a pod has them or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// How many are in nobody's block and follow nobody: what nodes can still claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<String>,
    /// How many nodes have blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i64>,
    /// Accepted: it overlaps no other pool of its routing domain. Ready: nodes hand addresses out. Exhausted: no block is left to claim.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::status::conditions"))]
    pub conditions: Vec<Condition>,
}

fn default_cooldown() -> String {
    "1m".to_owned()
}

fn default_quarantine() -> String {
    "10m".to_owned()
}

#[cfg(feature = "crd")]
fn ranges(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schema::list(generator.subschema_for::<PoolRange>(), 64)
}
