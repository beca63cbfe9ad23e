//! The node's own links: underlays, masters of macvtaps, bridges.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use netplumb::{BridgeVlans, Link, LinkKind, Netlink};
use node::{Attachment, LINK_GROUP, Paths, SafeDir};
use serde::Deserialize;

use super::daemon_state::{chain, names};
use super::pod_interface;
use super::view::{AttachmentView, BridgeView, MasterView, NodeView, PortView, UnderlayView};

/// The links of the node's own namespace.
pub(super) struct Host {
    netlink: Netlink,
    links: BTreeMap<u32, Link>,
}

impl Host {
    pub(super) fn read() -> Result<Self> {
        let netlink = Netlink::open_current()?;
        let links = netlink.links()?.into_iter().map(|link| (link.index, link)).collect();
        Ok(Self { netlink, links })
    }

    /// The underlay with that index.
    pub(super) fn underlay_at(&self, index: u32) -> Option<UnderlayView> {
        self.links.get(&index).map(|link| self.underlay_of(link))
    }

    /// The underlay with that name, which may be missing.
    pub(super) fn underlay(&self, name: &str) -> UnderlayView {
        match self.links.values().find(|link| link.name == name) {
            Some(link) => self.underlay_of(link),
            None => UnderlayView { name: name.to_owned(), ..UnderlayView::default() },
        }
    }

    fn underlay_of(&self, link: &Link) -> UnderlayView {
        UnderlayView {
            name: link.name.clone(),
            link: Some(pod_interface::link(link)),
            addresses: pod_interface::addresses(&self.netlink, link.index).unwrap_or_default(),
        }
    }

    /// Adds the pods' macvtaps that are not on a spoke: on a link of the node, or moved from it.
    pub(super) fn masters(&self, view: &mut NodeView, paths: &Paths) {
        let spokes: BTreeSet<(String, String)> = view
            .lans
            .iter()
            .flat_map(|lan| &lan.spokes)
            .filter_map(|spoke| spoke.attachment.as_ref())
            .map(|attachment| (attachment.container.clone(), attachment.ifname.clone()))
            .collect();
        let mut masters: BTreeMap<u32, Vec<AttachmentView>> = BTreeMap::new();
        for attachment in given_taps(paths, &mut view.notes) {
            if spokes.contains(&(attachment.container_id.clone(), attachment.ifname.to_string())) {
                continue;
            }
            let seen = pod_interface::read(&attachment, None);
            match seen.lower.filter(|index| self.links.contains_key(index)) {
                Some(index) => masters.entry(index).or_default().push(seen.view),
                None if seen.view.live => {
                    let who = seen.view.who();
                    view.problems.push(format!("{who}: its macvtap {} is on no link of the node", seen.view.ifname));
                }
                None => view.problems.push(format!(
                    "{}: it is gone, and its tap device is still remembered as given; the next ADD or DEL takes it back",
                    seen.view.who()
                )),
            }
        }
        for (index, macvtaps) in masters {
            view.masters.push(MasterView { link: pod_interface::link(&self.links[&index]), macvtaps });
        }
    }

    /// Adds the bridges with ports of pods.
    pub(super) fn bridges(&self, view: &mut NodeView) {
        let of_pod = |link: &Link| {
            let attachment = Attachment::parse_tag(link.alias.as_deref()?)?;
            (link.group == LINK_GROUP).then_some(attachment)
        };
        let bridges: BTreeSet<u32> = self
            .links
            .values()
            .filter(|link| of_pod(link).is_some())
            .filter_map(|link| link.master)
            .collect();
        if bridges.is_empty() {
            return;
        }
        // A kernel without VLAN support of bridges has no VLANs.
        let vlans = self.netlink.all_bridge_vlans().unwrap_or_default();
        for bridge in bridges.iter().filter_map(|index| self.links.get(index)) {
            let filtering = matches!(&bridge.kind, LinkKind::Bridge(info) if info.vlan_filtering);
            let mut shown = BridgeView {
                link: pod_interface::link(bridge),
                vlan_filtering: filtering,
                ports: Vec::new(),
                uplinks: Vec::new(),
            };
            for port in self.links.values().filter(|link| link.master == Some(bridge.index)) {
                let carried = vlans.get(&port.index).filter(|_| filtering);
                match of_pod(port) {
                    Some(attachment) => {
                        let seen = pod_interface::read(&attachment, port.lower).view;
                        if !seen.live {
                            view.problems.push(format!(
                                "port {} of bridge {} is left over: {} is gone",
                                port.name,
                                bridge.name,
                                seen.who()
                            ));
                        }
                        shown.ports.push(port_view(port, carried, Some(seen)));
                    }
                    None => shown.uplinks.push(port_view(port, carried, None)),
                }
            }
            view.bridges.push(shown);
        }
    }
}

fn port_view(port: &Link, vlans: Option<&BridgeVlans>, attachment: Option<AttachmentView>) -> PortView {
    PortView {
        link: pod_interface::link(port),
        tagged: vlans.map(|vlans| vlans.tagged.to_string()).unwrap_or_default(),
        untagged: vlans.map(|vlans| vlans.untagged.to_string()).unwrap_or_default(),
        pvid: vlans.and_then(|vlans| vlans.pvid).map(net_types::VlanId::get),
        attachment,
    }
}

/// The attachments that have tap minors.
fn given_taps(paths: &Paths, notes: &mut Vec<String>) -> Vec<Attachment> {
    /// The needed part of the macvtap plugin's record of a minor.
    #[derive(Deserialize)]
    struct MinorRecord {
        attachment: String,
    }
    let folder = paths.taps();
    let files = names(&folder, notes);
    let dir = match SafeDir::open(&folder) {
        Ok(Some(dir)) => dir,
        Ok(None) => return Vec::new(),
        Err(error) => {
            notes.push(chain(error));
            return Vec::new();
        }
    };
    let text = |file: &String| dir.read(file).ok().flatten();
    let given = files.iter().filter_map(|file| serde_json::from_slice::<MinorRecord>(&text(file)?).ok());
    given.filter_map(|given| Attachment::parse_tag(&given.attachment)).collect()
}
