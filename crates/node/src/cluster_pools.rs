//! Pools of the cluster on this node: what the daemon keeps of them, and what it lets `ipam-pool` hand out.

use std::collections::BTreeSet;

use net_types::{Addr, AddrSet, Family};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Durability, Paths, SafeDir, SafeDirError, is_kubernetes_name};

/// A `LANPool` of the cluster, as the node keeps it: `<state>/blocks/pools/<name>.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPool {
    /// The object's name.
    pub name: String,
    /// Its UID: one that is created again under its name is another one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The object's specification, as its author wrote it.
    pub spec: Value,
    /// Whether the leader has accepted it, in this form or an earlier one: from then on it hands out, and no file of its name does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// Whether it is to take the place of files of its name that say the same; nothing else may be claimed of it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replacing: bool,
    /// Whether its `nodeSelector` leaves this node out. Told while it is not accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// What this node's file of its name handed out, in whose place it is since before it was accepted. The node writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place_of: Option<AddrSet>,
    /// The length of its blocks; absent until blocks may be claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<BlockLength>,
    /// Why this node may claim nothing, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Whether it was deleted: what is held stays, and nothing new is handed out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The families of which nothing is free anywhere, so that a node gives back what it does not use; both where the pool has no
    /// other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exhausted: Vec<Family>,
    /// Which namespaces its `namespaceSelector` selects; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<SelectedNamespaces>,
    /// What is reserved of it, for owners on whatever node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Reserved>,
}

/// What a `LANReservation` reserves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// Whose it is: `vm:<namespace>/<name>` or `pod:<namespace>/<name>`; absent: nobody's yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The address, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Addr>,
}

/// The namespaces that a selector selects, as the API server said last.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SelectedNamespaces {
    /// Their names.
    Names(BTreeSet<String>),
    /// Why they are not known, a sentence.
    Unknown(String),
}

impl SelectedNamespaces {
    /// How many are sent to a node; a name takes 66 bytes at most.
    pub const MAX: usize = 10_000;
}

/// The length of a pool's blocks, in leading bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BlockLength {
    /// Of IPv4, 0 to 32.
    pub v4: u8,
    /// Of IPv6, 0 to 128.
    pub v6: u8,
}

/// What `ipam-pool` may hand out of a pool of the cluster: `<run>/blocks/<name>.json`. It changes under the lock of the pool's
/// store alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    /// The boot that `until` counts from, as `/proc/sys/kernel/random/boot_id` says it.
    pub boot_id: String,
    /// Blocks; they do not overlap.
    pub grants: Vec<Grant>,
    /// Addresses that follow their owners over nodes, and are handed out to them alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating: Vec<FloatingGrant>,
}

/// Addresses that this node may hand out for some time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Grant {
    /// The addresses.
    pub addresses: AddrSet,
    /// Until when, in milliseconds of CLOCK_BOOTTIME.
    pub until: u64,
}

/// A floating address that this node may hand out to its owner for some time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FloatingGrant {
    /// The address.
    pub address: Addr,
    /// Whose it is: `vm:<namespace>/<name>` or `pod:<namespace>/<name>`, and `/<network>` where it is kept for one network.
    pub owner: String,
    /// As of [`Grant`]; 0: it is on its way to this node.
    pub until: u64,
}

/// Why a file of the cluster's pools cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum ClusterPoolError {
    #[error(transparent)]
    Dir(#[from] SafeDirError),
    #[error("{path:?} is not what k8slan's daemon writes: {error}")]
    Invalid { path: std::path::PathBuf, error: serde_json::Error },
}

impl Paths {
    /// What the node keeps of the cluster's pools: `node.json` and the folder `pools`.
    #[must_use]
    pub fn blocks(&self) -> std::path::PathBuf {
        self.state().join("blocks")
    }

    /// The cluster's pools.
    #[must_use]
    pub fn cluster_pools(&self) -> std::path::PathBuf {
        self.blocks().join("pools")
    }

    /// What may be handed out of them in this boot.
    #[must_use]
    pub fn grants(&self) -> std::path::PathBuf {
        self.run().join("blocks")
    }
}

impl ClusterPool {
    /// The longest file, in bytes.
    pub const MAX_LEN: u64 = 1 << 20;

