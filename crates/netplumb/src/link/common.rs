//! Attributes that every kind of new link has.

use std::os::fd::{AsFd as _, AsRawFd as _};

use net_types::{IfName, MacAddr, Mtu};
use netlink_packet_route::link::InfoKind;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use crate::Netns;

type Builder = LinkMessageBuilder<LinkUnspec>;

#[derive(Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) name: &'a IfName,
    pub(super) index: Option<u32>,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: Option<Mtu>,
    pub(super) group: u32,
    pub(super) up: bool,
    pub(super) netns: Option<&'a Netns>,
}

impl Common<'_> {
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
        if let Some(netns) = self.netns {
            builder = builder.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        builder
    }
}
