//! CHECK: whether everything still is as ADD promised.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use attach::{PodLink, PortDifference, own_part, plain_port, port_difference};
use cni::{AddResult, Request, Target};
use net_types::{Attach, IfName, MacvtapMode, Mtu};
use netplumb::{Conf, DevNum, Link, LinkKind, Netlink, Sysctl, tap_device};

use crate::config::Wanted;
use crate::device::{MODE, leads_to, node_metadata, node_path};
use crate::lan_side::LanSide;
use crate::lower::{Named, attach, named};
use crate::minors::{MinorRecord, Minors};
use crate::{Call, Config, Error, add};

/// Verifies the attachment: the interface and its lower link, the device node, addresses and routes, the LAN's side,
/// and the IPAM plugin's lease.
///
/// # Errors
/// The first difference.
pub(crate) fn check(request: &Request<Config>, target: &Target, promised: &AddResult) -> Result<(), Error> {
    let call = Call::open(request, target)?;
    let ifname = &target.ifname;
    let link = call.netlink.link_by_name(ifname)?.ok_or_else(|| {
        Error::mismatch(format!("interface {ifname}"), "missing", "an interface of that name")
    })?;
    let own = own_part(promised, ifname).ok_or_else(|| {
        Error::mismatch(
            format!("interface {ifname} in prevResult"),
            "missing",
            "an interface of that name in the pod",
        )
    })?;
    interface(&call, &link, promised)?;
    match named(request, &call.node.paths())? {
        Named::Spoke(record, keys) => {
            let attach = attach(&record, keys.as_ref());
            let side = LanSide::open(*record)?;
            on_spoke(&call, &side, &link, attach)?;
            if keys.is_some_and(|keys| keys.disable_tx_checksum) {
                let what = format!("tx-checksum-ip-generic of the port of spoke {}", side.record().spoke);
                same(&what, state(!side.completes_checksums()?), state(false))?;
            }
            if attach == Attach::Macvtap {
                same("tap index", link.index, side.record().tap_index.get())?;
                device(&call, &link)?;
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
        }
        Named::Other(Wanted::Device(_)) => {
            let host = Netlink::open(&netplumb::Netns::current()?)?;
            let record = device(&call, &link)?;
            if let Some(lower) = link.lower
                && let Some(lower) = host.link_by_index(lower)?
            {
                on_host_link(&link, ifname, &lower, &record)?;
            }
        }
    }
    if let Some(mac) = link.mac {
        let pod_link = add::pod_link(&call, link.index, mac);
        match (call.is_for_a_guest(), link.kind == LinkKind::Veth) {
            (false, _) => pod_link.verify(&own)?,
            (true, true) => pod_link.verify(&PodLink::of_guest(&own))?,
            (true, false) => {}
        }
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
    same(&of("state"), state(link.up), state(true))?;
    same(&of("protodown"), state(link.proto_down), state(false))?;
    if let Some(interface) =
        promised.interfaces.iter().find(|i| i.sandbox.is_some() && i.name == ifname.as_str())
    {
        if let Some(mac) = &interface.mac {
            let have = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            same(&of("MAC address"), have, mac.to_lowercase())?;
        }
        at_most(&of("MTU"), link.mtu, interface.mtu)?;
    }
    at_most(&of("MTU"), link.mtu, call.request.config.mtu.map(Mtu::get))?;
    if call.request.config.promisc_mode {
        same(&of("promiscuous mode"), state(link.promisc), state(true))?;
    }
    if call.is_for_a_guest() {
        same(&of("ARP"), state(!link.noarp), state(false))?;
        same(&of("allmulticast"), state(link.allmulti), state(true))?;
        let setting = Sysctl::ipv6(Conf::Link(ifname), "disable_ipv6");
        if let Some(value) = call.netns.sysctl_get(&setting)? {
            same(&of("disable_ipv6"), value, "1")?;
        }
    }
    Ok(())
}

/// Whether a macvtap passes frames to and from a link of the node. That this has no carrier itself, as without a cable,
/// is no difference from what ADD made, nor is it that it was down then.
fn on_host_link(link: &Link, ifname: &IfName, lower: &Link, record: &MinorRecord) -> Result<(), Error> {
    let is_up = lower.up || record.lower_was_down;
    same(&format!("state of link {}, below {ifname}", lower.name), state(is_up), state(true))?;
    same(&format!("carrier of interface {ifname}"), state(link.carrier || !lower.carrier), state(true))
}

/// The LAN's side of a spoke's attachment.
fn on_spoke(call: &Call<'_>, side: &LanSide, link: &Link, attach: Attach) -> Result<(), Error> {
    let record = side.record();
    let spoke = &record.spoke;
    let Some(port) = side.port_of(call.target.container_id.as_str(), &call.target.ifname)? else {
        return Err(Error::mismatch(
            format!("the port of spoke {spoke}"),
            "not this attachment's",
            "its port",
        ));
    };
    let bridge = side.netlink().link_by_name(&record.bridge)?.map(|bridge| bridge.index);
    same(&format!("the bridge of spoke {spoke}"), number(port.master), number(bridge))?;
    same(&format!("state of the port of spoke {spoke}"), state(port.up), state(true))?;
    // The daemon keeps all links of a LAN at its MTU; a port with a smaller one drops longer frames.
    same(&format!("MTU of the port of spoke {spoke}"), port.mtu, side.mtu().get())?;
    if let Some(PortDifference { what, found, promised }) = port_difference(&port, &plain_port(), false) {
        return Err(Error::mismatch(format!("{what} of the port of spoke {spoke}"), found, promised));
    }
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
                return Err(Error::mismatch("the interface", "no veth", "a veth"));
            }
            same("the peer of the interface", below, port.index)
        }
        Attach::Macvtap => {
            let end = side.netlink().link_by_name(spoke.link())?;
            let end = end.ok_or_else(|| {
                Error::mismatch(format!("spoke {spoke}"), "missing", "the veth end below the macvtap")
            })?;
            same(&format!("the link below {}", call.target.ifname), below, end.index)?;
            same(&format!("state of spoke {spoke}"), state(end.up), state(true))?;
            same(&format!("MTU of spoke {spoke}"), end.mtu, port.mtu)?;
            mode(link, record.mode)
        }
    }?;
    // With both ends up it has one, unless somebody in the pod took it away.
    same(&format!("carrier of interface {}", call.target.ifname), state(link.carrier), state(true))
}

