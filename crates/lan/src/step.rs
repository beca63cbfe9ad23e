use std::fmt;
use std::net::IpAddr;

use net_types::{Mtu, UdpPort, Vni};

use crate::LanKey;

/// One change in a LAN's namespace, by one request to the kernel or a few.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields without a comment are those of the link that a step creates")]
pub enum Step {
    /// Creates the namespace, marks it as this LAN's, and only then gives it its name.
    CreateNetns(LanKey),
    /// Gives the namespace its name again.
    MountNetns,
    /// Removes the namespace's name; the kernel then deletes the namespace.
    RemoveNetns,
    /// Writes a setting of the namespace.
    Set {
        /// The path below `/proc/sys/net`.
        path: &'static str,
        /// The text to be written.
        value: &'static str,
    },
    /// Removes a link of ours.
    RemoveLink(Target),
    /// Removes an attachment's links, under the spoke's lock, and only if they are still as observed.
    RemoveSpoke(Target),
    /// Creates the bridge, with our group, without spanning tree and snooping, with a limit of addresses, up.
    CreateBridge {
        name: String,
        /// `None`: the kernel's default, since the LAN's is not known yet.
        mtu: Option<Mtu>,
    },
    /// Creates the VXLAN device, with our group, learning, with a limit of addresses, as a port of the bridge, down.
    CreateVxlan {
        name: String,
        vni: Vni,
        group: IpAddr,
        port: UdpPort,
        /// The index of the underlay in the node's namespace.
        underlay: u32,
        mtu: Mtu,
        bridge: Target,
    },
    /// Changes a link of ours.
    Change(Target, Change),
}

/// A link that a step is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name, for messages and for a link without index.
    pub name: String,
    /// The index; `None` for a link that an earlier step creates.
    pub index: Option<u32>,
}

/// A change of a link; `None` leaves an attribute as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Gives it our group and the alias of this LAN.
    pub mark: Option<LanKey>,
    /// Makes it a port of this bridge.
    pub master: Option<Target>,
    /// The MTU in bytes (`IFLA_MTU`).
    pub mtu: Option<Mtu>,
    /// Whether the spanning tree protocol is on, for a bridge.
    pub stp: Option<bool>,
    /// Whether IGMP and MLD snooping is on, for a bridge.
    pub mcast_snooping: Option<bool>,
    /// How many addresses a bridge learns at most.
    pub max_learned: Option<u32>,
    /// The link-local groups that a port forwards.
    pub group_fwd_mask: Option<u16>,
    /// Sets it up or down.
    pub up: Option<bool>,
}

impl Change {
    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetns(lan) => write!(f, "make the network namespace of {lan}"),
            Self::MountNetns => f.write_str("give the network namespace its name back"),
            Self::RemoveNetns => f.write_str("remove the network namespace"),
            Self::Set { path, value } => write!(f, "set {path} to {value}"),
            Self::RemoveLink(link) => write!(f, "remove {link}"),
            Self::RemoveSpoke(link) => write!(f, "remove {link} and its other end"),
            Self::CreateBridge { name, .. } => write!(f, "make bridge {name}"),
            Self::CreateVxlan { name, vni, .. } => write!(f, "make VXLAN device {name} with VNI {vni}"),
            Self::Change(link, change) => {
                write!(f, "change {link}:")?;
                let Change { mark, master, mtu, stp, mcast_snooping, max_learned, group_fwd_mask, up } =
                    change;
                if mark.is_some() {
                    f.write_str(" mark")?;
                }
                if let Some(master) = master {
                    write!(f, " port of {master}")?;
                }
                if let Some(mtu) = mtu {
                    write!(f, " MTU {mtu}")?;
                }
                for (name, on) in [("spanning tree", stp), ("multicast snooping", mcast_snooping)] {
                    if let Some(on) = on {
                        write!(f, " {name} {}", if *on { "on" } else { "off" })?;
                    }
                }
                if let Some(max) = max_learned {
                    write!(f, " at most {max} learned addresses")?;
                }
                if let Some(mask) = group_fwd_mask {
                    write!(f, " group_fwd_mask {mask:#06x}")?;
                }
                match up {
                    Some(true) => f.write_str(" up"),
                    Some(false) => f.write_str(" down"),
                    None => Ok(()),
                }
            }
        }
    }
}
