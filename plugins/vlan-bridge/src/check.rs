//! CHECK: whether everything still is as ADD promised.

use attach::{Mismatch, at_most, check_port, on_or_off, own_part, plain_port, same};
use cni::{AddResult, Request, Target};
use net_types::Mtu;
use netplumb::{BridgePort, BridgeVlans, Link, Netns, Nftables, RuleState};

use crate::bridge::Bridge;
use crate::call::Call;
use crate::record::{PortRecord, RecordStore, port_name};
use crate::{Config, Error, Uplink, host_interface, masquerade, mtu, uplink};

/// Verifies the attachment: the pod's interface, the port and its VLANs, the bridge, uplinks, guard, the node's
/// interfaces, addresses and routes, and the IPAM plugin's lease.
///
/// # Errors
/// The first difference.
pub(crate) fn check(request: &Request<Config>, target: &Target, promised: &AddResult) -> Result<(), Error> {
    let config = &request.config;
    let call = Call::open(request, target)?;
    let ifname = &target.ifname;
    let name = port_name(target.container_id.as_str(), ifname);
    let store = RecordStore::open(&call.node.paths())?;
    let lost = || Mismatch::new("the record of the port", "missing", "one");
    let record = store.read(&name)?.ok_or_else(lost)?;
    let missing = |what: String| Mismatch::new(what, "missing", "there");
    let link = call
        .netlink
        .link_by_name(ifname)?
        .ok_or_else(|| missing(format!("interface {ifname} in the pod")))?;
    let port = call.host.link_by_name(&name)?.ok_or_else(|| missing(format!("port {name}")))?;
    let own = own_part(promised, ifname)
        .ok_or_else(|| missing(format!("interface {ifname} of the pod in prevResult")))?;
    interface(&call, &link, &record, promised)?;
    same("the link at the other end of the port", port.lower.unwrap_or(0), link.index)?;
    let bridge = Bridge::read(&call.host, &config.bridge)?
        .ok_or_else(|| missing(format!("bridge {}", config.bridge)))?;
    on_bridge(&call, &bridge, &name, &port)?;
    mtus(&call, &bridge, &port, promised)?;
    // A result before version 1.1.0 has no MTU; the pod's frames must then fit its port.
    at_most(&format!("MTU of interface {ifname}"), link.mtu, Some(port.mtu))?;
    if let Some(vlans) = &record.vlans {
        carried(&call, &bridge, &port, vlans)?;
    }
    uplinks(&call, &bridge, &record)?;
    if let Some(guard) = &record.guard {
        let state = Nftables::open_current()?.guard_state(&name, guard.rules.as_deref())?;
        same("the spoof check of the port", shown(state), "in place")?;
    }
    if !record.masquerade.is_empty() {
        let state = masquerade::state(&name, &record)?;
        same("the masquerading of the pod's addresses", shown(state), "in place")?;
    }
    if config.promisc_mode {
        same(&format!("promiscuous mode of bridge {}", bridge.name), bridge.link.promisc, true)?;
    }
    for recorded in &record.host_interfaces {
        let state = host_interface::state(&call.host, &bridge, recorded)?;
        same(&host_interface::shown(&recorded.link, recorded.address), state, "there")?;
    }
    let node = Netns::current()?;
    for setting in host_interface::forwarding(config, &record.host_interfaces) {
        // A kernel without the address family has no such file.
        if let Some(value) = node.sysctl_get(&setting)? {
            same(&format!("{} of the node", setting.path().display()), &*value, "1")?;
        }
    }
    call.check_addresses(&link, &own, call.is_for_a_guest()).map_err(Error::Pod)?;
    if let Some(ipam) = request.ipam() {
        ipam.check()?;
    }
    Ok(())
}

/// The interface as the pod has it.
fn interface(call: &Call<'_>, link: &Link, record: &PortRecord, promised: &AddResult) -> Result<(), Error> {
    let (ifname, config) = (&call.target.ifname, &call.request.config);
    if !config.disable_container_interface {
        same(&format!("state of interface {ifname}"), state(link.up), "up")?;
        if call.is_for_a_guest() {
            // The version before, whose records do not name the IPAM plugin, left it with the groups that it had.
            call.check_silence::<Error>(link, record.ipam.is_some())?;
        }
    }
    let promise = call.check_interface(link, promised)?;
    if promise.is_none_or(|interface| interface.mtu.is_none()) {
        at_most(&format!("MTU of interface {ifname}"), link.mtu, config.mtu.map(Mtu::get))?;
    }
    Ok(())
}

