//! Masquerading: packets of a pod that leave its network get the address of the outgoing link.
//!
//! ```text
//! table inet k8slan {
//!     chain postrouting {
//!         type nat hook postrouting priority 100
//!         iifname br0 ip saddr 10.1.2.3 ip daddr != 10.1.2.0/24 ip daddr != 224.0.0.0/4 masquerade comment "k8slan vb12… …"
//!     }
//! }
//! ```
//! The kernel evaluates a chain of type nat once per connection. There is a rule for each address, not a set of
//! addresses: two attachments may have the same address one after the other, and each removes only its own rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use net_types::IfName;
use netlink_packet_core::NLM_F_CREATE;

use super::message::{self as nft, Field, Hook, Nla, Table};
use super::{Fnv, FoundRule, Nftables, RuleState};
use crate::Result;
use crate::netlink::by_name;

const TABLE: Table<'static> = Table::inet("k8slan");
const CHAIN: &str = "postrouting";
/// `NF_INET_POST_ROUTING` with the priority that nft calls srcnat.
const HOOK: Hook = Hook { kind: "nat", number: 4, priority: 100 };

/// The addresses of a port that are to be masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// The port of the attachment; the rules only use it as a name.
    pub port: IfName,
    /// The links by which the node gets the pod's packets: what comes in by another one is somebody else's, whatever
    /// its source. Empty: any link. Needs Linux 5.7, before which a rule of this hook sees no incoming link.
    pub from: Vec<IfName>,
    /// Addresses, each with its network: packets that stay in the network, and those to multicast groups, are not
    /// changed.
    pub addresses: Vec<IpNetwork>,
}

/// Where a packet's header has the addresses, and which are multicast groups.
struct Family {
    number: u8,
    source: u32,
    destination: u32,
    length: u32,
    multicast: IpNetwork,
}

fn family(address: IpNetwork) -> Family {
    let network = |ip: IpAddr, prefix| {
        IpNetwork::new(ip, prefix).unwrap_or_else(|_| unreachable!("{prefix} is a prefix length of {ip}"))
    };
    match address {
        IpNetwork::V4(_) => Family {
            number: nft::NFPROTO_IPV4,
            source: 12,
            destination: 16,
            length: 4,
            multicast: network(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        },
        IpNetwork::V6(_) => Family {
            number: nft::NFPROTO_IPV6,
            source: 8,
            destination: 24,
            length: 16,
            multicast: network(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        },
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Masquerade {
    fn prefix(port: &IfName) -> String {
        format!("k8slan {port} ")
    }

    /// The rule of each address and link, with its comment.
    fn rules(&self) -> Vec<(Nla, String)> {
        let from: Vec<Option<&IfName>> = match self.from.as_slice() {
            [] => vec![None],
            links => links.iter().map(Some).collect(),
        };
        self.addresses
            .iter()
            .flat_map(|&address| from.iter().map(move |from| self.rule(address, *from)))
            .collect()
    }

    fn rule(&self, address: IpNetwork, from: Option<&IfName>) -> (Nla, String) {
        let of = family(address);
        let destination = Field::Network { offset: of.destination, length: of.length };
        let mut rule = match from {
            Some(link) => nft::equals(nft::load(Nla::new(), Field::InputName), &nft::padded(link)),
            None => Nla::new(),
        };
        rule = nft::equals(nft::load(rule, Field::Family), &[of.number]);
        let source = Field::Network { offset: of.source, length: of.length };
        rule = nft::equals(nft::load(rule, source), &octets(address.ip()));
        for network in [address, of.multicast] {
            rule = nft::mask(nft::load(rule, destination), &octets(network.mask()));
            rule = nft::differs(rule, &octets(network.network()));
        }
        rule = nft::masquerade(rule);
        let mut hash = Fnv::new();
        hash.write(rule.as_bytes());
        (rule, format!("{}{hash}", Self::prefix(&self.port)))
    }
}

impl Nftables {
    /// Masquerades the addresses, and replaces the rules that the port has.
    ///
    /// Callers in several processes must hold a lock of their own: the first rule creates the table, and the last one
    /// removes it.
    ///
    /// # Errors
    /// The kernel refuses: ENOENT without nftables' NAT for IPv4 and IPv6 (`nft_chain_nat`, `nft_masq`).
    pub fn masquerade(&self, wanted: &Masquerade) -> Result<()> {
        let mut messages = Vec::new();
        let found = self.masquerades()?;
        if found.is_empty() {
            // A chain without rules still exists.
            messages.push(nft::table(nft::NEWTABLE, NLM_F_CREATE, TABLE));
            messages.push(nft::chain(nft::NEWCHAIN, NLM_F_CREATE, TABLE, CHAIN, Some(HOOK)));
        }
        let (own, _) = split(&found, &wanted.port);
        messages.extend(own.iter().map(|rule| nft::delete_rule(TABLE, CHAIN, rule.handle)));
        messages.extend(wanted.rules().iter().map(|(rule, comment)| nft::rule(TABLE, CHAIN, rule, comment)));
        self.apply("masquerade what comes from port", &by_name(&wanted.port), &messages)
    }

    /// Removes all masquerading of that port; a port without any is success. The port need not exist any more.
    ///
    /// # Errors
    /// As [`Self::masquerade`].
    pub fn unmasquerade(&self, port: &IfName) -> Result<()> {
        let found = self.masquerades()?;
        let (own, others) = split(&found, port);
        let messages: Vec<_> = match (own.is_empty(), others.is_empty()) {
            (true, _) => return Ok(()),
            (false, true) => vec![nft::table(nft::DELTABLE, 0, TABLE)],
            (false, false) => own.iter().map(|rule| nft::delete_rule(TABLE, CHAIN, rule.handle)).collect(),
        };
        self.apply("masquerade no more what comes from port", &by_name(port), &messages)
    }

    /// Whether exactly these addresses are masqueraded: the rules are there, and nothing in front of them, or of the
    /// table, keeps packets from them.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn masquerade_state(&self, wanted: &Masquerade) -> Result<RuleState> {
        let found = self.masquerades()?;
        let (own, _) = split(&found, &wanted.port);
        let comments = wanted.rules().into_iter().map(|(_, comment)| comment);
        let before = found.iter().take_while(|rule| own.first().is_none_or(|own| own.handle != rule.handle));
        let skipped = before.into_iter().any(|rule| !rule.comment.starts_with("k8slan "));
        Ok(if own.is_empty() {
            RuleState::Absent
        } else if skipped || self.is_dormant(TABLE)? {
            RuleState::Different
        } else if own.iter().map(|rule| rule.comment.clone()).eq(comments) {
            RuleState::InPlace
        } else {
            RuleState::Different
        })
    }

    fn masquerades(&self) -> Result<Vec<FoundRule>> {
        self.rules(TABLE, CHAIN)
    }
}

/// The rules of a port, and those of the others.
fn split<'a>(rules: &'a [FoundRule], port: &IfName) -> (Vec<&'a FoundRule>, Vec<&'a FoundRule>) {
    let prefix = Masquerade::prefix(port);
    rules.iter().partition(|rule| rule.comment.starts_with(&prefix))
}
