//! What this node has of a pool of the cluster, as the daemon keeps it on disk. Of the other nodes the disk knows only how
//! much is left to them.

use std::fmt::{self, Write as _};

use net_types::{AddrRange, AddrSet};
use node::{BlockLength, ClusterPool, Grants, SafeDir, one_line};
use serde::Serialize;

use super::{CommandContext, CommandError, format_age, format_count};
use crate::{Addr, BlockError, Family, Millis, PoolFile};

/// A pool of the cluster on this node; as text a line.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterPart {
    #[serde(skip)]
    pool: String,
    /// What this node may hand out now, in use or not.
    addresses: AddrSet,
    /// How many blocks these are in.
    blocks: usize,
    /// How long it may, unless the daemon hears the API server meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    /// What it had, and may not hand out any more, since the API server was not heard.
    #[serde(skip_serializing_if = "AddrSet::is_empty")]
    ended: AddrSet,
    /// What this node hands out to their owners alone, whom they follow over nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    floating: Vec<Floating>,
    /// How many addresses of the pool are other nodes' or nobody's; a text, as in the status of a `LANPool`.
    #[serde(serialize_with = "as_text")]
    elsewhere: u128,
    #[serde(skip)]
    lengths: Option<BlockLength>,
    /// Whether no node can claim any.
    exhausted: bool,
    /// Why this node claims nothing more.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
}

/// An address that follows its owner.
#[derive(Clone, Debug, Serialize)]
struct Floating {
    address: Addr,
    owner: String,
}

/// As many of them are named in a line.
const NAMED: usize = 8;

impl ClusterPart {
    /// Reads it; `None` where the pool is none of the cluster's, or has no blocks.
    pub(super) fn read(context: &CommandContext, file: &PoolFile) -> Result<Option<Self>, CommandError> {
        if file.inventory || file.blocks(&context.paths).is_none() {
            return Ok(None);
        }
        let sets = file.sets_for_node(None, None)?;
        let all = AddrSet::union(sets.iter().flat_map(|set| set.allocatable().iter()));
        let object = SafeDir::open(&context.paths.cluster_pools())?
            .map_or(Ok(None), |folder| ClusterPool::read(&folder, &file.name))?;
        let grants = SafeDir::open(&context.paths.grants())?
            .map_or(Ok(None), |folder| Grants::read(&folder, &file.name))?;
        let boot = crate::store::boot_id().map_err(BlockError::BootId)?;
        let grants = grants.filter(|grants| grants.boot_id == boot).unwrap_or_default();
        Ok(Some(Self::new(&file.name, &all, &grants, object, Millis::now())))
    }

    fn new(pool: &str, all: &AddrSet, grants: &Grants, object: Option<ClusterPool>, now: Millis) -> Self {
        let (valid, ended): (Vec<_>, Vec<_>) =
            grants.grants.iter().partition(|grant| Millis(grant.until) > now);
        let of = |grants: &[&node::Grant]| {
            AddrSet::union(grants.iter().flat_map(|grant| grant.addresses.iter())).intersection(all)
        };
        let addresses = of(&valid);
        let floating: Vec<Floating> = grants
            .floating
            .iter()
            .filter(|grant| Millis(grant.until) > now)
            .map(|grant| Floating { address: grant.address, owner: grant.owner.clone() })
            .collect();
        let ours = AddrSet::union(
            addresses.iter().chain(floating.iter().map(|floating| AddrRange::single(floating.address))),
        );
        Self {
            pool: pool.to_owned(),
            blocks: valid.len(),
            seconds: valid.iter().map(|grant| grant.until.saturating_sub(now.0) / 1000).min(),
            ended: of(&ended),
            elsewhere: all.without(&ours).len(),
            addresses,
            floating,
            lengths: object.as_ref().and_then(|object| object.blocks),
            exhausted: object
                .as_ref()
                .is_some_and(|object| Family::BOTH.iter().all(|family| object.exhausted.contains(family))),
            refusal: object.and_then(|object| object.refusal),
        }
    }

    /// Why this node does not hand out an address that is in none of its blocks, and who can tell whose it is.
    pub(super) fn elsewhere(&self, address: Addr) -> String {
        if self.ended.contains(address) {
            return "in a block of this node, which may not hand it out now: the API server was not heard for too long"
                .to_owned();
        }
        if let Some(floating) = self.floating.iter().find(|floating| floating.address == address) {
            return format!("follows {} over nodes, and is handed out to it alone", floating.owner);
        }
        let mut text = "in a block that this node does not hold".to_owned();
        if let Some(block) = self.block(address) {
            let _ = write!(text, "; 'kubectl get lanblock {block}' says which node does");
        }
        text
    }

    /// The name of the `LANBlock` that an address is in, whether it exists or not.
    fn block(&self, address: Addr) -> Option<String> {
        let lengths = self.lengths?;
        let (length, digits) = match address.family() {
            Family::V4 => (lengths.v4, 8),
            Family::V6 => (lengths.v6, 32),
        };
        let host = u32::from(address.family().bits().checked_sub(length)?);
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        Some(format!("{}.{:0digits$x}", self.pool, address.number() & mask))
    }
}