/// How the bridge treats the port.
fn on_bridge(call: &Call<'_>, bridge: &Bridge, name: &net_types::IfName, port: &Link) -> Result<(), Error> {
    let config = &call.request.config;
    let of = |what: &str| format!("{what} of port {name}");
    same(&of("bridge"), port.master.unwrap_or(0), bridge.index)?;
    same(&of("state"), state(port.up), "up")?;
    same(&of("owner"), port.alias.clone().unwrap_or_default(), &*call.tag)?;
    let made = BridgePort { isolated: config.port_isolation, hairpin: config.hairpin_mode, ..plain_port() };
    Ok(check_port(&format!("port {name}"), port, &made, bridge.info.stp)?)
}

/// Verifies that bridge, port and uplinks have the promised MTU, or at least the same one.
fn mtus(call: &Call<'_>, bridge: &Bridge, port: &Link, promised: &AddResult) -> Result<(), Error> {
    let config = &call.request.config;
    for (what, link) in [("port", port), ("bridge", &bridge.link)] {
        let promise = promised.interfaces.iter().find(|i| i.sandbox.is_none() && i.name == link.name);
        if let Some(mtu) = promise.and_then(|interface| interface.mtu) {
            same(&format!("MTU of {what} {}", link.name), link.mtu, mtu)?;
        }
    }
    let named = |uplink: &Uplink| {
        call.host.link_by_name(&uplink.name)?.ok_or_else(|| Error::NoUplink(uplink.name.clone()))
    };
    let uplinks = config.uplinks.iter().map(named).collect::<Result<Vec<_>, Error>>()?;
    mtu::decide(config, Some(bridge), &uplinks)?;
    if port.mtu != bridge.link.mtu {
        let (port, have) = (port.name.clone(), port.mtu);
        return Err(Error::MtuOfPort { port, have, bridge: bridge.name.clone(), wanted: bridge.link.mtu });
    }
    Ok(())
}

/// Verifies the VLANs of the port, and that the bridge filters by VLAN.
fn carried(call: &Call<'_>, bridge: &Bridge, port: &Link, wanted: &BridgeVlans) -> Result<(), Error> {
    let filtering = on_or_off(bridge.info.vlan_filtering);
    same(&format!("VLAN filtering of bridge {}", bridge.name), filtering, "on")?;
    let protocol = bridge.info.vlan_protocol.to_string();
    same(
        &format!("the tag of bridge {}", bridge.name),
        protocol,
        call.request.config.protocol().to_string(),
    )?;
    let have = call.host.bridge_vlans(port.index)?;
    if have == *wanted {
        return Ok(());
    }
    let port = port.name.clone();
    Err(Error::Carries { port, have: have.to_string(), wanted: wanted.to_string() })
}

/// Verifies that the uplinks are ports of the bridge, and the VLANs that they carry for the port.
fn uplinks(call: &Call<'_>, bridge: &Bridge, record: &PortRecord) -> Result<(), Error> {
    let stated = &call.request.config.uplinks;
    for recorded in &record.uplinks {
        let name = &recorded.name;
        let link = call.host.link_by_name(name)?.ok_or_else(|| Error::NoUplink(name.clone()))?;
        same(&format!("the bridge of uplink {name}"), link.master.unwrap_or(0), bridge.index)?;
        same(&format!("the state of uplink {name}"), state(link.up), "up")?;
        let Some(port) = &record.vlans else { continue };
        let Some(stated) = stated.iter().find(|uplink| uplink.name == *name) else { continue };
        let have = call.host.bridge_vlans(link.index)?;
        let (missing, otherwise) = uplink::lacks(stated, port, recorded, &have);
        if !missing.is_empty() {
            return Err(Error::UplinkLacks { uplink: name.clone(), vlans: missing.to_string() });
        }
        if !otherwise.is_empty() {
            return Err(Error::UplinkCarries {
                uplink: name.clone(),
                have: have.to_string(),
                vlans: otherwise.to_string(),
                wanted: uplink::needed(stated, port).to_string(),
            });
        }
        // After a complete change, the record has no more VLANs than the port carries.
        let left = recorded.added.without(&record.all_vlans());
        if stated.follow && !left.is_empty() {
            return Err(Error::TrunkCutOff { uplink: name.clone(), vlans: left.to_string() });
        }
    }
    Ok(())
}

fn shown(state: RuleState) -> &'static str {
    match state {
        RuleState::InPlace => "in place",
        RuleState::Absent => "gone",
        RuleState::Different => "changed",
    }
}

fn state(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}
