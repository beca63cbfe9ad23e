//! Encoding nftables messages (`linux/netfilter/nf_tables.h`). Numbers are in network byte order.

use net_types::IfName;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use crate::attrs::NLA_F_NESTED;
use crate::netlink::Bytes;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
pub(super) const NFPROTO_INET: u8 = 1;
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_BRIDGE: u8 = 7;
pub(super) const NFPROTO_IPV6: u8 = 10;

pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const DELCHAIN: u16 = 5;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const DELRULE: u16 = 8;
pub(super) const NEWSET: u16 = 9;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;

/// The register `NFT_REG_VERDICT`; below it the first two registers of 16 bytes.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_RETURN: i32 = -5;
const NF_DROP: i32 = 0;

/// A table, named by its family and its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) family: u8,
    pub(super) name: &'a str,
}

/// The hook of a base chain.
#[derive(Clone, Copy)]
pub(super) struct Hook {
    /// The type of chain: `filter`, `nat`.
    pub(super) kind: &'static str,
    /// The number of the hook in the table's family.
    pub(super) number: u32,
    /// The priority: the chain with the smallest runs first.
    pub(super) priority: i32,
}

/// One message to nftables, encoded.
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Bytes,
}

/// Attributes that are being written.
#[derive(Clone, Default)]
pub(super) struct Nla(Vec<u8>);

impl Nla {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // No attribute here comes near 64 KiB: a set has some tens of addresses.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text with its NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Message {
    /// A message about an object of a table; the attributes follow the table's name, which always is the first.
    pub(super) fn new(kind: u16, flags: u16, table: Table<'_>, attributes: &Nla) -> Self {
        let name = Nla::new().text(1, table.name);
        let body = [&[table.family, 0, 0, 0], name.as_bytes(), attributes.as_bytes()].concat();
        Self { kind: request_kind(kind), flags, body: Bytes(body) }
    }

    /// A request for all objects of a kind, in all tables of all families.
    pub(super) fn all(kind: u16) -> Self {
        Self { kind: request_kind(kind), flags: 0, body: Bytes(vec![0; 4]) }
    }

    pub(super) fn batch_begin() -> Self {
        Self::batch(NFNL_MSG_BATCH_BEGIN)
    }

    pub(super) fn batch_end() -> Self {
        Self::batch(NFNL_MSG_BATCH_END)
    }

    fn batch(kind: u16) -> Self {
        // struct nfgenmsg: family, version, and here the subsystem.
        let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        Self { kind, flags: 0, body: Bytes(vec![0, 0, high, low]) }
    }
}

/// The message type on the wire.
pub(super) fn request_kind(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

impl Table<'static> {
    /// A table of the bridge family: frames.
    pub(super) const fn bridge(name: &'static str) -> Self {
        Self { family: NFPROTO_BRIDGE, name }
    }

    /// A table of the inet family: IPv4 and IPv6 packets.
    pub(super) const fn inet(name: &'static str) -> Self {
        Self { family: NFPROTO_INET, name }
    }
}

pub(super) fn table(kind: u16, flags: u16, table: Table<'_>) -> Message {
    Message::new(kind, flags, table, &Nla::new())
}

/// A chain; with a hook it is a base chain with the policy to accept.
pub(super) fn chain(kind: u16, flags: u16, table: Table<'_>, name: &str, hook: Option<Hook>) -> Message {
    let mut attributes = Nla::new().text(3, name);
    if let Some(hook) = hook {
        let place = Nla::new().u32(1, hook.number).u32(2, hook.priority.cast_unsigned());
        attributes = attributes.nest(4, &place).u32(5, 1).text(7, hook.kind);
    }
    Message::new(kind, flags, table, &attributes)
}

/// A rule at the end of a chain, with a comment that `nft list` prints.
pub(super) fn rule(table: Table<'_>, chain: &str, expressions: &Nla, comment: &str) -> Message {
    // struct nftnl_udata: type (0: comment), length, value.
    let mut userdata = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    userdata.extend_from_slice(comment.as_bytes());
    userdata.push(0);
    let attributes = Nla::new().text(2, chain).nest(4, expressions).bytes(7, &userdata);
    Message::new(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table, &attributes)
}

