//! The bridge: finding, creating, adopting and removing it.

use net_types::{IfName, Mtu, VlanId};
use netplumb::{
    Bridge as NewBridge, BridgeChange, BridgeInfo, BridgeVlans, Conf, Errno, Link, LinkChange, LinkKind,
    Netlink, Netns, Sysctl, VlanFiltering,
};
use node::LINK_GROUP;

use crate::uplink_policy::UplinkPolicy;
use crate::{Config, Error};

/// The alias of a bridge that this plugin made, and of VLAN devices on bridges.
pub(crate) const TAG: &str = "k8slan:vlan-bridge";

/// A bridge of the node, as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Bridge {
    pub(crate) name: IfName,
    pub(crate) index: u32,
    pub(crate) link: Link,
    pub(crate) info: BridgeInfo,
}

/// The link with that name as its own; the kernel also finds links by alternative names.
pub(crate) fn by_own_name(host: &Netlink, name: &IfName) -> Result<Option<Link>, Error> {
    let link = host.link_by_name(name)?;
    match link {
        Some(link) if name.as_str() != link.name => {
            Err(Error::OtherName { given: name.clone(), name: link.name })
        }
        link => Ok(link),
    }
}

impl Bridge {
    /// The bridge with that name; `None` if the link does not exist.
    ///
    /// # Errors
    /// A link of another kind has the name, or the bridge has it only as an alternative name.
    pub(crate) fn read(host: &Netlink, name: &IfName) -> Result<Option<Self>, Error> {
        let Some(link) = by_own_name(host, name)? else { return Ok(None) };
        match &link.kind {
            LinkKind::Bridge(info) => {
                Ok(Some(Self { name: name.clone(), index: link.index, info: info.clone(), link }))
            }
            other => Err(Error::NotABridge { name: name.clone(), kind: kind(other) }),
        }
    }

    /// The bridge of a configuration; `None` if ADD has to create it.
    ///
    /// # Errors
    /// A link of another kind has the name, or the bridge is missing and must not be created.
    pub(crate) fn find(host: &Netlink, config: &Config) -> Result<Option<Self>, Error> {
        match Self::read(host, &config.bridge)? {
            None if !config.create_bridge => Err(Error::NoBridge(config.bridge.clone())),
            found => Ok(found),
        }
    }

    /// Whether this plugin made it.
    pub(crate) fn is_ours(&self) -> bool {
        is_ours(&self.link)
    }

    /// The MTU of the bridge; a bridge never has one that the type refuses.
    pub(crate) fn mtu(&self) -> Mtu {
        Mtu::try_from(u64::from(self.link.mtu)).unwrap_or(Mtu::MAX)
    }

    /// Creates the bridge that a configuration asks for, with its uplinks.
    pub(crate) fn make(
        host: &Netlink,
        config: &Config,
        vlans: bool,
        mtu: Option<Mtu>,
        uplinks: &[Link],
        policy: &UplinkPolicy<'_>,
    ) -> Result<Self, Error> {
        let mut bridge = NewBridge::new(config.bridge.clone());
        bridge.link.mtu = mtu;
        bridge.link.group = LINK_GROUP;
        bridge.stp = config.stp;
        bridge.mcast_snooping = config.mcast_snooping;
        bridge.group_fwd_mask = config.group_fwd_mask;
        bridge.ageing_time = config.ageing.map(|seconds| seconds.saturating_mul(100));
        bridge.vlan_filtering = vlans.then(|| VlanFiltering {
            protocol: config.protocol(),
            default_pvid: config.preserve_default_vlan.then_some(VlanId::MIN),
        });
        let index = match host.create_bridge(&bridge) {
            // Somebody else created it after the first check.
            Err(error) if error.is_exists() => return Err(Error::BridgeAppeared(config.bridge.clone())),
            Err(error) if vlans && error.errno() == Some(Errno::EOPNOTSUPP) => {
                return Err(Error::NoVlanFiltering(config.bridge.clone(), error));
            }
            created => created?,
        };
        ignore_routers(&config.bridge)?;
        let change = LinkChange {
            alias: Some(TAG.to_owned()),
            up: Some(true),
            promisc: config.promisc_mode.then_some(true),
            ..LinkChange::default()
        };
        host.set_link(index, &change)?;
        for uplink in uplinks {
            policy.add_to_bridge(host, uplink, index)?;
        }
        let bridge =
            Self::read(host, &config.bridge)?.ok_or_else(|| Error::BridgeAppeared(config.bridge.clone()))?;
        let own = LinkChange {
            // With a configured address, it keeps it when ports come and go.
            mac: bridge.link.mac,
            // By default it has the smallest MTU of its ports, which may be larger than it should have; with a
            // configured one it keeps that.
            mtu: mtu.filter(|mtu| mtu.get() != bridge.link.mtu),
            ..LinkChange::default()
        };
        host.set_link(index, &own)?;
        Ok(bridge)
    }

