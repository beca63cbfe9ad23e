//! Whether the node's own rules would drop what a bridge forwards.

use net_types::IfName;

use super::message::{self as nft, Table};
use super::{ChainPolicy, Nftables};
use crate::Result;

/// The hook `NF_INET_FORWARD`; `NF_BR_FORWARD` has the same number.
const FORWARD: u32 = 2;

/// A chain for forwarded packets that drops what none of its rules lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppingChain {
    /// Family, table and chain, as `nft` names them: `inet filter forward`.
    pub name: String,
    /// Which packets reach the chain.
    pub what: Dropped,
}

/// Which packets a chain sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// All frames that a bridge forwards.
    Frames,
    /// IPv4 packets, those in frames only with `bridge-nf-call-iptables`.
    V4,
    /// IPv6 packets, those in frames only with `bridge-nf-call-ip6tables`.
    V6,
    /// IPv4 and IPv6 packets, those in frames as above.
    V4AndV6,
}

impl Nftables {
    /// The chains that would drop what a bridge forwards, as far as can be told: their policy is to drop, and none of
    /// their rules names the bridge. Rules without the bridge's name are not evaluated.
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn chains_that_drop(&self, bridge: &IfName) -> Result<Vec<DroppingChain>> {
        let mut dropping = Vec::new();
        for chain in self.base_chains()? {
            if chain.hook != FORWARD || chain.policy != ChainPolicy::Drop {
                continue;
            }
            let (family, what) = match chain.family.as_str() {
                "inet" => (nft::NFPROTO_INET, Dropped::V4AndV6),
                "ip" => (nft::NFPROTO_IPV4, Dropped::V4),
                "ip6" => (nft::NFPROTO_IPV6, Dropped::V6),
                "bridge" => (nft::NFPROTO_BRIDGE, Dropped::Frames),
                _ => continue,
            };
            let link = bridge.as_str().as_bytes();
            let named = |bytes: &[u8]| bytes.windows(link.len()).any(|part| part == link);
            let rules = self.rules(Table { family, name: &chain.table }, &chain.name)?;
            if !rules.iter().any(|rule| named(&rule.expressions)) {
                let name = format!("{} {} {}", chain.family, chain.table, chain.name);
                dropping.push(DroppingChain { name, what });
            }
        }
        Ok(dropping)
    }
}
