//! CHECK: whether everything still is as ADD promised.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use attach::{Mismatch, at_most, check_port, on_or_off, own_part, plain_port, same};
use cni::{AddResult, Request, Target};
use net_types::{Attach, IfName, MacvtapMode, Mtu};
use netplumb::{DevNum, Link, LinkKind, Netlink, tap_device};
use node::Occupant;

use crate::config::Wanted;
use crate::device::{MODE, leads_to, node_metadata, node_path};
use crate::lan_side::LanSide;
use crate::lower::{Named, attach, named};
use crate::minors::{MinorRecord, Minors};
use crate::{Call, Config, Error};

/// Verifies the attachment: the interface and its lower link, the device node, addresses and routes, the LAN's side,
/// and the IPAM plugin's lease.
///
/// # Errors
/// The first difference.
pub(crate) fn check(request: &Request<Config>, target: &Target, promised: &AddResult) -> Result<(), Error> {
    let call = Call::open(request, target)?;
    let ifname = &target.ifname;
    let link = call.netlink.link_by_name(ifname)?.ok_or_else(|| {
        Mismatch::new(format!("interface {ifname}"), "missing", "an interface of that name")
    })?;
    let own = own_part(promised, ifname).ok_or_else(|| {
        Mismatch::new(
            format!("interface {ifname} in prevResult"),
            "missing",
            "an interface of that name in the pod",
        )
    })?;
    interface(&call, &link, promised)?;
    let record = match named(request, &call.node.paths())? {
        Named::Spoke(record, keys) => {
            let attach = attach(&record, keys.as_ref());
            let side = LanSide::open(*record)?;
            on_spoke(&call, &side, &link, attach)?;
            if keys.is_some_and(|keys| keys.disable_tx_checksum) {
                let what = format!("tx-checksum-ip-generic of the port of spoke {}", side.record().spoke);
                same(&what, on_or_off(!side.completes_checksums()?), "off")?;
            }
            match attach {
                Attach::Veth => None,
                Attach::Macvtap => {
                    same("tap index", link.index, side.record().tap_index.get())?;
                    Some(device(&call, &link)?)
                }
            }
        }
        Named::Other(Wanted::Spoke(spoke)) => return Err(Error::NoSpoke(spoke)),
        Named::Other(Wanted::Master(master)) => {
            let host = Netlink::open(&netplumb::Netns::current()?)?;
            let lower = host.link_by_name(&master)?.ok_or_else(|| Error::NoMaster(master.clone()))?;
            same(&format!("the link below {ifname}"), link.lower.unwrap_or(0), lower.index)?;
            mode(&link, request.config.mode.unwrap_or(MacvtapMode::Bridge))?;
            let record = device(&call, &link)?;
            on_host_link(&link, ifname, &lower, &record)?;
            Some(record)
        }
        Named::Other(Wanted::Device(_)) => {
            let host = Netlink::open(&netplumb::Netns::current()?)?;
            let record = device(&call, &link)?;
            if let Some(lower) = link.lower
                && let Some(lower) = host.link_by_index(lower)?
            {
                on_host_link(&link, ifname, &lower, &record)?;
            }
            Some(record)
        }
    };
    let before = record.as_ref().is_some_and(MinorRecord::is_of_the_version_before);
    let guest = if before { Occupant::is_launcher_link(ifname) } else { call.is_for_a_guest() };
    if guest {
        call.check_silence::<Error>(&link, record.is_some() && !before)?;
    }
    // A guest's macvtap has no addresses; the version before left its veth bare too, and made it hear no more than its own
    // groups.
    if !guest || link.kind == LinkKind::Veth && link.allmulti {
        call.check_addresses(&link, &own, guest).map_err(Error::Pod)?;
    }
    if let Some(ipam) = request.ipam() {
        ipam.check()?;
    }
    Ok(())
}

/// The interface as the pod has it.
fn interface(call: &Call<'_>, link: &Link, promised: &AddResult) -> Result<(), Error> {
    let ifname = &call.target.ifname;
    let of = |what: &str| format!("{what} of interface {ifname}");
    same(&of("state"), on_or_off(link.up), "on")?;
    same(&of("protodown"), on_or_off(link.proto_down), "off")?;
    call.check_interface(link, promised)?;
    at_most(&of("MTU"), link.mtu, call.request.config.mtu.map(Mtu::get))?;
    if call.request.config.promisc_mode {
        same(&of("promiscuous mode"), on_or_off(link.promisc), "on")?;
    }
    Ok(())
}

/// Whether a macvtap passes frames to and from a link of the node. That this has no carrier itself, as without a cable,
/// is no difference from what ADD made, nor is it that it was down then.
fn on_host_link(link: &Link, ifname: &IfName, lower: &Link, record: &MinorRecord) -> Result<(), Mismatch> {
    let is_up = lower.up || record.lower_was_down;
    same(&format!("state of link {}, below {ifname}", lower.name), on_or_off(is_up), "on")?;
    same(&format!("carrier of interface {ifname}"), on_or_off(link.carrier || !lower.carrier), "on")
}

