//! Attributes that every kind of new link has.

use std::os::fd::{AsFd as _, AsRawFd as _};

use net_types::{IfName, MacAddr, Mtu};
use netlink_packet_route::link::InfoKind;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use crate::Netns;

type Builder = LinkMessageBuilder<LinkUnspec>;

/// What every kind of link to create has; by itself, one end of a veth pair.
#[derive(Clone, Debug)]
pub struct NewLink {
    /// The name, which must be free in its namespace.
    pub name: IfName,
    /// The index; `None`: the kernel chooses.
    pub index: Option<u32>,
    /// The MAC address, or the kernel's choice: a random one (which udev may then replace, see `MACAddressPolicy` in
    /// systemd.link(5)), or the lower link's.
    pub mac: Option<MacAddr>,
    /// The MTU; by default 1500, or as the link below allows it.
    pub mtu: Option<Mtu>,
    /// The link group; 0 is the kernel's default.
    pub group: u32,
    /// Whether it is up when the call returns.
    pub up: bool,
    /// The namespace that it is created in; by default the socket's.
    pub netns: Option<Netns>,
}

impl NewLink {
    /// A link with only a name.
    #[must_use]
    pub fn new(name: IfName) -> Self {
        Self { name, index: None, mac: None, mtu: None, group: 0, up: false, netns: None }
    }

    pub(super) fn builder(&self, kind: Option<InfoKind>) -> Builder {
        let mut builder = match kind {
            Some(kind) => Builder::new_with_info_kind(kind),
            None => Builder::new(),
        }
        .name(self.name.as_str());
        if let Some(index) = self.index {
            builder = builder.index(index);
        }
        if let Some(mac) = self.mac {
            builder = builder.address(mac.octets().to_vec());
        }
        if let Some(mtu) = self.mtu {
            builder = builder.mtu(mtu.get());
        }
        if self.group != 0 {
            builder = builder.link_group(self.group);
        }
        if self.up {
            builder = builder.up();
        }
        if let Some(netns) = &self.netns {
            builder = builder.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        builder
    }
}