    /// Makes the bridge keep its address, before pods learn it as the node's. By default a bridge has the smallest
    /// address of its ports, which changes when they come and go.
    pub(crate) fn keep_address(&self, host: &Netlink) -> Result<(), Error> {
        // A bridge of this plugin got its address when it was created.
        if self.is_ours() {
            return Ok(());
        }
        let mac = host.link_by_index(self.index)?.and_then(|link| link.mac);
        Ok(host.set_link(self.index, &LinkChange { mac, ..LinkChange::default() })?)
    }

    /// Verifies that an existing bridge is what the configuration needs; one that an ADD left half made is completed.
    pub(crate) fn suits(&self, host: &Netlink, config: &Config, vlans: bool) -> Result<(), Error> {
        if vlans && !self.info.vlan_filtering {
            if !config.adopt {
                return Err(Error::NotFiltering(self.name.clone()));
            }
            self.adoptable(host)?;
        }
        if vlans && self.info.vlan_protocol != config.protocol() {
            return Err(Error::OtherProtocol {
                bridge: self.name.clone(),
                have: self.info.vlan_protocol,
                wanted: config.protocol(),
            });
        }
        Ok(())
    }

    /// Applies the changes that [`Self::suits`] allowed.
    pub(crate) fn prepare(&self, host: &Netlink, config: &Config, vlans: bool) -> Result<(), Error> {
        let mut change = LinkChange::default();
        if vlans && !self.info.vlan_filtering {
            change.bridge = Some(BridgeChange { vlan_filtering: Some(true), ..BridgeChange::default() });
        }
        if self.is_ours() && (self.link.alias.is_none() || !self.link.up) {
            change.alias = Some(TAG.to_owned());
            change.up = Some(true);
        }
        if config.promisc_mode && !self.link.promisc {
            change.promisc = Some(true);
        }
        if change.bridge.is_some() || change.alias.is_some() || change.promisc.is_some() {
            host.set_link(self.index, &change)?;
        }
        Ok(())
    }

    /// Whether the node's own frames leave as before once the bridge filters: its untagged ones by every port, its
    /// tagged ones in the VLANs of the devices on the bridge.
    fn adoptable(&self, host: &Netlink) -> Result<(), Error> {
        let refuse = |why: String| Error::NotAdoptable { bridge: self.name.clone(), why };
        let members = host.all_bridge_vlans()?;
        let none = BridgeVlans::default();
        let own = members.get(&self.index).unwrap_or(&none);
        let Some(pvid) = own.pvid.filter(|&id| own.untagged.contains(id)) else {
            return Err(refuse(format!(
                "the bridge itself would carry {own}, so the node's untagged frames would be lost"
            )));
        };
        let ports = host.ports(self.index)?;
        for port in &ports {
            let vlans = members.get(&port.index).unwrap_or(&none);
            if vlans.pvid != Some(pvid) || !vlans.untagged.contains(pvid) {
                return Err(refuse(format!(
                    "port {} would carry {vlans}, but the node's untagged frames are in VLAN {pvid}",
                    port.name
                )));
            }
        }
        for device in host.links()? {
            let LinkKind::Vlan(vlan) = &device.kind else { continue };
            if device.lower != Some(self.index) || device.lower_netnsid.is_some() {
                continue;
            }
            let carried = |vlans: &BridgeVlans| {
                VlanId::try_from(u64::from(vlan.id)).is_ok_and(|id| vlans.tagged.contains(id))
            };
            let lost = std::iter::once((&self.link, own))
                .chain(ports.iter().map(|port| (port, members.get(&port.index).unwrap_or(&none))))
                .find(|(_, vlans)| !carried(vlans));
            if let Some((member, vlans)) = lost {
                return Err(refuse(format!(
                    "frames of {} are tagged with VLAN {}, but {} would carry {vlans}",
                    device.name, vlan.id, member.name
                )));
            }
        }
        Ok(())
    }
}

/// Called before a link of the node comes up where pods are: the node must accept no route and no address from a
/// router advertisement that one of them sends.
pub(crate) fn ignore_routers(link: &IfName) -> Result<(), Error> {
    Netns::current()?.sysctl_set(&Sysctl::ipv6(Conf::Link(link), "accept_ra"), "0")?;
    Ok(())
}

/// Whether this plugin created a link: it has the group from the start, the alias soon after.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.group == LINK_GROUP && link.alias.as_deref().is_none_or(|alias| alias == TAG)
}

/// The kind of a link, for a message.
fn kind(kind: &LinkKind) -> String {
    match kind {
        LinkKind::Veth => "a veth".to_owned(),
        LinkKind::Vxlan(_) => "a VXLAN device".to_owned(),
        LinkKind::Macvtap(_) => "a macvtap".to_owned(),
        LinkKind::Macvlan(_) => "a macvlan".to_owned(),
        LinkKind::Vlan(_) => "a VLAN device".to_owned(),
        LinkKind::Other(name) if name.is_empty() => "a physical link".to_owned(),
        LinkKind::Other(name) => format!("of kind {name:?}"),
        _ => "another kind of link".to_owned(),
    }
}
