//! The node's own interface in a VLAN: a VLAN device on the bridge, or the bridge itself, with or without an address.

use attach::NodeUse;
use ipnetwork::IpNetwork;
use net_types::{IfName, VlanId, VlanSet};
use netplumb::{
    BridgeMember, BridgeVlans, Link, LinkChange, LinkKind, Netlink, NewAddress, NewLink, Route, Sysctl,
    VlanLink,
};
use node::{ADDRESS_PROTOCOL, LINK_GROUP, Paths};

use crate::bridge::{Bridge, TAG, ignore_routers, is_ours};
use crate::record::{PortRecord, RecordedHostInterface};
use crate::{Config, Error};

/// An interface of the node that a port needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostInterface {
    pub(crate) vlan: Option<VlanId>,
    pub(crate) address: Option<IpNetwork>,
}

/// The interfaces that a configuration asks for; `gateways` are the addresses that the IPAM plugin's result gives to
/// the node.
pub(crate) fn wanted(
    config: &Config,
    vlans: Option<&BridgeVlans>,
    gateways: &[IpNetwork],
) -> Vec<HostInterface> {
    let own = vlans.and_then(|vlans| vlans.pvid);
    let mut interfaces = Vec::new();
    if config.host {
        interfaces.push(HostInterface { vlan: own, address: None });
    }
    interfaces.extend(gateways.iter().map(|&address| HostInterface { vlan: own, address: Some(address) }));
    interfaces.extend(
        config.gateway.iter().map(|g| HostInterface { vlan: Some(g.vlan), address: Some(g.address) }),
    );
    interfaces
}

/// Decides which link an interface is, whether it has its address already, and which address that replaces.
pub(crate) fn plan(
    host: &Netlink,
    bridge: &Bridge,
    interface: &HostInterface,
    others: &[PortRecord],
    force: bool,
) -> Result<(RecordedHostInterface, Vec<IpNetwork>), Error> {
    // The bridge itself is the node's interface in the VLAN that it has untagged.
    let own = match interface.vlan {
        // Not read if the configuration has no VLANs: the kernel may not support them.
        None => BridgeVlans::default(),
        Some(_) => host.bridge_vlans(bridge.index)?,
    };
    let vlan = interface.vlan.filter(|&id| own.pvid != Some(id));
    let link = match vlan {
        None => bridge.name.clone(),
        Some(vlan) => format!("{}.{vlan}", bridge.name).parse().map_err(Error::HostInterfaceName)?,
    };
    let mut record =
        RecordedHostInterface { link, vlan, address: interface.address, added: false, joined: false };
    let before = others
        .iter()
        .flat_map(|record| &record.host_interfaces)
        .filter(|interface| interface.link == record.link);
    let existing = host.link_by_name(&record.link)?;
    if let (Some(vlan), Some(existing)) = (vlan, &existing) {
        let fits = matches!(&existing.kind, LinkKind::Vlan(info) if info.id == vlan.get());
        if is_access_port(host, bridge, existing, vlan)? {
            // A link of the node that has the VLAN already.
            record.vlan = None;
        } else if !fits || existing.lower != Some(bridge.index) {
            return Err(Error::HostInterfaceTaken { link: record.link, bridge: bridge.name.clone(), vlan });
        }
    }
    record.joined = record.vlan.is_some_and(|id| !own.all().contains(id))
        || record.vlan.is_some() && before.clone().any(|interface| interface.joined);
    let Some(address) = interface.address else { return Ok((record, Vec::new())) };
    let have = match &existing {
        Some(link) => host.addresses(Some(link.index))?,
        None => Vec::new(),
    };
    let by_us = |address: IpNetwork| {
        before.clone().any(|interface| interface.address == Some(address) && interface.added)
            // It stayed for another plugin's pods.
            || have.iter().any(|a| a.address == address && a.protocol == ADDRESS_PROTOCOL)
    };
    if have.iter().any(|a| a.address == address) {
        record.added = by_us(address);
        return Ok((record, Vec::new()));
    }
    let others: Vec<IpNetwork> = have
        .iter()
        .filter(|a| {
            a.address.is_ipv4() == address.is_ipv4()
                && (a.address.is_ipv4()
                    || a.address.contains(address.ip())
                    || address.contains(a.address.ip()))
                && a.scope != Route::SCOPE_LINK
        })
        .map(|a| a.address)
        .collect();
    // Only an address of this plugin's may be replaced: any other is the node's own.
    if let Some(other) = others.iter().find(|&&other| !(force && by_us(other))) {
        return Err(Error::OtherAddress {
            link: record.link,
            have: other.to_string(),
            wanted: address.to_string(),
        });
    }
    record.added = true;
    Ok((record, others))
}

