//! Prints the tree of a node for people.

use std::fmt::Write as _;

use lan::{ACCEPTED, Condition, READY};
use node::one_line;

use super::view::{
    AttachmentView, LanView, LinkView, MasterView, NodeView, PodLinkView, PoolView, PortView, SpokeState,
    SpokeView, UnderlayView,
};

/// A line, and the lines below it.
struct Branch {
    line: String,
    below: Vec<Branch>,
}

/// A function with additional lines below a pod's interface.
pub type ExtraLines<'a> = &'a dyn Fn(&AttachmentView) -> Vec<String>;

/// The tree. `more` adds lines below each pod's interface.
#[must_use]
pub fn tree(view: &NodeView, more: ExtraLines<'_>) -> String {
    let mut text = String::new();
    node_branch(view, more).write(&mut text, "", "");
    text
}

/// One tree for several nodes.
#[must_use]
pub fn tree_of_all(nodes: &[NodeView]) -> String {
    if let [node] = nodes {
        return tree(node, &|_| Vec::new());
    }
    let mut root = Branch::new(format!("{} nodes", nodes.len()));
    root.below.extend(nodes.iter().map(|node| node_branch(node, &|_| Vec::new())));
    let mut text = String::new();
    root.write(&mut text, "", "");
    text
}

fn node_branch(view: &NodeView, more: ExtraLines<'_>) -> Branch {
    let mut root = Branch::new(match view.daemon {
        Some(id) => format!("{}, daemon {id}", view.node),
        None => format!("{}, no daemon is seen", view.node),
    });
    root.below.extend(view.lans.iter().map(|lan| lan_branch(lan, more)));
    root.below.extend(view.bridges.iter().map(|bridge| {
        let sorts = if bridge.vlan_filtering { ", sorts by VLAN" } else { "" };
        let mut branch = Branch::new(format!("bridge {}{sorts}", facts(&bridge.link)));
        branch.below.extend(bridge.uplinks.iter().map(|port| port_branch("uplink", port, more)));
        branch.below.extend(bridge.ports.iter().map(|port| port_branch("port", port, more)));
        branch
    }));
    root.below.extend(view.masters.iter().map(|master| master_branch(master, more)));
    root.below.extend(view.pools.iter().map(|pool| Branch::new(pool_line(pool))));
    if view.lans.is_empty() && view.bridges.is_empty() && view.masters.is_empty() {
        root.below.push(Branch::new("no LAN, no pod on a bridge or link of the node"));
    }
    root.below.extend(view.problems.iter().map(|problem| Branch::new(format!("PROBLEM {problem}"))));
    root.below.extend(view.notes.iter().map(|note| Branch::new(format!("note: {note}"))));
    root
}

impl Branch {
    fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), below: Vec::new() }
    }

    /// Writes the branch; `first` is the prefix of its own line, `rest` that of the lines below.
    fn write(&self, text: &mut String, first: &str, rest: &str) {
        let _ = writeln!(text, "{first}{}", one_line(&self.line));
        for (at, branch) in self.below.iter().enumerate() {
            let (lead, under) =
                if at + 1 == self.below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            branch.write(text, &format!("{rest}{lead}"), &format!("{rest}{under}"));
        }
    }
}

fn lan_branch(lan: &LanView, more: ExtraLines<'_>) -> Branch {
    let mut branch = Branch::new(format!("LAN {}: {}", lan.lan, state_of(lan)));
    if let Some(netns) = &lan.netns {
        let stands = if lan.stands { "" } else { ", which does not stand" };
        branch.below.push(Branch::new(format!("namespace {netns}{stands}")));
    }
    if let Some(vxlan) = &lan.vxlan {
        branch.below.push(Branch::new(format!(
            "VXLAN {}, VNI {}, group {}, UDP port {}",
            facts(&vxlan.link),
            vxlan.vni,
            vxlan.group.as_deref().unwrap_or("none"),
            vxlan.port
        )));
    }
    if let Some(underlay) = &lan.underlay {
        branch.below.push(Branch::new(underlay_line(underlay)));
    }
    let spokes = lan.spokes.iter().map(|spoke| spoke_branch(spoke, more));
    match &lan.bridge {
        Some(bridge) => {
            let mut at = Branch::new(format!("bridge {}", facts(bridge)));
            at.below.extend(spokes);
            branch.below.push(at);
        }
        None => branch.below.extend(spokes),
    }
    branch
}

