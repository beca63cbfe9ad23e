use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::{Paths, SafeDir};
use sha2::{Digest, Sha256};

use crate::store::StoreError;

/// A name of up to this many bytes is a file's name as it is.
const MAX_NAME: usize = 200;

/// How long a call waits for others on the same pool.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Which pool a store is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolKey {
    /// A pool file's.
    Named(String),
    /// The ranges that a network's configuration holds itself.
    Network(String),
}

/// Where the stores of a node are.
#[derive(Clone, Debug)]
pub struct StoreDirs {
    /// Ephemeral leases: `/run/k8slan/ipam`.
    pub run: PathBuf,
    /// What outlives a reboot: `/var/lib/k8slan/ipam`.
    pub state: PathBuf,
    /// How long to wait for another process.
    pub lock_timeout: Duration,
}

impl PoolKey {
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Self::Named(_) => "pools",
            Self::Network(_) => "networks",
        }
    }

    /// The name alone.
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
    /// Those of a node.
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self { run: paths.leases(), state: paths.state().join("ipam"), lock_timeout: LOCK_TIMEOUT }
    }

    /// The stores that are there, by the names of their files.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn list(&self) -> Result<Vec<PoolKey>, StoreError> {
        let mut keys = std::collections::BTreeSet::new();
        for (folder, of) in [
            ("pools", PoolKey::Named as fn(String) -> PoolKey),
            ("networks", PoolKey::Network as fn(String) -> PoolKey),
        ] {
            for root in [&self.run, &self.state] {
                let Some(dir) = SafeDir::open(&root.join(folder))? else { continue };
                for name in dir.names()? {
                    let stem = name.strip_suffix(".mdb").or_else(|| name.strip_suffix(".journal"));
                    keys.extend(stem.filter(|stem| !stem.starts_with('.')).map(|name| of(name.to_owned())));
                }
            }
        }
        Ok(keys.into_iter().collect())
    }

    pub(crate) fn file(&self, root: &Path, key: &PoolKey, suffix: &str) -> PathBuf {
        root.join(key.folder()).join(key.file(suffix))
    }
}

/// The folder, made where it is missing (mode 0700), and trusted.
pub(crate) fn ensure_folder(folder: &Path) -> Result<(), StoreError> {
    if SafeDir::open(folder)?.is_some() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StoreError::io("make the folder", folder, source))?;
    SafeDir::open(folder)?;
    Ok(())
}

/// The same, and it is still there after a loss of power.
pub(crate) fn ensure_lasting_folder(folder: &Path) -> Result<(), StoreError> {
    if SafeDir::open(folder)?.is_some() {
        return Ok(());
    }
    ensure_folder(folder)?;
    // <state>/ipam/<kind>: each of them may be new.
    for parent in folder.ancestors().skip(1).take(3) {
        let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|source| StoreError::io("write", parent, source))?;
    }
    Ok(())
}
