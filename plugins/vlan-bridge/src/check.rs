//! CHECK: whether everything still is as ADD promised.

use attach::{PodLink, PortDifference, own_part, plain_port, port_difference};
use cni::{AddResult, Request, Target};
use netplumb::{BridgePort, BridgeVlans, Conf, Link, Netns, Nftables, RuleState, Sysctl};

use crate::bridge::Bridge;
use crate::call::Call;
use crate::record::{PortRecord, RecordStore, port_name};
use crate::{Config, Error, Uplink, add, host_interface, masquerade, mtu, uplink};

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
    let record = store.read(&name)?.ok_or_else(|| mismatch("the record of the port", "missing", "one"))?;
    let missing = |what: String| Error::mismatch(what, "missing", "there");
    let link = call
        .netlink
        .link_by_name(ifname)?
        .ok_or_else(|| missing(format!("interface {ifname} in the pod")))?;
    let port = call.host.link_by_name(&name)?.ok_or_else(|| missing(format!("port {name}")))?;
    let mut own = own_part(promised, ifname)
        .ok_or_else(|| missing(format!("interface {ifname} of the pod in prevResult")))?;
    interface(&call, &link, promised)?;
    same("the link at the other end of the port", port.lower.unwrap_or(0), link.index)?;
    let bridge = Bridge::read(&call.host, &config.bridge)?
        .ok_or_else(|| missing(format!("bridge {}", config.bridge)))?;
    on_bridge(&call, &bridge, &name, &port)?;
    mtus(&call, &bridge, &port, promised)?;
    if link.mtu > port.mtu {
        // A result before version 1.1.0 has no MTU; the pod's frames must then fit its port.
        let what = format!("MTU of interface {ifname}");
        return Err(Error::mismatch(what, link.mtu, port.mtu));
    }
    if let Some(vlans) = &record.vlans {
        carried(&call, &bridge, &port, &BridgeVlans::from(vlans))?;
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
    if let Some(mac) = link.mac {
        if call.is_for_a_guest() {
            own = PodLink::of_guest(&own);
        }
        add::pod_link(&call, link.index, mac).verify(&own).map_err(Error::Pod)?;
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
    if !call.request.config.disable_container_interface {
        same(&of("state"), state(link.up), "up")?;
    }
    if call.is_for_a_guest() && !call.request.config.disable_container_interface {
        same(&of("ARP"), if link.noarp { "off" } else { "on" }, "off")?;
        same(&of("allmulticast"), if link.allmulti { "on" } else { "off" }, "on")?;
        // A kernel without IPv6 has no such file.
        if let Some(value) = call.netns.sysctl_get(&Sysctl::ipv6(Conf::Link(ifname), "disable_ipv6"))? {
            same(&of("disable_ipv6"), &*value, "1")?;
        }
    }
    let promise = promised.interfaces.iter().find(|i| i.sandbox.is_some() && i.name == ifname.as_str());
    if let Some(mac) = promise.and_then(|interface| interface.mac.as_ref()) {
        let have = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        same(&of("MAC address"), have, mac.to_lowercase())?;
    }
    let mtu =
        promise.and_then(|interface| interface.mtu).or(call.request.config.mtu.map(net_types::Mtu::get));
    // A later plugin of the chain may have made it smaller (decision 79).
    if let Some(mtu) = mtu
        && link.mtu > mtu
    {
        return Err(Error::mismatch(of("MTU"), link.mtu, mtu));
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
    match port_difference(port, &made, bridge.info.stp) {
        Some(PortDifference { what, found, promised }) => Err(Error::mismatch(of(what), found, promised)),
        None => Ok(()),
    }
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
    let filtering = if bridge.info.vlan_filtering { "on" } else { "off" };
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
        let Some(port) = record.vlans.as_ref().map(BridgeVlans::from) else { continue };
        let Some(stated) = stated.iter().find(|uplink| uplink.name == *name) else { continue };
        let have = call.host.bridge_vlans(link.index)?;
        let (missing, otherwise) = uplink::lacks(stated, &port, recorded, &have);
        if !missing.is_empty() {
            return Err(Error::UplinkLacks { uplink: name.clone(), vlans: missing.to_string() });
        }
        if !otherwise.is_empty() {
            return Err(Error::UplinkCarries {
                uplink: name.clone(),
                have: have.to_string(),
                vlans: otherwise.to_string(),
                wanted: uplink::needed(stated, &port).to_string(),
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

fn mismatch(what: &str, found: &str, promised: &str) -> Error {
    Error::mismatch(what, found, promised)
}

fn same<A: PartialEq<B> + ToString, B: ToString>(what: &str, found: A, promised: B) -> Result<(), Error> {
    if found == promised { Ok(()) } else { Err(Error::mismatch(what, found, promised)) }
}
