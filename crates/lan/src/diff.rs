#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use net_types::{Mtu, SpokeName};

use crate::MAX_LEARNED;
use crate::desired::{Desired, GROUP_FWD_MASK, SETTINGS};
use crate::observed::{Alias, Link, LinkKind, NetnsOwner, NetnsState, Observed, Vxlan};
use crate::plan::{Obstacle, Plan, Role};
use crate::spokes::{Holder, SpokeLinks};
use crate::step::{Change, Step, Target};

/// The steps that turn the observed state into the desired one; `desired` is `None` for a LAN that is to be removed.
///
/// Pure. If there is no obstacle, applying the steps makes `observed` equal to `desired`, and the diff of that is
/// empty. What k8slan did not make is never changed, and of an attachment in use only its port is.
#[must_use]
pub fn diff(desired: Option<&Desired>, observed: &Observed) -> Plan {
    match desired {
        Some(desired) => build(desired, observed),
        None => remove(observed),
    }
}

fn build(desired: &Desired, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let fresh = match &observed.netns {
        NetnsState::Absent => {
            plan.steps.push(Step::CreateNetns(desired.lan.clone()));
            true
        }
        NetnsState::Foreign => {
            plan.obstacles.push(Obstacle::ForeignNetns);
            return plan;
        }
        NetnsState::Mounted(NetnsOwner::Lan(key)) | NetnsState::Unmounted(NetnsOwner::Lan(key))
            if *key != desired.lan =>
        {
            plan.obstacles.push(Obstacle::NetnsOf(key.clone()));
            return plan;
        }
        NetnsState::Unmounted(_) => {
            plan.steps.push(Step::MountNetns);
            false
        }
        NetnsState::Mounted(_) => false,
    };
    for setting in SETTINGS {
        // Nothing is known of a namespace that is yet to be created.
        if fresh || observed.settings.get(setting.path).is_some_and(|value| value != setting.value) {
            plan.steps.push(Step::Set { path: setting.path, value: setting.value });
        }
    }
    let mut lan = Build { desired, observed, plan, gone: BTreeSet::new() };
    lan.loopback();
    lan.remove_stale();
    let spokes = observed.spokes();
    let ours: BTreeSet<u32> = spokes.iter().flat_map(SpokeLinks::indexes).collect();
    let wanted = lan.sort_spokes(spokes);
    let bridge = lan.bridge();
    if let Some(bridge) = &bridge {
        lan.vxlan(bridge);
    }
    for spoke in wanted {
        lan.spoke(&spoke, bridge.as_ref());
    }
    lan.spoke_names(&ours);
    lan.plan
}

struct Build<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    plan: Plan,
    /// The indexes of links that the steps so far remove.
    gone: BTreeSet<u32>,
}

impl<'a> Build<'a> {
    /// The namespace's own link `lo`, which has the LAN's mark, and must be up.
    fn loopback(&mut self) {
        let change = match self.observed.link("lo") {
            Some(lo) => Change { mark: self.mark(lo), up: (!lo.up).then_some(true), ..Change::default() },
            None => Change { up: Some(true), ..Change::default() },
        };
        let target = self.observed.link("lo").map_or_else(|| made("lo"), target);
        self.change(target, change);
    }

    /// Removes VXLAN devices and bridges of ours that differ from the desired ones. VXLAN devices first: two with one
    /// VNI cannot exist at the same time.
    fn remove_stale(&mut self) {
        for link in self.observed.links.iter().filter(|link| link.is_ours()) {
            if let LinkKind::Vxlan(vxlan) = &link.kind
                && (self.desired.vxlan != *link.name.as_str() || !self.is_current(vxlan))
            {
                self.remove_link(link);
            }
        }
        for link in self.observed.links.iter().filter(|link| link.is_ours()) {
            if matches!(link.kind, LinkKind::Bridge { .. }) && self.desired.bridge != *link.name.as_str() {
                self.remove_link(link);
            }
        }
    }

    fn is_current(&self, vxlan: &Vxlan) -> bool {
        let Vxlan { vni, group, port, underlay, learning } = vxlan;
        *vni == self.desired.vni.get()
            && *group == Some(self.desired.group.get())
            && *port == self.desired.port.get()
            && underlay.is_some()
            && *underlay == self.desired.underlay
            && *learning
    }

