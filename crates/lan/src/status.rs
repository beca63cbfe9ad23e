use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::condition::{ACCEPTED, Condition, READY, find_condition};
use crate::older_condition::OlderCondition;

/// How a LAN stands over all nodes, as the daemons' leader sums it up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanStatus {
    /// The generation of the specification that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted: the specification is good and nothing in it belongs to another LAN. Ready: it is built on every
    /// node that takes part. MtuUniform: it has one MTU. NetworkAttachments: the definitions that it asks for are there.
    /// SpokesShared: a spoke is held on several nodes. SpokesRemoved: a pod uses a spoke that the LAN does not have any
    /// more. Deleting: somebody deleted it.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// On how many nodes it is ready, and how many take part: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// Why it is not as it should be, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The MTU of the LAN on every node: spec.mtu, or else the smallest that a node has room for. It falls at once, and
    /// rises when all nodes have had room for more for ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// The larger MTU that the LAN is to have, and from when on if all nodes have had room for it until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_rise: Option<MtuRise>,
    /// How many pods are attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<i64>,
    /// The nodes on which something is attached, as each last said. One whose LANNode object was deleted counts until it writes
    /// that object again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached_on: Vec<String>,
    /// Whom a deleted LAN waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// A larger MTU that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MtuRise {
    /// The most that all nodes have had room for since the waiting began.
    pub to: i64,
    /// When the waiting ends, RFC 3339.
    pub at: String,
}

/// What one node says of one LAN. Each node writes its own, when something changes and not otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kube::CustomResource, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lan.k8slan.io",
    version = "v1beta1",
    kind = "LANNode",
    plural = "lannodes",
    root = "LanNode",
    status = "LanNodeStatus",
    namespaced,
    doc = "How a LAN stands on one node. Written by the daemon of that node.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "LAN", "type": "string", "jsonPath": ".spec.lan"}"#,
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name": "Underlay", "type": "string", "jsonPath": ".spec.underlay"}"#,
    printcolumn = r#"{"name": "MTU", "type": "integer", "jsonPath": ".spec.mtu"}"#
)]
#[schemars(description = "What the node says.")]
pub struct LanNodeSpec {
    /// The name of the LAN, in this object's namespace.
    pub lan: String,
    /// The node.
    pub node: String,
    /// The generation of the LAN's specification that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The condition Accepted, as the version before wrote and reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<OlderCondition>,
    /// The condition Ready, as the version before wrote and reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<OlderCondition>,
    /// The underlay device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<String>,
    /// The MTU of the LAN on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// The largest MTU that the LAN could have on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<i64>,
    /// Who is attached.
    #[serde(default)]
    pub attachments: Vec<SpokeUse>,
}

/// How the LAN stands on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanNodeStatus {
    /// Accepted: the LAN's specification is good and nothing in it belongs to another LAN; every node decides the same. Ready:
    /// it is built on this node. Which generation of the LAN they speak of is in `spec.observedGeneration`: in a condition
    /// stands a generation of the object that has it, if any, and this object's own grows with every report.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Who is attached to a spoke.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpokeUse {
    /// The spoke.
    pub spoke: String,
    /// The pod, `<namespace>/<name>`, its end cut off where it is very long; `container <ID>` where the runtime states no pod.
    pub by: String,
    /// Whether the LAN does not have the spoke any more: the pod is cut off, and gets no other one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

impl LanNode {
    /// The same with its conditions, if a daemon of the version before wrote it; `None`: it does not say how its LAN stands.
    #[must_use]
    pub fn with_conditions(mut self) -> Option<Self> {
        let status = self.status.get_or_insert_default();
        for (kind, older) in [(ACCEPTED, &self.spec.accepted), (READY, &self.spec.ready)] {
            if find_condition(&status.conditions, kind).is_none() {
                status.conditions.push(older.as_ref()?.to_condition(kind));
            }
        }
        Some(self)
    }

    /// What it says of its LAN.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        find_condition(&self.status.as_ref()?.conditions, kind)
    }

    /// Whether it says so of its LAN.
    #[must_use]
    pub fn is_true(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(Condition::is_true)
    }
}

pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": items,
    })
}
