//! Reads `/run/k8slan/status.json`, which a daemon that runs or ran on this boot wrote.

use std::path::Path;

use anyhow::{Context as _, Result};
use node::SafeDir;

use super::{NodeStatus, STATUS_FILE};

/// In bytes; more than the status of any node.
const MAX_LEN: u64 = 16 << 20;
/// The last status in a folder; `None` before the first one since boot.
///
/// # Errors
/// The file is not trusted, or is of another version.
pub fn read(run: &Path) -> Result<Option<NodeStatus>> {
    let Some(dir) = SafeDir::open(run)? else { return Ok(None) };
    let Some(text) = dir.read_up_to(STATUS_FILE, MAX_LEN)? else { return Ok(None) };
    let status: NodeStatus = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a status of this version", run.join(STATUS_FILE).display()))?;
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