/// Deletes one rule of a chain, by the number that the kernel gave it.
pub(super) fn delete_rule(table: Table<'_>, chain: &str, handle: u64) -> Message {
    let attributes = Nla::new().text(2, chain).bytes(3, &handle.to_be_bytes());
    Message::new(DELRULE, 0, table, &attributes)
}

/// The type of a set's keys: its number, which `nft list` shows as a name, and its length in bytes.
#[derive(Clone, Copy)]
pub(super) struct KeyType(u32, u32);

pub(super) const IFNAME: KeyType = KeyType(41, 16);
pub(super) const ETHER_ADDR: KeyType = KeyType(9, 6);
pub(super) const IPV4_ADDR: KeyType = KeyType(7, 4);
pub(super) const IPV6_ADDR: KeyType = KeyType(8, 16);
pub(super) const ETHER_TYPE: KeyType = KeyType(10, 2);
pub(super) const INET_PROTO: KeyType = KeyType(12, 1);
pub(super) const ICMPV6_TYPE: KeyType = KeyType(29, 1);

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// A key; in a set of intervals, the first of an interval.
    Key(Vec<u8>),
    /// In a set of intervals, the key behind the last of an interval.
    End(Vec<u8>),
}

/// A set that exists as long as the rule that looks it up, named by a number within the batch.
pub(super) fn anonymous_set(
    table: Table<'_>,
    id: u32,
    key: KeyType,
    elements: &[Element],
    intervals: bool,
) -> [Message; 2] {
    const ANONYMOUS_CONSTANT: u32 = 3;
    const INTERVAL: u32 = 4;
    const INTERVAL_END: u32 = 1;
    let flags = ANONYMOUS_CONSTANT | if intervals { INTERVAL } else { 0 };
    let set = Nla::new().text(2, "__set%d").u32(3, flags).u32(4, key.0).u32(5, key.1).u32(10, id);
    let elements = elements.iter().fold(Nla::new(), |list, element| {
        let key = |key: &[u8]| Nla::new().nest(1, &Nla::new().bytes(1, key));
        list.nest(
            1,
            &match element {
                Element::Key(first) => key(first),
                Element::End(behind) => key(behind).u32(3, INTERVAL_END),
            },
        )
    });
    let elements = Nla::new().text(2, "__set%d").u32(4, id).nest(3, &elements);
    [
        Message::new(NEWSET, NLM_F_CREATE, table, &set),
        Message::new(NEWSETELEM, NLM_F_CREATE, table, &elements),
    ]
}

/// A named map from link names to chains to jump to.
pub(super) fn port_map(table: Table<'_>, name: &str) -> Message {
    const MAP: u32 = 8;
    const VERDICTS: u32 = 0xffff_ff00;
    let set = Nla::new()
        .text(2, name)
        .u32(3, MAP)
        .u32(4, IFNAME.0)
        .u32(5, IFNAME.1)
        .u32(6, VERDICTS)
        .u32(7, 16)
        .u32(10, 1);
    Message::new(NEWSET, NLM_F_CREATE, table, &set)
}

/// An element of that map: DELSETELEM uses only the port.
pub(super) fn port_element(kind: u16, flags: u16, table: Table<'_>, map: &str, port: &IfName) -> Message {
    let jump = Nla::new().u32(1, NFT_JUMP.cast_unsigned()).text(2, port.as_str());
    let element = Nla::new().nest(1, &Nla::new().bytes(1, &padded(port))).nest(2, &Nla::new().nest(2, &jump));
    let list = Nla::new().nest(1, &element);
    Message::new(kind, flags, table, &Nla::new().text(2, map).nest(3, &list))
}

