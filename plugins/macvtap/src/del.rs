//! DEL, and what GC does for each attachment: taking away, going on after failures.

use std::path::{Path, PathBuf};

use attach::give_back;
use cni::{Misconfigured, Request, Target, ValidAttachment};
use netplumb::{DevNum, LinkKind, Netlink, Netns, tap_device};
use node::{Attachment, LockError, NetworkId, NodeConfig, Paths};

use crate::base::{Named, named};
use crate::config::Wanted;
use crate::device::{Given, Minors, index_of, leads_to, look, node_path, remove_node};
use crate::lan_side::{self, LanSide, is_stale};
use crate::{Config, Error, add, tap};

/// Where `ip netns` and the daemon keep namespaces.
const NETNS_DIR: &str = "/run/netns";

/// Detaches the pod. What is gone already is success.
///
/// # Errors
/// All that went wrong; everything else was done.
pub(crate) fn del(request: &Request<Config>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let (paths, unknown) = NodeConfig::paths_for_removal();
    detach(request, target, &paths, &mut errors);
    errors.extend(unknown.map(Error::from));
    // After the interface: an address that is free may be another pod's at once.
    if let Some(ipam) = request.ipam() {
        errors.extend(ipam.del().err().map(Error::from));
    }
    Error::all(errors)
}

/// DEL for a configuration that no longer parses: what the links and records say is enough.
pub(crate) fn del_misconfigured(
    request: &Misconfigured,
    target: &Target<Option<PathBuf>>,
) -> Result<(), Error> {
    let mut errors = Vec::new();
    let (paths, unknown) = NodeConfig::paths_for_removal();
    let ipam = ipam_of(target, &paths);
    everywhere(target, &paths, &mut errors);
    errors.extend(unrecorded(target).err());
    errors.extend(unknown.map(Error::from));
    errors.extend(give_back(request, ipam.as_deref()).err().map(Error::from));
    Error::all(errors)
}

/// The IPAM plugin that ADD wrote down.
fn ipam_of(target: &Target<Option<PathBuf>>, paths: &Paths) -> Option<String> {
    let all = Minors::existing(&paths.taps()).ok()??.all().ok()?;
    let mut given = all.into_iter().filter_map(|given| Some(given.ok()?.1));
    given.find(|given| given.attachment.is(target.container_id.as_str(), &target.ifname))?.ipam
}

/// Frees this network's attachments that are not in the list.
///
/// # Errors
/// All that went wrong; everything else was done.
pub(crate) fn gc<C>(request: &Request<C>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
    let mut errors = Vec::new();
    // A runtime that gives no list says nothing about what is valid.
    if let Some(valid) = valid {
        let network = NetworkId::of(request.network.as_str());
        let (paths, unknown) = NodeConfig::paths_for_removal();
        sweep(&paths, |a| is_stale(a, network, valid), &mut errors);
        errors.extend(unknown.map(Error::from));
    }
    if let Some(ipam) = request.ipam() {
        errors.extend(ipam.gc().err().map(Error::from));
    }
    Error::all(errors)
}

fn detach(
    request: &Request<Config>,
    target: &Target<Option<PathBuf>>,
    paths: &Paths,
    errors: &mut Vec<Error>,
) {
    match named(request, paths) {
        Ok(Named::Spoke(record)) => match of_spoke(target, paths, *record) {
            Ok(true) => {}
            Ok(false) => everywhere(target, paths, errors),
            // The port may be gone all the same, and what else there is of it goes by the records.
            Err(error) => {
                if !matches!(error, Error::Lock(LockError::Held { .. })) {
                    everywhere(target, paths, errors);
                }
                errors.push(error);
            }
        },
        Ok(Named::Other(Wanted::Spoke(_) | Wanted::Device(_))) => everywhere(target, paths, errors),
        Ok(Named::Other(Wanted::Master(_))) => {
            everywhere(target, paths, errors);
            errors.extend(unrecorded(target).err());
        }
        // A configuration that names nothing, or a record that is not trusted: ADD made nothing with it,
        // or made it before.
        Err(_) => {
            everywhere(target, paths, errors);
            errors.extend(unrecorded(target).err());
        }
    }
}

