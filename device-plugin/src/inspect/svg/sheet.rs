//! What is drawn, before it is drawn: sections of cards with rows.

use std::collections::BTreeMap;

use crate::inspect::view::{
    AttachmentView, BridgeView, LanView, LinkView, MasterView, NodeView, PortView, SpokeState, SpokeView,
};

/// A LAN over all its nodes, or the nodes' own bridges or links.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) subtitle: String,
    /// The number of the accent colour.
    pub(super) accent: usize,
    /// Whether the cards hang on one cable: a LAN.
    pub(super) cable: bool,
    pub(super) cards: Vec<Card>,
}

/// A part of a node.
pub(super) struct Card {
    pub(super) title: String,
    /// On the right of the title: how the node is joined.
    pub(super) joined: String,
    pub(super) joined_well: bool,
    /// What all rows hang on.
    pub(super) hub: String,
    /// What is not as it should be.
    pub(super) trouble: Option<String>,
    pub(super) rows: Vec<Row>,
    /// Names that nobody uses.
    pub(super) free: Vec<String>,
}

/// A spoke or a port, and who is behind it.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) who: String,
    pub(super) lines: Vec<String>,
    pub(super) state: RowState,
}

/// How a row is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowState {
    Up,
    Down,
    LeftOver,
}

/// How many accent colours there are for LANs.
const ACCENTS: usize = 5;
/// The accent of everything that is no LAN.
const PLAIN: usize = 5;

/// Everything of all nodes, LANs first.
pub(super) fn sections(nodes: &[NodeView]) -> Vec<Section> {
    let mut lans: BTreeMap<&str, Vec<(&NodeView, &LanView)>> = BTreeMap::new();
    for node in nodes {
        for lan in &node.lans {
            lans.entry(&lan.lan).or_default().push((node, lan));
        }
    }
    let mut sections: Vec<Section> = lans
        .into_iter()
        .enumerate()
        .map(|(at, (key, parts))| lan_section(key, &parts, at % ACCENTS))
        .collect();
    let bridges =
        nodes.iter().flat_map(|node| node.bridges.iter().map(move |bridge| bridge_card(node, bridge)));
    let masters =
        nodes.iter().flat_map(|node| node.masters.iter().map(move |master| master_card(node, master)));
    let own = [
        ("Bridges of the nodes", "ports of pods, by VLAN", bridges.collect::<Vec<_>>()),
        ("Links of the nodes", "pods' macvtaps on them", masters.collect()),
    ];
    for (title, subtitle, cards) in own {
        if !cards.is_empty() {
            let (title, subtitle) = (title.to_owned(), subtitle.to_owned());
            sections.push(Section { title, subtitle, accent: PLAIN, cable: false, cards });
        }
    }
    sections
}

