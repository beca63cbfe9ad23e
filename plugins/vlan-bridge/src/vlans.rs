//! The change that gives a member of a bridge other VLANs: pure.

use net_types::VlanSet;
use netplumb::{BridgeMember, BridgeVlans, Netlink};

/// A change of a member's VLANs: first the removal, then the addition, one message each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The VLANs that it will not carry any more.
    pub remove: VlanSet,
    /// The VLANs that it will carry, or carry differently.
    pub add: BridgeVlans,
}

/// The least change that makes `observed` into `desired`; empty where they are equal.
#[must_use]
pub fn diff(desired: &BridgeVlans, observed: &BridgeVlans) -> Change {
    let stays = |wanted: &VlanSet, have: &VlanSet| wanted.intersection(have);
    let mut add = BridgeVlans {
        tagged: desired.tagged.without(&stays(&desired.tagged, &observed.tagged)),
        untagged: desired.untagged.without(&stays(&desired.untagged, &observed.untagged)),
        pvid: None,
    };
    if desired.pvid != observed.pvid {
        // Adding a VLAN without the PVID flag removes the flag, with it sets it.
        for id in [observed.pvid, desired.pvid].into_iter().flatten() {
            if desired.tagged.contains(id) {
                add.tagged.insert(id);
            }
            if desired.untagged.contains(id) {
                add.untagged.insert(id);
            }
        }
        add.pvid = desired.pvid;
    } else if let Some(pvid) = desired.pvid.filter(|&pvid| add.all().contains(pvid)) {
        // Added again without the flag, it would lose the flag.
        add.pvid = Some(pvid);
    }
    Change { remove: observed.all().without(&desired.all()), add }
}

impl Change {
    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Applies the change in the kernel.
    pub(crate) fn apply(&self, netlink: &Netlink, member: BridgeMember) -> netplumb::Result<()> {
        netlink.remove_bridge_vlans(member, &self.remove)?;
        netlink.add_bridge_vlans(member, &self.add)
    }
}

#[cfg(test)]
mod tests {
    use net_types::VlanId;
    use proptest::prelude::*;

    use super::*;

    /// The kernel's result of a change (`br_vlan_add`, `br_vlan_delete`).
    fn kernel(mut have: BridgeVlans, change: &Change) -> BridgeVlans {
        have.tagged = have.tagged.without(&change.remove);
        have.untagged = have.untagged.without(&change.remove);
        have.pvid = have.pvid.filter(|id| !change.remove.contains(*id));
        let add = &change.add;
        have.tagged = have.tagged.without(&add.untagged).union(&add.tagged);
        have.untagged = have.untagged.without(&add.tagged).union(&add.untagged);
        if have.pvid.is_some_and(|id| add.all().contains(id)) {
            have.pvid = None;
        }
        if let Some(pvid) = add.pvid {
            have.pvid = Some(pvid);
        }
        have
    }

    fn member() -> impl Strategy<Value = BridgeVlans> {
        // Few IDs, so that the sets overlap.
        let ids = proptest::collection::vec((1_u64..=12, any::<bool>()), 0..10);
        (ids, proptest::option::of(0_usize..10)).prop_map(|(ids, pvid)| {
            let mut vlans = BridgeVlans::default();
            for (id, untagged) in ids {
                let id = VlanId::try_from(id).unwrap();
                if !vlans.all().contains(id) {
                    if untagged { &mut vlans.untagged } else { &mut vlans.tagged }.insert(id);
                }
            }
            vlans.pvid = pvid.and_then(|at| vlans.all().iter().nth(at));
            vlans
        })
    }

    proptest! {
        #[test]
        fn the_change_leads_there(have in member(), want in member()) {
            prop_assert_eq!(kernel(have.clone(), &diff(&want, &have)), want);
        }

        #[test]
        fn nothing_to_do_is_nothing(have in member()) {
            prop_assert!(diff(&have, &have).is_empty());
        }

        #[test]
        fn what_stays_is_not_touched(have in member(), want in member()) {
            let change = diff(&want, &have);
            for id in have.tagged.intersection(&want.tagged).iter() {
                if have.pvid != Some(id) && want.pvid != Some(id) {
                    prop_assert!(!change.add.all().contains(id) && !change.remove.contains(id));
                }
            }
        }
    }
}
