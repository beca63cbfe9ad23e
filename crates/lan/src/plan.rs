use std::fmt;

use crate::{LanKey, Step};

/// The steps for a LAN, and the obstacles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in the order in which to apply them.
    pub steps: Vec<Step>,
    /// What prevents other steps: k8slan must not remove it.
    pub obstacles: Vec<Obstacle>,
}

/// Something that k8slan must not remove, or not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The namespace's name is taken by something that k8slan did not make.
    ForeignNetns,
    /// The namespace belongs to another LAN.
    NetnsOf(LanKey),
    /// A foreign link has a name that the LAN needs.
    NameTaken {
        /// The name that both need.
        name: String,
        /// The link that needs the name.
        role: Role,
    },
    /// A pod uses an undesired spoke. Its port is down.
    Held {
        /// The name of the spoke.
        spoke: String,
        /// The attachment that uses it, for messages.
        who: String,
    },
    /// The namespace is to be removed, but has foreign links, with these names.
    ForeignLinks(Vec<String>),
}

/// The purpose of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The LAN's bridge.
    Bridge,
    /// The LAN's VXLAN device.
    Vxlan,
    /// One end of a spoke's veth.
    Spoke,
}

impl Obstacle {
    /// Whether the obstacle concerns the whole LAN, not only one spoke.
    #[must_use]
    pub fn blocks_lan(&self) -> bool {
        match self {
            Self::ForeignNetns | Self::NetnsOf(_) => true,
            Self::NameTaken { role, .. } => matches!(role, Role::Bridge | Role::Vxlan),
            Self::Held { .. } | Self::ForeignLinks(_) => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "the LAN's bridge",
            Self::Vxlan => "the LAN's VXLAN device",
            Self::Spoke => "a spoke",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignNetns => f.write_str(
                "its network namespace's name is taken by one that k8slan did not make: remove that one, or give the LAN another ns",
            ),
            Self::NetnsOf(lan) => write!(f, "its network namespace still belongs to LAN {lan}"),
            Self::NameTaken { name, role } => write!(
                f,
                "link {name:?} in the namespace is not k8slan's, and its name is needed for {role}: remove or rename that link"
            ),
            Self::Held { spoke, who } => {
                write!(f, "spoke {spoke} is still used by {who}; its port is down, and it goes when that is gone")
            }
            Self::ForeignLinks(links) => write!(
                f,
                "links that are not k8slan's are in the namespace: remove {}, then the namespace goes",
                links.join(", ")
            ),
        }
    }
}