fn lan_section(key: &str, parts: &[(&NodeView, &LanView)], accent: usize) -> Section {
    let mut facts = Vec::new();
    let vxlan = parts.iter().find_map(|(_, lan)| lan.vxlan.as_ref());
    if let Some(vxlan) = vxlan {
        let group = vxlan.group.as_deref().unwrap_or("none");
        facts.push(format!("VNI {}  ·  group {group}  ·  UDP {}", vxlan.vni, vxlan.port));
    }
    let mut mtus: Vec<u32> =
        parts.iter().filter_map(|(_, lan)| lan.bridge.as_ref()).map(|bridge| bridge.mtu).collect();
    mtus.sort_unstable();
    mtus.dedup();
    if !mtus.is_empty() {
        let mtus: Vec<String> = mtus.iter().map(u32::to_string).collect();
        facts.push(format!("MTU {}", mtus.join(" and ")));
    }
    let pods = parts.iter().flat_map(|(_, lan)| &lan.spokes).filter(|spoke| spoke.state == SpokeState::Held);
    facts.push(count(parts.len(), "node"));
    facts.push(count(pods.count(), "pod"));
    Section {
        title: key.to_owned(),
        subtitle: facts.join("  ·  "),
        accent,
        cable: true,
        cards: parts.iter().map(|(node, lan)| lan_card(node, lan)).collect(),
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn lan_card(node: &NodeView, lan: &LanView) -> Card {
    let (joined, joined_well) = match &lan.underlay {
        None => ("no underlay".to_owned(), false),
        Some(underlay) => match &underlay.link {
            None => (format!("{} is missing", underlay.name), false),
            Some(link) if !link.up || !link.carrier => (format!("{} is {}", link.name, up(link)), false),
            Some(link) => (format!("{}, MTU {}", link.name, link.mtu), true),
        },
    };
    let refused = lan.accepted.as_ref().filter(|accepted| !accepted.holds);
    let trouble = refused.or(lan.ready.as_ref().filter(|ready| !ready.holds));
    let (used, free): (Vec<&SpokeView>, Vec<&SpokeView>) =
        lan.spokes.iter().partition(|spoke| spoke.state != SpokeState::Free);
    Card {
        title: node.node.clone(),
        joined,
        joined_well,
        hub: match (&lan.bridge, &lan.netns) {
            (Some(bridge), Some(netns)) => format!("{} in {netns}", bridge.name),
            (None, Some(netns)) => format!("no bridge in {netns}"),
            _ => "nothing is built".to_owned(),
        },
        trouble: trouble.map(|state| format!("{}: {}", state.reason, state.message)),
        rows: used.into_iter().map(spoke_row).collect(),
        free: free.into_iter().map(|spoke| spoke.name.clone()).collect(),
    }
}

fn spoke_row(spoke: &SpokeView) -> Row {
    let up = spoke.port.as_ref().is_none_or(|port| port.up && port.carrier);
    let mut row = row(&spoke.name, spoke.attachment.as_ref(), up);
    if spoke.state == SpokeState::LeftOver {
        row.state = RowState::LeftOver;
    }
    row
}

fn bridge_card(node: &NodeView, bridge: &BridgeView) -> Card {
    let uplinks: Vec<String> =
        bridge.uplinks.iter().map(|uplink| with_vlans(uplink, &uplink.link.name)).collect();
    Card {
        title: node.node.clone(),
        joined: if uplinks.is_empty() { "no uplink".to_owned() } else { uplinks.join(", ") },
        joined_well: !uplinks.is_empty() && bridge.link.up,
        hub: bridge.link.name.clone(),
        trouble: (!bridge.link.up).then(|| format!("bridge {} is down", bridge.link.name)),
        rows: bridge.ports.iter().map(port_row).collect(),
        free: Vec::new(),
    }
}

fn with_vlans(port: &PortView, name: &str) -> String {
    let vlans = port.vlans();
    if vlans.is_empty() { name.to_owned() } else { format!("{name}: {}", vlans.join(", ")) }
}

fn port_row(port: &PortView) -> Row {
    let mut row = row(&port.link.name, port.attachment.as_ref(), port.link.up && port.link.carrier);
    row.lines.splice(0..0, port.vlans());
    row
}

fn master_card(node: &NodeView, master: &MasterView) -> Card {
    Card {
        title: node.node.clone(),
        joined: format!("{}, MTU {}", up(&master.link), master.link.mtu),
        joined_well: master.link.up && master.link.carrier,
        hub: master.link.name.clone(),
        trouble: None,
        rows: master.macvtaps.iter().map(|pod| row(&pod.ifname, Some(pod), true)).collect(),
        free: Vec::new(),
    }
}

fn row(label: &str, attachment: Option<&AttachmentView>, up: bool) -> Row {
    let state = match attachment {
        Some(attachment) if !attachment.live => RowState::LeftOver,
        _ if up => RowState::Up,
        _ => RowState::Down,
    };
    let mut lines = Vec::new();
    if let Some(link) = attachment.and_then(|attachment| attachment.link.as_ref()) {
        // Link-local addresses say nothing: every interface has one.
        let mut addresses = link.addresses.iter().filter(|address| !address.starts_with("fe80:"));
        lines.push(match addresses.next() {
            Some(address) => format!("{} · {address}", link.link.name),
            None => link.link.name.clone(),
        });
        lines.extend(addresses.cloned());
        let mode = link.mode.as_deref().map(|mode| format!(" {mode}")).unwrap_or_default();
        let device = if link.kind == "macvtap" { format!(" · tap{}", link.index) } else { String::new() };
        lines.push(format!("{}{mode}{device}", link.kind));
        lines.extend(link.link.mac.clone());
    }
    let who = match attachment {
        Some(AttachmentView { pod: Some(pod), .. }) => pod.clone(),
        Some(attachment) => attachment.who(),
        None => "nobody known".to_owned(),
    };
    Row { label: label.to_owned(), who, lines, state }
}

fn up(link: &LinkView) -> &'static str {
    match (link.up, link.carrier) {
        (true, true) => "up",
        (true, false) => "without a carrier",
        (false, _) => "down",
    }
}
