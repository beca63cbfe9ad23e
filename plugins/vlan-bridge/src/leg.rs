//! The node's own leg in a VLAN: a VLAN device on the bridge, or the bridge itself, with or without an address.

use ipnetwork::IpNetwork;
use net_types::{IfName, VlanId, VlanSet};
use netplumb::{BridgeMember, BridgeVlans, LinkChange, LinkKind, Netlink, NewAddress, VlanLink};
use node::LINK_GROUP;

use crate::bridge::{Bridge, TAG, ignore_routers, is_ours};
use crate::record::{PortRecord, RecordedLeg};
use crate::{Config, Error};

/// A leg that a port needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) vlan: Option<VlanId>,
    pub(crate) address: Option<IpNetwork>,
}

/// The legs that a configuration asks for; `gateways` are the addresses that the IPAM plugin's answer makes the
/// node's.
pub(crate) fn wanted(config: &Config, vlans: Option<&BridgeVlans>, gateways: &[IpNetwork]) -> Vec<Leg> {
    let own = vlans.and_then(|vlans| vlans.pvid);
    let mut legs = Vec::new();
    if config.host {
        legs.push(Leg { vlan: own, address: None });
    }
    legs.extend(gateways.iter().map(|&address| Leg { vlan: own, address: Some(address) }));
    legs.extend(config.gateway.iter().map(|g| Leg { vlan: Some(g.vlan), address: Some(g.address) }));
    legs
}

/// Decides which link a leg is, and whether its address is there already.
pub(crate) fn plan(
    host: &Netlink,
    bridge: &Bridge,
    leg: &Leg,
    others: &[PortRecord],
    force: bool,
) -> Result<RecordedLeg, Error> {
    // The bridge itself is the node's leg in the VLAN that it has without a tag.
    let vlan = match leg.vlan {
        // Not to be asked where nobody speaks of VLANs: the kernel may know none.
        None => None,
        Some(id) => (host.bridge_vlans(bridge.index)?.pvid != Some(id)).then_some(id),
    };
    let link = match vlan {
        None => bridge.name.clone(),
        Some(vlan) => format!("{}.{vlan}", bridge.name).parse().map_err(Error::LegName)?,
    };
    let mut record = RecordedLeg { link, vlan, address: leg.address, added: false };
    let existing = host.link_by_name(&record.link)?;
    if let (Some(vlan), Some(existing)) = (vlan, &existing) {
        let fits = matches!(&existing.kind, LinkKind::Vlan(info) if info.id == vlan.get());
        if !fits || existing.lower != Some(bridge.index) {
            return Err(Error::LegTaken { link: record.link, bridge: bridge.name.clone(), vlan });
        }
    }
    let Some(address) = leg.address else { return Ok(record) };
    let have = match &existing {
        Some(link) => host.addresses(Some(link.index))?,
        None => Vec::new(),
    };
    let before = others.iter().flat_map(|record| &record.legs);
    let by_us = |address: IpNetwork| {
        before.clone().any(|leg| leg.link == record.link && leg.address == Some(address) && leg.added)
    };
    if have.iter().any(|a| a.address == address) {
        record.added = by_us(address);
        return Ok(record);
    }
    let other = have.iter().find(|a| {
        a.address.is_ipv4() == address.is_ipv4()
            && (a.address.is_ipv4() || a.address.contains(address.ip()) || address.contains(a.address.ip()))
            && a.scope != 253
    });
    // Only what this plugin put there may be replaced: any other is the node's own.
    if let Some(other) = other
        && !(force && by_us(other.address))
    {
        return Err(Error::OtherAddress {
            link: record.link,
            have: other.address.to_string(),
            wanted: address.to_string(),
        });
    }
    record.added = true;
    Ok(record)
}

/// Makes a planned leg.
pub(crate) fn ensure(host: &Netlink, bridge: &Bridge, leg: &RecordedLeg) -> Result<(), Error> {
    let index = match (host.link_by_name(&leg.link)?, leg.vlan) {
        (Some(link), vlan) => {
            if vlan.is_some() && is_ours(&link) && (link.alias.is_none() || !link.up) {
                finish(host, link.index, &leg.link)?;
            }
            link.index
        }
        (None, Some(vlan)) => {
            let own = BridgeVlans { tagged: vlan.into(), ..BridgeVlans::default() };
            host.add_bridge_vlans(BridgeMember::Bridge(bridge.index), &own)?;
            let index = host.create_vlan(&VlanLink {
                name: leg.link.clone(),
                lower: bridge.index,
                id: vlan,
                protocol: bridge.info.vlan_protocol,
                mac: None,
                mtu: None,
                group: LINK_GROUP,
                up: false,
            })?;
            finish(host, index, &leg.link)?;
            index
        }
        (None, None) => return Err(Error::BridgeAppeared(leg.link.clone())),
    };
    if let Some(address) = leg.address.filter(|_| leg.added) {
        let mut new = NewAddress::new(address);
        new.nodad = true;
        match host.add_address(index, &new) {
            Err(error) if error.is_exists() => {}
            done => done?,
        }
    }
    Ok(())
}

fn finish(host: &Netlink, index: u32, name: &IfName) -> Result<(), Error> {
    ignore_routers(name)?;
    let change = LinkChange { alias: Some(TAG.to_owned()), up: Some(true), ..LinkChange::default() };
    Ok(host.set_link(index, &change)?)
}

/// Removes the legs and addresses that a leaving port was the last to need.
pub(crate) fn release(
    host: &Netlink,
    bridge: &Bridge,
    record: &PortRecord,
    others: &[PortRecord],
) -> Result<(), Error> {
    for leg in &record.legs {
        let of_others =
            || others.iter().flat_map(|record| &record.legs).filter(|other| other.link == leg.link);
        let Some(link) = host.link_by_name(&leg.link)? else { continue };
        if let Some(address) = leg.address.filter(|_| leg.added)
            && !of_others().any(|other| other.address == Some(address))
        {
            match host.delete_address(link.index, address) {
                Err(error) if error.is_not_found() => {}
                done => done?,
            }
        }
        if let Some(vlan) = leg.vlan.filter(|_| is_ours(&link) && of_others().next().is_none()) {
            host.delete_link(link.index)?;
            host.remove_bridge_vlans(BridgeMember::Bridge(bridge.index), &VlanSet::from(vlan))?;
        }
    }
    Ok(())
}

/// Whether a leg is as its record says.
pub(crate) fn stands(host: &Netlink, leg: &RecordedLeg) -> Result<bool, Error> {
    let Some(link) = host.link_by_name(&leg.link)?.filter(|link| link.up) else { return Ok(false) };
    match leg.address {
        None => Ok(true),
        Some(address) => Ok(host.addresses(Some(link.index))?.iter().any(|a| a.address == address)),
    }
}

/// The name of the bridge itself or of the device in a VLAN, for messages.
pub(crate) fn shown(link: &IfName, address: Option<IpNetwork>) -> String {
    address.map_or_else(|| format!("link {link}"), |address| format!("address {address} on {link}"))
}
