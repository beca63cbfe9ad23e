//! Reads the interface of an attachment in its pod.

use netplumb::{Link, LinkKind, Netlink, Netns};
use node::Attachment;

use agent::attachments::is_live;

use super::view::{AttachmentView, LinkView, PodLinkView};

/// An attachment's interface, and the link of the node that it is on.
pub(super) struct PodInterface {
    pub(super) view: AttachmentView,
    /// The index of the lower link, in another namespace.
    pub(super) lower: Option<u32>,
}

/// Reads an attachment's interface, which the pod may have changed, so it is only shown. `index`: the index of the
/// interface in the pod, known from the other end of the pair.
pub(super) fn read(attachment: &Attachment, index: Option<u32>) -> PodInterface {
    let mut view = AttachmentView {
        pod: attachment.pod.as_ref().map(ToString::to_string),
        vm: None,
        uid: attachment.pod.as_ref().and_then(|pod| pod.uid.clone()),
        container: attachment.container_id.clone(),
        ifname: attachment.ifname.to_string(),
        netns: attachment.netns.path.clone(),
        live: is_live(&attachment.netns),
        link: None,
    };
    let mut lower = None;
    if view.live
        && let Ok(Some((link, addresses))) = interface(attachment, index)
    {
        lower = link.lower.filter(|_| link.lower_netnsid.is_some());
        view.link = Some(pod_link(&link, addresses));
    }
    PodInterface { view, lower }
}

/// Finds the interface by its index, since its name may have changed: KubeVirt's bridge binding renames it, makes it
/// a port of the guest's bridge, and creates another link with its name, which is down and has the guest's addresses.
fn interface(attachment: &Attachment, index: Option<u32>) -> netplumb::Result<Option<(Link, Vec<String>)>> {
    let netlink = Netlink::open(&Netns::open(&attachment.netns.path)?)?;
    let named = netlink.link_by_name(&attachment.ifname)?;
    let ours = |link: &Link| {
        matches!(link.kind, LinkKind::Veth | LinkKind::Macvtap(_)) && link.lower_netnsid.is_some()
    };
    let own = match index {
        Some(index) => netlink.link_by_index(index)?.filter(ours),
        None => None,
    };
    let Some(link) = own.as_ref().or(named.as_ref()) else { return Ok(None) };
    let mut addresses = addresses(&netlink, link.index)?;
    if let Some(other) = named.as_ref().filter(|other| other.index != link.index) {
        addresses.splice(0..0, self::addresses(&netlink, other.index)?);
    }
    Ok(Some((link.clone(), addresses)))
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

/// A link in the view's form.
pub(super) fn link(link: &Link) -> LinkView {
    LinkView {
        name: link.name.clone(),
        up: link.up,
        carrier: link.carrier,
        mtu: link.mtu,
        mac: link.mac.map(|mac| mac.to_string()),
    }
}
