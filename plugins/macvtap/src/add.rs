//! ADD: its steps in their order.

use std::rc::Rc;

use attach::{Undecided, Undo, stable_mac};
use cni::{AddResult, Dns, Interface, Request, Target};
use net_types::{IfName, MacAddr, MacvtapMode, Mtu};
use netplumb::{Errno, Link, LinkChange, Macvtap, Netlink, NewLink};
use node::LINK_GROUP;

use crate::k8slanveth::K8slanVeth;
use crate::lan_side::LanSide;
use crate::lower::{Host, Lower};
use crate::minors::{Claim, Moved};
use crate::pod_interface::PodInterface;
use crate::put_back::{mtu_of, put_back};
use crate::tap::{self, Tap};
use crate::{Call, Config, Error};

/// Attaches the pod. If a step fails, everything is undone.
///
/// # Errors
/// See [`Error`].
pub(crate) fn add(request: &Request<Config>, target: &Target) -> Result<AddResult, Error> {
    request.left_to_others()?;
    let call = Call::open(request, target)?;
    let _lock = call.lock()?;
    let lower = Lower::resolve(&call)?;
    let mut undo = Undo::new();
    let made = make(&call, &lower, &mut undo);
    attach::or_undo(|| undo.roll_back(), |roll_back| set_up_with_addresses(&call, &lower, made?, roll_back))
}

fn make<'a>(call: &'a Call<'a>, lower: &'a Lower, undo: &mut Undo<'a>) -> Result<PodInterface, Error> {
    match lower {
        Lower::Spoke { side, .. } if lower.is_veth() => {
            let made = veth_of_spoke(call, side, undo)?;
            if lower.k8slanveth().is_some_and(|keys| keys.disable_tx_checksum) {
                side.complete_checksums()?;
            }
            Ok(made)
        }
        Lower::Spoke { side, .. } => macvtap_on_spoke(call, side, undo),
        Lower::Master(host) => macvtap_on_master(call, host, undo),
        Lower::Moved(host) => moved(call, host, undo),
    }
}

/// Sets the interface up, with the IPAM plugin's addresses on it. `roll_back` removes the interface again, at the
/// moment when the plugin can release its addresses.
fn set_up_with_addresses(
    call: &Call<'_>,
    lower: &Lower,
    made: PodInterface,
    roll_back: &mut dyn FnMut(),
) -> Result<AddResult, Error> {
    let link = call.pod_link(made.index, made.mac);
    let stated = lower.k8slanveth().map(K8slanVeth::stated).unwrap_or_default();
    let detecting = lower.k8slanveth().is_some_and(|keys| keys.enable_dad);
    let undecided = set_up(call, lower, made, !stated.ips.is_empty())?;
    let configure = |given: &AddResult| match undecided {
        // Only behind KubeVirt's bridge, the guest gets the link's addresses by DHCP.
        None if !lower.is_veth() => Ok(()),
        undecided => link.set_addresses(undecided, given, detecting),
    };
    let Some(ipam) = call.request.ipam() else {
        if !stated.ips.is_empty() {
            configure(&stated)?;
        }
        return Ok(result(call, made, stated));
    };
    attach::with_ipam(ipam, roll_back, |delegated| {
        call.replace_taken(&link, delegated)?;
        let mut given = delegated.result().clone();
        given.ips.extend(stated.ips);
        given.routes.extend(stated.routes);
        configure(&given)?;
        Ok(result(call, made, given))
    })
}

