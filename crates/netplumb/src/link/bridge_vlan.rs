//! Which VLANs the members of a bridge carry, and VLAN devices.

use std::collections::BTreeMap;
use std::fmt;

use net_types::{IfName, MacAddr, Mtu, VlanId, VlanSet};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoData, InfoKind, InfoVlan,
    LinkAttribute, LinkMessage,
};

use super::RTM_DELLINK;
use super::common::Common;
use crate::attrs::{Attrs, u16_at, u32_at};
use crate::netlink::{Bytes, Request, by_index};
use crate::{Netlink, Object, Result};

const RTM_SETLINK: u16 = 19;
const RTM_NEWVLAN: u16 = 112;
const RTM_GETVLAN: u16 = 114;
const BRIDGE_VLANDB_ENTRY: u16 = 1;
const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
const BRIDGE_VLANDB_ENTRY_RANGE: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
/// `BRIDGE_FLAGS_SELF` of `linux/if_bridge.h`.
const BRIDGE_FLAGS_SELF: u16 = 2;
/// `struct br_vlan_msg`: family, padding, link index.
const BR_VLAN_MSG: usize = 8;

/// The tag that a bridge or a VLAN device works with (`ETH_P_8021Q`, `ETH_P_8021AD`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VlanProtocol {
    /// 802.1Q, a customer's tag.
    #[default]
    Dot1q,
    /// 802.1ad, a provider's tag, with customers' tags inside ("QinQ").
    Dot1ad,
}

/// How a bridge that sorts frames by VLAN is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanFiltering {
    /// The tag that it reads.
    pub protocol: VlanProtocol,
    /// The VLAN that every new member carries untagged; none: new members carry nothing.
    pub default_pvid: Option<VlanId>,
}

/// The VLANs of a member of a bridge: of a port, or of the bridge itself as the node's own link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeVlans {
    /// Frames of these leave with their tag.
    pub tagged: VlanSet,
    /// Frames of these leave without a tag.
    pub untagged: VlanSet,
    /// Frames that come in without a tag belong to this one; it is in one of the two sets.
    pub pvid: Option<VlanId>,
}

/// A member of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeMember {
    /// The port with this index.
    Port(u32),
    /// The bridge with this index, as the node's own link.
    Bridge(u32),
}

/// A VLAN device (802.1q link) to make.
#[derive(Clone, Debug)]
pub struct VlanLink {
    /// Its name.
    pub name: IfName,
    /// Index of the link whose frames of that VLAN it takes.
    pub lower: u32,
    /// The VLAN.
    pub id: VlanId,
    /// The tag.
    pub protocol: VlanProtocol,
    /// Its address, or the lower's.
    pub mac: Option<MacAddr>,
    /// Its MTU, or the lower's.
    pub mtu: Option<Mtu>,
    /// Its group, 0 by default.
    pub group: u32,
    /// Whether it is up from the start.
    pub up: bool,
}

/// A VLAN device's attributes (`IFLA_VLAN_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanInfo {
    /// The VLAN ID; 0 is possible for the kernel.
    pub id: u16,
    /// The tag.
    pub protocol: VlanProtocol,
}

impl BridgeVlans {
    /// Those of an access port: one VLAN, untagged in both directions.
    #[must_use]
    pub fn access(id: VlanId) -> Self {
        Self { tagged: VlanSet::EMPTY, untagged: id.into(), pvid: Some(id) }
    }

    /// Those of a trunk: tagged, with one untagged in both directions if `native` is given.
    #[must_use]
    pub fn trunk(ids: &VlanSet, native: Option<VlanId>) -> Self {
        let untagged = native.map(VlanSet::from).unwrap_or_default();
        Self { tagged: ids.without(&untagged), untagged, pvid: native }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> VlanSet {
        self.tagged.union(&self.untagged)
    }

    /// Whether it carries nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tagged.is_empty() && self.untagged.is_empty()
    }

