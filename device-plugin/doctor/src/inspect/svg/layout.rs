//! Computes what to draw: sections of cards with rows.

use std::collections::BTreeMap;

use lan::{ACCEPTED, READY};

use crate::inspect::view::{
    AttachmentView, BridgeView, LanView, LinkView, MasterView, NodeView, PoolView, PortView, SpokeState,
    SpokeView,
};

/// A LAN over all its nodes, or the nodes' own bridges or links.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) subtitle: String,
    /// The number of the accent colour.
    pub(super) accent: usize,
    /// Whether a cable connects the cards: a LAN.
    pub(super) cable: bool,
    pub(super) cards: Vec<Card>,
}

/// A part of a node.
pub(super) struct Card {
    pub(super) title: String,
    /// On the right of the title: how the node is connected.
    pub(super) joined: String,
    pub(super) joined_well: bool,
    /// What all rows are connected to.
    pub(super) hub: String,
    /// Whether frames pass between the hub and the cable, as far as is known.
    pub(super) hangs_well: bool,
    /// What is wrong, if anything.
    pub(super) trouble: Option<Trouble>,
    pub(super) rows: Vec<Row>,
    /// Names without a row, by their state: "free".
    pub(super) names: Vec<(String, Vec<String>)>,
}

/// Something that is wrong.
pub(super) struct Trouble {
    pub(super) text: String,
    /// Whether nothing works, or only a part.
    pub(super) bad: bool,
}

/// A spoke or a port, and the pod behind it.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) who: String,
    /// Whether it is a virtual machine.
    pub(super) is_vm: bool,
    pub(super) lines: Vec<String>,
    pub(super) state: RowState,
}

/// The state of a row's link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowState {
    Up,
    Down,
    LeftOver,
}

/// The number of accent colours for LANs.
const ACCENTS: usize = 5;
/// The accent of everything that is not a LAN.
const PLAIN: usize = 5;

/// The sections of all nodes, LANs first.
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
    let pools = pool_cards(nodes);
    if !pools.is_empty() {
        sections.push(Section {
            title: "Address pools".to_owned(),
            subtitle: "what the nodes have given of them".to_owned(),
            accent: PLAIN,
            cable: false,
            cards: pools,
        });
    }
    sections
}

/// A card for each pool, with a row for each node.
fn pool_cards(nodes: &[NodeView]) -> Vec<Card> {
    let mut pools: BTreeMap<&str, Vec<(&NodeView, &PoolView)>> = BTreeMap::new();
    for node in nodes {
        for pool in &node.pools {
            // Ranges of a network's own have the network's name.
            let name = pool.pool.as_deref().or(pool.network.as_deref()).unwrap_or_default();
            pools.entry(name).or_default().push((node, pool));
        }
    }
    let card = |(name, parts): (&str, Vec<(&NodeView, &PoolView)>)| {
        let full: Vec<&str> =
            parts.iter().filter(|(_, pool)| is_full(pool)).map(|(node, _)| node.node.as_str()).collect();
        Card {
            title: name.to_owned(),
            joined: format!("{} leased", parts.iter().map(|(_, pool)| pool.leased).sum::<u64>()),
            joined_well: true,
            hub: parts
                .iter()
                .map(|(_, pool)| pool.ranges.as_str())
                .find(|ranges| !ranges.is_empty())
                .unwrap_or_default()
                .to_owned(),
            hangs_well: true,
            trouble: (!full.is_empty())
                .then(|| Trouble { text: format!("nothing is free on {}", full.join(", ")), bad: false }),
            rows: parts.iter().map(|(node, pool)| pool_row(node, pool)).collect(),
            names: Vec::new(),
        }
    };
    pools.into_iter().map(card).collect()
}

fn is_full(pool: &PoolView) -> bool {
    pool.free.as_ref().is_some_and(|free| free.as_u64() == Some(0))
}