/// A macvtap on the spoke's veth end, created from the LAN's namespace directly in the pod's.
fn macvtap_on_spoke<'a>(
    call: &'a Call<'a>,
    side: &'a LanSide,
    undo: &mut Undo<'a>,
) -> Result<PodInterface, Error> {
    let record = side.record();
    let (lan, spoke) = (record.lan.to_string(), record.spoke.as_str());
    let mac = match call.request.requested_mac()? {
        Some(mac) => mac,
        None => call.stable_mac(&[&lan, spoke, &call.mac_identity(false)?]),
    };
    let mut end = NewLink::new(record.spoke.link().clone());
    // In passthru mode the macvtap has its lower link's address; in the others each has its own.
    end.mac = Some(match record.mode {
        MacvtapMode::Passthru => mac,
        _ => stable_mac(&[&lan, spoke, "lower"]),
    });
    end.mtu = Some(side.mtu());
    end.group = LINK_GROUP;
    end.up = true;
    let lower = side.create_pair(call, end, undo)?;
    let below = LowerLink { netlink: side.netlink(), index: lower, name: spoke, mtu: side.mtu().get() };
    // The kernel deletes the macvtap with its veth pair, so it needs no undo of its own.
    let index = record.tap_index.get();
    let (made, tap) =
        tap::with_free_minor(call, index, None, || macvtap(call, &below, record.mode, index, mac))?;
    tap.provide(call, undo)?;
    Ok(made)
}

/// The spoke's own veth end, created directly in the pod's namespace.
fn veth_of_spoke<'a>(
    call: &'a Call<'a>,
    side: &'a LanSide,
    undo: &mut Undo<'a>,
) -> Result<PodInterface, Error> {
    let record = side.record();
    let ifname = &call.target.ifname;
    // Either end's name may exist already; the error must say that it is this one's.
    if call.netlink.link_by_name(ifname)?.is_some() {
        return Err(Error::InterfaceExists(ifname.clone()));
    }
    let mtu = call.request.config.mtu.unwrap_or(side.mtu());
    if mtu > side.mtu() {
        let lower = format!("LAN {}", record.lan);
        return Err(Error::MtuTooLarge { mtu: mtu.get(), lower, max: side.mtu().get(), source: None });
    }
    let mac = match call.request.requested_mac()? {
        Some(mac) => mac,
        None => {
            call.stable_mac(&[&record.lan.to_string(), record.spoke.as_str(), &call.mac_identity(false)?])
        }
    };
    let mut end = NewLink::new(ifname.clone());
    end.netns = Some(call.netns.clone());
    end.mac = Some(mac);
    end.mtu = Some(mtu);
    let index = side.create_pair(call, end, undo)?;
    Ok(PodInterface { index, mac, mtu })
}

/// A macvtap on a link of the host, created directly in the pod's namespace.
fn macvtap_on_master<'a>(
    call: &'a Call<'a>,
    host: &'a Host,
    undo: &mut Undo<'a>,
) -> Result<PodInterface, Error> {
    let mode = call.request.config.mode.unwrap_or(MacvtapMode::Bridge);
    let master = &host.link;
    let requested = call.request.requested_mac()?;
    let mac = match (mode, requested, master.mac) {
        (MacvtapMode::Passthru, Some(mac), have) if have != Some(mac) => {
            return Err(Error::PassthruMac { mac, master: master.name.clone() });
        }
        (MacvtapMode::Passthru, _, Some(mac)) | (_, Some(mac), _) => mac,
        _ => {
            let network = call.request.network.as_str();
            call.stable_mac(&[&master.name, network, &call.mac_identity(true)?, call.target.ifname.as_str()])
        }
    };
    let below =
        LowerLink { netlink: &host.netlink, index: master.index, name: &master.name, mtu: master.mtu };
    let index = tap::free_index(call)?;
    let make = || macvtap(call, &below, mode, index, mac);
    let (made, tap) = tap::with_free_minor(call, index, Some(master), make)?;
    undo.push("remove the macvtap", move || call.netlink.delete_link(made.index));
    host.still_carries_no_lan(call, mode)?;
    tap.provide(call, undo)?;
    Ok(made)
}

