//! Giving a macvtap of the host back that was moved into a pod.

use net_types::{IfName, Mtu};
use netplumb::{Link, LinkChange, LinkKind, Netlink, Netns};

use crate::Error;
use crate::device::Moved;

/// How many names are tried where the macvtap's own is taken.
const NAMES: u32 = 16;

/// Moves a macvtap from where it is back to the host, as it was there.
///
/// Its name may be another link's by then. Where its device plugin has made it anew, on the same link, there is one too
/// many, and the pod's goes; else it gets a name that is free.
///
/// # Errors
/// What the kernel refused; what can be restored is.
pub(crate) fn put_back(from: &Netlink, link: &Link, host: &Netns, was: &Moved) -> Result<(), Error> {
    // The next pod must not get this one's address, nor a link that does no ARP.
    let restored = from.set_link(
        link.index,
        &LinkChange {
            up: Some(false),
            mac: was.mac.filter(|mac| link.mac != Some(*mac)),
            mtu: was.mtu.filter(|mtu| link.mtu != mtu.get()),
            noarp: Some(was.noarp),
            promisc: Some(was.promisc),
            allmulti: Some(was.allmulti),
            ..LinkChange::default()
        },
    );
    let own = Netlink::open(host)?;
    let name = move_under_a_free_name(from, link, host)?;
    // Where that was in the pod: the index may be another one now.
    if let Some(moved) = own.link_by_name(&name)? {
        let rename = LinkChange { name: Some(was.name.clone()), ..LinkChange::default() };
        match own.set_link(moved.index, &rename) {
            Err(error) if error.is_exists() => {
                let there = own.link_by_name(&was.name)?;
                if there.is_some_and(|there| is_remade(&there, &moved)) {
                    own.delete_link(moved.index)?;
                }
            }
            done => done?,
        }
    }
    Ok(restored?)
}

/// Moves it to the host, first under a name that nothing has there: asked to move and to rename a link, kernels move it also
/// where the name is taken, and then say that it is.
fn move_under_a_free_name(from: &Netlink, link: &Link, host: &Netns) -> Result<IfName, Error> {
    let change = |change| from.set_link(link.index, &change);
    let mut taken = None;
    for name in free_names(link.index) {
        let moved = change(LinkChange { name: Some(name.clone()), ..LinkChange::default() })
            .and_then(|()| change(LinkChange { netns: Some(host.clone()), ..LinkChange::default() }));
        match moved {
            Ok(()) => return Ok(name),
            Err(error) if error.is_exists() => taken = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(taken.map_or_else(|| Error::NoDevice(link.name.clone()), Error::from))
}

/// Whether a link of the host is another macvtap on the link that the one that came back stands on.
fn is_remade(there: &Link, back: &Link) -> bool {
    matches!(there.kind, LinkKind::Macvtap(_)) && there.lower_netnsid.is_none() && there.lower == back.lower
}

fn free_names(index: u32) -> impl Iterator<Item = IfName> {
    (0..NAMES).filter_map(move |n| match n {
        0 => format!("mv{index}").parse().ok(),
        n => format!("mv{index}.{n:x}").parse().ok(),
    })
}

/// The MTU of a link, as far as a macvtap can have it.
pub(crate) fn mtu_of(link: &Link) -> Option<Mtu> {
    Mtu::try_from(u64::from(link.mtu)).ok()
}
