//! Guards: what a port may send from.
//!
//! ```text
//! table bridge k8slan {
//!     map ports { type ifname : verdict; elements = { "vb12…" : jump vb12… } }
//!     chain from-ports { type filter hook prerouting priority -290; iifname vmap @ports }
//!     chain vb12… { ether saddr != { … } drop … }
//! }
//! ```
//! One lookup per frame however many ports are guarded. All of a port's parts come and go in one transaction.

use std::net::IpAddr;

use net_types::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::message::{self as nft, Field, Hook, Message, Nla, Table};
use super::{Fnv, Nftables, RuleState};
use crate::netlink::by_name;
use crate::{Object, Result};

const TABLE: Table<'static> = Table::bridge("k8slan");
const MAP: &str = "ports";
const BASE: &str = "from-ports";
/// Where frames come in (`NF_BR_PRE_ROUTING`), before everything that an administrator would hook there (dstnat is
/// -300 and looks at nothing of ours).
const HOOK: Hook = Hook { kind: "filter", number: 0, priority: -290 };

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const DOT1Q: [u8; 2] = [0x81, 0x00];
const DOT1AD: [u8; 2] = [0x88, 0xa8];

/// What may come in by a port of a bridge; all else is dropped, on every VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGuard {
    /// The port. It need not exist yet.
    pub port: IfName,
    /// The source addresses of its frames and the senders in its ARP; none: any.
    pub macs: Option<Vec<MacAddr>>,
    /// The source addresses of its IP packets and the senders in its ARP; none: any. IPv6 link-local
    /// addresses, and the unspecified ones of address detection, may always be used. Frames with a
    /// second tag are dropped then, since nothing in them can be looked at.
    pub addresses: Option<Vec<IpAddr>>,
}

/// A rule, and the sets that it looks up.
struct Rule {
    sets: Vec<Message>,
    expressions: Nla,
    comment: String,
}

impl PortGuard {
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Rules { guard: self, rules: Vec::new(), sets: 1 };
        if let Some(macs) = &self.macs {
            let keys: Vec<_> = macs.iter().map(|mac| mac.octets().to_vec()).collect();
            rules.unless_in(None, Field::Link { offset: 6, length: 6 }, nft::ETHER_ADDR, &keys, "source MAC");
            // The sender's hardware address in ARP.
            let sender = Field::Network { offset: 8, length: 6 };
            rules.unless_in(Some(ARP), sender, nft::ETHER_ADDR, &keys, "ARP sender MAC");
        }
        if let Some(addresses) = &self.addresses {
            for tag in [DOT1Q, DOT1AD] {
                rules.always(tag, "no second tag");
            }
            let mut v4: Vec<_> = addresses
                .iter()
                .filter_map(|address| match address {
                    IpAddr::V4(v4) => Some(v4.octets().to_vec()),
                    IpAddr::V6(_) => None,
                })
                .collect();
            rules.unless_in(
                Some(IPV4),
                Field::Network { offset: 12, length: 4 },
                nft::IPV4_ADDR,
                &v4,
                "IPv4 source",
            );
            v4.push(vec![0; 4]);
            let sender = Field::Network { offset: 14, length: 4 };
            rules.unless_in(Some(ARP), sender, nft::IPV4_ADDR, &v4, "ARP sender address");
            rules.link_local();
            let mut v6: Vec<_> = addresses
                .iter()
                .filter_map(|address| match address {
                    IpAddr::V6(v6) => Some(v6.octets().to_vec()),
                    IpAddr::V4(_) => None,
                })
                .collect();
            v6.push(vec![0; 16]);
            let source = Field::Network { offset: 8, length: 16 };
            rules.unless_in(Some(IPV6), source, nft::IPV6_ADDR, &v6, "IPv6 source");
        }
        rules.rules
    }

    fn add_messages(&self) -> Vec<Message> {
        let port = self.port.as_str();
        let mut messages = vec![nft::chain(nft::NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, TABLE, port, None)];
        for rule in self.rules() {
            messages.extend(rule.sets);
            messages.push(nft::rule(TABLE, port, &rule.expressions, &rule.comment));
        }
        messages.push(nft::port_element(nft::NEWSETELEM, NLM_F_CREATE, TABLE, MAP, &self.port));
        messages
    }
}

struct Rules<'a> {
    guard: &'a PortGuard,
    rules: Vec<Rule>,
    sets: u32,
}

