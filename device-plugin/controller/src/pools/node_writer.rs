//! What this node has to say of pools: one `LANPoolNode` object per pool of which there is something to say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use lan::pool::{LanPoolNode, LanPoolNodeSpec};
use net_types::AddrSet;
use proto::link::{Object, ObjectKey, SnapshotCache};
use proto::published::{PoolNote, PoolNotes};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::api::{NODE_LABEL, label_value, list};
use crate::lan_node_writer::object_name;
use crate::{chain, ignore_not_found_or_conflict};

/// The field manager of the node's objects.
const MANAGER: &str = "k8slan-node";
/// How often it is looked whether what was written is still there.
const READ_INTERVAL: Duration = Duration::from_secs(120);
/// Changes come in bursts; each object is written once per burst.
const DEBOUNCE: Duration = Duration::from_millis(500);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Writes what this node has to say, when it changes.
pub struct PoolNodeWriter {
    client: Client,
    node: String,
    notes: watch::Receiver<Option<PoolNotes>>,
    /// The pools, with their UIDs.
    cache: SnapshotCache,
}

impl PoolNodeWriter {
    /// For the node of this name; the pools are those of `cache`.
    #[must_use]
    pub fn new(
        client: Client,
        node: &str,
        notes: watch::Receiver<Option<PoolNotes>>,
        cache: SnapshotCache,
    ) -> Self {
        Self { client, node: node.to_owned(), notes, cache }
    }

    /// Writes without end. The objects are dependents of their pool, and are deleted with it.
    pub async fn run(mut self) -> Infallible {
        // By the objects' names; null: it was there when this process began.
        let mut written: Option<BTreeMap<String, Value>> = None;
        let mut retry = FIRST_RETRY;
        loop {
            let notes = self.notes.borrow_and_update().clone();
            let has_notes = notes.as_ref().is_some_and(|notes| !notes.is_empty());
            let done = match notes {
                Some(notes) => self.write(&notes, &mut written).await,
                None => Ok(true),
            };
            let is_done = done.unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "cannot write what this node has to say of pools");
                false
            });
            let again = match is_done {
                true => has_notes.then_some(READ_INTERVAL),
                false => Some(retry),
            };
            retry = if is_done { FIRST_RETRY } else { (retry * 2).min(LAST_RETRY) };
            let due = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.notes.changed() => if changed.is_err() { return std::future::pending().await },
                // What somebody deleted is written again: files that nobody knows of would not be waited for.
                () = due => if let (Some(written), Ok(there)) = (&mut written, self.read_own().await) {
                    written.retain(|name, _| there.contains_key(name));
                }
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    /// Returns whether all was written: a pool may be known a moment later.
    async fn write(
        &self,
        notes: &PoolNotes,
        written: &mut Option<BTreeMap<String, Value>>,
    ) -> Result<bool, kube::Error> {
        let api: Api<LanPoolNode> = Api::all(self.client.clone());
        let written = match written {
            Some(written) => written,
            None => written.insert(self.read_own().await?),
        };
        let wanted: BTreeMap<String, Value> =
            notes.iter().filter_map(|(pool, note)| self.object(pool, note)).collect();
        let gone: Vec<String> = written.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            ignore_not_found_or_conflict(api.delete(&name, &DeleteParams::default()).await)?;
            written.remove(&name);
        }
        let is_complete = wanted.len() == notes.len();
        for (name, object) in wanted {
            if written.get(&name) != Some(&object) {
                let parameters = PatchParams::apply(MANAGER).force();
                api.patch(&name, &parameters, &Patch::Apply(&object)).await?;
                written.insert(name, object);
            }
        }
        Ok(is_complete)
    }

    /// What an earlier process left.
    async fn read_own(&self) -> Result<BTreeMap<String, Value>, kube::Error> {
        let api: Api<PartialObjectMeta<LanPoolNode>> = Api::all(self.client.clone());
        let label = format!("{NODE_LABEL}={}", label_value(&self.node));
        let all = list(&api, &ListParams::default().labels(&label)).await?;
        Ok(all.into_iter().filter_map(|object| Some((object.metadata.name?, Value::Null))).collect())
    }

    /// The object and its name; `None`: the pool is not known.
    fn object(&self, pool: &str, note: &PoolNote) -> Option<(String, Value)> {
        let Some(Object::LanPool(known)) = self.cache.get(&ObjectKey::LanPool(pool.to_owned())) else {
            // Of files it is told before there is an object of their name, to which it does not belong.
            note.file_ranges.as_ref()?;
            return Some(self.object_of(pool, note, None));
        };
        let owner = note.file_ranges.is_none().then_some(known.uid);
        Some(self.object_of(pool, note, owner))
    }

    /// `owner`: the UID of the pool with which it goes.
    fn object_of(&self, pool: &str, note: &PoolNote, owner: Option<String>) -> (String, Value) {
        let name = object_name(pool, &self.node);
        let spec = spec(pool, &self.node, note);
        let mut object = json!({
            "apiVersion": "lan.k8slan.io/v1beta1",
            "kind": "LANPoolNode",
            "metadata": {
                "name": name,
                "labels": { NODE_LABEL: label_value(&self.node) },
            },
            "spec": spec,
        });
        if let Some(uid) = owner {
            object["metadata"]["ownerReferences"] = json!([
                { "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "name": pool, "uid": uid },
            ]);
        }
        (name, object)
    }
}

fn spec(pool: &str, node: &str, note: &PoolNote) -> LanPoolNodeSpec {
    LanPoolNodeSpec {
        pool: pool.to_owned(),
        node: node.to_owned(),
        outside: i64::try_from(note.outside).ok().filter(|count| *count > 0),
        waiting: note.waiting.clone(),
        file: note.file.clone(),
        file_ranges: note.file_ranges.as_ref().map(|all| all.iter().map(|range| range.to_string()).collect()),
        file_domain: note.file_domain.clone(),
        file_fits: note.file_fits,
        conflicts: note.conflicts.clone(),
    }
}

/// What an object says.
pub(super) fn note(spec: &LanPoolNodeSpec) -> PoolNote {
    PoolNote {
        outside: spec.outside.and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
        waiting: spec.waiting.clone(),
        file: spec.file.clone(),
        // What nobody can read is not taken for nothing.
        file_ranges: spec
            .file_ranges
            .as_ref()
            .map(|all| AddrSet::union(all.iter().filter_map(|one| one.parse().ok()))),
        file_domain: spec.file_domain.clone(),
        file_fits: spec.file_fits,
        conflicts: spec.conflicts.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_reads_back() {
        let said = PoolNote {
            outside: 3,
            waiting: Some("no block is left".to_owned()),
            file: Some("hands out by its file".to_owned()),
            file_ranges: Some(AddrSet::union(["10.0.0.2-10.0.0.9".parse().unwrap()])),
            file_domain: Some("lab".to_owned()),
            file_fits: true,
            conflicts: vec!["10.0.0.5".to_owned()],
        };
        for said in [said, PoolNote::default()] {
            assert_eq!(note(&spec("office", "worker1", &said)), said);
        }
    }
}