/// The LAN's side of a spoke's attachment.
fn on_spoke(call: &Call<'_>, side: &LanSide, link: &Link, attach: Attach) -> Result<(), Error> {
    let record = side.record();
    let spoke = &record.spoke;
    let Some(port) = side.port_of(call.target.container_id.as_str(), &call.target.ifname)? else {
        let what = format!("the port of spoke {spoke}");
        return Err(Mismatch::new(what, "not this attachment's", "its port").into());
    };
    let bridge = side.netlink().link_by_name(&record.bridge)?.map(|bridge| bridge.index);
    same(&format!("the bridge of spoke {spoke}"), number(port.master), number(bridge))?;
    same(&format!("state of the port of spoke {spoke}"), on_or_off(port.up), "on")?;
    // The daemon keeps all links of a LAN at its MTU; a port with a smaller one drops longer frames.
    same(&format!("MTU of the port of spoke {spoke}"), port.mtu, side.mtu().get())?;
    check_port(&format!("the port of spoke {spoke}"), &port, &plain_port(), false)?;
    let mask = port.port.as_ref().map_or(0, |port| port.group_fwd_mask);
    same(
        &format!("group_fwd_mask of the port of spoke {spoke}"),
        format!("{mask:#06x}"),
        format!("{:#06x}", lan::GROUP_FWD_MASK),
    )?;
    // A result before version 1.1.0 has no MTU.
    at_most(&format!("MTU of interface {}", call.target.ifname), link.mtu, Some(port.mtu))?;
    let below = link.lower.unwrap_or(0);
    match attach {
        Attach::Veth => {
            if link.kind != LinkKind::Veth {
                return Err(Mismatch::new("the interface", "no veth", "a veth").into());
            }
            same("the peer of the interface", below, port.index)
        }
        Attach::Macvtap => {
            let end = side.netlink().link_by_name(spoke.link())?;
            let end = end.ok_or_else(|| {
                Mismatch::new(format!("spoke {spoke}"), "missing", "the veth end below the macvtap")
            })?;
            same(&format!("the link below {}", call.target.ifname), below, end.index)?;
            same(&format!("state of spoke {spoke}"), on_or_off(end.up), "on")?;
            same(&format!("MTU of spoke {spoke}"), end.mtu, port.mtu)?;
            mode(link, record.mode)
        }
    }?;
    // With both ends up it has one, unless somebody in the pod took it away.
    Ok(same(&format!("carrier of interface {}", call.target.ifname), on_or_off(link.carrier), "on")?)
}

fn mode(link: &Link, promised: MacvtapMode) -> Result<(), Mismatch> {
    match &link.kind {
        LinkKind::Macvtap(macvtap) if macvtap.mode == Some(promised) => Ok(()),
        LinkKind::Macvtap(macvtap) => {
            let have = macvtap.mode.map_or("unknown", MacvtapMode::as_str);
            Err(Mismatch::new("the macvtap's mode", have, promised))
        }
        _ => Err(Mismatch::new("the interface", "no macvtap", "a macvtap")),
    }
}

/// Whether the device node leads to the interface, and its user may open it. Returns the record of the device.
fn device(call: &Call<'_>, link: &Link) -> Result<MinorRecord, Error> {
    let ifname = &call.target.ifname;
    let device = tap_device(&call.netns, ifname, link.index)?.ok_or_else(|| Error::NoTap(ifname.clone()))?;
    let path = node_path(link.index);
    let Some(meta) = node_metadata(&path)? else {
        return Err(Mismatch::new(shown(&path), "missing", "the device node of the macvtap").into());
    };
    if leads_to(&meta) != Some(device) {
        let promised = format!("device {}:{}", device.major, device.minor);
        return Err(Mismatch::new(shown(&path), "the node of another device", promised).into());
    }
    let record = recorded(call, device)?;
    let config = &call.request.config;
    let owner = format!("{}:{}", meta.uid(), meta.gid());
    same(&format!("the owner of {}", shown(&path)), owner, format!("{}:{}", config.owner, config.group))?;
    let mode = |mode: u32| format!("{:04o}", mode & 0o7777);
    same(&format!("the mode of {}", shown(&path)), mode(meta.mode()), mode(MODE))?;
    Ok(record)
}

/// The record by which DEL, and the next ADD of a macvtap, know whose the device is.
fn recorded(call: &Call<'_>, device: DevNum) -> Result<MinorRecord, Error> {
    let given = match Minors::existing(&call.node.paths().taps())? {
        Some(minors) => minors.given(device)?,
        None => None,
    };
    let what = format!("the record of device {}:{}", device.major, device.minor);
    let Some(record) = given else {
        return Err(Mismatch::new(what, "missing", "this attachment's").into());
    };
    if record.attachment.is(call.target.container_id.as_str(), &call.target.ifname) {
        return Ok(record);
    }
    Err(Mismatch::new(what, format!("that of {}", record.attachment), "this attachment's").into())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn number(index: Option<u32>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| format!("link {index}"))
}