fn pool_row(node: &NodeView, pool: &PoolView) -> Row {
    let free = pool.free.as_ref().map(|free| format!(", {free} free")).unwrap_or_default();
    let more = pool.more.iter().filter_map(|(what, number)| {
        number.as_u64().filter(|number| *number > 0).map(|number| format!("{number} {what}"))
    });
    let more: Vec<String> = more.collect();
    Row {
        label: node.node.clone(),
        who: format!("{} leased{free}", pool.leased),
        is_vm: false,
        lines: if more.is_empty() { Vec::new() } else { vec![more.join(", ")] },
        state: RowState::Up,
    }
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
    let (vms, pods): (Vec<&SpokeView>, Vec<&SpokeView>) =
        pods.partition(|spoke| spoke.attachment.as_ref().is_some_and(|attachment| attachment.vm.is_some()));
    facts.push(count(pods.len(), "pod"));
    if !vms.is_empty() {
        facts.push(count(vms.len(), "VM"));
    }
    let cards: Vec<Card> = parts.iter().map(|(node, lan)| lan_card(node, lan, parts.len() > 1)).collect();
    let broken = cards.iter().filter(|card| card.trouble.as_ref().is_some_and(|trouble| trouble.bad)).count();
    if broken > 0 {
        facts.push(format!("broken on {broken} of {}", count(cards.len(), "node")));
    }
    Section { title: key.to_owned(), subtitle: facts.join("  ·  "), accent, cable: true, cards }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn lan_card(node: &NodeView, lan: &LanView, several: bool) -> Card {
    let (joined, joined_well) = match &lan.underlay {
        None => ("no underlay".to_owned(), false),
        Some(underlay) => match &underlay.link {
            None => (format!("{} is missing", underlay.name), false),
            Some(link) if !link.up || !link.carrier => (format!("{} is {}", link.name, up(link)), false),
            Some(link) => (format!("{}, MTU {}", link.name, link.mtu), true),
        },
    };
    let trouble = trouble(lan);
    let (used, unused): (Vec<&SpokeView>, Vec<&SpokeView>) =
        lan.spokes.iter().partition(|spoke| spoke.state != SpokeState::Free);
    let mut elsewhere: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut free = Vec::new();
    for spoke in unused {
        match spoke.elsewhere.as_slice() {
            [] => free.push(spoke.name.clone()),
            nodes => elsewhere.entry(nodes.join(", ")).or_default().push(spoke.name.clone()),
        }
    }
    // With only one node, it is not known what others use.
    let what = if several { "free" } else { "free on this node" };
    let mut names = vec![(what.to_owned(), free)];
    names.extend(elsewhere.into_iter().map(|(nodes, spokes)| (format!("used on {nodes}"), spokes)));
    names.retain(|(_, names)| !names.is_empty());
    let vxlan_works = lan.vxlan.as_ref().is_some_and(|vxlan| vxlan.link.up);
    let is_cut_off = lan.not_true(READY).or_else(|| lan.lacks()).is_some();
    Card {
        title: node.node.clone(),
        joined,
        joined_well,
        hub: match (&lan.bridge, &lan.netns) {
            (Some(bridge), Some(netns)) => format!("{} in {netns}", bridge.name),
            (None, Some(netns)) => format!("no bridge in {netns}"),
            _ => "nothing is built".to_owned(),
        },
        hangs_well: joined_well
            && vxlan_works
            && !is_cut_off
            && !trouble.as_ref().is_some_and(|trouble| trouble.bad),
        trouble,
        rows: used.into_iter().map(spoke_row).collect(),
        names,
    }
}

/// What is wrong with a LAN on a node, by the daemon's status and the kernel's state.
fn trouble(lan: &LanView) -> Option<Trouble> {
    if let Some(state) = lan.not_true(ACCEPTED).or_else(|| lan.not_true(READY)) {
        return Some(Trouble { text: format!("{}: {}", state.reason, state.message), bad: true });
    }
    let mut found = Vec::new();
    let mut look = |what: &str, link: Option<&LinkView>| match link {
        None => found.push(format!("there is no {what}")),
        Some(link) if !link.up => found.push(format!("{what} {} is down", link.name)),
        Some(_) => {}
    };
    look("bridge", lan.bridge.as_ref());
    look("VXLAN device", lan.vxlan.as_ref().map(|vxlan| &vxlan.link));
    if !found.is_empty() {
        return Some(Trouble { text: found.join(", "), bad: true });
    }
    lan.lacks().map(|ready| Trouble { text: format!("{}: {}", ready.reason, ready.message), bad: false })
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
        hangs_well: true,
        trouble: (!bridge.link.up)
            .then(|| Trouble { text: format!("bridge {} is down", bridge.link.name), bad: true }),
        rows: bridge.ports.iter().map(port_row).collect(),
        names: Vec::new(),
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
        hangs_well: true,
        trouble: (!master.link.up || !master.link.carrier).then(|| Trouble {
            text: format!("{} is {}", master.link.name, up(&master.link)),
            bad: !master.link.up,
        }),
        rows: master.macvtaps.iter().map(|pod| row(&pod.ifname, Some(pod), true)).collect(),
        names: Vec::new(),
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
        // Link-local addresses are left out: every interface has one.
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
    let vm = attachment.and_then(|attachment| attachment.vm.clone());
    if vm.is_some() {
        lines.extend(
            attachment.and_then(|attachment| attachment.pod.as_ref()).map(|pod| format!("pod {pod}")),
        );
    }
    let is_vm = vm.is_some();
    let who = match attachment {
        Some(AttachmentView { vm: Some(vm), .. }) => vm.clone(),
        Some(AttachmentView { pod: Some(pod), .. }) => pod.clone(),
        Some(attachment) => attachment.who(),
        None => "nobody known".to_owned(),
    };
    Row { label: label.to_owned(), who, is_vm, lines, state }
}

fn up(link: &LinkView) -> &'static str {
    match (link.up, link.carrier) {
        (true, true) => "up",
        (true, false) => "without a carrier",
        (false, _) => "down",
    }
}
