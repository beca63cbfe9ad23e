//! What a node has, as data: what `--json` prints and `--from` reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lan::{Condition, find_condition};
use serde::{Deserialize, Serialize};

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Whether a daemon is seen to run; its process ID where it can be seen.
    pub daemon: Option<u32>,
    /// The LANs that are declared or stand here.
    pub lans: Vec<LanView>,
    /// The node's links that pods have macvtaps on.
    pub masters: Vec<MasterView>,
    /// The node's bridges that pods are ports of.
    pub bridges: Vec<BridgeView>,
    /// The address pools.
    pub pools: Vec<PoolView>,
    /// What is left over or in the way, for a person to look at.
    pub problems: Vec<String>,
    /// What could not be looked at.
    pub notes: Vec<String>,
}

/// A LAN on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LanView {
    /// `<namespace>/<name>`.
    pub lan: String,
    /// Whether it is accepted, and whether it is built, as the daemon said last.
    #[serde(flatten, with = "super::conditions")]
    pub conditions: Vec<Condition>,
    /// The name of its network namespace.
    pub netns: Option<String>,
    /// Whether that namespace stands.
    pub stands: bool,
    /// The bridge in it.
    pub bridge: Option<LinkView>,
    /// The VXLAN device in it.
    pub vxlan: Option<VxlanView>,
    /// The device of the node that carries it.
    pub underlay: Option<UnderlayView>,
    /// Its spokes, by name.
    pub spokes: Vec<SpokeView>,
}

impl LanView {
    /// What the daemon said last about one kind of condition.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        find_condition(&self.conditions, kind)
    }

    /// The same, if it is said not to be so.
    #[must_use]
    pub fn not_true(&self, kind: &str) -> Option<&Condition> {
        self.condition(kind).filter(|condition| !condition.is_true())
    }
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkView {
    /// Its name.
    pub name: String,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Its Ethernet address.
    pub mac: Option<String>,
}

/// A VXLAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VxlanView {
    /// As a link.
    #[serde(flatten)]
    pub link: LinkView,
    /// Its network identifier.
    pub vni: u32,
    /// Its multicast group.
    pub group: Option<String>,
    /// Its UDP port.
    pub port: u16,
}

/// The device of a node that carries a LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderlayView {
    /// Its name.
    pub name: String,
    /// The link; none if it is missing.
    pub link: Option<LinkView>,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// A spoke.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpokeView {
    /// Its name.
    pub name: String,
    /// Who has it.
    pub state: SpokeState,
    /// Why no pod can have it, where that is so.
    pub reason: Option<String>,
    /// What stands at the pod's end, `macvtap` or `veth`.
    pub attach: Option<String>,
    /// The macvtap's mode.
    pub mode: Option<String>,
    /// The index that its macvtap has or will have, as in `/dev/tap<index>`.
    pub tap_index: Option<u32>,
    /// The end of its veth pair that is named as the spoke and carries the macvtap.
    pub end: Option<LinkView>,
    /// The end that is the bridge's port.
    pub port: Option<LinkView>,
    /// Whose it is.
    pub attachment: Option<AttachmentView>,
    /// The nodes that it is used on, where several nodes are shown and it is free on this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
}

/// Who has a spoke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SpokeState {
    /// Nobody.
    #[default]
    Free,
    /// A live attachment.
    Held,
    /// An attachment that is gone, or that never was complete.
    LeftOver,
}

/// An interface of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachmentView {
    /// `<namespace>/<name>`, where the runtime stated it.
    pub pod: Option<String>,
    /// `<namespace>/<name>` of the virtual machine that the pod runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// The pod's UID.
    #[serde(skip)]
    pub(super) uid: Option<String>,
    /// The container's ID.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// Whether that namespace is still there.
    pub live: bool,
    /// The interface as it is; none if it cannot be seen.
    pub link: Option<PodLinkView>,
}

/// An interface as it is in its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodLinkView {
    /// `macvtap`, `veth`, …
    pub kind: String,
    /// A macvtap's mode.
    pub mode: Option<String>,
    /// Its index: a macvtap's device is `/dev/tap<index>`.
    pub index: u32,
    /// As a link.
    #[serde(flatten)]
    pub link: LinkView,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// A link of the node with macvtaps on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterView {
    /// The link.
    #[serde(flatten)]
    pub link: LinkView,
    /// The pods' macvtaps.
    pub macvtaps: Vec<AttachmentView>,
}

/// A bridge of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BridgeView {
    /// The bridge.
    #[serde(flatten)]
    pub link: LinkView,
    /// Whether it sorts frames by VLAN.
    pub vlan_filtering: bool,
    /// The pods' ports.
    pub ports: Vec<PortView>,
    /// All other ports.
    pub uplinks: Vec<PortView>,
}

/// A port of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortView {
    /// The port.
    #[serde(flatten)]
    pub link: LinkView,
    /// The VLANs whose frames have a tag.
    pub tagged: String,
    /// The VLANs whose frames have none.
    pub untagged: String,
    /// The VLAN of frames that come in without a tag.
    pub pvid: Option<u16>,
    /// Whose it is.
    pub attachment: Option<AttachmentView>,
}

/// An address pool, as `ipam-pool pools --json` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolView {
    /// Its name, where it is a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The network that has ranges of its own, where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its addresses.
    pub ranges: String,
    /// How many are leased.
    pub leased: u64,
    /// How many are free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<serde_json::Number>,
    /// All else that was said.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl AttachmentView {
    /// The pod's name, or the container's ID, shortened.
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
    /// What it carries, for people: with tags, and without; nothing where it knows no VLANs.
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
    /// All interfaces of pods.
    pub(super) fn attachments(&mut self) -> impl Iterator<Item = &mut AttachmentView> {
        let spokes = self.lans.iter_mut().flat_map(|lan| &mut lan.spokes);
        let ports = self.bridges.iter_mut().flat_map(|bridge| &mut bridge.ports);
        let masters = self.masters.iter_mut().flat_map(|master| &mut master.macvtaps);
        spokes
            .filter_map(|spoke| spoke.attachment.as_mut())
            .chain(ports.filter_map(|port| port.attachment.as_mut()))
            .chain(masters)
    }

    /// Keeps only the LANs of this name, `<namespace>/<name>` or the last part of it; returns whether there is
    /// any.
    pub fn retain_lan(&mut self, lan: &str) -> bool {
        let is = |key: &str| key == lan || key.split_once('/').is_some_and(|(_, name)| name == lan);
        self.lans.retain(|view| is(&view.lan));
        self.masters.clear();
        self.bridges.clear();
        self.pools.clear();
        !self.lans.is_empty()
    }
}

/// Tells each node which of its free spokes are used on another one of these nodes.
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
    use lan::{ACCEPTED, READY};
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
