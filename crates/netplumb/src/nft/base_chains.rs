//! The base chains of nftables: where filters are hooked into the kernel's packet path.

use super::Nftables;
use super::message::{self as nft, Message};
use crate::attrs::{Attr, Attrs};
use crate::netlink::Request;
use crate::{Object, Result};

/// A base chain: one with a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The family: `ip`, `ip6`, `inet` (both), `arp`, `bridge`, `netdev`, or a number.
    pub family: String,
    /// The name of the chain's table.
    pub table: String,
    /// The name of the chain in its table.
    pub name: String,
    /// The hook's number in its family: for IP 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Chains of lower priority come first.
    pub priority: i32,
    /// What happens to packets that no rule decides about.
    pub policy: ChainPolicy,
    /// How many chains and rules use the chain; of a base chain, the number of its rules.
    pub rules: u32,
}

/// What happens to packets that no rule of a chain decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainPolicy {
    /// Packets go on to the next chain.
    Accept,
    /// Packets are dropped at once.
    Drop,
}

impl Nftables {
    /// All base chains of all families, including those of iptables-nft.
    ///
    /// # Errors
    /// The kernel refuses: EOPNOTSUPP or EINVAL without `nf_tables`.
    pub fn base_chains(&self) -> Result<Vec<BaseChain>> {
        let object = || Object::from("of all families");
        let request = Message::all(nft::GETCHAIN);
        let request = Request {
            operation: "read chains",
            object: &object,
            kind: request.kind,
            flags: 0,
            body: &request.body,
        };
        let wanted = nft::request_kind(nft::NEWCHAIN);
        self.netlink.dump(&request, |kind, body| Ok((kind == wanted).then(|| base_chain(body)).flatten()))
    }
}

/// The base chain in a message (`struct nfgenmsg` and `NFTA_CHAIN_*`); `None` for any other chain.
fn base_chain(body: &[u8]) -> Option<BaseChain> {
    let family = match *body.first()? {
        1 => "inet".to_owned(),
        2 => "ip".to_owned(),
        3 => "arp".to_owned(),
        5 => "netdev".to_owned(),
        7 => "bridge".to_owned(),
        10 => "ip6".to_owned(),
        other => other.to_string(),
    };
    let big_endian = |attr: Attr<'_>| attr.u32().map(u32::from_be);
    let (mut table, mut name, mut hook, mut policy, mut rules) = (None, None, None, ChainPolicy::Accept, 0);
    for attr in Attrs::new(body.get(4..)?) {
        match attr.kind {
            1 => table = attr.text(),
            3 => name = attr.text(),
            4 => {
                let find = |kind| attr.nested().find(|inner| inner.kind == kind).and_then(big_endian);
                hook = Some((find(1)?, find(2)?.cast_signed()));
            }
            5 if big_endian(attr) == Some(0) => policy = ChainPolicy::Drop,
            6 => rules = big_endian(attr)?,
            _ => {}
        }
    }
    let (hook, priority) = hook?;
    Some(BaseChain { family, table: table?, name: name?, hook, priority, policy, rules })
}
