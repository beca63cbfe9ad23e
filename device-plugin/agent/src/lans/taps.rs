use std::path::Path;

use anyhow::{Context as _, Result};
use lan::{TapIndex, TapIndices};
use net_types::SpokeName;
use node::{Durability, SafeDir};

const FILE: &str = "taps.json";

/// The tap indices of this node, stored on disk.
pub(super) struct Taps {
    dir: SafeDir,
    indices: TapIndices,
}

impl Taps {
    /// Reads the file in the state folder, which is created if it is missing.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let dir = SafeDir::create(state)?;
        let indices = match dir.read(FILE)? {
            None => TapIndices::default(),
            // A new file would give a pod the traffic of another one that still exists.
            Some(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} does not read; put back a copy of it, or, when no pod is attached to any spoke, remove it",
                    state.join(FILE).display()
                )
            })?,
        };
        Ok(Self { dir, indices })
    }

    /// Gives every spoke its index. New ones are on disk when this returns, so that no record can name an index that
    /// a power failure takes back.
    pub(super) fn assign<'a>(&mut self, spokes: impl Iterator<Item = &'a SpokeName>) -> Result<()> {
        let mut indices = self.indices.clone();
        for spoke in spokes {
            indices.assign(spoke);
        }
        if indices.len() > self.indices.len() {
            let text = serde_json::to_vec(&indices)?;
            self.dir.write(FILE, &text, Durability::Kept)?;
            self.indices = indices;
        }
        Ok(())
    }

    /// The index of a spoke, if it has one.
    pub(super) fn get(&self, spoke: &SpokeName) -> Option<TapIndex> {
        self.indices.get(spoke)
    }

    /// The spoke whose bridge port has this name.
    pub(super) fn spoke_of_port(&self, name: &str) -> Option<SpokeName> {
        self.indices.spoke_of_port(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the programs before this version (`tests/tests/daemon/upgrade.rs`): a pod holds the node of each index.
    #[test]
    fn the_indices_of_the_version_before_stay() {
        let temp = tempfile::tempdir().unwrap();
        let before = include_str!("../../../../tests/fixtures/version-before/var/lib/k8slan/taps.json");
        std::fs::write(temp.path().join(FILE), before).unwrap();
        let mut taps = Taps::open(temp.path()).unwrap();
        let spoke = |name: &str| -> SpokeName { name.parse().unwrap() };
        taps.assign([spoke("a"), spoke("new")].iter()).unwrap();
        assert_eq!(taps.get(&spoke("a")).unwrap().get(), 1_768_042_688);
        assert_eq!(taps.get(&spoke("v")).unwrap().get(), 1_768_025_413);
        assert!(taps.get(&spoke("new")).is_some());
    }

    #[test]
    fn indices_outlive_the_daemon() {
        let temp = tempfile::tempdir().unwrap();
        let state = temp.path().join("state");
        let spokes: Vec<SpokeName> = ["p", "q"].map(|s| s.parse().unwrap()).into();
        let mut taps = Taps::open(&state).unwrap();
        taps.assign(spokes[..1].iter()).unwrap();
        let index = taps.get(&spokes[0]).unwrap();
        let mut again = Taps::open(&state).unwrap();
        assert_eq!(again.get(&spokes[0]), Some(index));
        again.assign(spokes.iter()).unwrap();
        assert_eq!(again.get(&spokes[0]), Some(index));
        assert_eq!(again.spoke_of_port(index.port_name().as_str()), Some(spokes[0].clone()));
    }

    #[test]
    fn a_file_that_does_not_read_stops_the_daemon() {
        let temp = tempfile::tempdir().unwrap();
        for broken in ["", "{", r#"{"p":1}"#] {
            std::fs::write(temp.path().join(FILE), broken).unwrap();
            let error = Taps::open(temp.path()).err().unwrap();
            assert!(error.to_string().contains("taps.json does not read"), "{error:#}");
        }
    }
}
