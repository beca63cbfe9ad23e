use std::collections::BTreeMap;
use std::net::IpAddr;

use net_types::IfName;

use crate::LanKey;

/// What stands on a node where a LAN is, should be, or was: one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The namespace itself.
    pub netns: NetnsState,
    /// The namespace's settings of those in [`crate::SETTINGS`] that this kernel has, by their path.
    pub settings: BTreeMap<&'static str, String>,
    /// All links in it, `lo` too.
    pub links: Vec<Link>,
}

/// Where the namespace is, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsState {
    /// Nothing has that name.
    Absent,
    /// Something has that name that k8slan did not make.
    Foreign,
    /// It lives and has lost its name: somebody unmounted `/run/netns/<ns>`.
    Unmounted(NetnsOwner),
    /// It is where it should be.
    Mounted(NetnsOwner),
}

/// What the mark on a namespace's `lo` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsOwner {
    /// The LAN that it was made for.
    Lan(LanKey),
    /// It has our link group, but somebody took the alias away.
    Unknown,
}

/// A link in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name; text, since the kernel has names that are no [`IfName`].
    pub name: String,
    /// Whether it has k8slan's link group.
    pub group: bool,
    /// What its alias says.
    pub alias: Alias,
    /// What it is.
    pub kind: LinkKind,
    /// Whether it is set up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Which link-local groups it forwards as a port.
    pub group_fwd_mask: Option<u16>,
}

/// A link's alias, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alias {
    /// None.
    None,
    /// Something that k8slan did not write.
    Other,
    /// `k8slan:lan …`: it belongs to a LAN as a whole.
    Lan(LanKey),
    /// `k8slan:attach …`: it belongs to one pod's attachment.
    Attachment {
        /// Whether the pod's network namespace is still there.
        live: bool,
        /// Who it is, for messages.
        who: String,
    },
}

/// What a link is, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge {
        /// Spanning tree is on.
        stp: bool,
        /// IGMP and MLD snooping is on.
        mcast_snooping: bool,
    },
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// One end of a veth pair.
    Veth {
        /// The index of the other end where it is in the same namespace.
        peer: Option<u32>,
    },
    /// Anything else, by the kernel's name.
    Other(String),
}

/// What a VXLAN device is made with and cannot change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// Multicast group.
    pub group: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Index of the underlay device in the node's namespace.
    pub underlay: Option<u32>,
    /// It learns addresses.
    pub learning: bool,
}

impl Observed {
    /// What there is before anything is made.
    #[must_use]
    pub fn absent() -> Self {
        Self { netns: NetnsState::Absent, settings: BTreeMap::new(), links: Vec::new() }
    }

    /// The link of that name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link of that index.
    #[must_use]
    pub fn link_at(&self, index: u32) -> Option<&Link> {
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
    /// Whether k8slan made it: it has the group, or an alias of ours. Nothing else is ever changed.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.group || matches!(self.alias, Alias::Lan(_) | Alias::Attachment { .. })
    }

    /// The name as a type.
    #[must_use]
    pub fn if_name(&self) -> Option<IfName> {
        self.name.parse().ok()
    }
}
