//! What the daemon tells about its LANs: `/run/k8slan/status.json`.

use lan::{LanKey, TapIndex};
use net_types::{Attach, Mtu, SpokeName};
use serde::Serialize;

use crate::lans::Note;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    /// Whether it was looked at; false before the first pass.
    #[serde(skip)]
    pub(crate) looked: bool,
    /// The node's name.
    pub(crate) node: String,
    /// All LANs that are declared, or that still stand.
    pub(crate) lans: Vec<LanStatus>,
    /// Files that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unread: Vec<Note>,
    /// Files, or documents in them, that are no LANs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignored: Vec<Note>,
}

/// One LAN on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LanStatus {
    /// Which.
    pub(crate) lan: LanKey,
    /// The file that declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Its network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<String>,
    /// `Accepted` and `Ready`.
    pub(crate) conditions: Vec<Condition>,
    /// The underlay device of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) underlay: Option<String>,
    /// Its MTU here, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<Mtu>,
    /// Its spokes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) spokes: Vec<SpokeStatus>,
}

/// Whether something holds, as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// `True` or `False`.
    pub(crate) status: &'static str,
    /// One word for programs.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// One spoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpokeStatus {
    /// Its name.
    pub(crate) name: SpokeName,
    /// What stands at the pod's end.
    pub(crate) attach: Attach,
    /// The index of its macvtap, which names `/dev/tap<index>`.
    pub(crate) tap_index: TapIndex,
    /// Whether a pod can be attached, or is.
    pub(crate) ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The pod that uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used_by: Option<String>,
}

impl Condition {
    pub(crate) fn new(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Self {
        Self { kind, status: if holds { "True" } else { "False" }, reason, message }
    }
}

impl NodeStatus {
    /// Logs every condition that is not as it was.
    pub(crate) fn log_changes(&self, before: &Self) {
        for lan in &self.lans {
            let was = before.lans.iter().find(|was| was.lan == lan.lan);
            for condition in &lan.conditions {
                if was.is_some_and(|was| was.conditions.contains(condition)) {
                    continue;
                }
                let Condition { kind, status, reason, message } = condition;
                if *status == "True" {
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
