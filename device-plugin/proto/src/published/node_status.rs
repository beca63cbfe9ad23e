//! The daemon's report on its LANs: `/run/k8slan/status.json`.

use lan::{Condition, LanKey, TapIndex, find_condition, set_transition_times};
use net_types::{Attach, Mtu, SpokeName};
use serde::{Deserialize, Serialize};

use super::Note;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// False before the first reconcile.
    #[serde(skip)]
    pub reconciled: bool,
    pub node: String,
    /// All LANs that are declared, or that are still built.
    pub lans: Vec<LanStatus>,
    /// Files that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<Note>,
    /// Files, or documents in them, that are not LANs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<Note>,
}

/// One LAN on this node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LanStatus {
    pub lan: LanKey,
    /// The file that declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The generation of its object that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `Accepted` and `Ready`.
    pub conditions: Vec<Condition>,
    /// The underlay device of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay: Option<String>,
    /// Its MTU on this node, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// The largest MTU that the underlay has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<Mtu>,
    /// Whether it is declared for other nodes only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spokes: Vec<SpokeStatus>,
    /// Spokes that it no longer has, and that pods use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_spokes: Vec<RemovedSpoke>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpokeStatus {
    pub name: SpokeName,
    /// The kind of the pod's interface.
    pub attach: Attach,
    /// The index of its macvtap, the number in `/dev/tap<index>`.
    pub tap_index: TapIndex,
    /// Whether the type `k8slanveth` may attach the spoke by a bare veth.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub k8slanveth: bool,
    /// Whether a pod can be attached, or is attached.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The pod that uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// A spoke that a LAN no longer has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedSpoke {
    pub name: SpokeName,
    /// The pod that uses it.
    pub used_by: String,
}

/// The file's name in the run folder.
pub const STATUS_FILE: &str = "status.json";

impl NodeStatus {
    pub fn text(&self) -> String {
        // It contains only names and texts, which can always be written as JSON.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Sets the time since which every condition has its status; `before` is the last status, `now` is RFC 3339.
    pub fn set_transition_times(&mut self, before: &Self, now: &str) {
        for lan in &mut self.lans {
            // The rest of a LAN in a former namespace has the same key.
            let same = |was: &&LanStatus| was.lan == lan.lan;
            let was = before.lans.iter().filter(same).find(|was| was.netns == lan.netns);
            let was = was.or_else(|| before.lans.iter().find(same));
            set_transition_times(&mut lan.conditions, was.map_or(&[], |was| &was.conditions), now);
        }
    }

    /// Logs every condition that changed.
    pub fn log_changes(&self, before: &Self) {
        for lan in &self.lans {
            let was = before.lans.iter().find(|was| was.lan == lan.lan);
            for condition in &lan.conditions {
                let last = was.and_then(|was| find_condition(&was.conditions, &condition.kind));
                if last.is_some_and(|last| last.says_the_same(condition)) {
                    continue;
                }
                let Condition { kind, reason, message, .. } = condition;
                if condition.is_true() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: bool, message: &str, netns: &str) -> NodeStatus {
        let lan = serde_json::json!({ "lan": "a/b", "netns": netns, "conditions": [] });
        let mut lan: LanStatus = serde_json::from_value(lan).unwrap();
        lan.conditions = vec![Condition::new(lan::READY, ready, "R", message)];
        NodeStatus { lans: vec![lan], ..NodeStatus::default() }
    }

    fn time(status: &NodeStatus) -> &str {
        status.lans[0].conditions[0].last_transition_time.as_deref().unwrap()
    }

    #[test]
    fn a_status_keeps_its_times_until_something_turns() {
        let (one, two, three) = ("2026-11-29T12:00:01Z", "2026-11-29T12:00:02Z", "2026-11-29T12:00:03Z");
        let mut first = status(true, "built", "n");
        first.set_transition_times(&NodeStatus::default(), one);
        // The next daemon reads it.
        let first: NodeStatus = serde_json::from_str(&first.text()).unwrap();
        let mut second = status(true, "built, no carrier", "n");
        second.set_transition_times(&first, two);
        assert_eq!(time(&second), one);
        let mut third = status(false, "built, no carrier", "other");
        third.set_transition_times(&second, three);
        assert_eq!(time(&third), three);
        let mut again = status(false, "built, no carrier", "other");
        again.set_transition_times(&third, "2026-11-29T12:00:04Z");
        assert_eq!(again, third, "nothing to write");
    }
}
