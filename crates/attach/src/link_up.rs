use netplumb::{LinkChange, Netlink, Netns};
use node::Attachment;

/// Sets the interface of an attachment up again if the pod set it down: the IPAM plugin may send something on it
/// before it is removed. Errors are ignored, since the interface is removed in any case.
pub fn set_up_again(attachment: &Attachment) {
    // The path may lead to another pod's namespace by now.
    let netns = Netns::open(&attachment.netns.path).ok();
    let netns = netns.filter(|netns| netns.id().ino == attachment.netns.inode);
    let Some(netlink) = netns.and_then(|netns| Netlink::open(&netns).ok()) else { return };
    let link = netlink.link_by_name(&attachment.ifname).ok().flatten();
    if let Some(link) = link.filter(|link| !link.up) {
        let _ = netlink.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() });
    }
}
