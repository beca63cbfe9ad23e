use std::fmt;
use std::net::IpAddr;

use net_types::{Mtu, UdpPort, Vni};

use crate::LanKey;

/// One thing to do in a LAN's namespace, with one request to the kernel or a few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the namespace, mark it as this LAN's, and only then give it its name.
    CreateNetns(LanKey),
    /// Give the namespace its name back.
    MountNetns,
    /// Take the namespace's name away; it dies with that.
    RemoveNetns,
    /// Write a setting.
    Set {
        /// Below `/proc/sys/net`.
        path: &'static str,
        /// The text to write.
        value: &'static str,
    },
    /// Remove a link of ours.
    RemoveLink(Target),
    /// Remove an attachment's links, under the spoke's lock and only if they are still as they were.
    RemoveSpoke(Target),
    /// Make the bridge, with our group, without spanning tree and snooping, up.
    CreateBridge {
        /// Its name.
        name: String,
        /// Its MTU; the kernel's own where it cannot be told yet.
        mtu: Option<Mtu>,
    },
    /// Make the VXLAN device, with our group, learning, as a port of the bridge, down.
    CreateVxlan {
        /// Its name.
        name: String,
        /// Network identifier.
        vni: Vni,
        /// Multicast group.
        group: IpAddr,
        /// UDP port.
        port: UdpPort,
        /// Index of the underlay in the node's namespace.
        underlay: u32,
        /// Its MTU.
        mtu: Mtu,
        /// The bridge.
        bridge: Target,
    },
    /// Change a link of ours.
    Change(Target, Change),
}

/// The link that a step is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its index; `None` for a link that an earlier step makes.
    pub index: Option<u32>,
}

/// What to change of a link; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Give it our group and the alias of this LAN.
    pub mark: Option<LanKey>,
    /// Make it a port of this bridge.
    pub master: Option<Target>,
    /// Its MTU.
    pub mtu: Option<Mtu>,
    /// Spanning tree, of a bridge.
    pub stp: Option<bool>,
    /// IGMP and MLD snooping, of a bridge.
    pub mcast_snooping: Option<bool>,
    /// The link-local groups that a port forwards.
    pub group_fwd_mask: Option<u16>,
    /// Set it up or down.
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
                let Change { mark, master, mtu, stp, mcast_snooping, group_fwd_mask, up } = change;
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
