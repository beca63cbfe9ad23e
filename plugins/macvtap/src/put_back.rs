//! Returning a macvtap of the host that was moved into a pod.

use std::hash::{BuildHasher, RandomState};

use net_types::{IfName, MacvtapMode, Mtu};
use netplumb::{Link, LinkChange, LinkKind, Netlink, Netns};

use crate::Error;
use crate::lower::is_promiscuous_below;
use crate::minors::Moved;

/// How many temporary names are tried; nobody can guess them, so one is normally enough.
const NAMES: usize = 4;

/// Moves a macvtap from where it is back to the host, with its former attributes.
///
/// Another link may have its name by then. If its device plugin created it again, on the same lower link, there is
/// one too many, and the pod's is deleted; otherwise it gets a free name.
///
/// # Errors
/// The kernel refuses a change; everything else is restored.
pub(crate) fn put_back(from: &Netlink, link: &Link, host: &Netns, was: &Moved) -> Result<(), Error> {
    // The next pod must get neither this one's address nor a link without ARP.
    let own = Netlink::open(host)?;
    let uncounted = uncount(from, link, &own);
    // Without room for the former MTU, the kernel would refuse it together with all other settings.
    let lower = link.lower.and_then(|lower| own.link_by_index(lower).ok().flatten());
    let room = lower.map_or(u32::MAX, |lower| lower.mtu);
    let restored = from.set_link(
        link.index,
        &LinkChange {
            up: Some(false),
            mac: was.mac.filter(|mac| link.mac != Some(*mac)),
            mtu: was.mtu.filter(|mtu| link.mtu != mtu.get() && mtu.get() <= room),
            noarp: Some(was.noarp),
            promisc: Some(was.promisc),
            allmulti: Some(was.allmulti),
            ..LinkChange::default()
        },
    );
    let mut settled = Ok(());
    let name = move_under_a_free_name(from, link, host)?;
    // Its index may have changed in the move.
    if let Some(moved) = own.link_by_name(&name)? {
        // Alternative names that the pod gave it must not remain.
        own.remove_alt_names(moved.index)?;
        let marks = LinkChange {
            group: Some(was.group),
            alias: Some(was.alias.clone().unwrap_or_default()),
            ..LinkChange::default()
        };
        own.set_link(moved.index, &marks)?;
        // Nobody in the pod can change it any more.
        if let Some(settings) = &was.settings {
            settled = own.restore_settings(moved.index, &settings.clone().with_mtu_at_most(room));
        }
        let rename = LinkChange { name: Some(was.name.clone()), ..LinkChange::default() };
        match own.set_link(moved.index, &rename) {
            Err(error) if error.is_exists() => {
                let there = own.link_by_name(&was.name)?;
                if there.is_some_and(|there| is_remade(&there, &moved)) {
                    own.delete_link(moved.index)?;
                    return uncounted.and(Ok(restored?));
                }
                // A name that identifies it; if that is taken as well, it keeps its temporary one.
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
    uncounted.and(Ok(restored.and(settled)?))
}

/// Takes off the lower link, in mode passthru, what the kernel counted there when the pod made the macvtap accept
/// every multicast: it counts only while the macvtap is up, and counts nothing back when that goes down or is deleted
/// (`macvlan_change_rx_flags` and `macvlan_stop` in `drivers/net/macvlan.c`). A guest's is not counted, see ADD.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn uncount(from: &Netlink, link: &Link, host: &Netlink) -> Result<(), Error> {
    let passthru =
        matches!(&link.kind, LinkKind::Macvtap(macvtap) if macvtap.mode == Some(MacvtapMode::Passthru));
    let of_guest = link.noarp && is_promiscuous_below(link);
    let Some(lower) = link.lower.filter(|_| passthru && link.up && link.allmulti && !of_guest) else {
        return Ok(());
    };
    // The pod may have switched it on while the link was down. The kernel's counter has no lower bound.
    let counted = host.link_by_index(lower)?.and_then(|lower| lower.allmulti_count);
    if counted.is_some_and(|counted| counted > 0) {
        from.set_link(link.index, &LinkChange { allmulti: Some(false), ..LinkChange::default() })?;
    }
    Ok(())
}

/// Moves it to the host under a temporary name that is free there: kernels that are asked to move and rename a link
/// to a taken name move it, and only then report an error.
fn move_under_a_free_name(from: &Netlink, link: &Link, host: &Netns) -> Result<IfName, Error> {
    let change = |change| from.set_link(link.index, &change);
    let mut taken = None;
    for name in random_names() {
        // Otherwise its alternative names would become names of a link of the host.
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

/// Whether a link of the host is another macvtap on the lower link of the returned one.
fn is_remade(there: &Link, back: &Link) -> bool {
    matches!(there.kind, LinkKind::Macvtap(_))
        && there.index != back.index
        && there.lower_netnsid.is_none()
        && there.lower == back.lower
}

/// Names that no pod can have taken in advance, since they are chosen now.
fn random_names() -> impl Iterator<Item = IfName> {
    (0..NAMES).filter_map(|_| {
        let number = RandomState::new().hash_one(()) & 0xffff_ffff_ffff;
        format!("mv{number:012x}").parse().ok()
    })
}

/// The MTU of a link, if a macvtap can have it.
pub(crate) fn mtu_of(link: &Link) -> Option<Mtu> {
    Mtu::try_from(u64::from(link.mtu)).ok()
}
