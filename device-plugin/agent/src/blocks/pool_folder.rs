//! The cluster's pools as files, `<state>/blocks/pools/<name>.json`, for `ipam-pool` and for the next process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use net_types::AddrSet;
use node::{ClusterPool, Paths, SafeDir, SelectedNamespaces, is_kubernetes_name};
use proto::brief;
use tokio::sync::watch;

/// A pool is a label of its blocks' names.
pub(super) const MAX_NAME: usize = 63;
/// The longest name of a namespace.
const MAX_LABEL: usize = 63;
/// The longest UID, in bytes; Kubernetes' have 36.
const MAX_UID: usize = 128;
/// More than any cluster has; each is a file.
pub(crate) const MAX_POOLS: usize = 1_000;
/// The longest pool without the namespaces that it selects, in bytes of JSON.
const MAX_POOL: usize = 256 << 10;
/// The longest reason that a node may claim nothing, in bytes.
const MAX_REFUSAL: usize = 512;

/// The pools that this node knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownPools {
    pub pools: BTreeMap<String, ClusterPool>,
    /// Whether the cluster's part has said on this connection which pools there are.
    pub complete: bool,
}

/// The folder, and what was read from it.
pub struct PoolFolder {
    folder: SafeDir,
    /// Where files of pools are.
    files: PathBuf,
    /// Pools that were deleted, of which this node still has something.
    deleted: BTreeSet<String>,
    /// The pools of which this node has something; `None`: that is not known yet.
    in_use: Option<BTreeSet<String>>,
    sender: watch::Sender<Arc<KnownPools>>,
}

/// The folder, shared.
#[derive(Clone)]
pub struct Pools(Arc<Mutex<PoolFolder>>);

impl Pools {
    /// Reads what an earlier process kept.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(paths: &Paths) -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(PoolFolder::open(paths)?))))
    }

    pub(crate) fn folder(&self) -> MutexGuard<'_, PoolFolder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pools, and each change of them.
    pub fn known(&self) -> watch::Receiver<Arc<KnownPools>> {
        self.folder().sender.subscribe()
    }
}

impl PoolFolder {
    fn open(paths: &Paths) -> Result<Self> {
        SafeDir::create(&paths.blocks())?;
        let folder = SafeDir::create(&paths.cluster_pools())?;
        folder.remove_temporaries(|_| true)?;
        let mut known = KnownPools::default();
        for file in folder.names()? {
            let Some(name) = file.strip_suffix(".json") else { continue };
            match ClusterPool::read(&folder, name) {
                Ok(Some(pool)) if pool.name == name => drop(known.pools.insert(name.to_owned(), pool)),
                Ok(_) => {}
                Err(error) => tracing::warn!("a pool is left out until it is sent again: {error}"),
            }
        }
        let sender = watch::channel(Arc::new(known)).0;
        Ok(Self { folder, files: paths.pools(), deleted: BTreeSet::new(), in_use: None, sender })
    }

    /// The names of the pools, with the length of each.
    pub(crate) fn held(&self) -> Vec<(String, usize)> {
        let known = self.sender.borrow();
        known.pools.iter().map(|(name, pool)| (name.clone(), length(pool))).collect()
    }

