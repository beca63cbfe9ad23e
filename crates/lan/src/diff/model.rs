//! Applies steps without a kernel. It refuses what the kernel refuses, and what k8slan must not do.

use crate::observed::{Alias, Link, LinkKind, NetnsOwner, NetnsState, Observed, Vxlan};
use crate::{Change, SETTINGS, Step, Target};

/// Applies the steps in their order.
pub(super) fn apply(mut state: Observed, steps: &[Step]) -> Observed {
    for step in steps {
        one(&mut state, step);
    }
    state
}

fn one(state: &mut Observed, step: &Step) {
    let is_there = matches!(state.netns, NetnsState::Mounted(_) | NetnsState::Unmounted(_));
    assert!(is_there || matches!(step, Step::CreateNetns(_)), "{step} without a namespace");
    match step {
        Step::CreateNetns(lan) => {
            assert_eq!(state.netns, NetnsState::Absent, "{step} over another");
            state.netns = NetnsState::Mounted(NetnsOwner::Lan(lan.clone()));
            state.settings = SETTINGS.iter().map(|setting| (setting.path, "kernel's".to_owned())).collect();
            let mut lo = link(1, "lo", LinkKind::Other(String::new()), 65_536);
            lo.alias = Alias::Lan(lan.clone());
            lo.group = true;
            state.links = vec![lo];
        }
        Step::MountNetns => match &state.netns {
            NetnsState::Unmounted(owner) => state.netns = NetnsState::Mounted(owner.clone()),
            other => panic!("{step}: {other:?}"),
        },
        Step::RemoveNetns => *state = Observed::absent(),
        Step::Set { path, value } => {
            if let Some(now) = state.settings.get_mut(path) {
                *now = (*value).to_owned();
            }
        }
        Step::RemoveLink(target) | Step::RemoveSpoke(target) => {
            let index = find(state, target);
            remove(state, index);
        }
        Step::CreateBridge { name, mtu } => {
            let kind =
                LinkKind::Bridge { stp: false, mcast_snooping: false, max_learned: Some(crate::MAX_LEARNED) };
            let mut bridge = link(next(state), name, kind, mtu.map_or(1500, net_types::Mtu::get));
            bridge.group = true;
            bridge.up = true;
            add(state, bridge);
        }
        Step::CreateVxlan { name, vni, group, port, underlay, mtu, bridge } => {
            let twin = state
                .links
                .iter()
                .find(|link| matches!(&link.kind, LinkKind::Vxlan(other) if other.vni == vni.get() && link.is_ours()));
            assert!(twin.is_none(), "a VXLAN device of that VNI is still there: {twin:?}");
            let kind = LinkKind::Vxlan(Vxlan {
                vni: vni.get(),
                group: Some(*group),
                port: port.get(),
                underlay: Some(*underlay),
                learning: true,
            });
            let mut vxlan = link(next(state), name, kind, mtu.get());
            vxlan.group = true;
            vxlan.master = Some(find(state, bridge));
            vxlan.group_fwd_mask = Some(0);
            add(state, vxlan);
        }
        Step::Change(target, change) => {
            let index = find(state, target);
            let master = change.master.as_ref().map(|master| find(state, master));
            let link = state.links.iter_mut().find(|link| link.index == index).unwrap();
            change_link(link, change, master);
        }
    }
}

fn change_link(link: &mut Link, change: &Change, master: Option<u32>) {
    let Change { mark, master: _, mtu, stp, mcast_snooping, max_learned, group_fwd_mask, up } = change;
    if let Some(lan) = mark {
        link.group = true;
        link.alias = Alias::Lan(lan.clone());
    }
    if let Some(master) = master {
        if link.master != Some(master) {
            link.group_fwd_mask = Some(0);
        }
        link.master = Some(master);
    }
    if let Some(mtu) = mtu {
        link.mtu = mtu.get();
    }
    if let Some(mask) = group_fwd_mask {
        assert!(link.master.is_some(), "{} is not a port", link.name);
        link.group_fwd_mask = Some(*mask);
    }
    link.up = up.unwrap_or(link.up);
    match &mut link.kind {
        LinkKind::Bridge { stp: has_stp, mcast_snooping: has_snooping, max_learned: has_max } => {
            *has_max = max_learned.or(*has_max);
            *has_stp = stp.unwrap_or(*has_stp);
            *has_snooping = mcast_snooping.unwrap_or(*has_snooping);
        }
        _ => assert!(
            stp.is_none() && mcast_snooping.is_none() && max_learned.is_none(),
            "{} is not a bridge",
            link.name
        ),
    }
}

fn find(state: &Observed, target: &Target) -> u32 {
    let found = state.links.iter().find(|link| match target.index {
        Some(index) => link.index == index,
        None => link.name == target.name,
    });
    let link = found.unwrap_or_else(|| panic!("no link {target:?} in {:#?}", state.links));
    let peer_is_ours = match link.kind {
        LinkKind::Veth { peer: Some(peer) } => state.link_at(peer).is_some_and(Link::is_ours),
        _ => false,
    };
    assert!(link.is_ours() || peer_is_ours || link.name == "lo", "{link:?} is not ours");
    link.index
}

fn remove(state: &mut Observed, index: u32) {
    let link = state.link_at(index).unwrap().clone();
    let live = |link: &Link| {
        matches!(link.kind, LinkKind::Veth { .. })
            && matches!(link.alias, Alias::Attachment { live: true, .. })
    };
    let peer = match link.kind {
        LinkKind::Veth { peer } => peer,
        _ => None,
    };
    assert!(!live(&link) && !peer.and_then(|p| state.link_at(p)).is_some_and(live), "{link:?} is in use");
    state.links.retain(|other| other.index != index && Some(other.index) != peer);
    for other in &mut state.links {
        if other.master == Some(index) {
            other.master = None;
            other.group_fwd_mask = None;
        }
    }
}

fn add(state: &mut Observed, link: Link) {
    assert!(state.link(&link.name).is_none(), "{} exists", link.name);
    state.links.push(link);
}

fn next(state: &Observed) -> u32 {
    state.links.iter().map(|link| link.index).max().unwrap_or(0) + 1
}

pub(super) fn link(index: u32, name: &str, kind: LinkKind, mtu: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        group: false,
        alias: Alias::None,
        kind,
        up: false,
        mtu,
        master: None,
        group_fwd_mask: None,
    }
}
