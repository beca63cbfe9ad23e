//! An attachment's interface, as it is in the pod.

use netplumb::{Link, LinkKind, Netlink, Netns};
use node::Attachment;

use crate::sweep::is_live;

use super::view::{AttachmentView, LinkView, PodLinkView};

/// An attachment's interface, and the link of the node that it is on.
pub(super) struct Seen {
    pub(super) view: AttachmentView,
    /// The index of the link below, in another namespace.
    pub(super) lower: Option<u32>,
}

/// Looks at an attachment. What is in a pod is what the pod made of it, and only shown.
pub(super) fn look(attachment: &Attachment) -> Seen {
    let mut view = AttachmentView {
        pod: attachment.pod.as_ref().map(ToString::to_string),
        container: attachment.container_id.clone(),
        ifname: attachment.ifname.to_string(),
        netns: attachment.netns.path.clone(),
        live: is_live(&attachment.netns),
        link: None,
    };
    let mut lower = None;
    if view.live
        && let Ok(Some((link, addresses))) = interface(attachment)
    {
        lower = link.lower.filter(|_| link.lower_netnsid.is_some());
        view.link = Some(pod_link(&link, addresses));
    }
    Seen { view, lower }
}

fn interface(attachment: &Attachment) -> netplumb::Result<Option<(Link, Vec<String>)>> {
    let netlink = Netlink::open(&Netns::open(&attachment.netns.path)?)?;
    let Some(link) = netlink.link_by_name(&attachment.ifname)? else { return Ok(None) };
    let addresses = addresses(&netlink, link.index)?;
    Ok(Some((link, addresses)))
}

/// The addresses of a link, link-local ones last.
pub(super) fn addresses(netlink: &Netlink, index: u32) -> netplumb::Result<Vec<String>> {
    let mut addresses = netlink.addresses(Some(index))?;
    addresses.sort_by_key(|address| address.scope);
    Ok(addresses.iter().map(|address| address.address.to_string()).collect())
}

fn pod_link(link: &Link, addresses: Vec<String>) -> PodLinkView {
    let (kind, mode) = match &link.kind {
        LinkKind::Macvtap(info) => ("macvtap", info.mode),
        LinkKind::Macvlan(info) => ("macvlan", info.mode),
        LinkKind::Veth => ("veth", None),
        LinkKind::Other(kind) => (kind.as_str(), None),
        _ => ("link", None),
    };
    PodLinkView {
        kind: kind.to_owned(),
        mode: mode.map(|mode| mode.to_string()),
        index: link.index,
        link: self::link(link),
        addresses,
    }
}

/// A link, as it is shown.
pub(super) fn link(link: &Link) -> LinkView {
    LinkView {
        name: link.name.clone(),
        up: link.up,
        carrier: link.carrier,
        mtu: link.mtu,
        mac: link.mac.map(|mac| mac.to_string()),
    }
}
