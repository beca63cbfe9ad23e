//! Guards: rules about the source addresses of a port.
//!
//! ```text
//! table bridge k8slan {
//!     map ports { type ifname : verdict; elements = { "vb12…" : jump vb12… } }
//!     chain from-ports { type filter hook prerouting priority -290; iifname vmap @ports }
//!     chain vb12… { ether saddr != { … } drop … }      what is dropped: guard_rules.rs
//! }
//! ```
//! One lookup per frame however many ports are guarded. All of a port's parts come and go in one transaction.

use net_types::IfName;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::guard_rules::{Rule, Test, Then, rules};
use super::message::{self as nft, Element, Field, Hook, Message, Nla, Table};
use super::port_guard::PortGuard;
use super::{Fnv, Nftables, RuleState};
use crate::netlink::by_name;
use crate::{Object, Result};

const TABLE: Table<'static> = Table::bridge("k8slan");
const MAP: &str = "ports";
const BASE: &str = "from-ports";
/// The hook of incoming frames (`NF_BR_PRE_ROUTING`), before chains of an administrator there (dstnat is -300 and
/// does not see frames of these ports).
const HOOK: Hook = Hook { kind: "filter", number: 0, priority: -290 };

/// A rule as it is sent to the kernel, with the sets that it looks up.
struct Encoded {
    sets: Vec<Message>,
    expressions: Nla,
    comment: String,
}

impl PortGuard {
    fn encoded(&self) -> Vec<Encoded> {
        let mut sets = 1;
        rules(self).into_iter().filter_map(|rule| encode(&self.port, &rule, &mut sets)).collect()
    }

    /// What the rules of this guard are, in a word: for whoever asks later whether they still stand ([`Nftables::guard_state`]),
    /// and may be another version, that makes others.
    #[must_use]
    pub fn rules_hash(&self) -> String {
        hash(self.encoded().iter().map(|rule| &*rule.comment))
    }

    fn add_messages(&self) -> Vec<Message> {
        let port = self.port.as_str();
        let mut messages = vec![nft::chain(nft::NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, TABLE, port, None)];
        for rule in self.encoded() {
            messages.extend(rule.sets);
            messages.push(nft::rule(TABLE, port, &rule.expressions, &rule.comment));
        }
        messages.push(nft::port_element(nft::NEWSETELEM, NLM_F_CREATE, TABLE, MAP, &self.port));
        messages
    }
}

fn hash<'a>(comments: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Fnv::new();
    for comment in comments {
        hash.write(comment.as_bytes());
        hash.write(&[0]);
    }
    hash.to_string()
}

/// The expressions of a rule; `None` if it can never match.
fn encode(port: &IfName, rule: &Rule, sets: &mut u32) -> Option<Encoded> {
    let mut encoded = Encoded { sets: Vec::new(), expressions: Nla::new(), comment: String::new() };
    // The kernel reports a rule with other set names; this hash tells whether it is the wanted one.
    let mut hash = Fnv::new();
    hash.write(port.as_str().as_bytes());
    for test in &rule.tests {
        let list = std::mem::take(&mut encoded.expressions);
        encoded.expressions = match test {
            Test::Is(field, value) => nft::equals(nft::load(list, *field), value),
            Test::IsNot(field, value) => nft::differs(nft::load(list, *field), value),
            Test::Clear(field, mask) => {
                nft::equals(nft::mask(nft::load(list, *field), mask), &vec![0; mask.len()])
            }
            Test::Set(field, mask) => {
                nft::differs(nft::mask(nft::load(list, *field), mask), &vec![0; mask.len()])
            }
            Test::In(field, keys) | Test::NotIn(field, keys) => {
                let inside = matches!(test, Test::In(..));
                match (keys.elements.as_slice(), inside) {
                    // The kernel refuses an empty set.
                    ([], true) => return None,
                    ([], false) => list,
                    ([Element::Key(key)], true) if !keys.intervals => {
                        nft::equals(nft::load(list, *field), key)
                    }
                    ([Element::Key(key)], false) if !keys.intervals => {
                        nft::differs(nft::load(list, *field), key)
                    }
                    (elements, _) => {
                        *sets += 1;
                        encoded.sets.extend(nft::anonymous_set(
                            TABLE,
                            *sets,
                            keys.kind,
                            elements,
                            keys.intervals,
                        ));
                        for element in elements {
                            let (Element::Key(bytes) | Element::End(bytes)) = element;
                            hash.write(bytes);
                        }
                        let lookup = if inside { nft::in_set } else { nft::not_in };
                        lookup(nft::load(list, *field), *sets)
                    }
                }
            }
        };
    }
    let list = std::mem::take(&mut encoded.expressions);
    encoded.expressions = match rule.then {
        Then::Drop => nft::drop_frame(list),
        Then::Pass => nft::leave(list),
    };
    hash.write(encoded.expressions.as_bytes());
    encoded.comment = format!("k8slan {} {hash}", rule.what);
    Some(encoded)
}

impl Nftables {
    /// Puts a guard on a port and replaces the one that is there. From the moment that this returns, no frame passes
    /// that it forbids.
    ///
    /// Callers in several processes must hold a lock of their own: the first guard creates the table, and the last
    /// one removes it.
    ///
    /// # Errors
    /// The kernel refuses: EOPNOTSUPP without nftables for bridges (`nf_tables`).
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

    /// Removes the guard of a port; a missing guard is success. The port need not exist any more.
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

    /// The guarded ports; `None` if there is no table of guards at all.
    ///
    /// # Errors
    /// The kernel refuses the dump.
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

    /// Whether the guard with these rules ([`PortGuard::rules_hash`]) is on the port; `None`: any guard.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn guard_state(&self, port: &IfName, rules: Option<&str>) -> Result<RuleState> {
        let Some(comments) = self.comments(port.as_str())? else { return Ok(RuleState::Absent) };
        let same = rules.is_none_or(|rules| hash(comments.iter().map(String::as_str)) == rules);
        let reached = self.guarded()?.is_some_and(|ports| ports.contains(port))
            && self.comments(BASE)?.is_some_and(|base| base.len() == 1)
            && !self.is_dormant(TABLE)?;
        Ok(if reached && same { RuleState::InPlace } else { RuleState::Different })
    }

    /// The comments of a chain's rules in their order; `None` if the chain does not exist or is empty.
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
