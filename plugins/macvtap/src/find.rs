//! Finding the macvtap of a record.
//!
//! A privileged container in the pod can rename the macvtap, move it to another namespace, give it another index and
//! device number there, and create another link with its index or name. It cannot change which link of the node the
//! macvtap is on. It can create one more there, on top of its own, which is deleted with its namespace.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use net_types::MacvtapMode;
use netplumb::{DevNum, Link, LinkKind, Netlink, Netns, tap_device};
use node::NETNS_DIR;

use crate::Error;
use crate::device::index_of;
use crate::minors::MinorRecord;

/// The folders where `ip netns` and the runtimes keep namespaces.
const NETNS_DIRS: [&str; 2] = [NETNS_DIR, "/var/run/netns"];

/// A macvtap that was found, and where.
pub(crate) enum Found {
    /// In a namespace that can be opened; with a socket in it.
    In(Netlink, Link),
    /// In a namespace without a path that another one, whose socket this is, has a number for.
    Beyond(Netlink, i32, Link),
}

/// The record of the macvtap to find, and all others.
pub(crate) struct Search<'a> {
    pub(crate) device: DevNum,
    pub(crate) given: &'a MinorRecord,
    /// All records of this node.
    pub(crate) all: &'a [(DevNum, MinorRecord)],
}

/// What identifies a candidate.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Whether its index is the record's.
    index: bool,
    /// Whether its device number is the record's.
    device: bool,
    /// Whether its MAC address is the record's.
    mac: bool,
    /// Whether it is on the record's link of the node; `None` if the record has none.
    on_lower: Option<bool>,
    /// Whether it is in mode passthru, so that it has that link for itself.
    passthru: bool,
    /// Whether another attachment's record claims it.
    of_another: bool,
    place: Place,
}

/// Where a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the namespace of the attachment.
    Pod,
    /// In a namespace that the attachment's has a number for, since links went there.
    FromPod,
    /// In any other namespace except the node's.
    Elsewhere,
    /// In the node's own namespace.
    Host,
}

impl Seen {
    /// How well it fits the record, 0 being the best; `None` if it is another macvtap.
    fn rank(self) -> Option<u8> {
        let fits = match (self.on_lower, self.index, self.device) {
            (None | Some(true), true, true) => Some(0),
            (Some(true), false, true) => Some(1),
            (Some(true), true, false) => Some(2),
            // Index and device number can change in a move to another namespace. Another plugin's macvtap, in this
            // pod or another, is left alone.
            (Some(true), false, false) => match self.place {
                Place::Pod => (self.passthru || self.mac).then_some(3),
                Place::FromPod => Some(3),
                Place::Elsewhere => self.mac.then_some(4),
                Place::Host => None,
            },
            // The link of the node has moved to another namespace itself.
            (Some(false), true, true) => (self.place == Place::Pod).then_some(5),
            (None | Some(false), _, _) => None,
        };
        fits.filter(|_| !self.of_another)
    }
}

/// The best candidate so far, with its rank.
type Best = Option<(u8, Found)>;

