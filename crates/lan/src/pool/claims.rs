use serde::{Deserialize, Serialize};

use super::schema;

/// A block of a pool, and the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kube::CustomResource, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lan.k8slan.io",
    version = "v1beta1",
    kind = "LANBlock",
    plural = "lanblocks",
    root = "LanBlock",
    category = "k8slan",
    doc = "A block of a LANPool that one node hands addresses out of. Written by the daemons.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Pool", "type": "string", "jsonPath": ".spec.pool"}"#,
    printcolumn = r#"{"name": "Block", "type": "string", "jsonPath": ".spec.prefix"}"#,
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.holder.node"}"#,
    printcolumn = r#"{"name": "Fenced", "type": "boolean", "jsonPath": ".spec.holder.fenced"}"#,
    printcolumn = r#"{"name": "Contested", "type": "string", "jsonPath": ".spec.contested"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[schemars(description = "Which block, and whose.")]
pub struct LanBlockSpec {
    /// The pool.
    #[schemars(schema_with = "schema::fixed_pool")]
    pub pool: String,
    /// Its addresses.
    #[schemars(schema_with = "schema::fixed_subnet")]
    pub prefix: String,
    /// The node that hands them out.
    pub holder: BlockHolder,
    /// Addresses that the node does not use, so that they can float.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::exclude")]
    pub released: Vec<String>,
    /// Nodes whose pods have addresses of it though it is another's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::node_names")]
    pub contested: Vec<String>,
}

/// A node that has a block, or on which the owner of an address may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockHolder {
    /// The node's name.
    #[schemars(schema_with = "schema::object_name")]
    pub node: String,
    /// The UID of its Node object.
    #[schemars(schema_with = "schema::uid")]
    pub uid: String,
    /// Grows whenever the node takes it again.
    #[serde(default)]
    #[schemars(schema_with = "schema::term")]
    pub term: i64,
    /// Whether the node was found gone or out of service.
    #[serde(default)]
    #[schemars(schema_with = "schema::flag")]
    pub fenced: bool,
}

/// An address that follows its owner over nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kube::CustomResource, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lan.k8slan.io",
    version = "v1beta1",
    kind = "LANAddress",
    plural = "lanaddresses",
    root = "LanAddress",
    category = "k8slan",
    doc = "An address of a LANPool that belongs to an owner, on whatever node. Written by the daemons; deleting it frees the address.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Pool", "type": "string", "jsonPath": ".spec.pool"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".spec.address"}"#,
    printcolumn = r#"{"name": "Kind", "type": "string", "jsonPath": ".spec.owner.kind"}"#,
    printcolumn = r#"{"name": "Namespace", "type": "string", "jsonPath": ".spec.owner.namespace"}"#,
    printcolumn = r#"{"name": "Owner", "type": "string", "jsonPath": ".spec.owner.name"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "string", "jsonPath": ".spec.holders[*].node"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[schemars(description = "Which address, and whose.")]
pub struct LanAddressSpec {
    /// The pool.
    #[schemars(schema_with = "schema::fixed_pool")]
    pub pool: String,
    /// The address.
    #[schemars(schema_with = "schema::fixed_address")]
    pub address: String,
    /// Whose it is.
    pub owner: AddressOwner,
    /// The nodes on which the owner may run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "holders")]
    pub holders: Vec<BlockHolder>,
    /// Nodes that used it for somebody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::node_names")]
    pub contested: Vec<String>,
}

/// Whose floating address it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressOwner {
    /// VirtualMachine, Pod, LANReservation or IPAMClaim.
    #[schemars(schema_with = "schema::owner_kind_of_address")]
    pub kind: String,
    /// Its namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub namespace: String,
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// The network in which it is its, the `name` of the definition's configuration. Absent: the first in which it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::network_name")]
    pub network: Option<String>,
    /// The interface in its pods, of a further one in that network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::interface")]
    pub interface: Option<String>,
}

fn holders(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = generator.subschema_for::<BlockHolder>();
    schemars::json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["node"],
        "items": items,
    })
}
