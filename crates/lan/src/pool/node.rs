use serde::{Deserialize, Serialize};

use super::schema;

/// What one node says of a pool that nobody else can know. Each node writes its own, and there is none while it has nothing to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kube::CustomResource, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lan.k8slan.io",
    version = "v1beta1",
    kind = "LANPoolNode",
    plural = "lanpoolnodes",
    root = "LanPoolNode",
    category = "k8slan",
    doc = "What a node has to say of a LANPool. Written by the daemon of that node; the pool's conditions sum it up.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Pool", "type": "string", "jsonPath": ".spec.pool"}"#,
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node"}"#,
    printcolumn = r#"{"name": "Outside", "type": "integer", "jsonPath": ".spec.outside"}"#,
    printcolumn = r#"{"name": "Waiting", "type": "string", "jsonPath": ".spec.waiting"}"#,
    printcolumn = r#"{"name": "File", "type": "string", "jsonPath": ".spec.file"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[schemars(description = "What the node says.")]
pub struct LanPoolNodeSpec {
    /// The pool.
    #[schemars(schema_with = "schema::fixed_pool")]
    pub pool: String,
    /// The node.
    #[schemars(schema_with = "schema::object_name")]
    pub node: String,
    /// How many addresses its pods have that the pool does not hand out any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::count")]
    pub outside: Option<i64>,
    /// Why pods wait for an address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::sentence")]
    pub waiting: Option<String>,
    /// Why it hands addresses out by a file of its own, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::sentence")]
    pub file: Option<String>,
    /// What it hands out by the file, or pods have of it; the pool is not accepted before that is in blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::file_ranges")]
    pub file_ranges: Option<Vec<String>>,
    /// The routing domain of the file; absent: it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::file_domain")]
    pub file_domain: Option<String>,
    /// Whether the pool says the same as the file, and may take its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(schema_with = "schema::flag")]
    pub file_fits: bool,
    /// What its pods have and another has as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::sentences")]
    pub conflicts: Vec<String>,
}
