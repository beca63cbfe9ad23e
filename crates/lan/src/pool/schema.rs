//! The schemas of the fields of pools. A form that no pattern can say (a range that is reversed) is the daemon's to find.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::limits::MAX_NODES;
use crate::schema::rule;

const ADDRESS: &str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7})$";
const GATEWAY: &str = r"^(none|[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7})$";
const SUBNET: &str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}/([0-9]|[12][0-9]|3[0-2])|[0-9A-Fa-f:]{2,39}/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$";
/// An address, a range or a subnet.
const PART: &str = r"^[0-9A-Fa-f.:]{2,39}(-[0-9A-Fa-f.:]{2,39}|/[0-9]{1,3})?$";
const TIMESPAN: &str = "^([0-9]{1,9}|([0-9]{1,9}(ms|s|m|h)){1,4})$";
/// A name of any of Kubernetes' objects (RFC 1123's subdomain).
const NAME: &str = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$";
const UID: &str = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";
/// The largest number that the API server compares without rounding.
const MAX_EXACT: i64 = 1 << 53;
/// The longest name of a pool: it stands before an address in the names of its blocks.
pub(super) const MAX_POOL_NAME: usize = 63;

pub(super) fn pool_rules() -> Vec<ValidationRule> {
    vec![
        rule(
            "has(self.subnets) != has(self.ranges)",
            "write either subnets or ranges: what addresses the pool has",
        ),
        rule(
            "!has(self.allowedNamespaces) || !has(self.namespaceSelector)",
            "write either allowedNamespaces or namespaceSelector",
        ),
        rule(
            "!has(self.nodes) || !has(self.nodeSelector)",
            "nodes says which nodes have parts: leave nodeSelector out",
        ),
        rule(
            "!has(self.nodes) || !has(self.blockSize)",
            "nodes gives fixed parts, so there are no blocks: leave blockSize out",
        ),
        rule(
            "!self.inventory || (!has(self.nodes) && !has(self.blockSize))",
            "an inventory hands out nothing, so it has neither nodes nor blockSize",
        ),
        rule(
            "has(self.blockSize) == has(oldSelf.blockSize) && (!has(self.blockSize) || self.blockSize == oldSelf.blockSize)",
            "blockSize cannot be changed, since the blocks that nodes have are named by it: make another pool",
        ),
        rule(
            "has(self.nodes) == has(oldSelf.nodes)",
            "nodes can neither be added nor removed, since pods have addresses of parts or of blocks: make another pool",
        ),
        rule(
            "self.inventory == oldSelf.inventory",
            "inventory cannot be changed, since pods have addresses of the pool: make another one",
        ),
    ]
}

/// The names of the blocks that nodes have depend on these.
pub(super) fn pool_status_rules() -> Vec<ValidationRule> {
    ["blockLengthV4", "blockLengthV6"]
        .map(|field| {
            rule(
                &format!("!has(oldSelf.{field}) || (has(self.{field}) && self.{field} == oldSelf.{field})"),
                &format!("{field} is chosen once: the blocks that nodes have are named by it"),
            )
        })
        .into()
}

/// Another address or owner is another reservation: what was made for this one may be in use.
pub(super) fn reservation_rules() -> Vec<ValidationRule> {
    ["address", "owner"]
        .map(|field| {
            rule(
                &format!("!has(oldSelf.{field}) || (has(self.{field}) && self.{field} == oldSelf.{field})"),
                &format!("{field} can be said later, and then not changed: delete the reservation and create it with the other"),
            )
        })
        .into()
}

fn text(pattern: &str, longest: usize) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern })
}

fn fixed(pattern: &str, longest: usize, field: &str) -> Schema {
    let rules = [rule(
        "self == oldSelf",
        &format!("{field} cannot be changed: delete the object and create it with the other"),
    )];
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern, "x-kubernetes-validations": rules,
    })
}

pub(super) fn list(item: Schema, most: usize) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "maxItems": most, "x-kubernetes-list-type": "atomic", "items": item })
}

fn choice(names: &[&str]) -> Schema {
    json_schema!({ "type": "string", "enum": names })
}

pub(super) fn subnet(_: &mut SchemaGenerator) -> Schema {
    text(SUBNET, 43)
}

pub(super) fn fixed_subnet(_: &mut SchemaGenerator) -> Schema {
    fixed(SUBNET, 43, "prefix")
}

pub(super) fn subnets(_: &mut SchemaGenerator) -> Schema {
    list(text(SUBNET, 43), 64)
}

pub(super) fn address(_: &mut SchemaGenerator) -> Schema {
    text(ADDRESS, 39)
}

pub(super) fn fixed_address(_: &mut SchemaGenerator) -> Schema {
    fixed(ADDRESS, 39, "address")
}

pub(super) fn gateway(_: &mut SchemaGenerator) -> Schema {
    text(GATEWAY, 39)
}

pub(super) fn exclude(_: &mut SchemaGenerator) -> Schema {
    list(text(PART, 79), 1_024)
}

pub(super) fn sticky(_: &mut SchemaGenerator) -> Schema {
    choice(&["Auto", "None", "Pod", "VM"])
}

pub(super) fn order(_: &mut SchemaGenerator) -> Schema {
    choice(&["Oldest", "Lowest"])
}

pub(super) fn owner_kind(_: &mut SchemaGenerator) -> Schema {
    choice(&["VirtualMachine", "Pod"])
}

pub(super) fn owner_kind_of_address(_: &mut SchemaGenerator) -> Schema {
    choice(&["VirtualMachine", "Pod", "LANReservation", "IPAMClaim"])
}

pub(super) fn timespan(_: &mut SchemaGenerator) -> Schema {
    text(TIMESPAN, 32)
}

pub(super) fn routing_domain(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 253 })
}

pub(super) fn flag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "boolean" })
}

pub(super) fn term(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_EXACT })
}

pub(super) fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_EXACT })
}

pub(super) fn sentence(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 1024 })
}

pub(super) fn sentences(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic", "items": sentence(generator) })
}

/// As a file has it; the common one is empty.
pub(super) fn file_domain(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 253 })
}

pub(super) fn file_ranges(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic",
        "items": { "type": "string", "minLength": 2, "maxLength": 80, "pattern": PART },
    })
}

pub(super) fn block_size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer", "format": "int64", "minimum": 1, "maximum": 4096,
        "x-kubernetes-validations": [rule(
            "self in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]",
            "a block is an aligned prefix, so blockSize is a power of two",
        )],
    })
}

pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "minProperties": 1, "maxProperties": 16, "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

pub(super) fn nodes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": MAX_NODES, "additionalProperties":
            { "type": "array", "maxItems": 64, "items": text(PART, 79) },
    })
}

pub(super) fn node_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 16, "x-kubernetes-list-type": "set", "items": text(NAME, 253) })
}

pub(super) fn object_name(_: &mut SchemaGenerator) -> Schema {
    text(NAME, 253)
}

pub(super) fn fixed_pool(_: &mut SchemaGenerator) -> Schema {
    fixed(NAME, MAX_POOL_NAME, "pool")
}

/// The `name` of a CNI configuration.
pub(super) fn network_name(_: &mut SchemaGenerator) -> Schema {
    text("^[A-Za-z0-9][A-Za-z0-9_.-]*$", 253)
}

/// A link's name.
pub(super) fn interface(_: &mut SchemaGenerator) -> Schema {
    text(r"^[^/:\s]+$", 15)
}

pub(super) fn uid(_: &mut SchemaGenerator) -> Schema {
    text(UID, 36)
}
