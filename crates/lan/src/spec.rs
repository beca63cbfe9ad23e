use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use crate::schema;

/// A virtual LAN over the nodes, as its author wrote it.
///
/// The values are those of the object, valid or not; [`crate::Lan::new`] validates them and reports all mistakes.
/// Fields that this version does not know are ignored, since a node must be able to read objects of a newer version;
/// [`crate::manifest`] refuses them in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "crd",
    derive(kube::CustomResource, schemars::JsonSchema),
    kube(
        group = "lan.k8slan.io",
        version = "v1beta1",
        kind = "LAN",
        plural = "lans",
        root = "LanObject",
        namespaced,
        doc = "A virtual layer-2 network over all nodes: on each node a bridge and a VXLAN device in a network namespace of its own, and one port per spoke.",
        derive = "PartialEq",
        status = "crate::LanStatus",
        printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
        printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
        printcolumn = r#"{"name": "Nodes", "type": "string", "jsonPath": ".status.nodes"}"#,
        printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.reason"}"#,
        printcolumn = r#"{"name": "Ns", "type": "string", "jsonPath": ".spec.ns"}"#,
        printcolumn = r#"{"name": "VNI", "type": "integer", "jsonPath": ".spec.vni"}"#,
        printcolumn = r#"{"name": "Spokes", "type": "string", "jsonPath": ".spec.spokes", "priority": 1}"#,
        printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    ),
    schemars(description = "What the LAN is on every node.", extend("x-kubernetes-validations" = schema::spec_rules()))
)]
pub struct LanSpec {
    /// The name of the LAN's network namespace on every node, where `ip -n <ns>` finds it. Unique over all LANs.
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::netns"))]
    pub ns: String,
    /// The name of the bridge in the namespace.
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::own_link"))]
    pub bridge: String,
    /// The name of the VXLAN device in the namespace.
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::own_link"))]
    pub vxlan: String,
    /// The VXLAN network identifier, 1 to 16777215. Unique over all LANs.
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::vni"))]
    pub vni: i64,
    /// The multicast group, IPv6 or IPv4, that the nodes reach one another by.
    #[serde(default = "default_group")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::group"))]
    pub vxlan_grp: String,
    /// The UDP port of the VXLAN device.
    #[serde(default = "default_port")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::port"))]
    pub vxlan_port: i64,
    /// The underlay device of every node that vxlanDevMap does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::node_link"))]
    pub default_vxlan_dev: Option<String>,
    /// The underlay device of single nodes, by the node's name or else its label kubernetes.io/hostname.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::node_links"))]
    pub vxlan_dev_map: BTreeMap<String, String>,
    /// The MTU of the LAN. Absent: what the underlays of all nodes have room for, which is the smallest of their MTUs
    /// less 74 bytes (less 54 with an IPv4 group). Where it becomes smaller, the guest of a VM that runs learns of it when
    /// it starts again; until then its larger packets are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::mtu"))]
    pub mtu: Option<i64>,
    /// The LAN's spokes: the names that pods and VMs attach by, each to one pod at a time on each node (on two while a VM migrates). Unique over all LANs.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::spokes"))]
    pub spokes: Vec<String>,
    /// What is different for single spokes, by their name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "overrides"))]
    pub spoke_overrides: BTreeMap<String, SpokeOverride>,
    /// What stands at the pod's end of a spoke: a macvtap, which VMs and ordinary pods can use, or a bare veth.
    #[serde(default = "default_attach")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::attach"))]
    pub attach: String,
    /// The mode of the macvtaps. In passthru, guests may send from any MAC address.
    #[serde(default = "default_mode")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::mode"))]
    pub mode: String,
    /// The namespaces whose pods may attach. Absent: all; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::allowed_namespaces"))]
    pub allowed_namespaces: Option<Vec<String>>,
    /// What happens when the LAN is deleted while pods are attached. WhenUnused: it carries their traffic until
    /// the last of them is gone. Force: it goes at once, and the pods are cut off; so does one whose file is removed.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::deletion_policy"))]
    pub deletion_policy: DeletionPolicy,
    /// Makes k8slan keep one NetworkAttachmentDefinition per spoke, named as the spoke. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "network_attachments"))]
    pub network_attachments: Option<NetworkAttachments>,
}

/// What happens when a LAN is deleted while pods are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It carries their traffic until the last of them is gone.
    #[default]
    WhenUnused,
    /// It goes at once.
    Force,
}

/// The NetworkAttachmentDefinitions of a LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct NetworkAttachments {
    /// The namespaces to keep them in. Absent: those in allowedNamespaces, or else the LAN's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::allowed_namespaces"))]
    pub namespaces: Option<Vec<String>>,
    /// The ipam section of their configuration. Absent: no addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::ipam"))]
    pub ipam: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether an IPAMClaim that a pod names for its interface owns the address: KubeVirt's persistent IPs. Absent: no.
    #[serde(rename = "allowPersistentIPs", default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::flag"))]
    pub allow_persistent_ips: Option<bool>,
}

/// What is different for one spoke.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct SpokeOverride {
    /// In place of the LAN's attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::attach_override"))]
    pub attach: Option<String>,
    /// In place of the LAN's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "schema::mode_override"))]
    pub mode: Option<String>,
}

#[cfg(feature = "crd")]
fn overrides(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let value = generator.subschema_for::<SpokeOverride>();
    schemars::json_schema!({ "type": "object", "maxProperties": crate::limits::MAX_SPOKES, "additionalProperties": value })
}

#[cfg(feature = "crd")]
fn network_attachments(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<NetworkAttachments>()
}

pub(crate) fn default_group() -> String {
    "ff02::14".to_owned()
}

pub(crate) fn default_port() -> i64 {
    4789
}

pub(crate) fn default_attach() -> String {
    "macvtap".to_owned()
}

pub(crate) fn default_mode() -> String {
    "passthru".to_owned()
}
