//! The LANs of a node, in their namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use lan::observed::{LinkKind, NetnsOwner, NetnsState, Observed};
use lan::{
    Condition, Holder, NetnsName, READY, SpokeLinks, SpokeReadiness as Recorded, SpokeRecord, TapIndex,
};
use net_types::{Attach, SpokeName};
use netplumb::{Link, LinkKind as Kind, Netlink, Netns};
use node::{Attachment, Paths};

use super::daemon_state::{self, chain};
use super::host::Host;
use super::pod_interface;
use super::view::{LanView, NodeView, SpokeState, SpokeView, VxlanView};
use agent::lans::observe;
use proto::published::NodeStatus;

/// Adds the LANs of the node.
pub(super) fn fill(view: &mut NodeView, paths: &Paths, status: &NodeStatus, host: &Host) {
    let records = daemon_state::records(paths, &mut view.notes);
    for lan in &status.lans {
        let shown = LanView {
            lan: lan.lan.to_string(),
            conditions: lan.conditions.clone(),
            netns: lan.netns.clone(),
            underlay: lan.underlay.as_deref().map(|name| host.underlay(name)),
            ..LanView::default()
        };
        view.lans.push(shown);
    }
    let mut names: BTreeSet<NetnsName> = BTreeSet::new();
    let given = daemon_state::names(&paths.run().join("netns"), &mut view.notes);
    names.extend(given.iter().filter_map(|name| name.parse().ok()));
    names.extend(status.lans.iter().filter_map(|lan| lan.netns.as_deref()?.parse().ok()));
    names.extend(records.values().filter_map(|record| netns_name(&record.netns)));
    for name in names {
        if let Err(error) = namespace(view, &name, &records, host) {
            view.notes.push(format!("namespace {name}: {}", chain(error)));
        }
    }
    for record in records.values() {
        absent(view, record);
    }
    for lan in &mut view.lans {
        lan.spokes.sort_by_cached_key(|spoke| natural(&spoke.name));
        if let Some(ready) = lan.not_true(READY).filter(|ready| ready.reason == "Conflict") {
            view.problems.push(format!("LAN {}: {}", lan.lan, ready.message));
        }
    }
    view.lans.sort_by(|a, b| (&a.lan, &a.netns).cmp(&(&b.lan, &b.netns)));
}

fn netns_name(path: &Path) -> Option<NetnsName> {
    let name: NetnsName = path.file_name()?.to_str()?.parse().ok()?;
    (name.path() == path).then_some(name)
}

/// A key for sorting with numbers as numbers, so that `pod10` comes after `pod9`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(text);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        parts.push((word.to_owned(), number.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

