//! The state of a node as data, which `--json` prints and `--from` reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lan::{Condition, READY, find_condition};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeView {
    pub node: String,
    /// The daemon's process ID, if a running one is seen.
    pub daemon: Option<u32>,
    /// The LANs that are declared here or exist here.
    pub lans: Vec<LanView>,
    /// The node's links with pods' macvtaps on them.
    pub masters: Vec<MasterView>,
    /// The node's bridges with ports of pods.
    pub bridges: Vec<BridgeView>,
    pub pools: Vec<PoolView>,
    /// Leftovers and obstacles, for an administrator to check.
    pub problems: Vec<String>,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// A LAN on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LanView {
    /// The LAN's key, `<namespace>/<name>`.
    pub lan: String,
    /// Whether it is accepted, and whether it is built, from the daemon's status.
    #[serde(flatten, with = "super::conditions")]
    pub conditions: Vec<Condition>,
    /// The name of its network namespace.
    pub netns: Option<String>,
    /// Whether that namespace exists.
    pub stands: bool,
    /// The bridge in that namespace.
    pub bridge: Option<LinkView>,
    /// The VXLAN device in that namespace.
    pub vxlan: Option<VxlanView>,
    /// The device of the node that carries it.
    pub underlay: Option<UnderlayView>,
    pub spokes: Vec<SpokeView>,
}

impl LanView {
    /// The condition of one kind, from the daemon's status.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        find_condition(&self.conditions, kind)
    }

    /// The same, unless it is true.
    #[must_use]
    pub fn not_true(&self, kind: &str) -> Option<&Condition> {
        self.condition(kind).filter(|condition| !condition.is_true())
    }

    /// What the LAN lacks though it is built, as a carrier or an underlay of its own: it serves the pods of its node.
    #[must_use]
    pub fn lacks(&self) -> Option<&Condition> {
        /// The reason of a LAN without defects.
        const BUILT: &str = "Built";
        self.condition(READY).filter(|ready| ready.is_true() && ready.reason != BUILT)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkView {
    pub name: String,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    pub mtu: u32,
    /// The Ethernet address, if it has one.
    pub mac: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VxlanView {
    /// What it has as a link.
    #[serde(flatten)]
    pub link: LinkView,
    pub vni: u32,
    pub group: Option<String>,
    pub port: u16,
}

/// The device of a node that carries a LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderlayView {
    pub name: String,
    /// The link; `None` if it is missing.
    pub link: Option<LinkView>,
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpokeView {
    pub name: String,
    /// Whether an attachment has it.
    pub state: SpokeState,
    /// Why no pod can have it, if that is so.
    pub reason: Option<String>,
    /// What the pod gets at its end, `macvtap` or `veth`.
    pub attach: Option<String>,
    pub mode: Option<String>,
    /// The index that its macvtap has or will have, as in `/dev/tap<index>`.
    pub tap_index: Option<u32>,
    /// The end of its veth pair with the spoke's name, which carries the macvtap.
    pub end: Option<LinkView>,
    /// The end that is a port of the bridge.
    pub port: Option<LinkView>,
    /// The attachment that has it.
    pub attachment: Option<AttachmentView>,
    /// The nodes where it is used, if several nodes are shown and it is free on this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
}

/// Whether an attachment has a spoke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SpokeState {
    /// No attachment has it.
    #[default]
    Free,
    /// A live attachment has it.
    Held,
    /// Links of an attachment that is gone, or was never complete.
    LeftOver,
}

/// An interface of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachmentView {
    /// `<namespace>/<name>`, if the runtime stated it.
    pub pod: Option<String>,
    /// `<namespace>/<name>` of the virtual machine that the pod runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// The pod's UID, if the runtime stated it.
    #[serde(skip)]
    pub(super) uid: Option<String>,
    /// The container's ID.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// Whether that namespace still exists.
    pub live: bool,
    /// The interface's current state; `None` if it cannot be read.
    pub link: Option<PodLinkView>,
}

