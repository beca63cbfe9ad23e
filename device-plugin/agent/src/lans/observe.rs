//! Reads a LAN's state from the kernel over netlink.

use std::collections::BTreeMap;

use anyhow::Result;
use lan::observed::{Alias, Link, LinkKind, NetnsOwner, Vxlan};
use lan::{LanKey, SETTINGS};
use netplumb::{LO, Netlink, Netns, Sysctl};
use node::{Attachment, LINK_GROUP, parse_lan_tag};

use crate::attachments::is_live;

/// The owner of a namespace by the mark on its `lo`; `None` if k8slan did not make it.
pub fn owner(netlink: &Netlink) -> Result<Option<NetnsOwner>> {
    let lo = netlink.link_by_index(LO)?;
    Ok(lo.and_then(|lo| match alias(lo.alias.as_deref()) {
        Alias::Lan(key) => Some(NetnsOwner::Lan(key)),
        _ if lo.group == LINK_GROUP => Some(NetnsOwner::Unknown),
        _ => None,
    }))
}

/// All links of a namespace in the form that `lan::diff` needs.
pub(super) fn links(netlink: &Netlink) -> Result<Vec<Link>> {
    Ok(netlink.links()?.into_iter().map(link).collect())
}

/// The settings that matter, if this kernel has them.
pub(super) fn settings(netns: &Netns) -> Result<BTreeMap<&'static str, String>> {
    let mut settings = BTreeMap::new();
    for setting in SETTINGS {
        if let Some(value) = netns.sysctl_get(&Sysctl::net(setting.path))? {
            settings.insert(setting.path, value);
        }
    }
    Ok(settings)
}

/// A link in the form that `lan::diff` needs.
pub fn link(link: netplumb::Link) -> Link {
    let kind = match link.kind {
        netplumb::LinkKind::Bridge(bridge) => LinkKind::Bridge {
            stp: bridge.stp,
            mcast_snooping: bridge.mcast_snooping,
            max_learned: bridge.fdb_max_learned,
        },
        netplumb::LinkKind::Vxlan(vxlan) => LinkKind::Vxlan(Vxlan {
            vni: vxlan.vni,
            group: vxlan.remote,
            port: vxlan.port,
            underlay: vxlan.underlay,
            learning: vxlan.learning,
        }),
        netplumb::LinkKind::Veth => {
            LinkKind::Veth { peer: link.lower.filter(|_| link.lower_netnsid.is_none()) }
        }
        netplumb::LinkKind::Other(kind) => LinkKind::Other(kind),
        other => LinkKind::Other(format!("{other:?}")),
    };
    Link {
        index: link.index,
        name: link.name,
        group: link.group == LINK_GROUP,
        alias: alias(link.alias.as_deref()),
        kind,
        up: link.up,
        mtu: link.mtu,
        master: link.master,
        group_fwd_mask: link.port.map(|port| port.group_fwd_mask),
    }
}

fn alias(text: Option<&str>) -> Alias {
    let Some(text) = text else { return Alias::None };
    if let Some(lan) = parse_lan_tag(text).and_then(|lan| lan.parse::<LanKey>().ok()) {
        return Alias::Lan(lan);
    }
    match Attachment::parse_tag(text) {
        Some(attachment) => {
            // In the form that the cluster's objects have.
            let who = match &attachment.pod {
                Some(pod) => pod.to_string(),
                None => format!("container {}", attachment.container_id),
            };
            Alias::Attachment { live: is_live(&attachment.netns), who }
        }
        None => Alias::Other,
    }
}
