use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::{Paths, SafeDir};
use sha2::{Digest, Sha256};

use crate::store::StoreError;
use crate::store::lock::PoolLock;

/// Longer names of pools and networks are hashed for the file's name, in bytes.
const MAX_NAME: usize = 200;

/// How long a call waits for the lock of a pool.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The pool that a store belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolKey {
    /// A pool with a file.
    Named(String),
    /// The ranges in a network's own configuration.
    Network(String),
}

/// The folders of a node's stores.
#[derive(Clone, Debug)]
pub struct StoreDirs {
    /// Ephemeral leases: `/run/k8slan/ipam`.
    pub run: PathBuf,
    /// What sticky owners keep over a reboot:
    pub state: PathBuf,
    /// How long to wait for the lock of a pool.
    pub lock_timeout: Duration,
}

impl PoolKey {
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Self::Named(_) => "pools",
            Self::Network(_) => "networks",
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) | Self::Network(name) => name,
        }
    }

    fn file(&self, suffix: &str) -> String {
        let name = self.name();
        if name.len() <= MAX_NAME {
            return format!("{name}.{suffix}");
        }
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        // '+' cannot occur in a name.
        format!("+{hex}.{suffix}")
    }
}

impl std::fmt::Display for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => write!(f, "pool {name}"),
            Self::Network(name) => write!(f, "network {name}"),
        }
    }
}

impl StoreDirs {
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self { run: paths.leases(), state: paths.state().join("ipam"), lock_timeout: LOCK_TIMEOUT }
    }

    /// The existing stores, by the names of their files.
    pub fn list(&self) -> Result<Vec<PoolKey>, StoreError> {
        self.list_files(&[".mdb", ".journal"])
    }

    /// The pools and networks that have a file with one of these suffixes.
    pub(crate) fn list_files(&self, suffixes: &[&str]) -> Result<Vec<PoolKey>, StoreError> {
        let mut keys = std::collections::BTreeSet::new();
        for (folder, of) in [
            ("pools", PoolKey::Named as fn(String) -> PoolKey),
            ("networks", PoolKey::Network as fn(String) -> PoolKey),
        ] {
            for root in [&self.run, &self.state] {
                let Some(dir) = SafeDir::open(&root.join(folder))? else { continue };
                for name in dir.names()? {
                    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
                    keys.extend(stem.filter(|stem| !stem.starts_with('.')).map(|name| of(name.to_owned())));
                }
            }
        }
        Ok(keys.into_iter().collect())
    }

    /// Waits for the lock of a pool.
    pub(crate) fn lock(&self, key: &PoolKey) -> Result<PoolLock, StoreError> {
        ensure_folder(&self.run.join(key.folder()))?;
        PoolLock::acquire(&self.file(&self.run, key, "lock"), self.lock_timeout)
    }

    pub(crate) fn file(&self, root: &Path, key: &PoolKey, suffix: &str) -> PathBuf {
        root.join(key.folder()).join(key.file(suffix))
    }
}

/// Creates the folder (mode 0700) if it is missing, and checks that only root may write it.
pub(crate) fn ensure_folder(folder: &Path) -> Result<(), StoreError> {
    if SafeDir::open(folder)?.is_some() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StoreError::io("create the folder", folder, source))?;
    SafeDir::open(folder)?;
    Ok(())
}

/// As [`ensure_folder`], and synced, so that it survives a loss of power.
pub(crate) fn ensure_lasting_folder(folder: &Path) -> Result<(), StoreError> {
    if SafeDir::open(folder)?.is_some() {
        return Ok(());
    }
    ensure_folder(folder)?;
    // <state>/ipam/<kind>: any of them may be new.
    for parent in folder.ancestors().skip(1).take(3) {
        let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|source| StoreError::io("write", parent, source))?;
    }
    Ok(())
}