fn mode(link: &Link, promised: MacvtapMode) -> Result<(), Error> {
    match &link.kind {
        LinkKind::Macvtap(macvtap) if macvtap.mode == Some(promised) => Ok(()),
        LinkKind::Macvtap(macvtap) => {
            let have = macvtap.mode.map_or("unknown", MacvtapMode::as_str);
            Err(Error::mismatch("the macvtap's mode", have, promised))
        }
        _ => Err(Error::mismatch("the interface", "no macvtap", "a macvtap")),
    }
}

/// Whether the device node leads to the interface, and its user may open it. Returns the record of the device.
fn device(call: &Call<'_>, link: &Link) -> Result<MinorRecord, Error> {
    let ifname = &call.target.ifname;
    let device = tap_device(&call.netns, ifname, link.index)?.ok_or_else(|| Error::NoTap(ifname.clone()))?;
    let path = node_path(link.index);
    let Some(meta) = node_metadata(&path)? else {
        return Err(Error::mismatch(shown(&path), "missing", "the device node of the macvtap"));
    };
    if leads_to(&meta) != Some(device) {
        return Err(Error::mismatch(
            shown(&path),
            "the node of another device",
            format!("device {}:{}", device.major, device.minor),
        ));
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
        return Err(Error::mismatch(what, "missing", "this attachment's"));
    };
    if record.attachment.is(call.target.container_id.as_str(), &call.target.ifname) {
        return Ok(record);
    }
    Err(Error::mismatch(what, format!("that of {}", record.attachment), "this attachment's"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn state(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn number(index: Option<u32>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| format!("link {index}"))
}

/// A later plugin of the chain may have made an MTU smaller (`tuning`), and a LAN's MTU falls with its smallest node;
/// with a larger MTU than the lower link's, frames would be lost.
fn at_most(what: &str, found: u32, promised: Option<u32>) -> Result<(), Error> {
    match promised {
        Some(promised) if found > promised => Err(Error::mismatch(what, found, promised)),
        _ => Ok(()),
    }
}

fn same<A: PartialEq<B> + ToString, B: ToString>(what: &str, found: A, promised: B) -> Result<(), Error> {
    if found == promised { Ok(()) } else { Err(Error::mismatch(what, found, promised)) }
}
