use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lan::{Change, MAX_LEARNED, Step, Target};
use net_types::{IfName, SpokeName};
use netplumb::{
    Bridge, BridgeChange, LinkChange, Master, Netlink, Netns, PortChange, Sysctl, SysctlSet, Vxlan,
};
use node::{Attachment, LINK_GROUP, Lock, LockError, SafeDir, lan_tag};

use super::namespaces::Held;
use crate::attachments::is_live;
use lan::{LanKey, NetnsName};

/// Applies the steps of one plan in one namespace.
pub(super) struct Apply<'a> {
    pub(super) name: &'a NetnsName,
    /// A socket in the node's own namespace, where the underlays are.
    pub(super) host: &'a Netlink,
    /// The folder of the spokes' locks.
    pub(super) locks: &'a SafeDir,
    /// Finds the spoke of a bridge port.
    pub(super) spoke_of_port: &'a dyn Fn(&str) -> Option<SpokeName>,
}

/// The result of the steps.
#[derive(Default)]
pub(super) struct Applied {
    /// The namespace, if a step created it.
    pub(super) made: Option<Held>,
    /// Whether a step removed the namespace.
    pub(super) removed: bool,
    /// Whether a spoke was postponed, since a plugin holds its lock.
    pub(super) postponed: bool,
}

