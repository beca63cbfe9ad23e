//! `/run/k8slan/cluster/pods.json`: the pods of this node. The cluster's part writes it, the sweep reads it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use node::{Durability, Lock, LockError, SafeDir};
use serde::{Deserialize, Serialize};

/// The folder below the run folder in which the cluster's part writes.
pub const FOLDER: &str = "cluster";
pub const FILE: &str = "pods.json";
/// The lock that the cluster's part holds while it runs.
pub const LOCK: &str = "cluster.lock";

/// In bytes; enough for thousands of pods, where a node has some hundred.
const MAX_LEN: u64 = 16 << 20;

/// The pods of this node, as the API server reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LivePods {
    /// Whether the API server can be reached: only then a pod that is not in the list does not exist.
    pub heard: bool,
    pub pods: Vec<LivePod>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct LivePod {
    /// The UID that the container runtime reports.
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The virtual machine that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
}

impl LivePods {
    /// The list as it was written last.
    ///
    /// # Errors
    /// The file cannot be read, or is not trusted.
    pub fn read(dir: &SafeDir) -> Result<Option<Self>> {
        let Some(text) = dir.read_up_to(FILE, MAX_LEN)? else { return Ok(None) };
        let path = dir.path().join(FILE);
        serde_json::from_slice(&text).map(Some).with_context(|| format!("{path:?} is not a list of pods"))
    }

    /// The list, if the cluster's part runs and reaches the API server.
    ///
    /// # Errors
    /// As [`LivePods::read`].
    pub fn read_heard(dir: &SafeDir) -> Result<Option<Self>> {
        match Lock::acquire(dir, LOCK, Duration::ZERO) {
            Err(LockError::Held { .. }) => Ok(Self::read(dir)?.filter(|list| list.heard)),
            Ok(_) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &SafeDir) -> Result<()> {
        let text = serde_json::to_vec(self).context("write pods as JSON")?;
        Ok(dir.write(FILE, &text, Durability::UntilReboot)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_while_its_writer_lives_and_hears() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(&temp.path().join("cluster")).unwrap();
        assert_eq!(LivePods::read_heard(&dir).unwrap(), None);
        let pod = LivePod { uid: "u".into(), namespace: "a".into(), name: "b".into(), vm: None };
        let list = LivePods { heard: true, pods: vec![pod] };
        list.write(&dir).unwrap();
        assert_eq!(LivePods::read_heard(&dir).unwrap(), None, "nobody keeps it");
        let lock = Lock::acquire(&dir, LOCK, Duration::ZERO).unwrap();
        assert_eq!(LivePods::read_heard(&dir).unwrap(), Some(list.clone()));
        LivePods { heard: false, ..list }.write(&dir).unwrap();
        assert_eq!(LivePods::read_heard(&dir).unwrap(), None, "the API server is away");
        drop(lock);
        std::fs::write(dir.path().join(FILE), "[").unwrap();
        assert!(LivePods::read(&dir).unwrap_err().to_string().contains("not a list of pods"));
    }
}