/// Whether a LAN is accepted and ready, in one line.
pub fn state_of(lan: &LanView) -> String {
    let because = |what: &str, state: &Condition| format!("{what} ({}): {}", state.reason, state.message);
    match (lan.not_true(ACCEPTED), lan.condition(READY)) {
        (Some(accepted), _) => because("not accepted", accepted),
        (_, Some(ready)) if ready.is_true() => {
            // What the daemon adds to `built` matters: a missing carrier, a spoke's defect.
            format!("ready, {}", ready.message)
        }
        (_, Some(ready)) => because("not ready", ready),
        (_, None) if lan.stands => "it stands; no daemon has said whether it is as it should be".to_owned(),
        (_, None) => "no daemon has said anything about it".to_owned(),
    }
}

fn underlay_line(underlay: &UnderlayView) -> String {
    let Some(link) = &underlay.link else { return format!("underlay {}: it is missing", underlay.name) };
    let mut line = format!("underlay {}", facts(link));
    for address in &underlay.addresses {
        let _ = write!(line, ", {address}");
    }
    line
}

fn spoke_branch(spoke: &SpokeView, more: ExtraLines<'_>) -> Branch {
    let mut branch = Branch::new(spoke_line(spoke));
    branch.below.extend(spoke.attachment.as_ref().and_then(|attachment| attachment_branch(attachment, more)));
    branch
}

/// One line about a spoke.
pub fn spoke_line(spoke: &SpokeView) -> String {
    let mut line = format!("spoke {}: ", spoke.name);
    match (spoke.state, &spoke.attachment) {
        (SpokeState::Free, _) if !spoke.elsewhere.is_empty() => {
            let _ = write!(line, "free here, used on {}", spoke.elsewhere.join(", "));
        }
        (SpokeState::Free, _) => line.push_str("free"),
        (SpokeState::Held, Some(attachment)) => line.push_str(&attachment.who()),
        (SpokeState::Held, None) => line.push_str("held by a pod that is not known"),
        (SpokeState::LeftOver, Some(attachment)) => {
            let _ = write!(line, "left over of {}", attachment.who());
        }
        (SpokeState::LeftOver, None) => line.push_str("left over of an unfinished ADD"),
    }
    if spoke.state == SpokeState::Free {
        let what: Vec<&str> =
            [spoke.attach.as_deref(), spoke.mode.as_deref()].into_iter().flatten().collect();
        if !what.is_empty() {
            let _ = write!(line, ", {}", what.join(" "));
        }
        if let Some(index) = spoke.tap_index {
            let _ = write!(line, ", /dev/tap{index}");
        }
    }
    if let Some(port) = &spoke.port {
        let _ = write!(line, ", port {}", facts(port));
    }
    if let Some(reason) = &spoke.reason {
        let _ = write!(line, "; takes no pod: {reason}");
    }
    line
}

/// A pod's interface; `None` if it cannot be seen because the pod is gone.
fn attachment_branch(attachment: &AttachmentView, more: ExtraLines<'_>) -> Option<Branch> {
    if !attachment.live {
        return None;
    }
    let mut branch = Branch::new(match &attachment.link {
        Some(link) => pod_link_line(link),
        None => format!("{} is not in {}", attachment.ifname, attachment.netns.display()),
    });
    branch.below.extend(more(attachment).into_iter().map(Branch::new));
    Some(branch)
}

fn pod_link_line(link: &PodLinkView) -> String {
    let mut line = format!("{}, {}", link.link.name, link.kind);
    if let Some(mode) = &link.mode {
        let _ = write!(line, " {mode}");
    }
    if link.kind == "macvtap" {
        let _ = write!(line, ", /dev/tap{}", link.index);
    }
    if let Some(mac) = &link.link.mac {
        let _ = write!(line, ", {mac}");
    }
    let _ = write!(line, ", {}, MTU {}", up(&link.link), link.link.mtu);
    for address in &link.addresses {
        let _ = write!(line, ", {address}");
    }
    line
}

fn port_branch(what: &str, port: &PortView, more: ExtraLines<'_>) -> Branch {
    let mut line = format!("{what} {}", facts(&port.link));
    for vlans in port.vlans() {
        let _ = write!(line, ", {vlans}");
    }
    if let Some(attachment) = &port.attachment {
        let gone = if attachment.live { "" } else { "left over of " };
        let _ = write!(line, ": {gone}{}", attachment.who());
    }
    let mut branch = Branch::new(line);
    branch.below.extend(port.attachment.as_ref().and_then(|attachment| attachment_branch(attachment, more)));
    branch
}

fn master_branch(master: &MasterView, more: ExtraLines<'_>) -> Branch {
    let mut branch = Branch::new(format!("macvtaps on {}", facts(&master.link)));
    for attachment in &master.macvtaps {
        let mut pod = Branch::new(attachment.who());
        pod.below.extend(attachment_branch(attachment, more));
        branch.below.push(pod);
    }
    branch
}