/// The usual case: the record says where the port is. Returns whether it was there.
fn of_spoke(
    target: &Target<Option<PathBuf>>,
    paths: &Paths,
    record: lan::SpokeRecord,
) -> Result<bool, Error> {
    let index = record.tap_index.get();
    let _lock = match lan_side::lock(paths, &record.spoke) {
        Err(held @ Error::Lock(LockError::Held { .. })) => return Err(held),
        // Where no lock can be had, as on a read-only folder, nobody has it.
        lock => lock.ok(),
    };
    let Some(side) = LanSide::open_standing(record)? else { return Ok(false) };
    let Some(port) = side.port_of(target.container_id.as_str(), &target.ifname)? else {
        side.clear_half_made()?;
        return Ok(false);
    };
    // The kernel takes its node away with the link, and with it the number.
    let device = look(&node_path(index))?.and_then(|meta| leads_to(&meta));
    side.netlink().delete_link(port.index)?;
    if let Some(device) = device
        && let Some(minors) = Minors::existing(&paths.taps())?
        && let Some(given) = minors.given(device)?
        && given.attachment.is(target.container_id.as_str(), &target.ifname)
    {
        minors.release(device, &given)?;
        return Ok(true);
    }
    // A veth has no minor; of a macvtap, the node was not the right one.
    Ok(side.record().attach == net_types::Attach::Veth)
}

/// Whatever the attachment has on this node, found by its tag.
fn everywhere(target: &Target<Option<PathBuf>>, paths: &Paths, errors: &mut Vec<Error>) {
    sweep(paths, |a| a.is(target.container_id.as_str(), &target.ifname), errors);
}

/// Takes away every attachment on this node that `wanted` picks.
fn sweep(paths: &Paths, wanted: impl Fn(&Attachment) -> bool, errors: &mut Vec<Error>) {
    for port in lan_side::find(Path::new(NETNS_DIR), &wanted, errors) {
        errors.extend(port.netlink.delete_link(port.index).err().map(Error::from));
    }
    let minors = match Minors::existing(&paths.taps()) {
        Ok(Some(minors)) => minors,
        Ok(None) => return,
        Err(error) => return errors.push(error.into()),
    };
    match minors.all() {
        Ok(all) => {
            for given in all {
                match given {
                    Ok((device, given)) if wanted(&given.attachment) => {
                        errors.extend(take_away(&minors, device, &given).err());
                    }
                    Ok(_) => {}
                    Err(error) => errors.push(error.into()),
                }
            }
        }
        Err(error) => errors.push(error.into()),
    }
}

/// Takes away what a minor's record says: a macvtap in the pod, its node, the record.
fn take_away(minors: &Minors, device: DevNum, given: &Given) -> Result<(), Error> {
    let attachment = &given.attachment;
    let netns = Netns::open(&attachment.netns.path).ok();
    // The path may lead to another pod's by now.
    if let Some(netns) = netns.filter(|netns| netns.id().ino == attachment.netns.inode) {
        let netlink = Netlink::open(&netns)?;
        match &given.moved {
            Some(was) => {
                let index = index_of(&given.node).unwrap_or(0);
                add::move_back(&netlink, &attachment.ifname, index, &Netns::current()?, was)?;
            }
            None => {
                let link = netlink.link_by_name(&attachment.ifname)?;
                if let Some(link) = link.filter(|link| {
                    matches!(link.kind, LinkKind::Macvtap(_)) && index_of(&given.node) == Some(link.index)
                }) {
                    netlink.delete_link(link.index)?;
                }
            }
        }
    }
    Ok(minors.release(device, given)?)
}

/// A macvtap on a master without a record: an ADD that was killed before it wrote one. Its index tells that it
/// is this attachment's, and neither another plugin's nor, where the path leads elsewhere by now, another pod's.
fn unrecorded(target: &Target<Option<PathBuf>>) -> Result<(), Error> {
    let Some(netns) = target.netns.as_deref().and_then(|path| Netns::open(path).ok()) else { return Ok(()) };
    let netlink = Netlink::open(&netns)?;
    let Some(link) = netlink.link_by_name(&target.ifname)? else { return Ok(()) };
    let ours = matches!(link.kind, LinkKind::Macvtap(_))
        && tap::indices(target.container_id.as_str(), &target.ifname).any(|index| index == link.index);
    if !ours {
        return Ok(());
    }
    let device = tap_device(&netns, &target.ifname, link.index).unwrap_or_default();
    netlink.delete_link(link.index)?;
    // The kernel takes its own node away; where it makes none, this one is the plugin's.
    match device {
        Some(device) => Ok(remove_node(&node_path(link.index), device)?),
        None => Ok(()),
    }
}