/// Adds what one namespace has.
fn namespace(
    view: &mut NodeView,
    name: &NetnsName,
    records: &BTreeMap<SpokeName, SpokeRecord>,
    host: &Host,
) -> Result<()> {
    let path = name.path();
    if !Netns::is_mounted(&path)? {
        return Ok(());
    }
    let netlink = match Netns::open(&path).and_then(|netns| Netlink::open(&netns)) {
        Ok(netlink) => netlink,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let links = netlink.links()?;
    let owner = match observe::owner(&netlink)? {
        Some(owner) => owner,
        None => {
            view.problems.push(format!("namespace {name} is not k8slan's, and a LAN wants its name"));
            return Ok(());
        }
    };
    let observed = Observed {
        netns: NetnsState::Mounted(owner.clone()),
        links: links.iter().cloned().map(observe::link).collect(),
        ..Observed::absent()
    };
    let at = Namespace { name, links: links.iter().map(|link| (link.index, link)).collect(), observed };
    let lan = lan_of(view, name, &owner);
    at.devices(&mut view.lans[lan], host);
    let foreign = at.foreign(records);
    view.problems.extend(foreign);
    for spoke in at.observed.spokes() {
        let (shown, problem) = at.spoke(spoke, records);
        view.problems.extend(problem);
        view.lans[lan].spokes.push(shown);
    }
    Ok(())
}

/// The position of the LAN that owns a namespace.
fn lan_of(view: &mut NodeView, name: &NetnsName, owner: &NetnsOwner) -> usize {
    let key = match owner {
        NetnsOwner::Lan(key) => Some(key.to_string()),
        NetnsOwner::Unknown => None,
    };
    let found = view.lans.iter().position(|lan| {
        lan.netns.as_deref() == Some(name.as_str()) && key.as_ref().is_none_or(|key| *key == lan.lan)
    });
    found.unwrap_or_else(|| {
        let lan = key.unwrap_or_else(|| "?".to_owned());
        view.lans.push(LanView { lan, netns: Some(name.to_string()), ..LanView::default() });
        view.lans.len() - 1
    })
}

/// Adds a spoke without links.
fn absent(view: &mut NodeView, record: &SpokeRecord) {
    let netns = netns_name(&record.netns).map(|name| name.to_string());
    let key = record.lan.to_string();
    let lan = match view
        .lans
        .iter()
        .position(|lan| lan.lan == key && (lan.netns == netns || lan.netns.is_none()))
    {
        Some(lan) => &mut view.lans[lan],
        None => {
            view.lans.push(LanView { lan: key, netns, ..LanView::default() });
            view.lans.last_mut().unwrap_or_else(|| unreachable!("just pushed"))
        }
    };
    if !lan.spokes.iter().any(|spoke| spoke.name == record.spoke.as_str()) {
        lan.spokes.push(recorded(record));
    }
}

/// A spoke as its record describes it.
fn recorded(record: &SpokeRecord) -> SpokeView {
    SpokeView {
        name: record.spoke.to_string(),
        reason: match &record.state {
            Recorded::Ready { .. } => None,
            Recorded::NotReady { reason } => Some(reason.clone()),
        },
        attach: Some(record.attach.to_string()),
        mode: (record.attach == Attach::Macvtap).then(|| record.mode.to_string()),
        tap_index: (record.attach == Attach::Macvtap).then(|| record.tap_index.get()),
        ..SpokeView::default()
    }
}

/// A namespace of a LAN, with its contents.
struct Namespace<'a> {
    name: &'a NetnsName,
    links: BTreeMap<u32, &'a Link>,
    observed: Observed,
}

