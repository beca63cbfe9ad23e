use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use lan::{LanKey, SpokeRecord};
use net_types::SpokeName;
use node::{Durability, SafeDir};

/// The spokes' records on disk, with a copy in memory.
pub(super) struct Records {
    path: PathBuf,
    dir: SafeDir,
    /// The existing records by spoke; `None` for a file that is not a record of that spoke.
    there: BTreeMap<SpokeName, Option<SpokeRecord>>,
    /// The records that this process has written.
    written: BTreeMap<SpokeName, SpokeRecord>,
}

impl Records {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let mut records =
            Self { dir: SafeDir::create(&path)?, path, there: BTreeMap::new(), written: BTreeMap::new() };
        records.reload()?;
        Ok(records)
    }

    /// Records without a folder, for tests.
    #[cfg(test)]
    pub(super) fn from_map(records: &BTreeMap<SpokeName, SpokeRecord>) -> Self {
        let there = records.iter().map(|(spoke, record)| (spoke.clone(), Some(record.clone()))).collect();
        let path = PathBuf::from("/");
        Self { dir: SafeDir::open(&path).unwrap().unwrap(), path, there, written: BTreeMap::new() }
    }

    /// Reads all of them again, since somebody else changed something.
    pub(super) fn reload(&mut self) -> Result<()> {
        // The folder may have been replaced.
        self.dir = SafeDir::create(&self.path)?;
        self.there.clear();
        self.dir.names()?.iter().for_each(|name| self.read(name));
        Ok(())
    }

    pub(super) fn read(&mut self, name: &str) {
        let Some(spoke) = name.strip_suffix(".json").and_then(|spoke| spoke.parse().ok()) else { return };
        let record = match self.dir.read(name) {
            Ok(None) => {
                self.there.remove(&spoke);
                return;
            }
            Ok(Some(text)) => SpokeRecord::parse(&spoke, &text).ok(),
            // An untrusted record is replaced, like one that cannot be parsed.
            Err(_) => None,
        };
        self.there.insert(spoke, record);
    }

    /// The folder, which also has the spokes' locks.
    pub(super) fn dir(&self) -> &SafeDir {
        &self.dir
    }

    /// The record of a spoke.
    pub(super) fn get(&self, spoke: &SpokeName) -> Option<&SpokeRecord> {
        self.there.get(spoke)?.as_ref()
    }

    /// The records that could be parsed.
    pub(super) fn all(&self) -> impl Iterator<Item = &SpokeRecord> {
        self.there.values().flatten()
    }

    /// The LAN that each spoke's record names.
    pub(super) fn lans(&self) -> BTreeMap<SpokeName, LanKey> {
        self.all().map(|record| (record.spoke.clone(), record.lan.clone())).collect()
    }

    /// Writes this record, or removes it. Returns whether that restored what was written before.
    pub(super) fn set(&mut self, spoke: &SpokeName, record: Option<SpokeRecord>) -> Result<bool> {
        let there = self.there.get(spoke);
        let name = SpokeRecord::file_name(spoke);
        match record {
            None if there.is_none() => {}
            None => {
                self.dir.remove(&name)?;
                self.there.remove(spoke);
                self.written.remove(spoke);
            }
            Some(record) if there.is_some_and(|there| there.as_ref() == Some(&record)) => {}
            Some(record) => {
                self.dir.write(&name, &record.to_json(), Durability::UntilReboot)?;
                self.there.insert(spoke.clone(), Some(record.clone()));
                return Ok(self.written.insert(spoke.clone(), record.clone()) == Some(record));
            }
        }
        Ok(false)
    }

    /// All spokes that have a file.
    pub(super) fn spokes(&self) -> impl Iterator<Item = &SpokeName> {
        self.there.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lan::SpokeReadiness;

    use super::*;

    fn record(reason: &str) -> SpokeRecord {
        SpokeRecord {
            lan: "a/b".parse().unwrap(),
            spoke: "p".parse().unwrap(),
            netns: "/run/netns/n".into(),
            bridge: "br".parse().unwrap(),
            tap_index: (1 << 30).try_into().unwrap(),
            attach: net_types::Attach::Macvtap,
            mode: net_types::MacvtapMode::Passthru,
            allowed_namespaces: None,
            kubelet: false,
            k8slanveth: false,
            state: SpokeReadiness::NotReady { reason: reason.into() },
        }
    }

    #[test]
    fn writes_what_differs_and_replaces_what_is_no_record() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("spokes");
        let spoke: SpokeName = "p".parse().unwrap();
        let mut records = Records::open(path.clone()).unwrap();
        records.set(&spoke, Some(record("one"))).unwrap();
        let written = |path: &PathBuf| fs::metadata(path.join("p.json")).unwrap().modified().unwrap();
        let first = written(&path);
        records.set(&spoke, Some(record("one"))).unwrap();
        assert_eq!(written(&path), first, "written although it was the same");
        assert_eq!(Records::open(path.clone()).unwrap().get(&spoke), Some(&record("one")));

        for (forged, is_repair) in [("{", false), (r#"{"lan":"a/b","spoke":"q"}"#, true)] {
            fs::write(path.join("p.json"), forged).unwrap();
            records.reload().unwrap();
            assert_eq!(records.get(&spoke), None);
            assert_eq!(records.set(&spoke, Some(record("two"))).unwrap(), is_repair);
            assert_eq!(Records::open(path.clone()).unwrap().get(&spoke), Some(&record("two")));
        }
        fs::remove_file(path.join("p.json")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", path.join("p.json")).unwrap();
        records.reload().unwrap();
        records.set(&spoke, Some(record("three"))).unwrap();
        assert!(fs::symlink_metadata(path.join("p.json")).unwrap().is_file());
    }

    #[test]
    fn takes_away_what_is_not_wanted_and_leaves_others_files() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("spokes");
        let spoke: SpokeName = "p".parse().unwrap();
        let mut records = Records::open(path.clone()).unwrap();
        records.set(&spoke, Some(record("x"))).unwrap();
        fs::write(path.join("p.lock"), "").unwrap();
        fs::write(path.join("no spoke.json"), "").unwrap();
        records.reload().unwrap();
        assert!(records.spokes().eq([&spoke]));
        records.set(&spoke, None).unwrap();
        records.set(&spoke, None).unwrap();
        let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["no spoke.json", "p.lock"]);
        // Only this file is read again.
        let file = path.join("p.json");
        records.set(&spoke, Some(record("x"))).unwrap();
        fs::write(&file, record("forged").to_json()).unwrap();
        records.read("p.json");
        assert_eq!(records.get(&spoke), Some(&record("forged")));
        fs::write(&file, "{").unwrap();
        records.read("p.json");
        assert!(records.get(&spoke).is_none() && records.spokes().eq([&spoke]));
        fs::remove_file(&file).unwrap();
        records.read("p.json");
        records.read("p.lock");
        assert_eq!(records.spokes().count(), 0);
        // The folder is removed and created again.
        fs::remove_dir_all(&path).unwrap();
        records.reload().unwrap();
        records.set(&spoke, Some(record("y"))).unwrap();
        assert!(path.join("p.json").exists());
    }
}
