use std::fmt;

use crate::{LanKey, Step};

/// What to do, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// What cannot be done, because k8slan must not.
    pub obstacles: Vec<Obstacle>,
}

/// Something that is in the way and is not k8slan's to remove, or not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The namespace's name is taken by something that k8slan did not make.
    ForeignNetns,
    /// The namespace belongs to another LAN.
    NetnsOf(LanKey),
    /// Somebody else's link has a name that the LAN needs.
    NameTaken {
        /// The name.
        name: String,
        /// What would have it.
        role: Role,
    },
    /// A spoke that should go is in use. Its port is down.
    Held {
        /// The spoke.
        spoke: String,
        /// Who uses it.
        who: String,
    },
    /// The namespace should go, but somebody put links into it.
    ForeignLinks(Vec<String>),
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The LAN's bridge.
    Bridge,
    /// The LAN's VXLAN device.
    Vxlan,
    /// One end of a spoke.
    Spoke,
}

impl Obstacle {
    /// Whether the LAN as a whole cannot be built, and not only one spoke.
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