    /// Checks a pool as if it came from an attacker, and says how long it is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, pool: &ClusterPool) -> Result<usize> {
        if pool.name.len() > MAX_NAME || !is_kubernetes_name(&pool.name) {
            bail!("{:?} is not the name of a pool", brief(&pool.name, MAX_NAME));
        }
        if pool.uid.len() > MAX_UID {
            bail!("the UID of the pool {} takes more than {MAX_UID} bytes", pool.name);
        }
        if pool.refusal.as_ref().is_some_and(|refusal| refusal.len() > MAX_REFUSAL) {
            bail!("why nothing can be claimed of the pool {} takes more than {MAX_REFUSAL} bytes", pool.name);
        }
        let namespaces = check_namespaces(pool)?;
        let len = length(pool);
        if len - namespaces > MAX_POOL {
            bail!("the pool {} has {len} bytes; at most {MAX_POOL} are taken", pool.name);
        }
        let known = self.sender.borrow();
        let before = known.pools.get(&pool.name);
        if before.is_none() && known.pools.len() >= MAX_POOLS {
            bail!("a node takes {MAX_POOLS} pools at most");
        }
        Ok(len)
    }

    /// Keeps a pool that was checked. Where this node has something of one that was there before, and what is new has no blocks yet
    /// or other ones, that one stays.
    ///
    /// # Errors
    /// It cannot be written, or its blocks are of another length than those here.
    pub(crate) fn put(&mut self, mut pool: ClusterPool) -> Result<()> {
        let name = pool.name.clone();
        let before = self.sender.borrow().pools.get(&name).cloned();
        if let Some(before) = before.as_ref().filter(|before| before.is_in_charge() && !pool.is_accepted()) {
            // A file does not come back into its place.
            pool.in_place_of = Some(before.in_place_of.clone().unwrap_or_default());
            if pool.replacing {
                pool.refusal = None;
            }
        }
        let before = before.filter(|before| before.blocks.is_some() && self.is_in_use(&name));
        let is_accepted = pool.blocks.is_some();
        let Some(before) = before.filter(|before| before.blocks != pool.blocks) else {
            self.deleted.remove(&name);
            return self.store(pool);
        };
        let told = |reason: &str| Some(brief(reason, MAX_REFUSAL));
        let other_length = format!(
            "this node holds blocks of the pool {name} in another length, or has addresses of them in use; their length does not \
             change: make a pool of another name"
        );
        // Of one that was created again nothing is handed out before it is accepted.
        let deleted = before.deleted || before.uid != pool.uid;
        let refusal = if is_accepted { told(&other_length) } else { pool.refusal };
        self.store(ClusterPool { refusal, deleted, ..before })?;
        if is_accepted {
            bail!("{other_length}");
        }
        self.deleted.remove(&name);
        Ok(())
    }

    fn store(&mut self, pool: ClusterPool) -> Result<()> {
        if self.sender.borrow().pools.get(&pool.name) == Some(&pool) {
            return Ok(());
        }
        pool.write(&self.folder)?;
        self.change(|known| drop(known.pools.insert(pool.name.clone(), pool)));
        Ok(())
    }

    /// A pool takes the place of this node's file, unless it is another one than in `spec` by now. ADD goes by it from then on.
    ///
    /// # Errors
    /// Its file cannot be changed.
    pub(crate) fn replace_file(
        &mut self,
        name: &str,
        spec: &serde_json::Value,
        addresses: AddrSet,
    ) -> Result<()> {
        let Some(mut pool) = self.sender.borrow().pools.get(name).cloned() else { return Ok(()) };
        if !pool.replacing || pool.deleted || pool.is_in_charge() || pool.spec != *spec {
            return Ok(());
        }
        tracing::info!(
            pool = name,
            "the LANPool takes the place of this node's file, which handed out {addresses}"
        );
        (pool.in_place_of, pool.refusal) = (Some(addresses), None);
        self.store(pool)
    }

    /// A pool was deleted. It stays known, and nothing is claimed of it or handed out, while this node has something of it, or a file in whose
    /// place it was: other nodes may have something of it still.
    ///
    /// # Errors
    /// Its file cannot be changed.
    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        let Some(mut pool) = self.sender.borrow().pools.get(name).cloned() else { return Ok(()) };
        if pool.is_in_charge() && (self.is_in_use(name) || self.has_file(name)) {
            self.deleted.insert(name.to_owned());
            pool.refusal = Some(format!("the LANPool {name} was deleted"));
            pool.deleted = true;
            return self.store(pool);
        }
        self.forget(name)
    }

    /// The API server has no other pools than those that were sent.
    pub(crate) fn complete(&mut self) {
        self.change(|known| known.complete = true);
    }

    /// The cluster's part is away: what it said may have changed meanwhile.
    pub(crate) fn disconnected(&mut self) {
        self.change(|known| known.complete = false);
    }

    /// What this node has something of; pools that were deleted and are not among them go.
    pub(crate) fn set_in_use(&mut self, in_use: BTreeSet<String>) {
        let gone: Vec<String> =
            self.deleted.difference(&in_use).filter(|name| !self.has_file(name)).cloned().collect();
        self.in_use = Some(in_use);
        for name in gone {
            if let Err(error) = self.forget(&name) {
                tracing::warn!(pool = name, "a pool that was deleted stays: {error:#}");
            }
        }
    }

    fn forget(&mut self, name: &str) -> Result<()> {
        if let Some(file) = ClusterPool::file_name(name) {
            self.folder.remove(&file)?;
        }
        self.deleted.remove(name);
        self.change(|known| drop(known.pools.remove(name)));
        Ok(())
    }

    fn has_file(&self, name: &str) -> bool {
        let is_there = |suffix: &str| self.files.join(format!("{name}.{suffix}")).symlink_metadata().is_ok();
        is_there("yaml") || is_there("yml")
    }

    fn is_in_use(&self, name: &str) -> bool {
        self.in_use.as_ref().is_none_or(|in_use| in_use.contains(name))
    }

    fn change(&self, change: impl FnOnce(&mut KnownPools)) {
        self.sender.send_modify(|known| change(Arc::make_mut(known)));
    }
}

/// Returns how long they are as JSON.
fn check_namespaces(pool: &ClusterPool) -> Result<usize> {
    match &pool.namespaces {
        Some(SelectedNamespaces::Unknown(reason)) if reason.len() > MAX_REFUSAL => {
            bail!(
                "why the namespaces of the pool {} are not known takes more than {MAX_REFUSAL} bytes",
                pool.name
            )
        }
        Some(SelectedNamespaces::Names(names)) => {
            if names.len() > SelectedNamespaces::MAX {
                bail!("the pool {} selects more than {} namespaces", pool.name, SelectedNamespaces::MAX);
            }
            if let Some(name) = names.iter().find(|name| name.len() > MAX_LABEL || !is_kubernetes_name(name))
            {
                bail!("{:?} is not the name of a namespace", brief(name, MAX_LABEL));
            }
            Ok(serde_json::to_vec(names).map_or(0, |text| text.len()))
        }
        _ => Ok(0),
    }
}

fn length(pool: &ClusterPool) -> usize {
    serde_json::to_vec(pool).map_or(usize::MAX, |text| text.len())
}
