//! nftables over netlink, as far as k8slan needs it: guards against forged addresses on bridge ports, masquerading,
//! the base chains of a node, and which of them would drop what a bridge forwards.

mod base_chains;
mod forward;
mod guard;
mod guard_rules;
mod masquerade;
mod message;
mod port_guard;

use std::fmt;

pub use base_chains::{BaseChain, ChainPolicy};
pub use forward::{Dropped, DroppingChain};
pub use masquerade::Masquerade;
pub use port_guard::PortGuard;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::attrs::Attrs;
use crate::netlink::{Netlink, Request};
use crate::{Netns, Object, Result};
use message::{self as nft, Message, Nla, Table};

/// A netlink socket to the nftables of one namespace.
pub struct Nftables {
    netlink: Netlink,
}

/// Whether a guard or a masquerade is in the kernel as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// Nothing of it is there.
    Absent,
    /// Exactly the wanted rules are there.
    InPlace,
    /// Some of its rules are missing, or they differ.
    Different,
}

/// A rule as the kernel reports it.
struct FoundRule {
    handle: u64,
    comment: String,
    /// The expressions as the kernel encodes them.
    expressions: Vec<u8>,
}

impl Nftables {
    /// Opens a socket inside the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel has no netfilter (EPROTONOSUPPORT).
    pub fn open(netns: &Netns) -> Result<Self> {
        Ok(Self { netlink: Netlink::open_protocol(netns, NETLINK_NETFILTER)? })
    }

    /// Opens a socket in the calling thread's own namespace.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_current() -> Result<Self> {
        Ok(Self { netlink: Netlink::open_current_protocol(NETLINK_NETFILTER)? })
    }

    /// Applies all messages or none.
    fn apply(
        &self,
        operation: &'static str,
        object: &dyn Fn() -> Object,
        messages: &[Message],
    ) -> Result<()> {
        let (begin, end) = (Message::batch_begin(), Message::batch_end());
        let requests: Vec<_> = std::iter::once(&begin)
            .chain(messages)
            .chain(std::iter::once(&end))
            .map(|message| Request {
                operation,
                object,
                kind: message.kind,
                flags: message.flags,
                body: &message.body,
            })
            .collect();
        self.netlink.batch(&requests)
    }

    /// The rules of a chain in their order; `None` if the chain does not exist.
    fn rules(&self, table: Table<'_>, chain: &str) -> Result<Vec<FoundRule>> {
        let message = Message::new(nft::GETRULE, 0, table, &Nla::new().text(2, chain));
        let object = || Object::from(format!("of chain {chain:?}"));
        let rules = self.dump("read rules", &object, &message, nft::NEWRULE, |attrs| {
            let mut of_chain = false;
            let mut rule = FoundRule { handle: 0, comment: String::new(), expressions: Vec::new() };
            for attr in attrs {
                match attr.kind {
                    // Old kernels do not filter by chain.
                    2 => of_chain = attr.text().as_deref() == Some(chain),
                    3 => {
                        rule.handle = attr.value.try_into().map(u64::from_be_bytes).unwrap_or_default();
                    }
                    4 => rule.expressions = attr.value.to_vec(),
                    7 => {
                        let text = attr.value.get(2..).unwrap_or_default();
                        rule.comment = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
                    }
                    _ => {}
                }
            }
            of_chain.then_some(rule)
        });
        match rules {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            rules => rules,
        }
    }

    /// Whether a table is switched off (`flags dormant`): its chains see nothing.
    fn is_dormant(&self, table: Table<'_>) -> Result<bool> {
        const DORMANT: u32 = 1;
        let message = Message::new(nft::GETTABLE, 0, table, &Nla::new());
        let object = || Object::from("of the family");
        let tables = self.dump("read tables", &object, &message, nft::NEWTABLE, |attrs| {
            let (mut named, mut flags) = (false, 0);
            for attr in attrs {
                match attr.kind {
                    1 => named = attr.text().as_deref() == Some(table.name),
                    2 => flags = attr.u32().map_or(0, u32::from_be),
                    _ => {}
                }
            }
            named.then_some(flags)
        })?;
        Ok(tables.iter().any(|flags| flags & DORMANT != 0))
    }

    fn dump<T>(
        &self,
        operation: &'static str,
        object: &dyn Fn() -> Object,
        ask: &Message,
        answer: u16,
        read: impl Fn(Attrs<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        let request = Request { operation, object, kind: ask.kind, flags: 0, body: &ask.body };
        self.netlink.dump(&request, |kind, body| {
            Ok((kind == nft::request_kind(answer))
                .then(|| read(Attrs::new(body.get(4..).unwrap_or_default())))
                .flatten())
        })
    }
}

/// FNV-1a, which gives the same hash for the same rule in every version of this program.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl fmt::Display for Fnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
