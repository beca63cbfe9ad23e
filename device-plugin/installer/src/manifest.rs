use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use node::{Durability, SafeDir};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(super) const FILE: &str = "install.json";

/// The version of the file's format.
const VERSION: u32 = 1;

/// The SHA-256 of a file's content, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Checksum(String);

impl Checksum {
    /// The checksum of these bytes.
    pub(super) fn compute(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to distinguish two files by eye.
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// `/var/lib/k8slan/install.json`: which files in which folders are ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) folders: BTreeMap<PathBuf, BTreeMap<String, Installed>>,
}

/// One plugin in one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Installed {
    /// The checksums by which it is ours: two while one version replaces another.
    pub(super) sha256: BTreeSet<Checksum>,
    /// The name of the backup of the file that was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replaced: Option<String>,
    /// Whether its removal has begun, so that it may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) leaving: bool,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { version: VERSION, folders: BTreeMap::new() }
    }
}

impl Manifest {
    /// Reads the file; empty if it does not exist.
    pub(super) fn read(state: &SafeDir) -> Result<Self> {
        let Some(text) = state.read(FILE)? else { return Ok(Self::default()) };
        let path = state.path().join(FILE);
        let manifest: Self = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} does not read; remove it, then files that k8slan put into CNI folders before count as others'",
                path.display()
            )
        })?;
        if manifest.version > VERSION {
            bail!("{} was written by a newer version of this program: use that version", path.display());
        }
        Ok(manifest)
    }

    /// Writes the file and syncs it; removes it if nothing is ours any more.
    pub(super) fn write(&mut self, state: &SafeDir) -> Result<()> {
        self.folders.retain(|_, files| !files.is_empty());
        if self.folders.is_empty() {
            return Ok(state.remove(FILE)?);
        }
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(state.write(FILE, &text, Durability::Kept)?)
    }

    /// The entry of a plugin in a folder.
    pub(super) fn get(&self, folder: &Path, name: &str) -> Option<&Installed> {
        self.folders.get(folder)?.get(name)
    }

    /// The entry of a plugin in a folder, created if it is missing.
    pub(super) fn entry(&mut self, folder: &Path, name: &str) -> &mut Installed {
        self.folders.entry(folder.to_owned()).or_default().entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_an_empty_one_is_no_file() {
        let temp = tempfile::tempdir().unwrap();
        let state = SafeDir::create(&temp.path().join("state")).unwrap();
        let mut manifest = Manifest::read(&state).unwrap();
        manifest.entry(Path::new("/opt/cni/bin"), "macvtap").sha256.insert(Checksum::compute(b"one"));
        manifest.write(&state).unwrap();
        let mut again = Manifest::read(&state).unwrap();
        assert_eq!(again.folders, manifest.folders);
        again.folders.clear();
        again.write(&state).unwrap();
        assert!(state.names().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_not_understood_stops_the_installer() {
        let temp = tempfile::tempdir().unwrap();
        let state = SafeDir::create(&temp.path().join("state")).unwrap();
        for (text, words) in [("{", "does not read"), (r#"{"version":2,"folders":{}}"#, "newer version")] {
            state.write(FILE, text.as_bytes(), Durability::Kept).unwrap();
            let error = Manifest::read(&state).unwrap_err();
            assert!(error.to_string().contains(words), "{error:#}");
        }
    }

    #[test]
    fn a_checksum_is_what_sha256sum_prints() {
        let of_nothing = Checksum::compute(b"");
        assert_eq!(of_nothing.0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(of_nothing.to_string(), "e3b0c44298fc");
    }
}