/// One line about a pool.
pub fn pool_line(pool: &PoolView) -> String {
    let mut line = match (&pool.pool, &pool.network) {
        (None, Some(network)) => format!("network {network}"),
        (name, _) => format!("pool {}", name.as_deref().unwrap_or("?")),
    };
    if !pool.ranges.is_empty() {
        let _ = write!(line, ", {}", pool.ranges);
    }
    let _ = write!(line, ": {} leased", pool.leased);
    for (what, count) in &pool.more {
        match count.as_u64() {
            Some(0) => {}
            Some(count) => drop(write!(line, ", {count} {what}")),
            None => {
                for note in count.as_array().into_iter().flatten().filter_map(|note| note.as_str()) {
                    let _ = write!(line, "; {note}");
                }
            }
        }
    }
    if let Some(free) = &pool.free {
        let _ = write!(line, ", {free} free");
    }
    line
}

/// Name, state and MTU of a link.
fn facts(link: &LinkView) -> String {
    format!("{}, {}, MTU {}", link.name, up(link), link.mtu)
}

fn up(link: &LinkView) -> &'static str {
    match (link.up, link.carrier) {
        (true, true) => "up",
        (true, false) => "up without a carrier",
        (false, _) => "down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::sample::{self, node};

    #[test]
    fn a_node_is_a_tree() {
        let more = |attachment: &AttachmentView| match attachment.pod.as_deref() {
            Some("default/nginx") => vec!["to vm on worker1: 0.1 ms".to_owned()],
            _ => Vec::new(),
        };
        let text = tree(&node("worker2"), &more);
        let expected = "\
worker2, daemon 42
├─ LAN k8slan-system/lan-test: ready, built, MTU 1426
│  ├─ namespace knlvrf
│  ├─ VXLAN vx2, up, MTU 1426, VNI 222, group ff02::14, UDP port 4789
│  ├─ underlay eth1, up, MTU 1500, fe80::1/64
│  └─ bridge br2, up, MTU 1426
│     ├─ spoke pod1: pod default/nginx, port +4a3b2c1d, up, MTU 1426
│     │  └─ net1, macvtap passthru, /dev/tap1245789213, 02:00:00:00:00:01, up, MTU 1426, 10.44.0.2/24
│     │     └─ to vm on worker1: 0.1 ms
│     ├─ spoke pod2: free, macvtap passthru, /dev/tap1073741825
│     └─ spoke pod3: left over of pod default/dead, port +4a3b2c1e, down, MTU 1426
├─ bridge br0, up, MTU 1500, sorts by VLAN
│  ├─ uplink eth2, up, MTU 1500, VLAN 10,20-30 tagged
│  └─ port vb0102, up, MTU 1500, VLAN 10 untagged, PVID 10: pod default/camera
├─ pool iot, 10.0.0.0/24: 3 leased, 1 kept, 250 free
├─ PROBLEM spoke pod3 in namespace knlvrf is left over: its pod is gone
└─ note: something was not looked at
";
        // The pod of the bridge's port is not read.
        let text = text.replace("│     └─ net1 is not in /run/netns/c\n", "");
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_spoke_that_another_node_uses_is_not_just_free() {
        let mut nodes = [node("worker1"), node("worker2")];
        nodes[1].lans[0].spokes[0].state = SpokeState::Free;
        nodes[0].lans[0].spokes[0].attachment.as_mut().unwrap().vm = Some("default/vyos".into());
        crate::inspect::view::tell_of_others(&mut nodes);
        let texts = nodes.map(|node| tree(&node, &|_| Vec::new()));
        assert!(texts[0].contains("spoke pod1: VM default/vyos, pod default/nginx, port"), "{}", texts[0]);
        assert!(texts[1].contains("spoke pod1: free here, used on worker1, port"), "{}", texts[1]);
        assert!(texts[1].contains("spoke pod2: free, macvtap passthru, /dev/tap"), "{}", texts[1]);
    }

    #[test]
    fn several_nodes_are_one_tree() {
        let text = tree_of_all(&[node("worker1"), node("worker2")]);
        assert!(
            text.starts_with("2 nodes\n├─ worker1, daemon 42\n│  ├─ LAN k8slan-system/lan-test: "),
            "{text}"
        );
        assert!(text.contains("\n└─ worker2, daemon 42\n   ├─ LAN "), "{text}");
        assert!(tree_of_all(&[node("worker1")]).starts_with("worker1, daemon 42\n├─ LAN "));
    }

    #[test]
    fn what_is_refused_says_why() {
        let mut view = node("a");
        sample::deny(&mut view.lans[0], ACCEPTED, "DuplicateVni", "VNI 222 is LAN a/b's");
        let text = tree(&view, &|_| Vec::new());
        assert!(text.contains("lan-test: not accepted (DuplicateVni): VNI 222 is LAN a/b's"), "{text}");
    }
}