/// Whether a link is a veth whose peer is an access port of the bridge in that VLAN: the node's interface as the
/// reference plugin creates it.
fn is_access_port(host: &Netlink, bridge: &Bridge, link: &Link, vlan: VlanId) -> Result<bool, Error> {
    if link.kind != LinkKind::Veth || link.lower_netnsid.is_some() {
        return Ok(false);
    }
    let Some(port) = link.lower else { return Ok(false) };
    if host.link_by_index(port)?.is_none_or(|port| port.master != Some(bridge.index)) {
        return Ok(false);
    }
    let carried = host.bridge_vlans(port)?;
    Ok(carried.pvid == Some(vlan) && carried.untagged.contains(vlan))
}

/// The settings by which the node forwards between its interfaces, in the families of their addresses, if the
/// configuration makes it the pods' gateway.
pub(crate) fn forwarding(config: &Config, interfaces: &[RecordedHostInterface]) -> Vec<Sysctl> {
    let of_family = |v4: bool| {
        config.is_gateway() && interfaces.iter().any(|one| one.address.is_some_and(|a| a.is_ipv4() == v4))
    };
    [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")]
        .into_iter()
        .filter(|(v4, _)| of_family(*v4))
        .map(|(_, path)| Sysctl::net(path))
        .collect()
}

/// Creates a planned interface; its addresses replace those that the plan says.
pub(crate) fn ensure(
    host: &Netlink,
    bridge: &Bridge,
    interface: &RecordedHostInterface,
    replaced: &[IpNetwork],
) -> Result<(), Error> {
    let index = match (host.link_by_name(&interface.link)?, interface.vlan) {
        (Some(link), vlan) => {
            if vlan.is_some() && is_ours(&link) && (link.alias.is_none() || !link.up) {
                finish(host, link.index, &interface.link)?;
            }
            link.index
        }
        (None, Some(vlan)) => {
            let own = BridgeVlans { tagged: vlan.into(), ..BridgeVlans::default() };
            host.add_bridge_vlans(BridgeMember::Bridge(bridge.index), &own)?;
            let index = host.create_vlan(&VlanLink {
                link: NewLink { group: LINK_GROUP, ..NewLink::new(interface.link.clone()) },
                lower: bridge.index,
                id: vlan,
                protocol: bridge.info.vlan_protocol,
            })?;
            finish(host, index, &interface.link)?;
            index
        }
        (None, None) => return Err(Error::BridgeAppeared(interface.link.clone())),
    };
    for &address in replaced {
        delete_address(host, index, address)?;
    }
    if let Some(address) = interface.address.filter(|_| interface.added) {
        let mut new = NewAddress::new(address);
        new.nodad = true;
        new.protocol = ADDRESS_PROTOCOL;
        match host.add_address(index, &new) {
            Err(error) if error.is_exists() => {}
            done => done?,
        }
    }
    Ok(())
}

fn delete_address(host: &Netlink, link: u32, address: IpNetwork) -> Result<(), Error> {
    match host.delete_address(link, address) {
        Err(error) if error.is_not_found() => Ok(()),
        done => Ok(done?),
    }
}

fn finish(host: &Netlink, index: u32, name: &IfName) -> Result<(), Error> {
    ignore_routers(name)?;
    let change = LinkChange { alias: Some(TAG.to_owned()), up: Some(true), ..LinkChange::default() };
    Ok(host.set_link(index, &change)?)
}

/// Whether another plugin's pod, or a virtual machine of the node, is on the bridge in the interface's VLAN: the interface
/// may be its gateway.
fn serves_other_pods(
    host: &Netlink,
    bridge: &Bridge,
    interface: &RecordedHostInterface,
    uplinks: &[&IfName],
) -> Result<bool, Error> {
    // The NIC of a node that is itself in a namespace may be a veth.
    let of_another_plugin = |port: &Link| {
        let beyond = port.kind == LinkKind::Veth && port.lower_netnsid.is_some();
        // A virtual machine of the node's own, as libvirt makes it.
        let machine = port.kind == LinkKind::Other("tun".into());
        (beyond || machine)
            && port.group != LINK_GROUP
            && !uplinks.iter().any(|uplink| port.name == uplink.as_str())
    };
    let ports: Vec<Link> = host.ports(bridge.index)?.into_iter().filter(of_another_plugin).collect();
    if ports.is_empty() || !bridge.info.vlan_filtering {
        return Ok(!ports.is_empty());
    }
    let id = match interface.vlan {
        Some(vlan) => Some(vlan),
        None if interface.link == bridge.name => host.bridge_vlans(bridge.index)?.pvid,
        // A veth of the reference plugin's: its VLAN is its port's.
        None => return Ok(true),
    };
    let Some(id) = id else { return Ok(false) };
    for port in ports {
        if host.bridge_vlans(port.index)?.all().contains(id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the interfaces and addresses that only a leaving port needed. A VLAN device that something else uses by now
/// stays, and so does an address that may be the gateway of another plugin's pod.
pub(crate) fn release(
    host: &Netlink,
    bridge: &Bridge,
    record: &PortRecord,
    others: &[PortRecord],
    paths: &Paths,
) -> Result<(), Error> {
    let of_others = |interface: &RecordedHostInterface| {
        let link = interface.link.clone();
        others.iter().flat_map(|record| &record.host_interfaces).filter(move |other| other.link == link)
    };
    let records = || others.iter().chain([record]);
    let uplinks: Vec<&IfName> =
        records().flat_map(|record| &record.uplinks).map(|uplink| &uplink.name).collect();
    // All addresses first: a link that still has one is used.
    for interface in &record.host_interfaces {
        if let Some(address) = interface.address.filter(|_| interface.added)
            && !of_others(interface).any(|other| other.address == Some(address))
            && let Some(link) = host.link_by_name(&interface.link)?
            && !serves_other_pods(host, bridge, interface, &uplinks)?
        {
            delete_address(host, link.index, address)?;
        }
    }
    for interface in &record.host_interfaces {
        let last = of_others(interface).next().is_none();
        let Some(vlan) = interface.vlan.filter(|_| last) else { continue };
        if let Some(link) = host.link_by_name(&interface.link)?.filter(is_ours) {
            if NodeUse::of_own_link(host, &link, paths)?.is_some() {
                continue;
            }
            host.delete_link(link.index)?;
        }
        // Also if the device is gone already: the plugin may have been killed in between.
        if interface.joined {
            host.remove_bridge_vlans(BridgeMember::Bridge(bridge.index), &VlanSet::from(vlan))?;
        }
    }
    Ok(())
}

/// Removes the addresses of this plugin's on a bridge that has no port of anybody else's any more, and VLAN devices that
/// nothing uses then: they stayed for another plugin's pods.
pub(crate) fn remove_left(host: &Netlink, bridge: &Bridge, paths: &Paths) -> Result<(), Error> {
    let on_bridge = |link: &Link| {
        is_ours(link)
            && matches!(link.kind, LinkKind::Vlan(_))
            && link.lower == Some(bridge.index)
            && link.lower_netnsid.is_none()
    };
    let devices: Vec<Link> = host.links_in_group(LINK_GROUP)?.into_iter().filter(on_bridge).collect();
    for index in devices.iter().map(|device| device.index).chain([bridge.index]) {
        for left in host.addresses(Some(index))?.iter().filter(|a| a.protocol == ADDRESS_PROTOCOL) {
            delete_address(host, index, left.address)?;
        }
    }
    for device in &devices {
        if NodeUse::of_own_link(host, device, paths)?.is_none() {
            host.delete_link(device.index)?;
        }
    }
    Ok(())
}

/// The state of an interface: `there` if it is as its record says.
pub(crate) fn state(
    host: &Netlink,
    bridge: &Bridge,
    interface: &RecordedHostInterface,
) -> Result<&'static str, Error> {
    let Some(link) = host.link_by_name(&interface.link)? else { return Ok("missing") };
    if !link.up {
        return Ok("down");
    }
    if let Some(vlan) = interface.vlan
        && !host.bridge_vlans(bridge.index)?.tagged.contains(vlan)
    {
        return Ok("cut off, as the bridge itself does not carry the VLAN");
    }
    let Some(address) = interface.address else { return Ok("there") };
    let there = host.addresses(Some(link.index))?.iter().any(|a| a.address == address);
    Ok(if there { "there" } else { "missing" })
}

/// The name of the bridge itself or of the device in a VLAN, for messages.
pub(crate) fn shown(link: &IfName, address: Option<IpNetwork>) -> String {
    address.map_or_else(|| format!("link {link}"), |address| format!("address {address} on {link}"))
}