impl Apply<'_> {
    /// Applies the steps one after the other, and stops at the first that fails.
    pub(super) fn run(&self, held: Option<&Held>, steps: &[Step]) -> (Applied, Result<()>) {
        let mut applied = Applied::default();
        let mut indexes = BTreeMap::new();
        for step in steps {
            let result = self.step(held, step, &mut applied, &mut indexes);
            if let Err(error) = result.with_context(|| step.to_string()) {
                return (applied, Err(error));
            }
        }
        (applied, Ok(()))
    }

    fn step(
        &self,
        held: Option<&Held>,
        step: &Step,
        applied: &mut Applied,
        indexes: &mut BTreeMap<String, u32>,
    ) -> Result<()> {
        let path = self.name.path();
        if let Step::CreateNetns(lan) = step {
            let netns = Netns::create_at(&path, |_, netlink| {
                let Some(lo) = netlink.link_by_index(1)? else { return Ok(()) };
                netlink.set_link(lo.index, &mark(lan))
            })?;
            applied.made = Some(Held::open(netns)?);
            return Ok(());
        }
        let there = applied.made.as_ref().or(held).context("the namespace is not there")?;
        let netlink = &there.netlink;
        match step {
            Step::CreateNetns(_) => {}
            Step::MountNetns => there.netns.mount_at(&path)?,
            Step::RemoveNetns => {
                // Only this one: somebody may have mounted another under the name.
                match Netns::open(&path) {
                    Ok(found) if found.id() == there.netns.id() => Netns::remove_at(&path)?,
                    Ok(_) => {}
                    // An unmounted one leaves an empty file.
                    Err(_) if !Netns::is_mounted(&path)? => Netns::remove_at(&path)?,
                    Err(error) => return Err(error.into()),
                }
                applied.removed = true;
            }
            Step::Set { path, value } => {
                // Settings of modules that are not loaded are absent, which is fine.
                let _: SysctlSet = there.netns.sysctl_set(&Sysctl::net(path), value)?;
            }
            Step::RemoveLink(target) => netlink.delete_link(resolve(netlink, target, indexes)?)?,
            Step::RemoveSpoke(target) => {
                if !self.remove_spoke(netlink, target)? {
                    applied.postponed = true;
                }
            }
            Step::CreateBridge { name, mtu } => {
                let mut bridge = Bridge::new(link_name(name)?);
                (bridge.link.mtu, bridge.link.group, bridge.link.up) = (*mtu, LINK_GROUP, true);
                bridge.fdb_max_learned = Some(MAX_LEARNED);
                indexes.insert(name.clone(), netlink.create_bridge(&bridge)?);
            }
            Step::CreateVxlan { name, vni, group, port, underlay, mtu, bridge } => {
                let mut vxlan = Vxlan::new(link_name(name)?, *vni, *underlay, *group);
                (vxlan.port, vxlan.link.mtu, vxlan.link.group) = (*port, Some(*mtu), LINK_GROUP);
                vxlan.limit = Some(MAX_LEARNED);
                vxlan.master = Some(resolve(netlink, bridge, indexes)?);
                vxlan.link.netns = Some(there.netns.clone());
                // From the node's namespace, where the underlay is and stays.
                indexes.insert(name.clone(), self.host.create_vxlan(&vxlan)?);
            }
            Step::Change(target, change) => {
                let index = resolve(netlink, target, indexes)?;
                netlink.set_link(index, &link_change(netlink, change, indexes)?)?;
            }
        }
        Ok(())
    }

    /// Removes an unused veth pair. `false` if a plugin holds the spoke's lock, or a pod has it now; the plugin's own
    /// changes then cause another reconcile.
    fn remove_spoke(&self, netlink: &Netlink, target: &Target) -> Result<bool> {
        let spoke = (self.spoke_of_port)(&target.name).or_else(|| target.name.parse().ok());
        let _lock = match spoke {
            Some(spoke) => match Lock::acquire(self.locks, &format!("{spoke}.lock"), Duration::ZERO) {
                Ok(lock) => Some(lock),
                Err(LockError::Held { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            },
            // No plugin creates links with such names.
            None => None,
        };
        let Some(index) = target.index else { bail!("a spoke that was never seen") };
        let Some(link) = netlink.link_by_index(index)? else { return Ok(true) };
        let peer = link.lower.filter(|_| link.lower_netnsid.is_none());
        let peer = peer.map(|peer| netlink.link_by_index(peer)).transpose()?.flatten();
        let tags = [Some(&link), peer.as_ref()].into_iter().flatten().filter_map(|end| end.alias.as_deref());
        if tags.filter_map(Attachment::parse_tag).any(|attachment| is_live(&attachment.netns)) {
            return Ok(false);
        }
        netlink.delete_link(index)?;
        Ok(true)
    }
}

/// The group and the alias of a LAN's links.
fn mark(lan: &LanKey) -> LinkChange {
    let alias = Some(lan_tag(&lan.to_string()));
    LinkChange { alias, group: Some(LINK_GROUP), ..LinkChange::default() }
}

fn link_change(netlink: &Netlink, change: &Change, indexes: &BTreeMap<String, u32>) -> Result<LinkChange> {
    let Change { mark: lan, master, mtu, stp, mcast_snooping, max_learned, group_fwd_mask, up } = change;
    let marked = lan.as_ref().map(mark).unwrap_or_default();
    let master = master.as_ref().map(|master| resolve(netlink, master, indexes)).transpose()?;
    let bridge = BridgeChange {
        stp: *stp,
        mcast_snooping: *mcast_snooping,
        fdb_max_learned: *max_learned,
        ..BridgeChange::default()
    };
    let port = PortChange { group_fwd_mask: *group_fwd_mask, ..PortChange::default() };
    Ok(LinkChange {
        up: *up,
        mtu: *mtu,
        master: master.map(Master::Index),
        bridge: (bridge != BridgeChange::default()).then_some(bridge),
        port: (port != PortChange::default()).then_some(port),
        ..marked
    })
}

/// The index of a step's link: as observed, as created, or by its name.
fn resolve(netlink: &Netlink, target: &Target, made: &BTreeMap<String, u32>) -> Result<u32> {
    if let Some(index) = target.index.or_else(|| made.get(&target.name).copied()) {
        return Ok(index);
    }
    let link = netlink.link_by_name(&link_name(&target.name)?)?;
    Ok(link.with_context(|| format!("link {target} is not there"))?.index)
}

fn link_name(name: &str) -> Result<IfName> {
    Ok(name.parse()?)
}