impl fmt::Display for ClusterPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} of the cluster: this node hands out ", self.pool)?;
        match self.seconds {
            Some(seconds) => write!(
                f,
                "{} ({} in {}) for another {}",
                self.addresses,
                counted(self.addresses.len(), "address", "es"),
                format_count(self.blocks, "block"),
                format_age(seconds)
            )?,
            None => f.write_str("nothing")?,
        }
        for (index, floating) in self.floating.iter().take(NAMED).enumerate() {
            let before = if index == 0 { "; to their owners alone" } else { "," };
            write!(f, "{before} {} ({})", floating.address, one_line(&floating.owner))?;
        }
        if let Some(more) = self.floating.len().checked_sub(NAMED).filter(|more| *more > 0) {
            write!(f, " and {more} more")?;
        }
        if !self.ended.is_empty() {
            write!(f, "; no longer {}, since the API server was not heard", self.ended)?;
        }
        match (self.elsewhere, self.exhausted) {
            (0, _) => f.write_str("; that is all of it")?,
            (count, true) => write!(f, "; {count} more are other nodes', and none is left to claim")?,
            (count, false) => write!(f, "; {count} more are other nodes' or nobody's")?,
        }
        match &self.refusal {
            Some(refusal) => write!(f, "; it claims no more: {}", one_line(refusal)),
            None => Ok(()),
        }
    }
}

fn as_text<S: serde::Serializer>(count: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(count)
}

fn counted(number: u128, what: &str, more: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { more })
}

/// The lines of all pools of the cluster that this node knows, or of the one of this name.
pub(super) fn lines(context: &CommandContext, name: Option<&str>) -> Result<String, CommandError> {
    let mut text = String::new();
    for pool in PoolFile::names_of_cluster(&context.paths)? {
        if name.is_some_and(|name| name != pool) {
            continue;
        }
        // What is wrong with a pool is told by 'pools' and 'check'.
        let Ok(file) = PoolFile::find(&context.paths, &pool) else { continue };
        if let Some(part) = ClusterPart::read(context, &file)? {
            let _ = writeln!(text, "{part}");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use node::Grant;

    use super::*;

    fn set(text: &[&str]) -> AddrSet {
        AddrSet::union(text.iter().map(|range| range.parse().unwrap()))
    }

    fn part(grants: &[(&[&str], u64)], object: ClusterPool) -> ClusterPart {
        let grants =
            grants.iter().map(|(addresses, until)| Grant { addresses: set(addresses), until: *until });
        let grants = Grants { grants: grants.collect(), floating: follows(), ..Grants::default() };
        ClusterPart::new("office", &set(&["10.9.0.2-10.9.0.254"]), &grants, Some(object), Millis(1_000_000))
    }

    fn follows() -> Vec<node::FloatingGrant> {
        let grant = |address: &str, until| node::FloatingGrant {
            address: address.parse().unwrap(),
            owner: "vm:default/vyos".to_owned(),
            until,
        };
        vec![grant("10.9.0.40", u64::MAX), grant("10.9.0.41", 0)]
    }

    fn object() -> ClusterPool {
        ClusterPool {
            name: "office".to_owned(),
            spec: serde_json::Value::Null,
            blocks: Some(BlockLength { v4: 29, v6: 120 }),
            ..ClusterPool::default()
        }
    }

    #[test]
    fn a_line_says_what_is_ours_and_how_much_is_not() {
        let both: &[(&[&str], u64)] = &[(&["10.9.0.8-10.9.0.15"], 2_200_000), (&["10.9.0.17"], 3_000_000)];
        assert_eq!(
            part(both, object()).to_string(),
            "pool office of the cluster: this node hands out 10.9.0.8-10.9.0.15, 10.9.0.17 (9 addresses in 2 blocks) for another 20m; to \
             their owners alone 10.9.0.40 (vm:default/vyos); 243 more are other nodes' or nobody's"
        );
        let deleted = ClusterPool { refusal: Some("the LANPool office\nwas deleted".into()), ..object() };
        assert_eq!(
            part(&[(&["10.9.0.9"], 1)], deleted).to_string(),
            "pool office of the cluster: this node hands out nothing; to their owners alone 10.9.0.40 (vm:default/vyos); no longer \
             10.9.0.9, since the API server was not heard; 252 more are other nodes' or nobody's; it claims no more: the LANPool office was deleted"
        );
        let full =
            part(&[(&["10.9.0.9"], 2_000_000)], ClusterPool { exhausted: Family::BOTH.to_vec(), ..object() });
        assert!(full.to_string().ends_with(
            "(1 address in 1 block) for another 16m; to their owners alone 10.9.0.40 (vm:default/vyos); 251 more are other nodes', and none is left to claim"
        ));
    }

    #[test]
    fn a_block_is_named_as_its_object() {
        let part = part(&[(&["10.9.0.9"], 1)], object());
        let at = |text: &str| text.parse::<Addr>().unwrap();
        assert_eq!(part.block(at("10.9.0.50")).unwrap(), "office.0a090030");
        assert_eq!(part.block(at("fd00::1:2")).unwrap(), "office.fd000000000000000000000000010000");
        assert!(part.elsewhere(at("10.9.0.50")).contains("kubectl get lanblock office.0a090030"));
        assert!(part.elsewhere(at("10.9.0.40")).contains("follows vm:default/vyos"));
        assert!(part.elsewhere(at("10.9.0.9")).contains("was not heard for too long"));
    }
}