/// An existing macvtap of the host, moved into the pod.
fn moved<'a>(call: &'a Call<'a>, host: &'a Host, undo: &mut Undo<'a>) -> Result<PodInterface, Error> {
    let ifname = &call.target.ifname;
    let Some(name) = host.link.if_name() else { return Err(Error::NoDevice(host.link.name.clone())) };
    if call.netlink.link_by_name(ifname)?.is_some() {
        return Err(Error::InterfaceExists(ifname.clone()));
    }
    let index = host.link.index;
    // The kubelet announced /dev/tap<index>, but the kernel would choose another index.
    if call.netlink.link_by_index(index)?.is_some() {
        return Err(Error::IndexTaken(index));
    }
    let mac = call.request.requested_mac()?;
    let link = &host.link;
    let was = Moved {
        name,
        mac: link.mac,
        noarp: link.noarp,
        promisc: link.promisc,
        allmulti: link.allmulti,
        mtu: mtu_of(link),
        up: link.up,
        group: link.group,
        alias: link.alias.clone(),
        settings: Some(host.netlink.settings(index)?),
    };
    // Recorded before it moves, so that DEL finds it even if this program dies at any moment.
    let on_host = Rc::new(Tap::on_host(call, host, mac.or(link.mac), was.clone())?);
    claim_the_only(&on_host, call)?;
    let claimed = Rc::clone(&on_host);
    undo.push("give the tap's minor back", move || claimed.release(call));
    undo.push("move the macvtap back", move || match call.netlink.link_by_index(index)? {
        Some(link) => put_back(&call.netlink, &link, &host.netns, &was),
        None => Ok(()),
    });
    let (netns, name) = (Some(call.netns.clone()), Some(ifname.clone()));
    host.netlink.set_link(index, &LinkChange { netns, name, ..LinkChange::default() })?;
    let tap = on_host.after_move(call, index)?;
    if !tap.is(&on_host) {
        claim_the_only(&tap, call)?;
        on_host.release(call)?;
    }
    tap.provide(call, undo)?;
    let mtu = call.request.config.mtu;
    if mac.is_some() || mtu.is_some() {
        let change = LinkChange { mac, mtu, ..LinkChange::default() };
        call.netlink.set_link(index, &change).map_err(|error| host.explain_mtu(mtu, error))?;
    }
    let link = call.netlink.link_by_name(ifname)?.ok_or_else(|| Error::NoTap(ifname.clone()))?;
    made(&link, ifname)
}

/// Claims the minor of an existing macvtap: unlike a new one, it cannot get another minor.
fn claim_the_only(tap: &Tap, call: &Call<'_>) -> Result<(), Error> {
    match tap.claim(call)? {
        Claim::Ours => Ok(()),
        Claim::Taken(_) => Err(Error::NoMinor(1)),
    }
}

/// The link that a new macvtap is put on.
struct LowerLink<'a> {
    netlink: &'a Netlink,
    index: u32,
    name: &'a str,
    mtu: u32,
}

fn macvtap(
    call: &Call<'_>,
    below: &LowerLink<'_>,
    mode: MacvtapMode,
    index: u32,
    mac: MacAddr,
) -> Result<PodInterface, Error> {
    let config = &call.request.config;
    let mut macvtap = Macvtap::new(call.target.ifname.clone(), below.index, mode);
    macvtap.link.index = Some(index);
    macvtap.link.mac = (mode != MacvtapMode::Passthru).then_some(mac);
    macvtap.link.mtu = config.mtu;
    macvtap.link.netns = Some(call.netns.clone());
    below.netlink.create_macvtap(&macvtap).map_err(|error| explain(call, below, mode, index, error))?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => Mtu::try_from(u64::from(below.mtu)).unwrap_or(Mtu::MAX),
    };
    Ok(PodInterface { index, mac, mtu })
}

