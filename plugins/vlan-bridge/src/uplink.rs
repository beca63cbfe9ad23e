//! Uplinks: the node's links that carry VLANs of the bridge outwards.

use attach::NodeUse;
use net_types::{IfName, VlanSet};
use netplumb::{BridgeMember, BridgeVlans, Link, LinkChange, Netlink};
use node::{LINK_GROUP, Paths, Underlays};

use crate::bridge::{Bridge, by_own_name};
use crate::config::Uplink;
use crate::record::{Joined, JoinedUplink, PortRecord, RecordStore, RecordedUplink};
use crate::uplink_policy::UplinkPolicy;
use crate::vlans::Change;
use crate::{Config, Error};

/// Finds the uplinks of a configuration. They are ports of the bridge, or can become ports of one that is to be
/// created.
///
/// # Errors
/// One is missing, in another bridge, not in this one, another attachment's, or used by the node itself.
pub(crate) fn find(
    host: &Netlink,
    bridge: Option<&Bridge>,
    config: &Config,
    policy: &UplinkPolicy<'_>,
) -> Result<Vec<Link>, Error> {
    config.uplinks.iter().map(|uplink| find_one(host, bridge, config, &uplink.name, policy)).collect()
}

fn find_one(
    host: &Netlink,
    bridge: Option<&Bridge>,
    config: &Config,
    name: &IfName,
    policy: &UplinkPolicy<'_>,
) -> Result<Link, Error> {
    let link = by_own_name(host, name)?.ok_or_else(|| Error::NoUplink(name.clone()))?;
    if link.group == LINK_GROUP {
        return Err(Error::UplinkOurs(name.clone()));
    }
    match (link.master, bridge) {
        (Some(master), Some(bridge)) if master == bridge.index => {}
        (Some(master), _) => {
            let master = host.link_by_index(master)?.map_or_else(|| master.to_string(), |link| link.name);
            return Err(Error::UplinkElsewhere {
                uplink: name.clone(),
                master,
                bridge: config.bridge.clone(),
            });
        }
        // An ADD that died may have created the bridge without this uplink.
        (None, Some(bridge)) if !bridge.is_ours() => {
            return Err(Error::UplinkOutside { uplink: name.clone(), bridge: bridge.name.clone() });
        }
        (None, _) => {
            policy.allowed(host, &link)?;
        }
    }
    Ok(link)
}

/// The VLANs that an uplink must carry for a port.
pub(crate) fn needed(uplink: &Uplink, port: &BridgeVlans) -> BridgeVlans {
    if uplink.follow {
        return BridgeVlans { tagged: port.all(), ..BridgeVlans::default() };
    }
    BridgeVlans {
        tagged: uplink.tagged.clone(),
        untagged: uplink.untagged.map(VlanSet::from).unwrap_or_default(),
        pvid: uplink.untagged,
    }
}

/// Decides the change of an uplink for a new port, and its part of the port's record: pure.
///
/// # Errors
/// It carries one of the VLANs differently, and the bridge is not ours to change, or other ports need it so.
pub(crate) fn join(
    uplink: &Uplink,
    port: &BridgeVlans,
    observed: &BridgeVlans,
    others: &[PortRecord],
    ours: bool,
) -> Result<(BridgeVlans, RecordedUplink), Error> {
    let needed = needed(uplink, port);
    let name = &uplink.name;
    if !uplink.follow {
        let mut conflict = needed.tagged.intersection(&observed.untagged);
        conflict = conflict.union(&needed.untagged.intersection(&observed.tagged));
        if let (Some(other), Some(own)) = (observed.pvid, needed.pvid)
            && other != own
        {
            conflict.insert(other);
        }
        let disturbed = if ours { conflict.intersection(&needed_by(others, name)) } else { conflict };
        if !disturbed.is_empty() {
            return Err(Error::UplinkVlans {
                uplink: name.clone(),
                have: observed.to_string(),
                wanted: needed.to_string(),
            });
        }
    }
    let add = if uplink.follow {
        BridgeVlans { tagged: needed.tagged.without(&observed.all()), ..BridgeVlans::default() }
    } else {
        let untagged = if observed.pvid == needed.pvid {
            needed.untagged.without(&observed.untagged)
        } else {
            needed.untagged.clone()
        };
        // Adding a VLAN again without the PVID flag would remove the flag.
        let pvid = needed.pvid.filter(|&pvid| untagged.contains(pvid));
        BridgeVlans { tagged: needed.tagged.without(&observed.tagged), untagged, pvid }
    };
    let before = added_by(others, name);
    let added = add.all().without(&observed.all()).union(&needed.all().intersection(&before));
    let fixed = if uplink.follow { VlanSet::EMPTY } else { needed.all() };
    Ok((add, RecordedUplink { name: name.clone(), follow: uplink.follow, fixed, added, joined: None }))
}

