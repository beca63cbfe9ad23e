//! VLANs of a bridge's members, and VLAN devices.

use std::collections::BTreeMap;
use std::fmt;

use net_types::{VlanId, VlanSet};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoData, InfoKind, InfoVlan,
    LinkAttribute, LinkMessage,
};
use serde::{Deserialize, Serialize};

use super::RTM_DELLINK;
use super::new_link::NewLink;
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
/// `BRIDGE_FLAGS_SELF` of `linux/if_bridge.h`: the bridge itself, not a port.
const BRIDGE_FLAGS_SELF: u16 = 2;
/// The size of `struct br_vlan_msg`: family, padding, link index.
const BR_VLAN_MSG: usize = 8;

/// The tag that a bridge or a VLAN device works with (`ETH_P_8021Q`, `ETH_P_8021AD`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VlanProtocol {
    /// The customer's tag of IEEE 802.1Q.
    #[default]
    Dot1q,
    /// 802.1ad, a provider's tag, with customers' tags inside ("QinQ").
    Dot1ad,
}

/// The VLAN filtering of a new bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanFiltering {
    /// The tag that the bridge filters by.
    pub protocol: VlanProtocol,
    /// The VLAN that every new member carries untagged; `None`: new members carry no VLAN.
    pub default_pvid: Option<VlanId>,
}

/// The VLANs of a member of a bridge: of a port, or of the bridge itself as the node's own link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct BridgeVlans {
    /// Frames of these VLANs leave with their tag.
    #[serde(default)]
    pub tagged: VlanSet,
    /// Frames of these VLANs leave without a tag.
    #[serde(default)]
    pub untagged: VlanSet,
    /// The VLAN of frames that arrive without a tag; it is in one of the two sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvid: Option<VlanId>,
}

/// A member of a bridge, by link index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeMember {
    /// The port with this index.
    Port(u32),
    /// The bridge with this index, as the node's own link.
    Bridge(u32),
}

/// A VLAN device (802.1q link) to create.
#[derive(Clone, Debug)]
pub struct VlanLink {
    /// What every new link has.
    pub link: NewLink,
    /// The index of the link whose frames of that VLAN it gets.
    pub lower: u32,
    /// The VLAN whose frames it gets (`IFLA_VLAN_ID`).
    pub id: VlanId,
    /// The tag of those frames (`IFLA_VLAN_PROTOCOL`).
    pub protocol: VlanProtocol,
}

/// A VLAN device's attributes (`IFLA_VLAN_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanInfo {
    /// The VLAN ID; the kernel also allows 0.
    pub id: u16,
    /// The tag of its frames (`IFLA_VLAN_PROTOCOL`).
    pub protocol: VlanProtocol,
}

impl BridgeVlans {
    /// The VLANs of an access port: one VLAN, untagged in both directions.
    #[must_use]
    pub fn access(id: VlanId) -> Self {
        Self { tagged: VlanSet::EMPTY, untagged: id.into(), pvid: Some(id) }
    }

    /// The VLANs of a trunk: tagged, with one untagged in both directions if `native` is given.
    #[must_use]
    pub fn trunk(ids: &VlanSet, native: Option<VlanId>) -> Self {
        let untagged = native.map(VlanSet::from).unwrap_or_default();
        Self { tagged: ids.without(&untagged), untagged, pvid: native }
    }

    /// The tagged and the untagged VLANs together.
    #[must_use]
    pub fn all(&self) -> VlanSet {
        self.tagged.union(&self.untagged)
    }

    /// Whether the member carries no VLAN.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tagged.is_empty() && self.untagged.is_empty()
    }

    /// The attributes of a request: ranges as ranges, the PVID by itself.
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
    /// Such as `10,20 tagged, 1 untagged (PVID 1)`.
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
    /// Adds VLANs to a member, in one message for any number of them. VLANs that it carries already are changed
    /// (tagged, untagged, PVID), others stay.
    ///
    /// # Errors
    /// The kernel refuses: EOPNOTSUPP without VLAN filtering.
    pub fn add_bridge_vlans(&self, member: BridgeMember, vlans: &BridgeVlans) -> Result<()> {
        self.change_bridge_vlans("set VLANs of bridge member", RTM_SETLINK, member, vlans.infos())
    }

    /// Removes VLANs from a member, in one message; VLANs that it does not carry are ignored.
    ///
    /// # Errors
    /// The kernel refuses the removal.
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
    /// The kernel refuses: EINVAL for a link that is not a member.
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

    /// Creates a VLAN device and returns its index.
    ///
    /// # Errors
    /// The kernel refuses: EEXIST also for a VLAN that the lower link has a device for.
    pub fn create_vlan(&self, vlan: &VlanLink) -> Result<u32> {
        let data = vec![InfoVlan::Id(vlan.id.get()), InfoVlan::Protocol(vlan.protocol.wire())];
        let message = vlan
            .link
            .builder(Some(InfoKind::Vlan))
            .link(vlan.lower)
            .set_info_data(InfoData::Vlan(data))
            .build();
        let echo = self.create("create VLAN device", &vlan.link, &message)?;
        self.index_of("create VLAN device", &vlan.link, echo.index)
    }
}

struct Entry {
    from: VlanId,
    to: VlanId,
    untagged: bool,
    pvid: bool,
}

/// The entries of one `RTM_NEWVLAN` message; invalid VLAN IDs are left out.
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