    /// The file's name, where the pool's name is one that Kubernetes takes.
    #[must_use]
    pub fn file_name(pool: &str) -> Option<String> {
        is_kubernetes_name(pool).then(|| format!("{pool}.json"))
    }

    /// Whether addresses are handed out by it, and not by a file of its name.
    #[must_use]
    pub const fn is_in_charge(&self) -> bool {
        self.is_accepted() || self.in_place_of.is_some()
    }

    /// Whether the leader has accepted it. What was written before `accepted` was there had blocks only then.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        self.accepted || (self.blocks.is_some() && !self.replacing)
    }

    /// Reads a pool of the folder [`Paths::cluster_pools`].
    ///
    /// # Errors
    /// The file cannot be read, is not root's, or is not what the daemon writes.
    pub fn read(folder: &SafeDir, pool: &str) -> Result<Option<Self>, ClusterPoolError> {
        read(folder, pool, Self::MAX_LEN)
    }

    /// Writes it into the folder [`Paths::cluster_pools`]; it is synced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &SafeDir) -> Result<(), ClusterPoolError> {
        write(folder, &self.name, self, Durability::Kept)
    }
}

impl Grants {
    /// The longest file, in bytes.
    pub const MAX_LEN: u64 = 4 << 20;

    /// Reads the grants of a pool in the folder [`Paths::grants`].
    ///
    /// # Errors
    /// The file cannot be read, is not root's, or is not what the daemon writes.
    pub fn read(folder: &SafeDir, pool: &str) -> Result<Option<Self>, ClusterPoolError> {
        read(folder, pool, Self::MAX_LEN)
    }

    /// Writes them into the folder [`Paths::grants`]. The caller has the lock of the pool's store.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &SafeDir, pool: &str) -> Result<(), ClusterPoolError> {
        write(folder, pool, self, Durability::UntilReboot)
    }
}

fn read<T: for<'de> Deserialize<'de>>(
    folder: &SafeDir,
    pool: &str,
    max: u64,
) -> Result<Option<T>, ClusterPoolError> {
    let Some(name) = ClusterPool::file_name(pool) else { return Ok(None) };
    let Some(bytes) = folder.read_up_to(&name, max)? else { return Ok(None) };
    let invalid = |error| ClusterPoolError::Invalid { path: folder.path().join(&name), error };
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}

fn write(
    folder: &SafeDir,
    pool: &str,
    value: &impl Serialize,
    durability: Durability,
) -> Result<(), ClusterPoolError> {
    // A name that is none has no file: the folder refuses the empty one.
    let name = ClusterPool::file_name(pool).unwrap_or_default();
    let invalid = |error| ClusterPoolError::Invalid { path: folder.path().join(&name), error };
    Ok(folder.write(&name, &serde_json::to_vec(value).map_err(invalid)?, durability)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_back_and_names_stay_in_their_folder() {
        let temp = tempfile::tempdir().unwrap();
        let folder = SafeDir::create(&temp.path().canonicalize().unwrap().join("pools")).unwrap();
        let pool = ClusterPool {
            name: "office".to_owned(),
            spec: serde_json::json!({ "subnets": ["10.0.0.0/24"] }),
            blocks: Some(BlockLength { v4: 32, v6: 128 }),
            exhausted: vec![Family::V6],
            namespaces: Some(SelectedNamespaces::Names(["blue".to_owned()].into())),
            reserved: vec![Reserved { owner: Some("vm:a/b".to_owned()), address: None }],
            ..ClusterPool::default()
        };
        pool.write(&folder).unwrap();
        assert_eq!(ClusterPool::read(&folder, "office").unwrap(), Some(pool.clone()));
        assert_eq!(ClusterPool::read(&folder, "other").unwrap(), None);
        assert_eq!(ClusterPool::read(&folder, "../office").unwrap(), None);
        assert!(ClusterPool { name: "../x".to_owned(), ..pool }.write(&folder).is_err());
        folder.write("bad.json", b"{}", Durability::UntilReboot).unwrap();
        let error = Grants::read(&folder, "bad").unwrap_err().to_string();
        assert!(error.contains("bad.json"), "{error}");
    }
}