/// The VLANs that a leaving port added to an uplink and no other port needs: pure. `members` are the VLANs of the
/// bridge's other members, without uplinks.
pub(crate) fn leave(record: &RecordedUplink, others: &[PortRecord], members: &VlanSet) -> VlanSet {
    let fixed = records_of(others, &record.name).fold(VlanSet::EMPTY, |all, uplink| all.union(&uplink.fixed));
    let follows = records_of(others, &record.name).any(|uplink| uplink.follow) || record.follow;
    let in_use = if follows { fixed.union(members) } else { fixed };
    record.added.without(&in_use)
}

/// What the other ports' records say of an uplink.
fn records_of<'a>(others: &'a [PortRecord], name: &IfName) -> impl Iterator<Item = &'a RecordedUplink> {
    let name = name.clone();
    others.iter().flat_map(|record| &record.uplinks).filter(move |uplink| uplink.name == name)
}

/// The VLANs that other ports need on an uplink.
fn needed_by(others: &[PortRecord], name: &IfName) -> VlanSet {
    let of_one = |record: &PortRecord, uplink: &RecordedUplink| {
        if uplink.follow { record.all_vlans() } else { uplink.fixed.clone() }
    };
    let needs = |record: &PortRecord| {
        record.uplinks.iter().find(|uplink| uplink.name == *name).map(|uplink| of_one(record, uplink))
    };
    others.iter().filter_map(needs).fold(VlanSet::EMPTY, |all, one| all.union(&one))
}

/// The VLANs that an uplink lacks for a port, and those that it carries differently: pure.
pub(crate) fn lacks(
    uplink: &Uplink,
    port: &BridgeVlans,
    record: &RecordedUplink,
    observed: &BridgeVlans,
) -> (VlanSet, VlanSet) {
    let needed = needed(uplink, port);
    let missing = needed.all().without(&observed.all());
    // A following uplink may carry a VLAN as it did before, which is the node's decision.
    let tagged = if uplink.follow { needed.tagged.intersection(&record.added) } else { needed.tagged };
    let mut otherwise = tagged.intersection(&observed.untagged);
    otherwise = otherwise.union(&needed.untagged.intersection(&observed.tagged));
    if let Some(pvid) = needed.pvid.filter(|_| observed.pvid != needed.pvid) {
        otherwise.insert(pvid);
    }
    (missing, otherwise)
}

fn added_by(others: &[PortRecord], name: &IfName) -> VlanSet {
    records_of(others, name).fold(VlanSet::EMPTY, |all, uplink| all.union(&uplink.added))
}

/// Removes VLANs from the uplinks that only a leaving port needed, while the port still exists: after a kill, the
/// port's record says what is still to be done.
pub(crate) fn release(
    host: &Netlink,
    bridge: &Bridge,
    record: &PortRecord,
    port: Option<u32>,
    others: &[PortRecord],
) -> Result<(), Error> {
    if record.uplinks.iter().all(|uplink| uplink.added.is_empty()) {
        return Ok(());
    }
    let vlans = host.all_bridge_vlans()?;
    let ports = host.ports(bridge.index)?;
    let is_uplink = |link: &Link| {
        record.uplinks.iter().chain(others.iter().flat_map(|r| &r.uplinks)).any(|u| u.name == *link.name)
    };
    let members = ports
        .iter()
        .filter(|link| Some(link.index) != port && !is_uplink(link))
        .map(|link| link.index)
        .chain([bridge.index])
        .filter_map(|index| vlans.get(&index))
        .fold(VlanSet::EMPTY, |all, member| all.union(&member.all()));
    for uplink in &record.uplinks {
        let Some(link) = ports.iter().find(|link| link.name == uplink.name.as_str()) else { continue };
        let carried = vlans.get(&link.index).map(BridgeVlans::all).unwrap_or_default();
        let remove = leave(uplink, others, &members).intersection(&carried);
        host.remove_bridge_vlans(BridgeMember::Port(link.index), &remove)?;
    }
    Ok(())
}

/// Whether this plugin makes a link a port of the bridge, or did for one of the other ports, and how it was before.
pub(crate) fn joined(link: &Link, others: &[PortRecord]) -> Option<Joined> {
    if link.master.is_none() {
        return Some(Joined { was_down: !link.up });
    }
    let mut before = others.iter().flat_map(PortRecord::joined_uplinks);
    before.find(|uplink| link.name == uplink.name.as_str()).map(|uplink| uplink.joined)
}

