use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use lan::{TapIndex, TapIndices};
use net_types::SpokeName;
use node::{Durability, SafeDir};

const FILE: &str = "taps.json";
/// Its longest text, in bytes: more than a hundred thousand spokes. An index is never given back, so this is for
/// the life of a node.
const MAX_LEN: usize = 4 << 20;
/// What an entry has beside the spoke's name, in bytes.
const ENTRY: usize = r#""":1234567890,"#.len();

/// The tap indices of this node, stored on disk.
pub(super) struct Taps {
    dir: SafeDir,
    indices: TapIndices,
    /// Whether it was told that there is no room for more.
    told: bool,
}

impl Taps {
    /// Reads the file in the state folder, which is created if it is missing.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let dir = SafeDir::create(state)?;
        let indices = match dir.read_up_to(FILE, MAX_LEN as u64)? {
            None => TapIndices::default(),
            // A new file would give a pod the traffic of another one that still exists.
            Some(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} does not read; put back a copy of it, or, when no pod is attached to any spoke, remove it",
                    state.join(FILE).display()
                )
            })?,
        };
        Ok(Self { dir, indices, told: false })
    }

    /// Gives every spoke its index. New ones are on disk when this returns, so that no record can name an index that
    /// a power failure takes back.
    pub(super) fn assign<'a>(&mut self, spokes: impl Iterator<Item = &'a SpokeName>) -> Result<()> {
        let new: BTreeSet<&SpokeName> = spokes.filter(|spoke| self.indices.get(spoke).is_none()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut indices = self.indices.clone();
        let mut len = serde_json::to_vec(&indices)?.len();
        for spoke in new {
            len += spoke.as_str().len() + ENTRY;
            if len > MAX_LEN {
                // The others work: whoever declares so many spokes harms their own.
                if !std::mem::replace(&mut self.told, true) {
                    tracing::error!(
                        %spoke,
                        "no index for this and further spokes: {} is full of spokes that this node had",
                        self.dir.path().join(FILE).display()
                    );
                }
                break;
            }
            indices.assign(spoke);
        }
        if indices.len() > self.indices.len() {
            self.dir.write(FILE, &serde_json::to_vec(&indices)?, Durability::Kept)?;
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
    fn so_many_spokes_as_can_be_read_again_have_an_index() {
        let temp = tempfile::tempdir().unwrap();
        let spokes: Vec<SpokeName> =
            (0..200_000).map(|number| format!("{number:015}").parse().unwrap()).collect();
        let mut taps = Taps::open(temp.path()).unwrap();
        taps.assign(spokes.iter()).unwrap();
        taps.assign(spokes.iter().rev()).unwrap();
        let again = Taps::open(temp.path()).unwrap();
        assert!(again.get(&spokes[100_000]).is_some() && again.get(&spokes[199_999]).is_none());
        assert_eq!(again.indices, taps.indices);
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
