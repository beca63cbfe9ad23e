//! DEL, and what GC does for each attachment: removing everything, going on after failures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use attach::set_up_again;
use cni::{Misconfigured, Request, Target, ValidAttachment};
use net_types::Attach;
use netplumb::{DevNum, Link, LinkKind, Netlink, Netns, tap_device};
use node::{Attachment, LockError, NETNS_DIR, Paths};

use crate::device::{DeviceError, leads_to, node_metadata, node_path, remove_node};
use crate::find::{Found, Search};
use crate::k8slanveth::K8slanVeth;
use crate::lan_side::{self, LanSide, Port};
use crate::lower::{Named, attach, named};
use crate::minors::{MinorRecord, Minors};
use crate::put_back::{put_back, uncount};
use crate::{Config, Error, tap};

/// Detaches the pod. What does not exist any more is success.
///
/// # Errors
/// All errors; everything else was done.
pub(crate) fn del(request: &Request<Config>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
    let removal = |paths: &Paths, errors: &mut Vec<Error>| detach(request, target, paths, errors);
    attach::detach(request, target, |paths| ready(target, paths), removal)
}

/// DEL for a configuration that no longer parses: links and records are enough.
pub(crate) fn del_misconfigured(
    request: &Misconfigured,
    target: &Target<Option<PathBuf>>,
) -> Result<(), Error> {
    let removal = |paths: &Paths, errors: &mut Vec<Error>| drop(everywhere(target, paths, errors));
    let recorded = |paths: &Paths| ipam_of(target, paths);
    attach::detach_misconfigured(request, target, recorded, |paths| ready(target, paths), removal)
}

/// The IPAM plugin that ADD recorded.
fn ipam_of(target: &Target<Option<PathBuf>>, paths: &Paths) -> Option<String> {
    let all = Minors::existing(&paths.taps()).ok()??.all().ok()?;
    let mut given = all.into_iter().filter_map(|given| Some(given.ok()?.1));
    given.find(|given| given.attachment.is(target.container_id.as_str(), &target.ifname))?.ipam
}

/// Sets the interface up for the IPAM plugin, which may send something on it.
fn ready(target: &Target<Option<PathBuf>>, paths: &Paths) {
    let wanted = |a: &Attachment| a.is(target.container_id.as_str(), &target.ifname);
    // A record that cannot be read is reported when it is to be removed.
    held(paths, wanted, &mut Vec::new()).iter().for_each(|held| set_up_again(&held.attachment));
}

/// Frees this network's attachments that are not in the list.
///
/// # Errors
/// All errors; everything else was done.
pub(crate) fn gc<C>(request: &Request<C>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
    attach::gc(request, valid, |paths, is_stale, errors| {
        for held in held(paths, is_stale, errors) {
            attach::collect(request, paths, &held.attachment, errors, |errors| held.take_away(errors));
        }
        // A link whose record is lost may still have an address, which must not be given to another pod before an
        // administrator has looked.
        match unreadable(paths) {
            Ok(records) if !records.is_empty() => {
                errors.push(Error::UnreadableRecords { folder: paths.taps(), records });
                false
            }
            unreadable => {
                errors.extend(unreadable.err().map(Error::from));
                true
            }
        }
    })
}

fn unreadable(paths: &Paths) -> Result<Vec<String>, DeviceError> {
    Minors::existing(&paths.taps())?.map_or(Ok(Vec::new()), |minors| minors.unreadable())
}

/// Removes the attachment, and returns the IPAM plugin that ADD recorded for it.
fn detach(
    request: &Request<Config>,
    target: &Target<Option<PathBuf>>,
    paths: &Paths,
    errors: &mut Vec<Error>,
) -> Option<String> {
    match named(request, paths) {
        Ok(Named::Spoke(record, keys)) => match of_spoke(target, paths, *record, keys.as_ref()) {
            Ok(Removed::All(ipam)) => ipam,
            Ok(Removed::Port) => everywhere(target, paths, errors),
            // The port may be gone nevertheless; the rest is found by the records.
            Err(error) => {
                let held = matches!(error, Error::Lock(LockError::Held { .. }));
                let ipam = if held { None } else { everywhere(target, paths, errors) };
                errors.push(error);
                ipam
            }
        },
        // Also for a configuration that names nothing, or an untrusted record: ADD made nothing with it, or the
        // configuration was changed since.
        Ok(Named::Other(_)) | Err(_) => everywhere(target, paths, errors),
    }
}