/// Gives the record of another port the uplinks that only a leaving one's has: the other may use them without having
/// named them, and they must not keep the bridge when that goes.
pub(crate) fn leave_to_another(
    store: &RecordStore,
    record: &PortRecord,
    others: &[(IfName, PortRecord)],
) -> Result<(), Error> {
    let Some((port, heir)) = others.first() else { return Ok(()) };
    let known = |name: &IfName| {
        others.iter().flat_map(|(_, other)| other.joined_uplinks()).any(|uplink| uplink.name == *name)
    };
    let left: Vec<JoinedUplink> = record.joined_uplinks().filter(|uplink| !known(&uplink.name)).collect();
    if left.is_empty() {
        return Ok(());
    }
    let mut heir = heir.clone();
    heir.left_uplinks.extend(left);
    store.write(port, &heir)
}

/// Sets links down again that were down before they became ports of a bridge that is gone, unless the node uses them by
/// now.
pub(crate) fn set_down_again(host: &Netlink, record: &PortRecord, paths: &Paths) -> Result<(), Error> {
    for uplink in record.joined_uplinks().filter(|uplink| uplink.joined.was_down) {
        let Some(link) = host.link_by_name(&uplink.name)?.filter(|link| link.master.is_none() && link.up)
        else {
            continue;
        };
        if NodeUse::find(host, &link, &Underlays::read(paths)?)?.is_none() {
            host.set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
        }
    }
    Ok(())
}

/// Adds the VLANs that a port needs to an uplink.
pub(crate) fn apply(host: &Netlink, link: &Link, add: &BridgeVlans) -> Result<(), Error> {
    let change = Change { remove: VlanSet::EMPTY, add: add.clone() };
    Ok(change.apply(host, BridgeMember::Port(link.index))?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> VlanSet {
        text.parse().unwrap()
    }

    fn record(uplink: RecordedUplink, vlans: &BridgeVlans) -> PortRecord {
        PortRecord {
            attachment: String::new(),
            bridge: "br0".parse().unwrap(),
            vlans: Some(vlans.clone()),
            uplinks: vec![uplink],
            left_uplinks: Vec::new(),
            host_interfaces: Vec::new(),
            guard: None,
            masquerade: Vec::new(),
            masquerade_from: Vec::new(),
            promisc: false,
            ipam: None,
        }
    }

    fn following() -> Uplink {
        Uplink {
            name: "eth0".parse().unwrap(),
            tagged: VlanSet::EMPTY,
            untagged: None,
            follow: true,
            mtu: None,
        }
    }

    proptest! {
        /// Ports come and go in any order; the uplink carries exactly what they need, and what it carried before
        /// stays.
        #[test]
        fn an_uplink_follows(steps in proptest::collection::vec((0_u64..6, 1_u64..9, 1_u64..9), 1..40), before in "(1|1,5)?") {
            let before = set(&before);
            let mut uplink = BridgeVlans { untagged: before.clone(), ..BridgeVlans::default() };
            let mut ports: BTreeMap<u64, PortRecord> = BTreeMap::new();
            for (port, a, b) in steps {
                let gone = ports.remove(&port);
                let others: Vec<_> = ports.values().cloned().collect();
                match gone {
                    Some(gone) => {
                        let members = others.iter().fold(VlanSet::EMPTY, |all, r| all.union(&r.all_vlans()));
                        let remove = leave(&gone.uplinks[0], &others, &members);
                        uplink.tagged = uplink.tagged.without(&remove);
                        uplink.untagged = uplink.untagged.without(&remove);
                    }
                    None => {
                        let ids = VlanSet::from_iter([a, b].map(|id| id.try_into().unwrap()));
                        let vlans = BridgeVlans::trunk(&ids, None);
                        let (add, entry) = join(&following(), &vlans, &uplink, &others, false).unwrap();
                        uplink.tagged = uplink.tagged.union(&add.tagged);
                        ports.insert(port, record(entry, &vlans));
                    }
                }
                let needed = ports.values().fold(before.clone(), |all, r| all.union(&r.all_vlans()));
                prop_assert_eq!(uplink.all(), needed);
                prop_assert_eq!(&uplink.untagged, &before);
            }
        }
    }

    #[test]
    fn a_fixed_uplink_of_another_bridge_is_not_turned_over() {
        let mut fixed = following();
        fixed.follow = false;
        fixed.untagged = "91".parse().ok();
        let have = BridgeVlans::access("1".parse().unwrap());
        let port = BridgeVlans::access("91".parse().unwrap());
        let error = join(&fixed, &port, &have, &[], false).unwrap_err().to_string();
        assert!(error.contains("eth0") && error.contains("PVID 91"), "{error}");
        let (add, entry) = join(&fixed, &port, &have, &[], true).unwrap();
        assert_eq!((add.pvid, entry.added), ("91".parse().ok(), set("91")));
    }
}
