//! The port: a veth pair between the bridge and the pod.

use attach::stable_mac;
use net_types::{IfName, MacAddr, Mtu, VlanId};
use netplumb::{BridgeMember, BridgeVlans, Link, LinkChange, NewLink, PortChange, Veth};
use node::LINK_GROUP;

use crate::bridge::Bridge;
use crate::call::Call;
use crate::vlans::{Change, diff};
use crate::{Config, Error};

/// A port that was created.
pub(crate) struct Port {
    /// The index of its end on the node.
    pub(crate) index: u32,
    /// The MAC address of its end on the node.
    pub(crate) mac: MacAddr,
    /// The index of its end in the pod.
    pub(crate) pod_index: u32,
}

/// Creates the pair: the pod's end in the pod, the other as a port that is down, so that no frame passes before its
/// VLANs are set.
pub(crate) fn make(
    call: &Call<'_>,
    bridge: &Bridge,
    name: &IfName,
    mac: MacAddr,
    mtu: Mtu,
) -> Result<Port, Error> {
    let port_mac = high_mac(name);
    let mut main = NewLink::new(name.clone());
    main.mac = Some(port_mac);
    main.mtu = Some(mtu);
    main.group = LINK_GROUP;
    let mut peer = NewLink::new(call.target.ifname.clone());
    peer.mac = Some(mac);
    peer.mtu = Some(mtu);
    peer.netns = Some(call.netns.clone());
    let mut pair = Veth::new(main, peer);
    pair.master = Some(bridge.index);
    let indexes = call.host.create_veth(&pair).map_err(|error| {
        let there = |found: netplumb::Result<Option<Link>>| matches!(found, Ok(Some(_)));
        if error.is_exists() && there(call.netlink.link_by_name(&call.target.ifname)) {
            Error::InterfaceExists(call.target.ifname.clone())
        } else if error.is_exists() {
            Error::Foreign(name.clone())
        } else {
            error.into()
        }
    })?;
    Ok(Port { index: indexes.main, mac: port_mac, pod_index: indexes.peer })
}

/// The MAC address of the port. A bridge without a configured address has the smallest one of its ports, so the
/// node's address on the bridge would get another MAC address whenever a port came or went. Therefore it begins with
/// fe:ff, which is above the vendors' addresses, and above nearly all random ones.
fn high_mac(name: &IfName) -> MacAddr {
    let mut bytes = stable_mac(&["vlan-bridge port", name.as_str()]).octets();
    (bytes[0], bytes[1]) = (0xfe, 0xff);
    MacAddr::local(bytes)
}

/// The VLANs of the port before any is set: the bridge's default.
pub(crate) fn at_first(bridge: &Bridge) -> BridgeVlans {
    bridge.info.vlan_default_pvid.map(BridgeVlans::access).unwrap_or_default()
}

/// The VLANs that the port will have, on this bridge or on one that will be created.
pub(crate) fn wanted(config: &Config, bridge: Option<&Bridge>, vlans: &BridgeVlans) -> BridgeVlans {
    let mut wanted = vlans.clone();
    let default = bridge.map_or(Some(VlanId::MIN), |bridge| bridge.info.vlan_default_pvid);
    if config.preserve_default_vlan
        && let Some(default) = default
        // A trunk with the default VLAN and no other untagged one keeps it on the port untagged.
        && (wanted.pvid.is_none() || !wanted.all().contains(default))
    {
        wanted.tagged = wanted.tagged.without(&default.into());
        wanted.untagged.insert(default);
        wanted.pvid = wanted.pvid.or(Some(default));
    }
    wanted
}

/// Sets the VLANs of the port.
pub(crate) fn set_vlans(
    call: &Call<'_>,
    bridge: &Bridge,
    port: u32,
    vlans: &BridgeVlans,
) -> Result<(), Error> {
    let change: Change = diff(vlans, &at_first(bridge));
    Ok(change.apply(&call.host, BridgeMember::Port(port))?)
}

/// Tags the port with its owner and sets it up, so that frames pass.
pub(crate) fn open(call: &Call<'_>, port: u32) -> Result<(), Error> {
    let config = &call.request.config;
    let attributes = PortChange {
        isolated: config.port_isolation.then_some(true),
        hairpin: config.hairpin_mode.then_some(true),
        ..PortChange::default()
    };
    let change = LinkChange {
        alias: Some(call.tag.clone()),
        up: Some(true),
        port: (attributes != PortChange::default()).then_some(attributes),
        ..LinkChange::default()
    };
    Ok(call.host.set_link(port, &change)?)
}
