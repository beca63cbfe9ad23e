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
    let go = |name: IfName| {
        let (netns, name) = (Some(host.clone()), Some(name));
        from.set_link(link.index, &LinkChange { netns, name, ..LinkChange::default() })
    };
    match go(was.name.clone()) {
        Err(error) if error.is_exists() => {
            let there = Netlink::open(host)?.link_by_name(&was.name)?;
            if there.is_some_and(|there| is_remade(&there, link)) {
                return Ok(from.delete_link(link.index)?);
            }
            let gone = free_names(link.index).map(go).find(|gone| !matches!(gone, Err(e) if e.is_exists()));
            gone.unwrap_or(Err(error))?;
        }
        done => done?,
    }
    Ok(restored?)
}

/// Whether a link of the host is another macvtap on the link that the pod's stands on.
fn is_remade(there: &Link, link: &Link) -> bool {
    matches!(there.kind, LinkKind::Macvtap(_)) && there.lower_netnsid.is_none() && there.lower == link.lower
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
