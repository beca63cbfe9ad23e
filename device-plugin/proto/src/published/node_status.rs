//! What the daemon tells about its LANs: `/run/k8slan/status.json`.

use std::borrow::Cow;

use lan::{LanKey, TapIndex};
use net_types::{Attach, Mtu, SpokeName};
use serde::{Deserialize, Serialize};

use super::Note;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Whether it was looked at; false before the first pass.
    #[serde(skip)]
    pub reconciled: bool,
    /// The node's name.
    pub node: String,
    /// All LANs that are declared, or that still stand.
    pub lans: Vec<LanStatus>,
    /// Files that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<Note>,
    /// Files, or documents in them, that are no LANs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<Note>,
}

/// One LAN on this node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LanStatus {
    /// Which.
    pub lan: LanKey,
    /// The file that declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The generation of its object that this speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `Accepted` and `Ready`.
    pub conditions: Vec<Condition>,
    /// The underlay device of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay: Option<String>,
    /// Its MTU here, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// The largest MTU that the underlay has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<Mtu>,
    /// Whether it names other nodes and not this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// Its spokes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spokes: Vec<SpokeStatus>,
    /// Spokes that it does not have any more, and that pods use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_spokes: Vec<RemovedSpoke>,
}

/// Said here, or read from a file.
type Text = Cow<'static, str>;

/// Whether something holds, as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub kind: Text,
    /// `True` or `False`.
    pub status: Text,
    /// One word for programs.
    pub reason: Text,
    /// For people.
    pub message: String,
}

/// One spoke.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpokeStatus {
    /// Its name.
    pub name: SpokeName,
    /// What stands at the pod's end.
    pub attach: Attach,
    /// The index of its macvtap, which names `/dev/tap<index>`.
    pub tap_index: TapIndex,
    /// Whether the type `k8slanveth` may put the spoke's bare veth into a pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub k8slanveth: bool,
    /// Whether a pod can be attached, or is.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The pod that uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// A spoke that a LAN does not have any more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedSpoke {
    /// Its name.
    pub name: SpokeName,
    /// The pod that uses it.
    pub used_by: String,
}

impl Condition {
    /// A condition that is `True` where it `holds`.
    pub fn new(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Self {
        let status = if holds { "True" } else { "False" };
        Self { kind: kind.into(), status: status.into(), reason: reason.into(), message }
    }
}

/// The file's name in the run folder.
pub const STATUS_FILE: &str = "status.json";

impl NodeStatus {
    /// The file's text.
    pub fn text(&self) -> String {
        // Names and words: nothing in it fails to be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Logs every condition that is not as it was.
    pub fn log_changes(&self, before: &Self) {
        for lan in &self.lans {
            let was = before.lans.iter().find(|was| was.lan == lan.lan);
            for condition in &lan.conditions {
                if was.is_some_and(|was| was.conditions.contains(condition)) {
                    continue;
                }
                let Condition { kind, status, reason, message } = condition;
                if status == "True" {
                    tracing::info!(lan = %lan.lan, "{kind}: {message}");
                } else {
                    tracing::warn!(lan = %lan.lan, "not {kind} ({reason}): {message}");
                }
            }
        }
        for gone in before.lans.iter().filter(|was| !self.lans.iter().any(|lan| lan.lan == was.lan)) {
            tracing::info!(lan = %gone.lan, "gone");
        }
        for Note { source, message } in self.unread.iter().filter(|note| !before.unread.contains(note)) {
            tracing::warn!(source, "{message}");
        }
        for Note { source, message } in self.ignored.iter().filter(|note| !before.ignored.contains(note)) {
            tracing::info!(source, "{message}");
        }
    }
}
