//! Follows `/run/k8slan/told/status.json`, which the node's part writes, from another process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node::SafeDir;
use tokio::sync::watch;

use super::{NodeStatus, STATUS_FILE};
use crate::events::{Dirty, FileWatch, Wake, WatchedFolder};

/// In bytes; more than the status of any node.
const MAX_LEN: u64 = 16 << 20;
/// Changes come in bursts; the file is read once per burst.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Sends the status whenever the file changes. Nothing is sent before the first status since boot.
///
/// # Errors
/// The folder cannot be watched.
pub async fn follow(folder: &Path, status_sender: watch::Sender<Arc<NodeStatus>>) -> Result<()> {
    let wake = Wake::default();
    let changed = Dirty { names: true, ..Dirty::default() };
    let files = FileWatch::start(
        vec![WatchedFolder::new(folder, |name| name == STATUS_FILE, changed)],
        wake.clone(),
    )?;
    loop {
        files.add_missing_watches();
        wake.take_changes();
        match read(folder) {
            Ok(Some(now)) => {
                status_sender.send_if_modified(|before| {
                    let changed = **before != now;
                    if changed {
                        *before = Arc::new(now);
                    }
                    changed
                });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("the node's status cannot be used: {error:#}"),
        }
        wake.wait().await;
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// The last status in a folder; `None` before the first one since boot.
///
/// # Errors
/// The file is not trusted, or is of another version.
pub fn read(run: &Path) -> Result<Option<NodeStatus>> {
    let Some(dir) = SafeDir::open(run)? else { return Ok(None) };
    let Some(text) = dir.read_up_to(STATUS_FILE, MAX_LEN)? else { return Ok(None) };
    let status: NodeStatus = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is not a status of this version: run both parts from one image",
            run.join(STATUS_FILE).display()
        )
    })?;
    Ok(Some(NodeStatus { reconciled: true, ..status }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_writes_another_reads() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let text = r#"{"node":"worker1","lans":[{"lan":"a/b","observedGeneration":3,"netns":"n",
            "conditions":[{"type":"Ready","status":"True","reason":"Built","message":"m"}],"mtu":1426,
            "spokes":[{"name":"pod1","attach":"macvtap","tapIndex":1073741824,"ready":true,"usedBy":"x"}]}],
            "laterInvention":1}"#;
        std::fs::write(dir.path().join(STATUS_FILE), text).unwrap();
        let status = read(dir.path()).unwrap().unwrap();
        assert!(status.reconciled && status.lans[0].spokes[0].ready, "{status:?}");
        std::fs::write(dir.path().join(STATUS_FILE), status.text()).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap(), status);
        std::fs::write(dir.path().join(STATUS_FILE), "{}").unwrap();
        let error = format!("{:#}", read(dir.path()).unwrap_err());
        assert!(error.contains("not a status of this version"), "{error}");
    }

    /// Of the programs before this version (`tests/tests/daemon/upgrade.rs`): the cluster's part may read it before the node's part of
    /// its own version has written one.
    #[test]
    fn the_status_of_the_version_before_reads() {
        let dir = tempfile::tempdir().unwrap();
        let text = include_str!("../../../../tests/fixtures/version-before/run/k8slan/status.json");
        std::fs::write(dir.path().join(STATUS_FILE), text).unwrap();
        let status = read(dir.path()).unwrap().unwrap();
        let users = super::super::users(&status);
        assert_eq!(users.len(), 2, "{users:?}");
        assert!(super::super::holds(&status.lans[0], "Ready"));
    }
}
