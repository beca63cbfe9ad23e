use serde::{Deserialize, Serialize};

use super::schema;
use crate::Condition;

/// An address that somebody reserves. `{pool: office}` is enough: any address, for whoever is said later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kube::CustomResource, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lan.k8slan.io",
    version = "v1beta1",
    kind = "LANReservation",
    plural = "lanreservations",
    root = "LanReservation",
    namespaced,
    category = "k8slan",
    status = "LanReservationStatus",
    doc = "An address of a pool that stays reserved, on whatever node its owner runs.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Pool", "type": "string", "jsonPath": ".spec.pool"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".status.address"}"#,
    printcolumn = r#"{"name": "Owner", "type": "string", "jsonPath": ".spec.owner.name"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[schemars(description = "What is reserved, and for whom.", extend("x-kubernetes-validations" = schema::reservation_rules()))]
pub struct LanReservationSpec {
    /// The pool.
    #[schemars(schema_with = "schema::fixed_pool")]
    pub pool: String,
    /// The address. Absent: one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::address")]
    pub address: Option<String>,
    /// Whose it is, in this namespace. Absent: nobody's, it is only kept back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reservation_owner")]
    pub owner: Option<ReservationOwner>,
}

/// Whose reserved address it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservationOwner {
    /// VirtualMachine or Pod.
    #[schemars(schema_with = "schema::owner_kind")]
    pub kind: String,
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// How a reservation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanReservationStatus {
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Ready: the address is reserved.
    #[serde(default)]
    #[schemars(schema_with = "crate::status::conditions")]
    pub conditions: Vec<Condition>,
}

fn reservation_owner(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<ReservationOwner>()
}
