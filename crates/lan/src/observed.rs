use std::collections::BTreeMap;
use std::net::IpAddr;

use net_types::IfName;

use crate::LanKey;

/// The observed state of a LAN on a node: its network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Whether the namespace exists, and whose it is.
    pub netns: NetnsState,
    /// The namespace's settings of those in [`crate::SETTINGS`] that this kernel has, by their path.
    pub settings: BTreeMap<&'static str, String>,
    /// All links in the namespace, `lo` too.
    pub links: Vec<Link>,
}

/// Whether the namespace exists, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsState {
    /// Nothing has the namespace's name.
    Absent,
    /// k8slan did not make what has the namespace's name.
    Foreign,
    /// It exists without its name: somebody unmounted `/run/netns/<ns>`.
    Unmounted(NetnsOwner),
    /// It is mounted at its path.
    Mounted(NetnsOwner),
}

/// The owner that the mark on a namespace's `lo` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsOwner {
    /// The LAN that it was made for.
    Lan(LanKey),
    /// The link group is ours, but somebody removed the alias.
    Unknown,
}

/// A link in the LAN's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The index in the LAN's namespace.
    pub index: u32,
    /// The name as text, since the kernel allows names that an [`IfName`] does not.
    pub name: String,
    /// Whether it has k8slan's link group.
    pub group: bool,
    /// The owner that its alias names.
    pub alias: Alias,
    /// Its kind with what matters here.
    pub kind: LinkKind,
    /// Whether it is administratively up.
    pub up: bool,
    /// The MTU in bytes (`IFLA_MTU`).
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The link-local groups that it forwards as a port, one bit for each.
    pub group_fwd_mask: Option<u16>,
}

/// A link's alias, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alias {
    /// The link has no alias.
    None,
    /// Something that k8slan did not write.
    Other,
    /// `k8slan:lan …`: it belongs to a LAN as a whole.
    Lan(LanKey),
    /// `k8slan:attach …`: it belongs to one pod's attachment.
    Attachment {
        /// Whether the pod's network namespace still exists.
        live: bool,
        /// The attachment, for messages.
        who: String,
    },
}

/// The kind of a link, with what matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge with its settings.
    Bridge {
        /// Whether the spanning tree protocol is on.
        stp: bool,
        /// Whether IGMP and MLD snooping is on.
        mcast_snooping: bool,
        /// How many addresses it learns at most, 0: without a limit; `None`: this kernel has no limit.
        max_learned: Option<u32>,
    },
    /// A VXLAN device with its attributes.
    Vxlan(Vxlan),
    /// One end of a veth pair.
    Veth {
        /// The index of its peer, if that is in the same namespace.
        peer: Option<u32>,
    },
    /// Any other kind, by the kernel's name.
    Other(String),
}

/// The attributes of a VXLAN device that cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier (`IFLA_VXLAN_ID`).
    pub vni: u32,
    /// The multicast group, if it has one.
    pub group: Option<IpAddr>,
    /// The UDP port of the tunnel.
    pub port: u16,
    /// The index of the underlay device in the node's namespace.
    pub underlay: Option<u32>,
    /// Whether it learns addresses from received frames.
    pub learning: bool,
}

impl Observed {
    /// The state before anything is created.
    #[must_use]
    pub fn absent() -> Self {
        Self { netns: NetnsState::Absent, settings: BTreeMap::new(), links: Vec::new() }
    }

    /// The link with that name in the namespace.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with that index in the namespace.
    #[cfg(test)]
    pub(crate) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The LAN that the namespace was made for.
    #[must_use]
    pub fn owner(&self) -> Option<&LanKey> {
        match &self.netns {
            NetnsState::Mounted(NetnsOwner::Lan(key)) | NetnsState::Unmounted(NetnsOwner::Lan(key)) => {
                Some(key)
            }
            _ => None,
        }
    }
}

impl Link {
    /// Whether k8slan made it: it has our group or an alias of ours. No other link is ever changed.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.group || matches!(self.alias, Alias::Lan(_) | Alias::Attachment { .. })
    }

    /// The name as a type, if it is a valid one.
    #[must_use]
    pub fn if_name(&self) -> Option<IfName> {
        self.name.parse().ok()
    }
}
