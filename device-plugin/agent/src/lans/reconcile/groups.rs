//! Multicast groups that an underlay has left are joined again.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use anyhow::Result;
use lan::observed::LinkKind;
use lan::{Lan, LanKey};
use netplumb::LinkChange;

use super::Reconciler;
use crate::lans::decision::Decisions;
use crate::lans::multicast_groups::MulticastGroups;
use crate::lans::underlay::{Underlay, UnderlayCache};

/// The state of a LAN whose underlay is not in the LAN's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupState {
    /// It is being made to join again.
    Rejoining(Ipv6Addr),
    /// That did not help.
    NotJoined,
}

impl Reconciler {
    /// Rejoins multicast groups that the kernel dropped, and returns the LANs concerned with their state: their VXLAN
    /// devices are set down, all of a group together, since the kernel leaves a group with the last of them and joins
    /// it with the first; the following steps set them up.
    pub(super) fn rejoin_groups(
        &mut self,
        decisions: &Decisions,
        underlays: &mut UnderlayCache,
    ) -> Result<BTreeMap<LanKey, GroupState>> {
        let mut group_states = BTreeMap::new();
        let groups = MulticastGroups::read();
        let mut down = Vec::new();
        for lan in decisions.lans.values().flatten() {
            let underlay = Underlay::find(lan, &self.node, &self.host, underlays)?;
            let Some((link, group)) = underlay.as_ref().and_then(|underlay| underlay.joined_group(lan))
            else {
                continue;
            };
            if groups.has(link, group) {
                self.rejoined.remove(&(link, group));
                continue;
            }
            let Some(vxlan) = self.standing_vxlan(lan, link) else { continue };
            if self.rejoined.contains(&(link, group)) {
                group_states.insert(lan.key.clone(), GroupState::NotJoined);
                continue;
            }
            down.push((lan, vxlan, (link, group)));
        }
        for (lan, vxlan, joins) in down {
            let Some(held) = self.namespaces.held(&lan.netns) else { continue };
            let change = LinkChange { up: Some(false), ..LinkChange::default() };
            match held.netlink.set_link(vxlan, &change) {
                Ok(()) => drop(group_states.insert(lan.key.clone(), GroupState::Rejoining(joins.1))),
                Err(error) => tracing::warn!(lan = %lan.key, "cannot join {} again: {error}", joins.1),
            }
            self.rejoined.insert(joins);
            self.namespaces.mark_stale(&lan.netns);
        }
        self.namespaces.refresh();
        Ok(group_states)
    }

    /// The LAN's VXLAN device, if it exists, is up and has this link as underlay.
    fn standing_vxlan(&self, lan: &Lan, underlay: u32) -> Option<u32> {
        let links = &self.namespaces.observed(&lan.netns)?.links;
        let vxlan =
            links.iter().find(|link| lan.vxlan == *link.name.as_str() && link.up && link.is_ours())?;
        match &vxlan.kind {
            LinkKind::Vxlan(kind) if kind.underlay == Some(underlay) => Some(vxlan.index),
            _ => None,
        }
    }
}
