//! The settings of a link that a process with the right to change a namespace's network can change there, and that stay
//! with the link when it moves to another namespace.

use std::collections::BTreeMap;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use serde::{Deserialize, Serialize};

use super::{IFINFOMSG, RTM_NEWLINK, get_message};
use crate::attrs::{Attrs, NLA_F_NESTED, u32_at};
use crate::netlink::{Request, by_index};
use crate::{Errno, Error, Netlink, Result};

const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKMODE: u16 = 17;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_PROTO_DOWN: u16 = 39;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_PROTO_DOWN_REASON: u16 = 55;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;
const IFLA_PROTO_DOWN_REASON_MASK: u16 = 1;
const IFLA_PROTO_DOWN_REASON_VALUE: u16 = 2;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_FLAGS: u16 = 2;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;
const IFLA_MACVLAN_BC_CUTOFF: u16 = 9;

/// The attributes that can be set (`do_setlink` in `net/core/rtnetlink.c`), without those that a move changes anyhow.
/// The alias and the group come after the rest: k8slan finds links by them.
const ATTRIBUTES: [u16; 13] = [
    IFLA_ADDRESS,
    IFLA_BROADCAST,
    IFLA_MTU,
    IFLA_TXQLEN,
    IFLA_LINKMODE,
    IFLA_GSO_MAX_SIZE,
    IFLA_GSO_MAX_SEGS,
    IFLA_GRO_MAX_SIZE,
    IFLA_GSO_IPV4_MAX_SIZE,
    IFLA_GRO_IPV4_MAX_SIZE,
    IFLA_PROTO_DOWN,
    IFLA_GROUP,
    IFLA_IFALIAS,
];

/// The attributes of macvlans and macvtaps that can be changed (`macvlan_changelink`).
const OF_MACVLAN: [u16; 4] =
    [IFLA_MACVLAN_MODE, IFLA_MACVLAN_FLAGS, IFLA_MACVLAN_BC_QUEUE_LEN, IFLA_MACVLAN_BC_CUTOFF];

/// The flags that can be set (`__dev_change_flags` in `net/core/dev.c`), without `IFF_UP`.
const FLAGS: LinkFlags = LinkFlags::Debug
    .union(LinkFlags::Notrailers)
    .union(LinkFlags::Noarp)
    .union(LinkFlags::Dynamic)
    .union(LinkFlags::Multicast)
    .union(LinkFlags::Portsel)
    .union(LinkFlags::Automedia)
    .union(LinkFlags::Promisc)
    .union(LinkFlags::Allmulti);

/// The settings of a macvlan or macvtap, as the kernel writes them: to be kept, and set again with
/// [`Netlink::restore_settings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSettings {
    /// `IFF_*`, those that can be set.
    flags: u32,
    /// `IFLA_*` with their values.
    attributes: BTreeMap<u16, Vec<u8>>,
    /// `IFLA_MACVLAN_*` with their values.
    of_kind: BTreeMap<u16, Vec<u8>>,
    /// The kind, with its NUL.
    kind: Vec<u8>,
    /// Whether a reason for `IFLA_PROTO_DOWN` is set, without which it cannot be switched off.
    reason_of_proto_down: bool,
}

impl LinkSettings {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut settings = Self { flags: u32_at(body, 8)? & FLAGS.bits(), ..Self::default() };
        for attr in Attrs::new(body.get(IFINFOMSG..)?) {
            match attr.kind {
                IFLA_LINKINFO => {
                    for info in attr.nested() {
                        match info.kind {
                            IFLA_INFO_KIND => settings.kind = info.value.to_vec(),
                            IFLA_INFO_DATA => {
                                let data = info.nested().filter(|attr| OF_MACVLAN.contains(&attr.kind));
                                settings.of_kind =
                                    data.map(|attr| (attr.kind, attr.value.to_vec())).collect();
                            }
                            _ => {}
                        }
                    }
                }
                IFLA_PROTO_DOWN_REASON => settings.reason_of_proto_down = true,
                kind if ATTRIBUTES.contains(&kind) => {
                    settings.attributes.insert(kind, attr.value.to_vec());
                }
                _ => {}
            }
        }
        // Without an alias there is no attribute, and one of length 0 removes it.
        settings.attributes.entry(IFLA_IFALIAS).or_default();
        Some(settings)
    }

    /// The same with an MTU of `most` bytes, where it is larger: what a lower link that was made smaller has room for.
    #[must_use]
    pub fn with_mtu_at_most(mut self, most: u32) -> Self {
        if let Some(mtu) = self.attributes.get_mut(&IFLA_MTU)
            && u32_at(mtu, 0).is_some_and(|mtu| mtu > most)
        {
            *mtu = most.to_ne_bytes().to_vec();
        }
        self
    }

    /// The message that gives a link with the settings `have` these; `None` if it has them.
    fn message(&self, index: u32, have: &Self) -> Option<LinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::from_bits_retain(self.flags ^ have.flags);
        message.header.flags = LinkFlags::from_bits_retain(self.flags);
        let attributes = &mut message.attributes;
        let mut push = |kind, value: Vec<u8>| {
            attributes.push(LinkAttribute::Other(DefaultNla::new(kind, value)));
        };
        for kind in ATTRIBUTES {
            if let Some(value) =
                self.attributes.get(&kind).filter(|value| have.attributes.get(&kind) != Some(value))
            {
                push(kind, value.clone());
            }
        }
        // The kernel changes the reasons before the state.
        if have.reason_of_proto_down && !self.reason_of_proto_down {
            let mask = attribute(IFLA_PROTO_DOWN_REASON_MASK, &u32::MAX.to_ne_bytes());
            let value = attribute(IFLA_PROTO_DOWN_REASON_VALUE, &0_u32.to_ne_bytes());
            push(IFLA_PROTO_DOWN_REASON | NLA_F_NESTED, [mask, value].concat());
        }
        let differs = |(kind, value): &(&u16, &Vec<u8>)| have.of_kind.get(kind) != Some(value);
        let data: Vec<u8> =
            self.of_kind.iter().filter(differs).flat_map(|(kind, value)| attribute(*kind, value)).collect();
        if !data.is_empty() {
            let info =
                [attribute(IFLA_INFO_KIND, &self.kind), attribute(IFLA_INFO_DATA | NLA_F_NESTED, &data)];
            push(IFLA_LINKINFO | NLA_F_NESTED, info.concat());
        }
        (!message.attributes.is_empty() || !message.header.change_mask.is_empty()).then_some(message)
    }
}

impl Netlink {
    /// The settings of a macvlan or macvtap.
    ///
    /// # Errors
    /// The kernel refuses; a missing link is [`crate::Error::is_not_found`].
    pub fn settings(&self, index: u32) -> Result<LinkSettings> {
        let settings =
            self.read_link(&get_message(index, Vec::new()), &by_index(index), LinkSettings::parse)?;
        settings.ok_or_else(|| Error::system("read link", index, Errno::ENODEV))
    }

    /// Gives a link the settings that it had; those that it has are not touched.
    ///
    /// # Errors
    /// The kernel refuses a change; it may have made others.
    pub fn restore_settings(&self, index: u32, was: &LinkSettings) -> Result<()> {
        let Some(message) = was.message(index, &self.settings(index)?) else { return Ok(()) };
        self.command(&Request {
            operation: "restore link",
            object: &by_index(index),
            kind: RTM_NEWLINK,
            flags: 0,
            body: &message,
        })
    }
}

/// An attribute in a nest: its length, its type, its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
