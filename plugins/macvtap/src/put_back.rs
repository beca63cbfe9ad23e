//! Giving a macvtap of the host back that was moved into a pod.

use std::hash::{BuildHasher, RandomState};

use net_types::{IfName, Mtu};
use netplumb::{Link, LinkChange, LinkKind, Netlink, Netns};

use crate::Error;
use crate::device::Moved;

/// How many names are tried on the way; nobody can know them, so that one is enough but for chance.
const NAMES: usize = 4;

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
        // What the pod called it until the last moment goes nowhere.
        own.remove_alt_names(moved.index)?;
        let marks = LinkChange {
            group: Some(was.group),
            alias: Some(was.alias.clone().unwrap_or_default()),
            ..LinkChange::default()
        };
        own.set_link(moved.index, &marks)?;
        let rename = LinkChange { name: Some(was.name.clone()), ..LinkChange::default() };
        match own.set_link(moved.index, &rename) {
            Err(error) if error.is_exists() => {
                let there = own.link_by_name(&was.name)?;
                if there.is_some_and(|there| is_remade(&there, &moved)) {
                    own.delete_link(moved.index)?;
                    return Ok(restored?);
                }
                // A name that says which one it is; if that is taken as well, it keeps the one that it came under.
                let name = format!("mv{}", moved.index).parse().ok();
                match own.set_link(moved.index, &LinkChange { name, ..LinkChange::default() }) {
                    Err(error) if error.is_exists() => {}
                    done => done?,
                }
            }
            done => done?,
        }
        if was.up {
            own.set_link(moved.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        }
    }
    Ok(restored?)
}

/// Moves it to the host, first under a name that nothing has there: asked to move and to rename a link, kernels move it also
/// where the name is taken, and then say that it is.
fn move_under_a_free_name(from: &Netlink, link: &Link, host: &Netns) -> Result<IfName, Error> {
    let change = |change| from.set_link(link.index, &change);
    let mut taken = None;
    for name in random_names() {
        // Its alternative names would be those of links of the host.
        let moved = from
            .remove_alt_names(link.index)
            .and_then(|()| change(LinkChange { name: Some(name.clone()), ..LinkChange::default() }))
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
    matches!(there.kind, LinkKind::Macvtap(_))
        && there.index != back.index
        && there.lower_netnsid.is_none()
        && there.lower == back.lower
}

/// Names that no pod can have taken first, since they are chosen now.
fn random_names() -> impl Iterator<Item = IfName> {
    (0..NAMES).filter_map(|_| {
        let number = RandomState::new().hash_one(()) & 0xffff_ffff_ffff;
        format!("mv{number:012x}").parse().ok()
    })
}

/// The MTU of a link, as far as a macvtap can have it.
pub(crate) fn mtu_of(link: &Link) -> Option<Mtu> {
    Mtu::try_from(u64::from(link.mtu)).ok()
}