/// What [`of_spoke`] removed.
enum Removed {
    /// Everything; with the IPAM plugin that ADD recorded.
    All(Option<String>),
    /// At most the port; other parts may remain.
    Port,
}

/// The usual case: the spoke's record says where the port is.
fn of_spoke(
    target: &Target<Option<PathBuf>>,
    paths: &Paths,
    record: lan::SpokeRecord,
    keys: Option<&K8slanVeth>,
) -> Result<Removed, Error> {
    let index = record.tap_index.get();
    let _lock = match lan_side::lock(paths, &record.spoke) {
        Err(held @ Error::Lock(LockError::Held { .. })) => return Err(held),
        // If a lock cannot be acquired at all, as on a read-only folder, no other program has it.
        lock => lock.ok(),
    };
    let Some(side) = LanSide::open_standing(record)? else { return Ok(Removed::Port) };
    let Some(port) = side.port_of(target.container_id.as_str(), &target.ifname)? else {
        side.clear_half_made()?;
        return Ok(Removed::Port);
    };
    // The kernel deletes its device node together with the link, so the number is read before.
    let device = node_metadata(&node_path(index))?.and_then(|meta| leads_to(&meta));
    side.netlink().delete_link(port.index)?;
    if let Some(device) = device
        && let Some(minors) = Minors::existing(&paths.taps())?
        && let Some(given) = minors.given(device)?
        && given.attachment.is(target.container_id.as_str(), &target.ifname)
    {
        minors.release(device, &given)?;
        return Ok(Removed::All(given.ipam));
    }
    // A veth has no minor; for a macvtap, the node was another device's.
    match attach(side.record(), keys) {
        Attach::Veth => Ok(Removed::All(None)),
        Attach::Macvtap => Ok(Removed::Port),
    }
}

/// Removes everything that the attachment has on this node, found by its tag, and returns the IPAM plugin that ADD
/// recorded.
fn everywhere(target: &Target<Option<PathBuf>>, paths: &Paths, errors: &mut Vec<Error>) -> Option<String> {
    let (mut recorded, mut ipam) = (false, None);
    for held in held(paths, |a| a.is(target.container_id.as_str(), &target.ifname), errors) {
        recorded |= !held.minors.is_empty();
        ipam = ipam.or_else(|| held.minors.iter().find_map(|(_, _, given)| given.ipam.clone()));
        held.take_away(errors);
    }
    if !recorded {
        errors.extend(unrecorded(target).err());
    }
    ipam
}

/// What an attachment has on this node.
struct Held {
    attachment: Attachment,
    ports: Vec<Port>,
    minors: Vec<Recorded>,
    /// The records of minors of all attachments.
    all: Rc<Vec<(DevNum, MinorRecord)>>,
}

impl Held {
    fn take_away(&self, errors: &mut Vec<Error>) {
        for port in &self.ports {
            errors.extend(port.netlink.delete_link(port.index).err().map(Error::from));
        }
        for recorded in &self.minors {
            errors.extend(take_away(recorded, &self.all).err());
        }
    }
}

/// What the attachments that `wanted` selects have on this node.
fn held(paths: &Paths, wanted: impl Fn(&Attachment) -> bool, errors: &mut Vec<Error>) -> Vec<Held> {
    let mut found = BTreeMap::new();
    for port in lan_side::find(Path::new(NETNS_DIR), &wanted, errors) {
        entry(&mut found, &port.attachment.clone()).ports.push(port);
    }
    match records(paths, errors) {
        Ok(Some((minors, all))) => {
            let all = Rc::new(all);
            for (device, given) in all.iter().filter(|(_, given)| wanted(&given.attachment)) {
                let held = entry(&mut found, &given.attachment);
                held.minors.push((Rc::clone(&minors), *device, given.clone()));
                held.all = Rc::clone(&all);
            }
        }
        Ok(None) => {}
        Err(error) => errors.push(error.into()),
    }
    found.into_values().collect()
}

