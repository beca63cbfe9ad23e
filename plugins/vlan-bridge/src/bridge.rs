//! The bridge: finding, making, adopting and removing it.

use net_types::{IfName, Mtu, VlanId};
use netplumb::{
    Bridge as NewBridge, BridgeChange, BridgeInfo, BridgeVlans, Conf, Link, LinkChange, LinkKind, Netlink,
    Netns, Sysctl, VlanFiltering,
};
use node::LINK_GROUP;

use crate::uplink_policy::UplinkPolicy;
use crate::{Config, Error};

/// The alias of a bridge that this plugin made, and of VLAN devices on bridges.
pub(crate) const TAG: &str = "k8slan:vlan-bridge";

/// A bridge as it is.
#[derive(Clone, Debug)]
pub(crate) struct Bridge {
    pub(crate) name: IfName,
    pub(crate) index: u32,
    pub(crate) link: Link,
    pub(crate) info: BridgeInfo,
}

/// The link that is called so; the kernel answers to alternative names, too.
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
    /// The bridge of that name; none if there is no such link.
    ///
    /// # Errors
    /// A link of another kind has the name, or has it as an alternative name alone.
    pub(crate) fn look(host: &Netlink, name: &IfName) -> Result<Option<Self>, Error> {
        let Some(link) = by_own_name(host, name)? else { return Ok(None) };
        match &link.kind {
            LinkKind::Bridge(info) => {
                Ok(Some(Self { name: name.clone(), index: link.index, info: info.clone(), link }))
            }
            other => Err(Error::NotABridge { name: name.clone(), kind: kind(other) }),
        }
    }

    /// The bridge of a configuration; none if ADD is to make it.
    ///
    /// # Errors
    /// A link of another kind has the name, or the bridge is missing and not to be made.
    pub(crate) fn find(host: &Netlink, config: &Config) -> Result<Option<Self>, Error> {
        match Self::look(host, &config.bridge)? {
            None if !config.create_bridge => Err(Error::NoBridge(config.bridge.clone())),
            found => Ok(found),
        }
    }

    /// Whether this plugin made it.
    pub(crate) fn is_ours(&self) -> bool {
        is_ours(&self.link)
    }

    /// Its MTU; a bridge has one that the type takes.
    pub(crate) fn mtu(&self) -> Mtu {
        Mtu::try_from(u64::from(self.link.mtu)).unwrap_or(Mtu::MAX)
    }

    /// Makes the bridge that a configuration asks for, with its uplinks.
    pub(crate) fn make(
        host: &Netlink,
        config: &Config,
        vlans: bool,
        mtu: Option<Mtu>,
        uplinks: &[Link],
        policy: &UplinkPolicy<'_>,
    ) -> Result<Self, Error> {
        let mut bridge = NewBridge::new(config.bridge.clone());
        bridge.mtu = mtu;
        bridge.group = LINK_GROUP;
        bridge.stp = config.stp;
        bridge.mcast_snooping = config.mcast_snooping;
        bridge.group_fwd_mask = config.group_fwd_mask;
        bridge.ageing_time = config.ageing.map(|seconds| seconds.saturating_mul(100));
        bridge.vlan_filtering = vlans.then(|| VlanFiltering {
            protocol: config.protocol(),
            default_pvid: config.preserve_default_vlan.then_some(VlanId::MIN),
        });
        let index = match host.create_bridge(&bridge) {
            // AttachedPort by somebody else since it was looked for.
            Err(error) if error.is_exists() => return Err(Error::BridgeAppeared(config.bridge.clone())),
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
            policy.take(host, uplink, index)?;
        }
        let bridge =
            Self::look(host, &config.bridge)?.ok_or_else(|| Error::BridgeAppeared(config.bridge.clone()))?;
        let own = LinkChange {
            // Told its own address it keeps it, whatever ports come and go.
            mac: bridge.link.mac,
            // By itself it has the smallest MTU of its ports, which may be more than it is to have; told another it keeps
            // that.
            mtu: mtu.filter(|mtu| mtu.get() != bridge.link.mtu),
            ..LinkChange::default()
        };
        host.set_link(index, &own)?;
        Ok(bridge)
    }

    /// Has the bridge keep its address, before pods learn it as the node's. One that nobody gave an address takes the
    /// smallest of its ports', which changes as they come and go.
    pub(crate) fn keep_address(&self, host: &Netlink) -> Result<(), Error> {
        // One that this plugin made was told at once.
        if self.is_ours() {
            return Ok(());
        }
        let mac = host.link_by_index(self.index)?.and_then(|link| link.mac);
        Ok(host.set_link(self.index, &LinkChange { mac, ..LinkChange::default() })?)
    }

    /// Verifies that an existing bridge is what the configuration needs; a bridge that an ADD left half
    /// made is finished.
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

    /// Makes an existing bridge what [`Self::suits`] allowed.
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

    /// Whether the node's own frames leave in the same way once the bridge filters: its untagged ones by
    /// every port, its tagged ones in the VLANs of the devices on the bridge.
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

/// Before a link of the node comes up where pods are: the node takes no route and no address from a router
/// advertisement that one of them sends.
pub(crate) fn ignore_routers(link: &IfName) -> Result<(), Error> {
    Netns::current()?.sysctl_set(&Sysctl::ipv6(Conf::Link(link), "accept_ra"), "0")?;
    Ok(())
}

/// Whether this plugin made a link: its group says so from birth, its alias soon after.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.group == LINK_GROUP && link.alias.as_deref().is_none_or(|alias| alias == TAG)
}

/// What a link is, for a message.
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