    /// Removes undesired spokes, or sets them down; returns the desired ones.
    fn sort_spokes(&mut self, spokes: Vec<SpokeLinks<'a>>) -> Vec<SpokeLinks<'a>> {
        let mut wanted = Vec::new();
        for spoke in spokes {
            match spoke.holder() {
                Holder::Leftover => self.remove_spoke(&spoke),
                _ if self.is_wanted(&spoke) => wanted.push(spoke),
                Holder::Dead => self.remove_spoke(&spoke),
                Holder::Live(who) => retire(&spoke, who, &mut self.plan),
            }
        }
        wanted
    }

    fn is_wanted(&self, spoke: &SpokeLinks<'_>) -> bool {
        match (spoke.end, spoke.port) {
            (Some(end), _) => {
                end.name.parse().is_ok_and(|name: SpokeName| self.desired.spokes.contains_key(&name))
            }
            (None, Some(port)) => self.desired.spokes.values().any(|name| *name == *port.name.as_str()),
            (None, None) => false,
        }
    }

    /// The bridge as later steps find it; `None` if a foreign link has its name.
    fn bridge(&mut self) -> Option<Target> {
        let name = self.desired.bridge.as_str();
        let Some((link, stp, mcast_snooping, max_learned)) =
            self.own(name, Role::Bridge, |link| match link.kind {
                LinkKind::Bridge { stp, mcast_snooping, max_learned } => {
                    Some((link, stp, mcast_snooping, max_learned))
                }
                _ => None,
            })?
        else {
            let bridge = made(name);
            self.plan.steps.push(Step::CreateBridge { name: name.to_owned(), mtu: self.desired.mtu });
            let mark = Some(self.desired.lan.clone());
            self.change(bridge.clone(), Change { mark, ..Change::default() });
            return Some(bridge);
        };
        let change = Change {
            mark: self.mark(link),
            mtu: self.mtu(link),
            stp: stp.then_some(false),
            mcast_snooping: mcast_snooping.then_some(false),
            max_learned: max_learned.and_then(|max| (max != MAX_LEARNED).then_some(MAX_LEARNED)),
            up: (!link.up).then_some(true),
            ..Change::default()
        };
        self.change(target(link), change);
        Some(target(link))
    }

    fn vxlan(&mut self, bridge: &Target) {
        let desired = self.desired;
        let name = desired.vxlan.as_str();
        let vxlan = |link: &'a Link| matches!(link.kind, LinkKind::Vxlan(_)).then_some(link);
        match self.own(name, Role::Vxlan, vxlan) {
            Some(Some(link)) => {
                let change =
                    Change { mark: self.mark(link), mtu: self.mtu(link), ..self.as_port(link, bridge) };
                self.change(target(link), change);
            }
            Some(None) => {
                let (Some(underlay), Some(mtu)) = (desired.underlay, desired.mtu) else { return };
                self.plan.steps.push(Step::CreateVxlan {
                    name: name.to_owned(),
                    vni: desired.vni,
                    group: desired.group.get(),
                    port: desired.port,
                    underlay,
                    mtu,
                    bridge: bridge.clone(),
                });
                let change = Change {
                    mark: Some(desired.lan.clone()),
                    group_fwd_mask: Some(GROUP_FWD_MASK),
                    up: Some(true),
                    ..Change::default()
                };
                self.change(made(name), change);
            }
            None => {}
        }
    }

    /// Repairs a spoke in use. If its pod is gone, there is nothing to repair.
    fn spoke(&mut self, spoke: &SpokeLinks<'_>, bridge: Option<&Target>) {
        if spoke.holder() == Holder::Dead {
            return;
        }
        if let Some(end) = spoke.end {
            let change = Change { mtu: self.mtu(end), up: (!end.up).then_some(true), ..Change::default() };
            self.change(target(end), change);
        }
        if let (Some(port), Some(bridge)) = (spoke.port, bridge) {
            let change = Change { mtu: self.mtu(port), ..self.as_port(port, bridge) };
            self.change(target(port), change);
        }
    }

    /// Reports foreign links with the names of spokes: ADD could not create its links.
    fn spoke_names(&mut self, ours: &BTreeSet<u32>) {
        let names: BTreeSet<&str> =
            self.desired.spokes.iter().flat_map(|(spoke, port)| [spoke.as_str(), port.as_str()]).collect();
        for link in &self.observed.links {
            let gone = self.gone.contains(&link.index);
            if names.contains(link.name.as_str()) && !ours.contains(&link.index) && !gone {
                self.plan.obstacles.push(Obstacle::NameTaken { name: link.name.clone(), role: Role::Spoke });
            }
        }
    }

    /// Our link with this name that `is` accepts. The outer `None` is an obstacle, the inner one a free name.
    fn own<T>(&mut self, name: &str, role: Role, is: impl Fn(&'a Link) -> Option<T>) -> Option<Option<T>> {
        match self.observed.link(name).filter(|link| !self.gone.contains(&link.index)) {
            None => Some(None),
            Some(link) => match is(link).filter(|_| link.is_ours()) {
                Some(found) => Some(Some(found)),
                None => {
                    self.plan.obstacles.push(Obstacle::NameTaken { name: name.to_owned(), role });
                    None
                }
            },
        }
    }

    fn as_port(&self, link: &Link, bridge: &Target) -> Change {
        let moves = bridge.index.is_none() || link.master != bridge.index;
        // A port that changes its bridge gets the kernel's default mask again.
        let mask = moves || link.group_fwd_mask != Some(GROUP_FWD_MASK);
        Change {
            master: moves.then(|| bridge.clone()),
            group_fwd_mask: mask.then_some(GROUP_FWD_MASK),
            up: (!link.up).then_some(true),
            ..Change::default()
        }
    }

    fn mark(&self, link: &Link) -> Option<crate::LanKey> {
        let marked = link.group && matches!(&link.alias, Alias::Lan(key) if *key == self.desired.lan);
        (!marked).then(|| self.desired.lan.clone())
    }

    fn mtu(&self, link: &Link) -> Option<Mtu> {
        self.desired.mtu.filter(|mtu| mtu.get() != link.mtu)
    }

    fn change(&mut self, target: Target, change: Change) {
        if !change.is_empty() {
            self.plan.steps.push(Step::Change(target, change));
        }
    }

    fn remove_link(&mut self, link: &Link) {
        self.gone.insert(link.index);
        self.plan.steps.push(Step::RemoveLink(target(link)));
    }

    fn remove_spoke(&mut self, spoke: &SpokeLinks<'_>) {
        self.gone.extend(spoke.indexes());
        self.plan.steps.extend(spoke.any().map(|link| Step::RemoveSpoke(target(link))));
    }
}

/// Removes a LAN: the VXLAN device first, then the attachments, then the rest.
fn remove(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    if !matches!(observed.netns, NetnsState::Mounted(_) | NetnsState::Unmounted(_)) {
        return plan;
    }
    let ours = |is: fn(&LinkKind) -> bool| {
        let links = observed.links.iter().filter(move |link| link.is_ours() && is(&link.kind));
        links.map(|link| Step::RemoveLink(target(link)))
    };
    plan.steps.extend(ours(|kind| matches!(kind, LinkKind::Vxlan(_))));
    let mut spokes = BTreeSet::new();
    for spoke in observed.spokes() {
        spokes.extend(spoke.indexes());
        match spoke.holder() {
            Holder::Live(who) => retire(&spoke, who, &mut plan),
            Holder::Dead | Holder::Leftover => {
                plan.steps.extend(spoke.any().map(|link| Step::RemoveSpoke(target(link))));
            }
        }
    }
    if !plan.obstacles.is_empty() {
        return plan;
    }
    plan.steps.extend(ours(|kind| matches!(kind, LinkKind::Bridge { .. })));
    let foreign: Vec<String> = observed
        .links
        .iter()
        .filter(|link| !is_part_of_any(link) && !spokes.contains(&link.index))
        .filter(|link| !(link.is_ours() && matches!(link.kind, LinkKind::Vxlan(_) | LinkKind::Bridge { .. })))
        .map(|link| link.name.clone())
        .collect();
    if foreign.is_empty() {
        plan.steps.push(Step::RemoveNetns);
    } else {
        plan.obstacles.push(Obstacle::ForeignLinks(foreign));
    }
    plan
}

/// Whether every namespace has this link from the start: `lo`, and one of each kind of tunnel whose module is loaded
/// (`net.core.fb_tunnels_only_for_init_net`).
fn is_part_of_any(link: &Link) -> bool {
    const TUNNELS: [&str; 9] =
        ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];
    link.name == "lo" || (!link.up && TUNNELS.contains(&link.name.as_str()))
}

/// An undesired spoke that a pod uses: only its port is set down. Deleting a macvtap under a running container would
/// free its device number for another one.
fn retire(spoke: &SpokeLinks<'_>, who: String, plan: &mut Plan) {
    if let Some(port) = spoke.port.filter(|port| port.up) {
        plan.steps.push(Step::Change(target(port), Change { up: Some(false), ..Change::default() }));
    }
    let name = spoke.any().map(|link| link.name.clone()).unwrap_or_default();
    plan.obstacles.push(Obstacle::Held { spoke: name, who });
}

fn target(link: &Link) -> Target {
    Target { name: link.name.clone(), index: Some(link.index) }
}

/// A link that an earlier step creates.
fn made(name: &str) -> Target {
    Target { name: name.to_owned(), index: None }
}