impl Search<'_> {
    /// Finds the macvtap; `None` if it does not exist. `pod`: the namespace that it was created in, if that still
    /// exists.
    ///
    /// # Errors
    /// The kernel refuses a request.
    pub(crate) fn find(&self, pod: Option<&Netns>) -> Result<Option<Found>, Error> {
        let host = Netns::current()?;
        let mut best: Best = None;
        let pod = match pod {
            Some(netns) => {
                let netlink = Netlink::open(netns)?;
                // Nearly always it is still where ADD put it.
                let usual = index_of(&self.given.node).map(|index| netlink.link_by_index(index));
                if let Some(link) = usual.transpose()?.flatten()
                    && self.rank(netns, &netlink, &host, &link, Place::Pod)? == Some(0)
                {
                    return Ok(Some(Found::In(netlink, link)));
                }
                Some((netns, netlink))
            }
            None => None,
        };
        // A spoke's macvtap is deleted with its veth pair, and an older record has no more information.
        if self.given.lower.is_none() {
            return Ok(None);
        }
        if let Some((netns, netlink)) = &pod {
            self.look_in(netns, netlink, &host, Place::Pod, &mut best)?;
        }
        let mut seen: HashSet<u64> = pod.iter().map(|(netns, _)| netns.id().ino).collect();
        for path in namespaces() {
            if best.as_ref().is_some_and(|(rank, _)| *rank <= 1) {
                break;
            }
            // Processes and namespaces come and go meanwhile.
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if !seen.insert(meta.ino()) {
                continue;
            }
            let Ok(netns) = Netns::open(&path) else { continue };
            let Ok(netlink) = Netlink::open(&netns) else { continue };
            let known = || pod.as_ref().map(|(_, pod)| pod.number_of(&netns)).transpose();
            let place = match netns == host {
                true => Place::Host,
                false if known()?.flatten().is_some() => Place::FromPod,
                false => Place::Elsewhere,
            };
            self.look_in(&netns, &netlink, &host, place, &mut best)?;
        }
        if best.is_none()
            && let Some((_, netlink)) = pod
        {
            return self.beyond(netlink, &host);
        }
        Ok(best.map(|(_, found)| found))
    }

    fn look_in(
        &self,
        netns: &Netns,
        netlink: &Netlink,
        host: &Netns,
        place: Place,
        best: &mut Best,
    ) -> Result<(), Error> {
        for link in netlink.links()? {
            if let Some(rank) = self.rank(netns, netlink, host, &link, place)?
                && best.as_ref().is_none_or(|(best, _)| rank < *best)
            {
                *best = Some((rank, Found::In(Netlink::open(netns)?, link)));
            }
        }
        Ok(())
    }

    fn rank(
        &self,
        netns: &Netns,
        netlink: &Netlink,
        host: &Netns,
        link: &Link,
        place: Place,
    ) -> Result<Option<u8>, Error> {
        let LinkKind::Macvtap(info) = &link.kind else { return Ok(None) };
        let on_lower = match self.given.lower {
            Some(lower) => Some(link.lower == Some(lower) && lower_is_in(netns, netlink, link, host)?),
            None => None,
        };
        if on_lower == Some(false) && place != Place::Pod {
            return Ok(None);
        }
        // The device number of a link whose name only the kernel allows cannot be read.
        let device = link.if_name().map(|name| tap_device(netns, &name, link.index)).transpose()?.flatten();
        let seen = Seen {
            index: index_of(&self.given.node) == Some(link.index),
            device: device == Some(self.device),
            mac: link.mac.is_some() && link.mac == self.given.mac,
            on_lower,
            passthru: info.mode == Some(MacvtapMode::Passthru),
            of_another: self.others().any(|(number, _)| Some(*number) == device),
            place,
        };
        Ok(seen.rank())
    }

    /// Searches namespaces that only the pod's has a number for: they have no path, and an open file keeps them.
    fn beyond(&self, pod: Netlink, host: &Netns) -> Result<Option<Found>, Error> {
        let home = pod.number_of(host)?;
        for number in pod.known_namespaces()?.into_iter().filter(|number| Some(*number) != home) {
            // The namespace was deleted meanwhile, or the kernel does not support the request.
            let Ok(links) = pod.links_beyond(number) else { continue };
            // Numbers of namespaces in such an answer are relative to the requesting namespace
            // (rtnl_fill_link_netnsid).
            let ours = links.into_iter().find(|link| {
                matches!(link.kind, LinkKind::Macvtap(_))
                    && link.lower == self.given.lower
                    && link.lower_netnsid == home
                    && !self.others().any(|(_, other)| index_of(&other.node) == Some(link.index))
            });
            if let Some(link) = ours {
                return Ok(Some(Found::Beyond(pod, number, link)));
            }
        }
        Ok(None)
    }

    fn others(&self) -> impl Iterator<Item = &(DevNum, MinorRecord)> {
        let own = &self.given.attachment;
        self.all.iter().filter(move |(_, other)| !other.attachment.is(&own.container_id, &own.ifname))
    }
}

/// Whether the lower link of a macvtap is in this namespace of the node.
fn lower_is_in(netns: &Netns, netlink: &Netlink, link: &Link, host: &Netns) -> Result<bool, Error> {
    match link.lower_netnsid {
        None => Ok(netns == host),
        Some(number) => Ok(netlink.number_of(host)? == Some(number)),
    }
}

/// The paths of all namespaces that have one.
fn namespaces() -> impl Iterator<Item = PathBuf> {
    let entries = |folder: &str| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = NETNS_DIRS.into_iter().flat_map(entries).map(|entry| entry.path());
    let of_processes = entries("/proc")
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .map(|entry| entry.path().join("ns/net"));
    named.chain(of_processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(on_lower: Option<bool>, index: bool, device: bool, place: Place) -> Option<u8> {
        Seen { index, device, mac: false, on_lower, passthru: false, of_another: false, place }.rank()
    }

    #[test]
    fn the_link_below_counts_more_than_index_and_device() {
        let moved = rank(Some(true), false, true, Place::FromPod);
        let decoy = rank(Some(false), true, true, Place::Pod);
        assert!(moved < decoy && moved.is_some());
        assert_eq!(
            rank(Some(false), true, false, Place::Pod),
            None,
            "a link that the pod made with that index"
        );
        assert_eq!(rank(Some(false), true, true, Place::Elsewhere), None);
    }

    #[test]
    fn what_is_not_known_by_index_or_device_is_ours_only_where_the_pod_put_it() {
        assert_eq!(rank(Some(true), false, false, Place::Pod), None, "another plugin's, in the same pod");
        assert_eq!(
            rank(Some(true), false, false, Place::Elsewhere),
            None,
            "another plugin's, in another pod"
        );
        assert!(rank(Some(true), false, false, Place::FromPod).is_some());
        let alone = Seen {
            index: false,
            device: false,
            mac: false,
            on_lower: Some(true),
            passthru: true,
            of_another: false,
            place: Place::Pod,
        };
        assert!(alone.rank().is_some(), "nothing else stands on a link that is passed through");
        assert_eq!(Seen { of_another: true, ..alone }.rank(), None);
        let by_address = Seen { passthru: false, mac: true, place: Place::Elsewhere, ..alone };
        assert!(by_address.rank().is_some());
        assert_eq!(Seen { place: Place::Host, ..by_address }.rank(), None);
        assert_eq!(Seen { place: Place::Elsewhere, ..alone }.rank(), None, "it was made since");
    }

    #[test]
    fn a_record_of_an_older_version_tells_by_index_and_device() {
        assert_eq!(rank(None, true, true, Place::Pod), Some(0));
        assert_eq!(rank(None, true, false, Place::Pod), None);
        assert_eq!(rank(None, false, true, Place::Pod), None);
    }
}
