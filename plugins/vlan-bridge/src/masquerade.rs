//! `ipMasq`: packets that leave the pod's network get the node's address.

use net_types::IfName;
use netplumb::{BridgeVlans, Link, LinkKind, Masquerade, Netlink, Nftables, RuleState};

use crate::Error;
use crate::bridge::Bridge;
use crate::record::{PortRecord, RecordStore};

/// The links by which the node gets what the pod sends it: the bridge, or its VLAN device; where the bridge is not the
/// gateway itself (`is_gateway`), also other links of the node in the bridge's network. A pod may claim any address, also
/// one that a pod behind another link has.
pub(crate) fn ingress(
    host: &Netlink,
    bridge: &Bridge,
    vlans: Option<&BridgeVlans>,
    is_gateway: bool,
) -> Result<Vec<IfName>, Error> {
    let links = match vlans.and_then(|vlans| vlans.pvid) {
        // The bridge itself is the node's interface in the VLAN that it has untagged.
        Some(vlan) if host.bridge_vlans(bridge.index)?.pvid != Some(vlan) => {
            let usual = format!("{}.{vlan}", bridge.name).parse().ok();
            let usual = usual.map(|name: IfName| host.link_by_name(&name)).transpose()?.flatten();
            match usual {
                Some(device) => vec![device],
                None => devices(host, bridge, vlan.get())?,
            }
        }
        _ if is_gateway => vec![bridge.link.clone()],
        _ => beside(host, bridge)?,
    };
    let mut names = Vec::new();
    for link in &links {
        // In a VRF, packets come in by the VRF's device.
        let vrf = match link.master {
            Some(master) => {
                host.link_by_index(master)?.filter(|master| master.kind == LinkKind::Other("vrf".into()))
            }
            None => None,
        };
        names.extend(vrf.as_ref().unwrap_or(link).if_name());
    }
    if names.is_empty() {
        names.push(bridge.name.clone());
    }
    Ok(names)
}

/// The node's VLAN devices on the bridge with this VLAN, whatever their names.
fn devices(host: &Netlink, bridge: &Bridge, vlan: u16) -> Result<Vec<Link>, Error> {
    let is_one = |link: &Link| {
        matches!(&link.kind, LinkKind::Vlan(info) if info.id == vlan)
            && link.lower == Some(bridge.index)
            && link.lower_netnsid.is_none()
    };
    Ok(host.links()?.into_iter().filter(is_one).collect())
}

/// The bridge, and the node's links that get its frames as they are: macvlans on it, and veths of which the
/// other end is its port.
fn beside(host: &Netlink, bridge: &Bridge) -> Result<Vec<Link>, Error> {
    let links = host.links()?;
    let is_port = |index| links.iter().any(|port| port.index == index && port.master == Some(bridge.index));
    let is_one = |link: &&Link| match (&link.kind, link.lower) {
        _ if link.lower_netnsid.is_some() || link.master == Some(bridge.index) => false,
        (LinkKind::Veth, Some(peer)) => is_port(peer),
        (LinkKind::Macvlan(_) | LinkKind::Macvtap(_), Some(lower)) => lower == bridge.index,
        _ => false,
    };
    Ok([bridge.link.clone()].into_iter().chain(links.iter().filter(is_one).cloned()).collect())
}

/// Installs the masquerading that the port's record has.
pub(crate) fn install(store: &RecordStore, port: &IfName, record: &PortRecord) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.masquerade(&rules(port, record))?)
}

/// Removes the masquerading of the port.
pub(crate) fn remove(store: &RecordStore, port: &IfName) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.unmasquerade(port)?)
}

/// Whether exactly what the record has is masqueraded.
pub(crate) fn state(port: &IfName, record: &PortRecord) -> Result<RuleState, Error> {
    Ok(Nftables::open_current()?.masquerade_state(&rules(port, record))?)
}

fn rules(port: &IfName, record: &PortRecord) -> Masquerade {
    Masquerade {
        port: port.clone(),
        from: record.masquerade_from.clone(),
        addresses: record.masquerade.clone(),
    }
}
