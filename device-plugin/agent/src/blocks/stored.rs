//! What the protocol keeps on disk: `<state>/blocks/node.json` for good, and `<run>/blocks/_node.json` for this boot. The
//! latter stands among the grants of pools, and no pool has that name.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use node::{ClusterPool, Durability, Grants, Paths, SafeDir};
use pool_blocks::{Disk, PoolName, Run};
use serde::{Deserialize, Serialize};

use super::manager::Stored;

const DISK: &str = "node.json";
const RUN: &str = "_node.json";
/// The longest of both, in bytes: some 100,000 blocks.
const MAX_LEN: u64 = 64 << 20;

/// The files of one node.
pub(crate) struct NodeFiles {
    state: SafeDir,
    run: SafeDir,
    boot_id: String,
    written_run: Option<Run>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RunFile {
    boot_id: String,
    run: Run,
}

impl NodeFiles {
    pub(crate) fn open(paths: &Paths) -> Result<Self> {
        let (state, run) = (SafeDir::create(&paths.blocks())?, SafeDir::create(&paths.grants())?);
        state.remove_temporaries(|_| true)?;
        let boot_id = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))
            .context("read /proc/sys/kernel/random/boot_id")?;
        Ok(Self { state, run, boot_id: boot_id.trim().to_owned(), written_run: None })
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Reads what an earlier process left. A disk that cannot be read is an error: it is not one that was lost.
    pub(crate) fn read(&self) -> Result<Stored> {
        let disk = match self.state.read_up_to(DISK, MAX_LEN)? {
            Some(text) => {
                let path = self.state.path().join(DISK);
                let parsed = serde_json::from_slice(&text);
                Some(parsed.with_context(|| {
                    format!(
                        "{} is not what k8slan's daemon writes: which blocks this node holds is not known; remove it, and \
                         the daemon counts what the pods have",
                        path.display()
                    )
                })?)
            }
            None => None,
        };
        let run = self.run.read_up_to(RUN, MAX_LEN).ok().flatten();
        let run = run.and_then(|text| serde_json::from_slice::<RunFile>(&text).ok());
        let run = run.filter(|run| run.boot_id == self.boot_id).map(|run| run.run).unwrap_or_default();
        Ok(Stored { disk, run, grants: self.read_grants()? })
    }

    /// What may be handed out.
    pub(crate) fn read_grants(&self) -> Result<BTreeMap<PoolName, Grants>> {
        let mut all = BTreeMap::new();
        for file in self.run.names()? {
            let pool = file.strip_suffix(".json").filter(|pool| ClusterPool::file_name(pool).is_some());
            if let Some(pool) = pool
                && let Ok(Some(grants)) = Grants::read(&self.run, pool)
            {
                all.insert(PoolName::from(pool), grants);
            }
        }
        Ok(all)
    }

    pub(crate) fn write_disk(&self, disk: &Disk) -> Result<()> {
        Ok(self.state.write(DISK, &serde_json::to_vec(disk)?, Durability::Kept)?)
    }

    /// Only where it changed.
    pub(crate) fn write_run(&mut self, run: Run) -> Result<()> {
        if self.written_run.as_ref() == Some(&run) {
            return Ok(());
        }
        let file = RunFile { boot_id: self.boot_id.clone(), run: run.clone() };
        self.run.write(RUN, &serde_json::to_vec(&file)?, Durability::UntilReboot)?;
        self.written_run = Some(run);
        Ok(())
    }
}