/// An interface as it is in its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodLinkView {
    /// The kernel's name of the kind: `macvtap`, `veth`, …
    pub kind: String,
    pub mode: Option<String>,
    /// The index: a macvtap's device is `/dev/tap<index>`.
    pub index: u32,
    #[serde(flatten)]
    pub link: LinkView,
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterView {
    #[serde(flatten)]
    pub link: LinkView,
    pub macvtaps: Vec<AttachmentView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BridgeView {
    #[serde(flatten)]
    pub link: LinkView,
    /// Whether it filters frames by VLAN.
    pub vlan_filtering: bool,
    /// The ports with pods behind them.
    pub ports: Vec<PortView>,
    /// All other ports.
    pub uplinks: Vec<PortView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortView {
    #[serde(flatten)]
    pub link: LinkView,
    /// The VLANs that it carries tagged.
    pub tagged: String,
    /// The VLANs that it carries untagged.
    pub untagged: String,
    /// The VLAN of frames that arrive without a tag.
    pub pvid: Option<u16>,
    /// The attachment behind it, if there is one.
    pub attachment: Option<AttachmentView>,
}

/// An address pool, as `ipam-pool pools --json` reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolView {
    /// The pool's name; absent for a network's own ranges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The network with ranges of its own; absent for a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    pub ranges: String,
    /// The number of leased addresses.
    pub leased: u64,
    /// The number of free addresses; it may exceed 64 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<serde_json::Number>,
    /// All other members of the report.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl AttachmentView {
    /// The pod, with the virtual machine in it, or the beginning of the container's ID.
    #[must_use]
    pub fn who(&self) -> String {
        match (&self.pod, &self.vm) {
            (Some(pod), Some(vm)) => format!("VM {vm}, pod {pod}"),
            (Some(pod), None) => format!("pod {pod}"),
            (None, _) => format!("container {}", self.container.get(..12).unwrap_or(&self.container)),
        }
    }
}

impl PortView {
    /// Its VLANs in text, tagged and untagged; empty without VLANs.
    #[must_use]
    pub fn vlans(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if !self.tagged.is_empty() {
            parts.push(format!("VLAN {} tagged", self.tagged));
        }
        let pvid = self.pvid.map(|pvid| format!("PVID {pvid}"));
        match (self.untagged.is_empty(), pvid) {
            (false, Some(pvid)) => parts.push(format!("VLAN {} untagged, {pvid}", self.untagged)),
            (false, None) => parts.push(format!("VLAN {} untagged", self.untagged)),
            (true, pvid) => parts.extend(pvid),
        }
        parts
    }
}

impl NodeView {
    /// The attachments of everything in the view.
    pub(super) fn attachments(&mut self) -> impl Iterator<Item = &mut AttachmentView> {
        let spokes = self.lans.iter_mut().flat_map(|lan| &mut lan.spokes);
        let ports = self.bridges.iter_mut().flat_map(|bridge| &mut bridge.ports);
        let masters = self.masters.iter_mut().flat_map(|master| &mut master.macvtaps);
        spokes
            .filter_map(|spoke| spoke.attachment.as_mut())
            .chain(ports.filter_map(|port| port.attachment.as_mut()))
            .chain(masters)
    }

    /// Keeps only the LANs with this name, `<namespace>/<name>` or the last part of it; returns whether there is any.
    pub fn retain_lan(&mut self, lan: &str) -> bool {
        let is = |key: &str| key == lan || key.split_once('/').is_some_and(|(_, name)| name == lan);
        self.lans.retain(|view| is(&view.lan));
        self.masters.clear();
        self.bridges.clear();
        self.pools.clear();
        !self.lans.is_empty()
    }
}

/// Adds to each free spoke the other nodes on which it is used.
pub(super) fn tell_of_others(nodes: &mut [NodeView]) {
    let mut users: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for node in nodes.iter() {
        for lan in &node.lans {
            for spoke in lan.spokes.iter().filter(|spoke| spoke.state == SpokeState::Held) {
                users.entry((lan.lan.clone(), spoke.name.clone())).or_default().push(node.node.clone());
            }
        }
    }
    for lan in nodes.iter_mut().flat_map(|node| &mut node.lans) {
        for spoke in lan.spokes.iter_mut().filter(|spoke| spoke.state == SpokeState::Free) {
            spoke.elsewhere = users.get(&(lan.lan.clone(), spoke.name.clone())).cloned().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use lan::ACCEPTED;
    use serde_json::{Value, json};

    use super::*;

    fn lan(conditions: Vec<Condition>) -> LanView {
        LanView { lan: "a/b".into(), conditions, ..LanView::default() }
    }

    #[test]
    fn a_lan_is_printed_as_it_was_with_its_conditions() {
        let built = Condition {
            last_transition_time: Some("2026-11-21T08:00:00Z".into()),
            ..Condition::new(READY, true, "Built", "built, MTU 1426")
        };
        let view = lan(vec![Condition::new(ACCEPTED, false, "Conflict", "VNI 222"), built]);
        let printed = serde_json::to_value(&view).unwrap();
        // What the version before reads, and what people's programs read.
        assert_eq!(
            printed["accepted"],
            json!({ "holds": false, "reason": "Conflict", "message": "VNI 222" })
        );
        assert_eq!(
            printed["ready"],
            json!({ "holds": true, "reason": "Built", "message": "built, MTU 1426" })
        );
        assert_eq!(printed["conditions"][1]["lastTransitionTime"], "2026-11-21T08:00:00Z");
        let keys: Vec<&String> = printed.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 10, "{keys:?}");
        assert_eq!(serde_json::from_value::<LanView>(printed).unwrap(), view);
        let nothing = serde_json::to_value(lan(Vec::new())).unwrap();
        assert_eq!((&nothing["accepted"], &nothing["ready"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_lan_that_the_version_before_printed_is_read() {
        let printed = json!({
            "lan": "a/b", "netns": "n", "stands": true, "bridge": null, "vxlan": null, "underlay": null, "spokes": [],
            "accepted": { "holds": true, "reason": "Accepted", "message": "" },
            "ready": { "holds": false, "reason": "UnderlayMissing", "message": "underlay eth1 does not exist" },
        });
        let view: LanView = serde_json::from_value(printed).unwrap();
        assert!(view.stands && view.netns.as_deref() == Some("n"));
        assert!(view.condition(ACCEPTED).is_some_and(Condition::is_true));
        let missing = Condition::new(READY, false, "UnderlayMissing", "underlay eth1 does not exist");
        assert_eq!(view.not_true(READY), Some(&missing));
        let silent: LanView =
            serde_json::from_value(json!({ "lan": "a/b", "accepted": null, "ready": null })).unwrap();
        assert_eq!(silent.conditions, Vec::new());
    }
}