/// Translates a refusal of the kernel, whose error number has several meanings.
fn explain(
    call: &Call<'_>,
    below: &LowerLink<'_>,
    mode: MacvtapMode,
    index: u32,
    source: netplumb::Error,
) -> Error {
    let ifname = &call.target.ifname;
    let exists = |found: netplumb::Result<Option<Link>>| matches!(found, Ok(Some(_)));
    match (source.errno(), call.request.config.mtu) {
        (Some(Errno::EEXIST | Errno::EBUSY), _) if exists(call.netlink.link_by_name(ifname)) => {
            Error::InterfaceExists(ifname.clone())
        }
        (Some(Errno::EEXIST | Errno::EBUSY), _) if exists(call.netlink.link_by_index(index)) => {
            Error::IndexTaken(index)
        }
        (Some(Errno::EINVAL), Some(mtu)) if mtu.get() > below.mtu => Error::MtuTooLarge {
            mtu: mtu.get(),
            lower: below.name.to_owned(),
            max: below.mtu,
            source: Some(source),
        },
        (Some(Errno::EINVAL | Errno::EBUSY | Errno::EADDRINUSE), _) => {
            Error::NotOnLower { lower: below.name.to_owned(), mode, source }
        }
        _ => source.into(),
    }
}

/// A macvtap registers its address on its lower link when it comes up, and is refused if that has the address
/// already.
fn explain_up(call: &Call<'_>, lower: &Lower, source: netplumb::Error) -> Error {
    let (lower, mode) = match lower {
        Lower::Spoke { side, .. } if !lower.is_veth() => {
            (side.record().spoke.to_string(), side.record().mode)
        }
        Lower::Master(host) => {
            (host.link.name.clone(), call.request.config.mode.unwrap_or(MacvtapMode::Bridge))
        }
        Lower::Spoke { .. } | Lower::Moved(_) => return source.into(),
    };
    match source.errno() {
        Some(Errno::EINVAL | Errno::EBUSY | Errno::EADDRINUSE) => Error::NotOnLower { lower, mode, source },
        _ => source.into(),
    }
}

fn made(link: &Link, ifname: &IfName) -> Result<PodInterface, Error> {
    let mtu = Mtu::try_from(u64::from(link.mtu)).unwrap_or(Mtu::MAX);
    let mac = link.mac.ok_or_else(|| Error::NoTap(ifname.clone()))?;
    Ok(PodInterface { index: link.index, mac, mtu })
}

/// Sets the interface up as its user needs it. What a pod's own interface accepts from routers is decided later; a
/// guest's accepts nothing. `has_addresses`: the configuration itself gives it addresses.
fn set_up<'a>(
    call: &'a Call<'_>,
    lower: &Lower,
    made: PodInterface,
    has_addresses: bool,
) -> Result<Option<Undecided<'a>>, Error> {
    let config = &call.request.config;
    let promisc = config.promisc_mode.then_some(true);
    let change = LinkChange { promisc, ..LinkChange::default() };
    let link = call.pod_link(made.index, made.mac);
    if call.is_for_a_guest() {
        if lower.hears_everything(config.mode) {
            // While it is down, so that the kernel does not count it on the lower link, where it would stay.
            let allmulti = LinkChange { allmulti: Some(true), ..LinkChange::default() };
            call.netlink.set_link(made.index, &allmulti)?;
        }
        link.set_up_silently(change)?;
        return Ok(None);
    }
    let decided_later = has_addresses || call.request.ipam().is_some();
    let undecided = link.before_up(config.from_routers(), decided_later)?;
    let up = LinkChange { up: Some(true), ..change };
    call.netlink.set_link(made.index, &up).map_err(|error| explain_up(call, lower, error))?;
    if let Lower::Spoke { side, .. } = lower
        && lower.is_veth()
    {
        side.wait_for_port()?;
    }
    Ok(Some(undecided))
}

/// The result: the pod's interface with the IPAM plugin's addresses, behind the results of earlier plugins of the
/// chain; the IPAM plugin's name servers come before the network's.
fn result(call: &Call<'_>, made: PodInterface, mut result: AddResult) -> AddResult {
    let mut interface = Interface::in_container(&call.target.ifname, Some(made.mac), &call.target.netns);
    interface.mtu = Some(made.mtu.get());
    if result.dns == Dns::default() {
        result.dns = call.request.dns.clone();
    }
    call.result(vec![interface], result)
}