impl Rules<'_> {
    fn push(&mut self, sets: Vec<Message>, expressions: Nla, keys: &[Vec<u8>], what: &str) {
        // The kernel gives a rule back with other set names; this tells whether it is the one wanted.
        let mut hash = Fnv::new();
        hash.write(self.guard.port.as_str().as_bytes());
        hash.write(expressions.as_bytes());
        for key in keys {
            hash.write(key);
        }
        let comment = format!("k8slan {what} {hash}");
        self.rules.push(Rule { sets, expressions, comment });
    }

    /// Drops frames whose field is not one of the keys; with a protocol, only frames of that one.
    fn unless_in(
        &mut self,
        protocol: Option<[u8; 2]>,
        field: Field,
        key: nft::KeyType,
        keys: &[Vec<u8>],
        what: &str,
    ) {
        let mut expressions = protocol_is(protocol);
        let mut sets = Vec::new();
        // The kernel takes no empty set: nothing is allowed then.
        if !keys.is_empty() {
            self.sets += 1;
            sets.extend(nft::anonymous_set(TABLE, self.sets, key, keys));
            expressions = nft::not_in(nft::load(expressions, field), self.sets);
        }
        self.push(sets, nft::drop_frame(expressions), keys, what);
    }

    fn always(&mut self, protocol: [u8; 2], what: &str) {
        self.push(Vec::new(), nft::drop_frame(protocol_is(Some(protocol))), &[], what);
    }

    /// fe80::/10 is allowed.
    fn link_local(&mut self) {
        let source = nft::load(protocol_is(Some(IPV6)), Field::Network { offset: 8, length: 2 });
        let masked = nft::equals(nft::mask(source, &[0xff, 0xc0]), &[0xfe, 0x80]);
        self.push(Vec::new(), nft::leave(masked), &[], "IPv6 link-local");
    }
}

fn protocol_is(protocol: Option<[u8; 2]>) -> Nla {
    match protocol {
        Some(protocol) => nft::equals(nft::load(Nla::new(), Field::Protocol), &protocol),
        None => Nla::new(),
    }
}

impl Nftables {
    /// Puts a guard on a port, in place of one that is there. From the moment that this returns no frame
    /// passes that it forbids.
    ///
    /// Callers in several processes must hold a lock of their own: the table comes with the first guard
    /// and goes with the last.
    ///
    /// # Errors
    /// What the kernel refused: EOPNOTSUPP without nftables for bridges (`nf_tables`).
    pub fn guard(&self, guard: &PortGuard) -> Result<()> {
        let mut messages = Vec::new();
        match self.comments(guard.port.as_str())? {
            Some(_) => messages.extend(remove_messages(&guard.port)),
            None if self.guarded()?.is_none() => messages.extend(table_messages()),
            None => {}
        }
        messages.extend(guard.add_messages());
        self.apply("guard port", &by_name(&guard.port), &messages)
    }

    /// Takes the guard off a port; no guard is success. The port need not exist any more.
    ///
    /// # Errors
    /// As [`Self::guard`].
    pub fn unguard(&self, port: &IfName) -> Result<()> {
        let Some(ports) = self.guarded()? else { return Ok(()) };
        let messages = if ports.iter().all(|other| other == port) {
            vec![nft::table(nft::DELTABLE, 0, TABLE)]
        } else if ports.contains(port) {
            remove_messages(port)
        } else {
            return Ok(());
        };
        self.apply("remove guard of port", &by_name(port), &messages)
    }

    /// The guarded ports; none if there is no table of guards at all.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn guarded(&self) -> Result<Option<Vec<IfName>>> {
        let message = Message::new(nft::GETSETELEM, 0, TABLE, &Nla::new().text(2, MAP));
        let object = || Object::from("of all ports");
        let found = self.dump("read guards", &object, &message, nft::NEWSETELEM, |attrs| {
            let mut ports = Vec::new();
            for element in attrs.filter(|attr| attr.kind == 3).flat_map(|list| list.nested()) {
                let key = element
                    .nested()
                    .find(|attr| attr.kind == 1)
                    .and_then(|key| key.nested().find(|attr| attr.kind == 1))
                    .and_then(|value| value.text())
                    .and_then(|name| name.parse().ok());
                ports.extend(key);
            }
            Some(ports)
        });
        match found {
            Ok(parts) => Ok(Some(parts.into_iter().flatten().collect())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether exactly this guard is on its port.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn guard_state(&self, guard: &PortGuard) -> Result<RuleState> {
        let Some(comments) = self.comments(guard.port.as_str())? else { return Ok(RuleState::Absent) };
        let wanted: Vec<_> = guard.rules().into_iter().map(|rule| rule.comment).collect();
        let reached = self.guarded()?.is_some_and(|ports| ports.contains(&guard.port))
            && self.comments(BASE)?.is_some_and(|base| base.len() == 1);
        Ok(if reached && comments == wanted { RuleState::InPlace } else { RuleState::Different })
    }

    /// The comments of a chain's rules in their order; none if there is no such chain or it is empty.
    fn comments(&self, chain: &str) -> Result<Option<Vec<String>>> {
        let rules = self.rules(TABLE, chain)?;
        Ok((!rules.is_empty()).then(|| rules.into_iter().map(|rule| rule.comment).collect()))
    }
}

fn table_messages() -> Vec<Message> {
    let lookup = nft::verdict_of(nft::load(Nla::new(), Field::InputName), MAP);
    vec![
        nft::table(nft::NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, TABLE),
        nft::port_map(TABLE, MAP),
        nft::chain(nft::NEWCHAIN, NLM_F_CREATE, TABLE, BASE, Some(HOOK)),
        nft::rule(TABLE, BASE, &lookup, "k8slan guards"),
    ]
}

fn remove_messages(port: &IfName) -> Vec<Message> {
    vec![
        nft::port_element(nft::DELSETELEM, 0, TABLE, MAP, port),
        nft::chain(nft::DELCHAIN, 0, TABLE, port.as_str(), None),
    ]
}
