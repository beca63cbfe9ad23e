//! The schemas of single fields of the custom resources, by which the API server validates a LAN before it stores it.
//!
//! The limits (`maxItems`, `maxLength` …) also bound the cost that the API server estimates for a CEL rule; without
//! them it refuses the CRD.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::limits::{MAX_NAMESPACES, MAX_NODES, MAX_SPOKES};

/// Names of links in ASCII, without characters that the kernel refuses or takes for a pattern (`/`, `:`, `%` and
/// white space). A CEL rule or the daemon refuses the few remaining names with another meaning.
const LINK: &str = "^[!-$&-.0-9;-~]{1,15}$";
const SPOKE: &str = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,13}[A-Za-z0-9])?$";
const NETNS: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$";
const LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// The form of a multicast address. Some invalid ones pass; the daemon reports what is wrong with them.
const GROUP: &str = r"^(2(2[4-9]|3[0-9])(\.[0-9]{1,3}){3}|[Ff][Ff][0-9A-Fa-f]{2}:[0-9A-Fa-f:.]{1,40})$";

pub(crate) fn rule(rule: &str, message: &str) -> ValidationRule {
    ValidationRule { rule: rule.to_owned(), message: Some(message.to_owned()), ..ValidationRule::default() }
}

pub(crate) fn spec_rules() -> Vec<ValidationRule> {
    vec![
        rule(
            "self.bridge != self.vxlan",
            "bridge and vxlan are two links in one namespace: give them different names",
        ),
        rule(
            "!has(self.spokes) || (!(self.bridge in self.spokes) && !(self.vxlan in self.spokes))",
            "a spoke is a link beside the bridge and the VXLAN device: give it a name of its own",
        ),
        rule(
            "has(self.defaultVxlanDev) || (has(self.vxlanDevMap) && self.vxlanDevMap.size() > 0)",
            "no node has an underlay: set defaultVxlanDev, vxlanDevMap or both",
        ),
        rule(
            "!has(self.spokeOverrides) || self.spokeOverrides.all(spoke, has(self.spokes) && spoke in self.spokes)",
            "spokeOverrides names a spoke that is not in spokes",
        ),
    ]
}

pub(crate) fn netns(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "pattern": NETNS,
        "x-kubernetes-validations": [rule(
            "self == oldSelf",
            "ns cannot be changed: delete the LAN and create it with the other name",
        )],
    })
}

pub(crate) fn own_link(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 15,
        "pattern": LINK,
        "x-kubernetes-validations": [
            rule("!(self in ['lo', 'all', 'default', '.', '..'])", "this name means something else to the kernel: choose another"),
            rule(r"!self.matches('^\\+[0-9a-f]{8}$')", "'+' and eight hexadecimal digits are the names of the spokes' bridge ports: choose another"),
        ],
    })
}

/// The name of a link that the node has.
fn link() -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 15,
        "pattern": LINK,
        "x-kubernetes-validations": [
            rule("!(self in ['all', 'default', '.', '..'])", "no link can have this name: give that of a link of the node"),
        ],
    })
}

pub(crate) fn node_link(_: &mut SchemaGenerator) -> Schema {
    link()
}

pub(crate) fn node_links(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_NODES,
        "additionalProperties": link(),
    })
}

pub(crate) fn vni(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer",
        "format": "int64",
        "minimum": 1,
        "maximum": 16_777_215,
        "x-kubernetes-validations": [rule(
            "self == oldSelf",
            "vni cannot be changed: until all nodes have followed, the LAN would be two; delete it and create it anew",
        )],
    })
}

pub(crate) fn group(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 45, "pattern": GROUP })
}

pub(crate) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": 65_535 })
}

pub(crate) fn mtu(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 68, "maximum": 65_535 })
}

pub(crate) fn spokes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_SPOKES,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 15,
            "pattern": SPOKE,
            "x-kubernetes-validations": [
                rule("!(self in ['lo', 'all', 'default'])", "this name means something else to the kernel: choose another"),
                rule("!self.matches('^tap[0-9a-fA-F]+$')", "tap and hexadecimal digits are the names of links that KubeVirt makes: choose another"),
            ],
        },
    })
}

pub(crate) fn attach(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["macvtap", "veth"] })
}

pub(crate) fn attach_override(generator: &mut SchemaGenerator) -> Schema {
    attach(generator)
}

pub(crate) fn mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["bridge", "private", "vepa", "passthru"] })
}

pub(crate) fn mode_override(generator: &mut SchemaGenerator) -> Schema {
    mode(generator)
}

pub(crate) fn allowed_namespaces(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_NAMESPACES,
        "x-kubernetes-list-type": "set",
        "items": { "type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL },
    })
}

pub(crate) fn deletion_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["WhenUnused", "Force"] })
}

pub(crate) fn flag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "boolean" })
}

pub(crate) fn ipam(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 32, "x-kubernetes-preserve-unknown-fields": true })
}