impl Namespace<'_> {
    /// Adds bridge, VXLAN device and underlay.
    fn devices(&self, lan: &mut LanView, host: &Host) {
        lan.stands = true;
        for seen in self.observed.links.iter().filter(|link| link.is_ours()) {
            let link = self.links[&seen.index];
            match &link.kind {
                Kind::Bridge(_) => lan.bridge = Some(pod_interface::link(link)),
                Kind::Vxlan(info) => {
                    lan.vxlan = Some(VxlanView {
                        link: pod_interface::link(link),
                        vni: info.vni,
                        group: info.remote.map(|group| group.to_string()),
                        port: info.port,
                    });
                    if let Some(underlay) = info.underlay.and_then(|index| host.underlay_at(index)) {
                        lan.underlay = Some(underlay);
                    }
                }
                _ => {}
            }
        }
        if lan.vxlan.is_none() && lan.condition(READY).is_none() {
            lan.conditions.push(Condition::new(READY, false, "Unknown", "it has no VXLAN device"));
        }
    }

    /// Foreign links with a name of ours, or on our bridge.
    fn foreign(&self, records: &BTreeMap<SpokeName, SpokeRecord>) -> Vec<String> {
        let bridge = self
            .observed
            .links
            .iter()
            .find(|link| link.is_ours() && matches!(link.kind, LinkKind::Bridge { .. }));
        let mut ours: BTreeSet<u32> = BTreeSet::new();
        for spoke in self.observed.spokes() {
            ours.extend(spoke.indexes());
        }
        let mut found = Vec::new();
        for link in self.observed.links.iter().filter(|link| !link.is_ours() && !ours.contains(&link.index)) {
            let wanted = link.name.parse::<SpokeName>().is_ok_and(|name| records.contains_key(&name))
                || records.values().any(|record| {
                    record.netns == self.name.path()
                        && (record.bridge.as_str() == link.name
                            || record.tap_index.port_name().as_str() == link.name)
                });
            if wanted {
                found.push(format!(
                    "link {} in namespace {} is not k8slan's, and has a name that the LAN needs: remove it",
                    link.name, self.name
                ));
            } else if bridge.is_some_and(|bridge| link.master == Some(bridge.index)) {
                found.push(format!(
                    "link {} in namespace {} is not k8slan's, and is a port of the LAN's bridge",
                    link.name, self.name
                ));
            }
        }
        found
    }

    fn spoke(
        &self,
        links: SpokeLinks<'_>,
        records: &BTreeMap<SpokeName, SpokeRecord>,
    ) -> (SpokeView, Option<String>) {
        let name = self.spoke_name(links, records);
        let record = name.as_ref().and_then(|name| records.get(name));
        let record = record.filter(|record| record.netns == self.name.path());
        let end = links.end.map(|link| self.links[&link.index]);
        let port = links.port.map(|link| self.links[&link.index]);
        let mut shown = record.map(recorded).unwrap_or_default();
        shown.name = match (&name, port) {
            (Some(name), _) => name.to_string(),
            (None, Some(port)) => port.name.clone(),
            (None, None) => "?".to_owned(),
        };
        // Its other end is in the pod, whatever the LAN's `attach`: it was attached by the type k8slanveth.
        if end.is_none() && port.is_some() && record.is_some_and(|record| record.attach == Attach::Macvtap) {
            (shown.attach, shown.mode, shown.tap_index) = (Some(Attach::Veth.to_string()), None, None);
        }
        shown.end = end.map(pod_interface::link);
        shown.port = port.map(pod_interface::link);
        let tag =
            [end, port].into_iter().flatten().find_map(|link| Attachment::parse_tag(link.alias.as_deref()?));
        // A macvtap has its spoke's index; a veth is the peer of the port.
        let index = match record.filter(|_| end.is_some()) {
            Some(record) => Some(record.tap_index.get()),
            None => port.and_then(|port| port.lower),
        };
        shown.attachment = tag.as_ref().map(|attachment| pod_interface::read(attachment, index).view);
        let (state, problem) = match links.holder() {
            Holder::Live(_) => (SpokeState::Held, None),
            Holder::Dead => (SpokeState::LeftOver, Some("its pod is gone")),
            Holder::Leftover => (SpokeState::LeftOver, Some("an ADD did not finish it")),
        };
        shown.state = state;
        let problem =
            problem.map(|why| format!("spoke {} in namespace {} is left over: {why}", shown.name, self.name));
        (shown, problem)
    }

    fn spoke_name(
        &self,
        links: SpokeLinks<'_>,
        records: &BTreeMap<SpokeName, SpokeRecord>,
    ) -> Option<SpokeName> {
        if let Some(end) = links.end {
            return end.name.parse().ok();
        }
        let port = links.port.filter(|port| TapIndex::is_port_name(&port.name))?;
        let record = records.values().find(|record| record.tap_index.port_name().as_str() == port.name)?;
        Some(record.spoke.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["pod10", "pod9", "a", "pod", "pod9b", "b2c10", "b2c9"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a", "b2c9", "b2c10", "pod", "pod9", "pod9b", "pod10"]);
    }

    #[test]
    fn a_path_elsewhere_is_no_namespace_of_ours() {
        assert!(netns_name(Path::new("/run/netns/knlvrf")).is_some());
        assert!(netns_name(Path::new("/run/other/knlvrf")).is_none());
        assert!(netns_name(Path::new("/")).is_none());
    }
}