/// A link's name as nftables compares it: padded to 16 bytes.
pub(super) fn padded(name: &IfName) -> [u8; 16] {
    let mut key = [0; 16];
    key[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    key
}

fn expression(list: Nla, name: &str, data: &Nla) -> Nla {
    list.nest(1, &Nla::new().text(1, name).nest(2, data))
}

/// The field of a frame that a rule reads.
#[derive(Clone, Copy)]
pub(super) enum Field {
    /// The name of the port that the frame arrived at.
    InputName,
    /// The protocol of the frame's payload, behind the outer tag.
    Protocol,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`: the family of a packet, in a table for both.
    Family,
    /// Bytes of the Ethernet header.
    Link { offset: u32, length: u32 },
    /// Bytes of the frame's payload.
    Network { offset: u32, length: u32 },
    /// The protocol behind all IPv6 extension headers. Unknown if the headers do not end within the packet, as in
    /// fragments: a rule that reads it does not match then.
    Carried,
    /// Bytes of the payload behind those headers.
    Transport { offset: u32, length: u32 },
}

pub(super) fn load(list: Nla, field: Field) -> Nla {
    let meta = |key| Nla::new().u32(1, REGISTER).u32(2, key);
    let payload =
        |base, offset, length| Nla::new().u32(1, REGISTER).u32(2, base).u32(3, offset).u32(4, length);
    match field {
        Field::InputName => expression(list, "meta", &meta(6)),
        Field::Protocol => expression(list, "meta", &meta(1)),
        Field::Family => expression(list, "meta", &meta(15)),
        Field::Link { offset, length } => expression(list, "payload", &payload(0, offset, length)),
        Field::Network { offset, length } => expression(list, "payload", &payload(1, offset, length)),
        Field::Carried => expression(list, "meta", &meta(16)),
        Field::Transport { offset, length } => expression(list, "payload", &payload(2, offset, length)),
    }
}

/// The rule goes on if the loaded field has this value.
pub(super) fn equals(list: Nla, value: &[u8]) -> Nla {
    compare(list, 0, value)
}

/// The rule goes on if the loaded field has another value.
pub(super) fn differs(list: Nla, value: &[u8]) -> Nla {
    compare(list, 1, value)
}

fn compare(list: Nla, operator: u32, value: &[u8]) -> Nla {
    let data = Nla::new().u32(1, REGISTER).u32(2, operator).nest(3, &Nla::new().bytes(1, value));
    expression(list, "cmp", &data)
}

/// Keeps only the bits of the mask of the loaded field.
pub(super) fn mask(list: Nla, mask: &[u8]) -> Nla {
    let data = Nla::new()
        .u32(1, REGISTER)
        .u32(2, REGISTER)
        .u32(3, u32::try_from(mask.len()).unwrap_or(0))
        .nest(4, &Nla::new().bytes(1, mask))
        .nest(5, &Nla::new().bytes(1, &vec![0; mask.len()]));
    expression(list, "bitwise", &data)
}

/// The rule goes on if the loaded field is in the anonymous set.
pub(super) fn in_set(list: Nla, set: u32) -> Nla {
    let data = Nla::new().text(1, "__set%d").u32(2, REGISTER).u32(4, set);
    expression(list, "lookup", &data)
}

/// The rule goes on if the loaded field is not in the anonymous set.
pub(super) fn not_in(list: Nla, set: u32) -> Nla {
    const INVERTED: u32 = 1;
    let data = Nla::new().text(1, "__set%d").u32(2, REGISTER).u32(4, set).u32(5, INVERTED);
    expression(list, "lookup", &data)
}

/// Applies the verdict that the map has for the loaded field.
pub(super) fn verdict_of(list: Nla, map: &str) -> Nla {
    expression(list, "lookup", &Nla::new().text(1, map).u32(2, REGISTER).u32(3, VERDICT).u32(4, 1))
}

/// Gives the packet the address of the link that it leaves by.
pub(super) fn masquerade(list: Nla) -> Nla {
    expression(list, "masq", &Nla::new())
}

pub(super) fn drop_frame(list: Nla) -> Nla {
    verdict(list, NF_DROP)
}

/// Returns from the chain: the rules behind this one are skipped.
pub(super) fn leave(list: Nla) -> Nla {
    verdict(list, NFT_RETURN)
}

fn verdict(list: Nla, code: i32) -> Nla {
    let data = Nla::new().nest(2, &Nla::new().u32(1, code.cast_unsigned()));
    expression(list, "immediate", &Nla::new().u32(1, VERDICT).nest(2, &data))
}