/// Attachments, by container ID and interface name.
type All = BTreeMap<(String, String), Held>;

fn entry<'a>(all: &'a mut All, attachment: &Attachment) -> &'a mut Held {
    let key = (attachment.container_id.clone(), attachment.ifname.to_string());
    all.entry(key).or_insert_with(|| Held {
        attachment: attachment.clone(),
        ports: Vec::new(),
        minors: Vec::new(),
        all: Rc::default(),
    })
}

/// A minor with its record, and the folder of the records.
type Recorded = (Rc<Minors>, DevNum, MinorRecord);

/// The folder of the records of minors, and its contents.
type Records = (Rc<Minors>, Vec<(DevNum, MinorRecord)>);

/// All readable records; errors about others are added to `errors`.
fn records(paths: &Paths, errors: &mut Vec<Error>) -> Result<Option<Records>, DeviceError> {
    let Some(minors) = Minors::existing(&paths.taps())? else { return Ok(None) };
    let mut all = Vec::new();
    for given in minors.all()? {
        match given {
            Ok(given) => all.push(given),
            Err(error) => errors.push(error.into()),
        }
    }
    Ok(Some((Rc::new(minors), all)))
}

/// Removes what a minor's record is about: the macvtap, wherever it is by now, its device node, and the record.
fn take_away((minors, device, given): &Recorded, all: &[(DevNum, MinorRecord)]) -> Result<(), Error> {
    let attachment = &given.attachment;
    // The path may lead to another pod's namespace by now.
    let netns = Netns::open(&attachment.netns.path).ok();
    let netns = netns.filter(|netns| netns.id().ino == attachment.netns.inode);
    let search = Search { device: *device, given, all };
    match search.find(netns.as_ref())? {
        Some(Found::In(netlink, link)) => match &given.moved {
            Some(was) => put_back(&netlink, &link, &Netns::current()?, was)?,
            None => {
                // What remains counted on the lower link must not keep the macvtap.
                let uncounted = Netlink::open(&Netns::current()?)
                    .map_err(Error::from)
                    .and_then(|host| uncount(&netlink, &link, &host));
                netlink.delete_link(link.index)?;
                uncounted?;
            }
        },
        // It cannot be moved from there. Its device plugin creates it again.
        Some(Found::Beyond(netlink, number, link)) => netlink.delete_link_beyond(number, link.index)?,
        None => {}
    }
    Ok(minors.release(*device, given)?)
}

/// Removes macvtaps on a master without a record, left by an ADD that was killed before it wrote one. Their index
/// proves that they are this attachment's, and not another plugin's or, if the path now leads elsewhere, another
/// pod's.
fn unrecorded(target: &Target<Option<PathBuf>>) -> Result<(), Error> {
    let Some(netns) = target.netns.as_deref().and_then(|path| Netns::open(path).ok()) else { return Ok(()) };
    let netlink = Netlink::open(&netns)?;
    let is_one = |link: &Link| {
        matches!(link.kind, LinkKind::Macvtap(_))
            && tap::indices(target.container_id.as_str(), &target.ifname).any(|index| index == link.index)
    };
    for link in netlink.links()?.iter().filter(|link| is_one(link)) {
        let name = link.if_name();
        let device = name.and_then(|name| tap_device(&netns, &name, link.index).unwrap_or_default());
        netlink.delete_link(link.index)?;
        // The kernel deletes its own node with the link; if it makes none, the node is the plugin's.
        if let Some(device) = device {
            remove_node(&node_path(link.index), device)?;
        }
    }
    Ok(())
}