    /// As the kernel takes them: ranges as ranges, the PVID alone.
    fn infos(&self) -> Vec<AfSpecBridge> {
        let mut infos = Vec::new();
        for (set, flags) in
            [(&self.tagged, BridgeVlanInfoFlags::empty()), (&self.untagged, BridgeVlanInfoFlags::Untagged)]
        {
            let mut set = set.clone();
            if let Some(pvid) = self.pvid.filter(|&pvid| set.remove(pvid)) {
                push_range(&mut infos, pvid, pvid, flags | BridgeVlanInfoFlags::Pvid);
            }
            for range in set.ranges() {
                push_range(&mut infos, *range.start(), *range.end(), flags);
            }
        }
        infos
    }
}

impl fmt::Display for BridgeVlans {
    /// Like `10,20 tagged, 1 untagged (PVID 1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (set, how) in [(&self.tagged, "tagged"), (&self.untagged, "untagged")] {
            if !set.is_empty() {
                parts.push(format!("{set} {how}"));
            }
        }
        match (parts.is_empty(), self.pvid) {
            (true, _) => f.write_str("no VLAN"),
            (false, None) => write!(f, "{} (no PVID)", parts.join(", ")),
            (false, Some(pvid)) => write!(f, "{} (PVID {pvid})", parts.join(", ")),
        }
    }
}

impl fmt::Display for VlanProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dot1q => "802.1Q",
            Self::Dot1ad => "802.1ad",
        })
    }
}

impl VlanProtocol {
    pub(super) fn wire(self) -> netlink_packet_route::link::VlanProtocol {
        match self {
            Self::Dot1q => netlink_packet_route::link::VlanProtocol::Ieee8021Q,
            Self::Dot1ad => netlink_packet_route::link::VlanProtocol::Ieee8021Ad,
        }
    }

    pub(super) fn from_wire(ethertype: u16) -> Self {
        const ETH_P_8021AD: u16 = 0x88a8;
        if ethertype == ETH_P_8021AD { Self::Dot1ad } else { Self::Dot1q }
    }
}

fn push_range(infos: &mut Vec<AfSpecBridge>, from: VlanId, to: VlanId, flags: BridgeVlanInfoFlags) {
    let info = |id: VlanId, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: id.get() });
    if from == to {
        infos.push(info(from, flags));
    } else {
        infos.push(info(from, flags | BridgeVlanInfoFlags::RangeBegin));
        infos.push(info(to, flags | BridgeVlanInfoFlags::RangeEnd));
    }
}

impl Netlink {
    /// Makes a member carry VLANs, in one message whatever their number. Those that it carries already
    /// are changed (tagged, untagged, PVID), others stay.
    ///
    /// # Errors
    /// What the kernel refused: EOPNOTSUPP for a kernel without VLAN filtering.
    pub fn add_bridge_vlans(&self, member: BridgeMember, vlans: &BridgeVlans) -> Result<()> {
        self.change_bridge_vlans("set VLANs of bridge member", RTM_SETLINK, member, vlans.infos())
    }

    /// Makes a member carry VLANs no more, in one message; those that it does not carry are no error.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn remove_bridge_vlans(&self, member: BridgeMember, vlans: &VlanSet) -> Result<()> {
        let infos = BridgeVlans::trunk(vlans, None).infos();
        match self.change_bridge_vlans("remove VLANs of bridge member", RTM_DELLINK, member, infos) {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }

    fn change_bridge_vlans(
        &self,
        operation: &'static str,
        kind: u16,
        member: BridgeMember,
        mut infos: Vec<AfSpecBridge>,
    ) -> Result<()> {
        if infos.is_empty() {
            return Ok(());
        }
        let index = match member {
            BridgeMember::Port(index) => index,
            BridgeMember::Bridge(index) => {
                infos.insert(0, AfSpecBridge::Flags(BridgeFlag::from(BRIDGE_FLAGS_SELF)));
                index
            }
        };
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = index;
        message.attributes = vec![LinkAttribute::AfSpecBridge(infos)];
        let object = by_index(index);
        self.command(&Request { operation, object: &object, kind, flags: 0, body: &message })
    }

    /// The VLANs of one member of a bridge: a port's, or a bridge's own by the bridge's index.
    ///
    /// # Errors
    /// What the kernel refused: EINVAL for a link that is no member.
    pub fn bridge_vlans(&self, index: u32) -> Result<BridgeVlans> {
        Ok(self.read_bridge_vlans(index)?.remove(&index).unwrap_or_default())
    }

    /// The VLANs of all members of all bridges, by index.
    ///
    /// # Errors
    /// As [`Self::bridge_vlans`].
    pub fn all_bridge_vlans(&self) -> Result<BTreeMap<u32, BridgeVlans>> {
        self.read_bridge_vlans(0)
    }

    fn read_bridge_vlans(&self, index: u32) -> Result<BTreeMap<u32, BridgeVlans>> {
        const AF_BRIDGE: u8 = 7;
        let mut message = vec![AF_BRIDGE, 0, 0, 0];
        message.extend_from_slice(&index.to_ne_bytes());
        let object = move || if index == 0 { Object::from("of all members") } else { Object::from(index) };
        let request = Request {
            operation: "read bridge VLANs",
            object: &object,
            kind: RTM_GETVLAN,
            flags: 0,
            body: &Bytes(message),
        };
        let parts = self.dump(&request, |kind, body| {
            Ok((kind == RTM_NEWVLAN).then(|| u32_at(body, 4).map(|index| (index, entries(body)))).flatten())
        })?;
        let mut all: BTreeMap<u32, BridgeVlans> = BTreeMap::new();
        for (index, entries) in parts {
            let vlans = all.entry(index).or_default();
            for entry in entries {
                let set = VlanSet::from(entry.from..=entry.to);
                let to = if entry.untagged { &mut vlans.untagged } else { &mut vlans.tagged };
                *to = to.union(&set);
                if entry.pvid {
                    vlans.pvid = Some(entry.from);
                }
            }
        }
        Ok(all)
    }

    /// Makes a VLAN device and returns its index.
    ///
    /// # Errors
    /// What the kernel refused: EEXIST also for a VLAN that the lower link has a device for.
    pub fn create_vlan(&self, vlan: &VlanLink) -> Result<u32> {
        let common = Common {
            name: &vlan.name,
            index: None,
            mac: vlan.mac,
            mtu: vlan.mtu,
            group: vlan.group,
            up: vlan.up,
            netns: None,
        };
        let data = vec![InfoVlan::Id(vlan.id.get()), InfoVlan::Protocol(vlan.protocol.wire())];
        let message =
            common.builder(Some(InfoKind::Vlan)).link(vlan.lower).set_info_data(InfoData::Vlan(data)).build();
        let echo = self.create("create VLAN device", &common, &message)?;
        self.index_of("create VLAN device", &common, echo.index)
    }
}

struct Entry {
    from: VlanId,
    to: VlanId,
    untagged: bool,
    pvid: bool,
}

/// The entries of one `RTM_NEWVLAN` message; what is no VLAN ID is left out.
fn entries(body: &[u8]) -> Vec<Entry> {
    let entry = |attrs: Attrs<'_>| {
        let (mut info, mut last) = (None, None);
        for attr in attrs {
            match attr.kind {
                // struct bridge_vlan_info: flags, vid.
                BRIDGE_VLANDB_ENTRY_INFO => info = Some((attr.u16()?, u16_at(attr.value, 2)?)),
                BRIDGE_VLANDB_ENTRY_RANGE => last = attr.u16(),
                _ => {}
            }
        }
        let (flags, from) = info?;
        let id = |id: u16| VlanId::try_from(u64::from(id)).ok();
        Some(Entry {
            from: id(from)?,
            to: id(last.unwrap_or(from))?,
            untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
            pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
        })
    };
    Attrs::new(body.get(BR_VLAN_MSG..).unwrap_or_default())
        .filter(|attr| attr.kind == BRIDGE_VLANDB_ENTRY)
        .filter_map(|attr| entry(attr.nested()))
        .collect()
}
