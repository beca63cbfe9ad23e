//! What the cluster's part says that the API server has: LANs as files that outlive the daemon, records of launcher pods,
//! of StatefulSets' and of what claims pods name for the plugins, and for the sweep which pods live and which virtual machines were deleted.
//!
//! The cluster's part may be in anybody's hands. Names become file names only as [`LanKey`] or a checked UID, every kind
//! has a limit, and what is refused changes nothing.

mod pod_records;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::blocks::{LinkEvent, LinkEvents, Pools};
use anyhow::{Result, bail};
use lan::LanKey;
use node::{Durability, Paths, PodRecord, SafeDir, SafeDirError, VmRecord, is_kubernetes_name};
use pod_records::{PodRecords, uid_of};
use pool_blocks::RequestId;
use proto::brief;
use proto::link::{self, Change, ClusterObjects, Kind, LanObject, MAX_LAN_FILE, Object, ObjectKey};
use proto::published::{MirrorAnnotations, VmNames};
use tokio::sync::watch;

/// Limits on each kind: as many LANs as a cluster may have, and several times more than a node can build.
pub(crate) const MAX_OBJECTS: usize = 10_000;
/// A limit on all objects of a kind together, in bytes: who may write the one keeps no other off the nodes.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// The longest UID, in bytes; Kubernetes' have 36.
const MAX_UID: usize = 128;
/// The longest label of Kubernetes.
const MAX_LABEL: usize = 63;
/// The longest name of a virtual machine with its namespace.
const MAX_VM: usize = 63 + 1 + 253;
/// The longest record of a launcher pod, in bytes.
const MAX_RECORD: usize = 64 << 10;

/// The longest reason of a refusal, in bytes.
const MAX_REASON: usize = 512;

/// The UIDs of the pods that live on this node; `None` while the API server is not heard about them.
pub type LivePods = Option<Arc<BTreeSet<String>>>;

/// What others are told of the objects.
pub struct Publishers {
    pub live_pods: watch::Sender<LivePods>,
    pub deleted_vms: watch::Sender<VmNames>,
    /// Why something cannot be stored, where that is the node's fault: its disk is full, above all.
    pub storage_error: watch::Sender<Option<String>>,
    /// What the link says about blocks of pools.
    pub blocks: LinkEvents,
}

/// How much there is of a kind.
#[derive(Clone, Copy, Default)]
struct Size {
    objects: usize,
    bytes: usize,
}

/// The objects that this node has, of this connection and of earlier ones.
pub struct NodeObjects {
    lans: SafeDir,
    owners: SafeDir,
    pools: Pools,
    /// The second name of the node.
    hostname: Option<String>,
    /// Whether all files have it.
    hostname_stored: bool,
    /// Everything, and its length in bytes.
    held: BTreeMap<ObjectKey, usize>,
    sizes: BTreeMap<Option<Kind>, Size>,
    /// What was there when the connection began, and was not sent yet.
    unconfirmed: BTreeSet<ObjectKey>,
    /// The UIDs of each pod, by that of its object.
    pods: BTreeMap<String, Option<String>>,
    pods_heard: bool,
    /// What could not be stored, and why.
    unstored: BTreeMap<ObjectKey, String>,
    publishers: Publishers,
}

impl NodeObjects {
    /// Reads what an earlier process kept: the LANs in the folder `lans`, and the records of launcher pods.
    ///
    /// # Errors
    /// A folder cannot be used.
    pub fn open(lans: &Path, paths: &Paths, pools: Pools, publishers: Publishers) -> Result<Self> {
        let (lans, owners) = (SafeDir::create(lans)?, SafeDir::create(&paths.owners())?);
        for folder in [&lans, &owners] {
            folder.remove_temporaries(|_| true)?;
        }
        let mut own = Self {
            lans,
            owners,
            pools,
            hostname: None,
            hostname_stored: false,
            held: BTreeMap::new(),
            sizes: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            pods: BTreeMap::new(),
            pods_heard: false,
            unstored: BTreeMap::new(),
            publishers,
        };
        for (key, name) in own.lan_files()? {
            // The reader of the folder says what is wrong with a file.
            let text = own.lans.read_up_to(&name, MAX_LAN_FILE as u64).ok().flatten().unwrap_or_default();
            if own.hostname.is_none() {
                let file = serde_json::from_slice(&text).unwrap_or_default();
                own.hostname = MirrorAnnotations::parse(&file).hostname;
            }
            own.hold(ObjectKey::Lan(key), text.len());
        }
        for name in own.owners.names()? {
            if let Some(uid) = uid_of(&name)
                && check_uid(uid).is_ok()
            {
                let record = own.owners.read_up_to(&name, MAX_RECORD as u64).ok().flatten();
                let len = record.map_or(MAX_RECORD, |record| record.len());
                let key = ObjectKey::Pod(uid.to_owned());
                let other = own.held.get(&key).copied().unwrap_or(0);
                own.hold(key, other + len);
            }
        }
        let pools = own.pools.folder().held();
        pools.into_iter().for_each(|(name, len)| own.hold(ObjectKey::LanPool(name), len));
        own.disconnected();
        Ok(own)
    }

    fn lan_files(&self) -> Result<Vec<(LanKey, String)>> {
        let names = self.lans.names()?.into_iter();
        Ok(names.filter_map(|name| Some((link::lan_of_file(&name)?, name))).collect())
    }

    fn hold(&mut self, key: ObjectKey, len: usize) {
        let size = self.sizes.entry(key.kind()).or_default();
        size.bytes += len;
        match self.held.insert(key, len) {
            Some(before) => size.bytes -= before,
            None => size.objects += 1,
        }
    }

    fn let_go(&mut self, key: &ObjectKey) {
        if let Some(before) = self.held.remove(key) {
            let size = self.sizes.entry(key.kind()).or_default();
            size.bytes -= before;
            size.objects -= 1;
        }
    }

    /// Whether there is room for an object of that length.
    fn check_room(&self, key: &ObjectKey, len: usize) -> Result<()> {
        let before = self.held.get(key);
        let size = self.sizes.get(&key.kind()).copied().unwrap_or_default();
        if before.is_none() && size.objects >= MAX_OBJECTS {
            bail!("a node takes {MAX_OBJECTS} objects of a kind at most");
        }
        if size.bytes - before.copied().unwrap_or(0) + len > MAX_BYTES {
            bail!("a node takes {MAX_BYTES} bytes of objects of a kind at most");
        }
        Ok(())
    }

    fn put(&mut self, object: Object) -> Result<()> {
        let key = object.key();
        self.unconfirmed.remove(&key);
        match object {
            Object::HostName(hostname) => self.put_hostname(hostname),
            Object::Lan(lan) => self.put_lan(key, &lan),
            Object::Pod { uid, static_uid, vm, set, claims } => {
                self.put_pod(key, uid, static_uid, &PodRecords { vm, set, claims })
            }
            Object::DeletedVm(vm) => {
                let (namespace, name) = vm.split_once('/').unwrap_or_default();
                if vm.len() > MAX_VM || ![namespace, name].into_iter().all(is_kubernetes_name) {
                    bail!("{:?} is not the name of a virtual machine", brief(&vm, MAX_VM));
                }
                self.check_room(&key, vm.len())?;
                self.hold(key, vm.len());
                self.publishers.deleted_vms.send_if_modified(|vms| vms.insert(vm));
                Ok(())
            }
            Object::LanPool(pool) => {
                let len = self.pools.folder().check(&pool)?;
                self.check_room(&key, len)?;
                self.pools.folder().put(pool)?;
                self.hold(key, len);
                Ok(())
            }
        }
    }

    fn put_lan(&mut self, key: ObjectKey, lan: &LanObject) -> Result<()> {
        let text = lan.file_text(self.hostname.as_deref())?;
        self.check_room(&key, text.len())?;
        self.write_lan(&link::lan_file_name(&lan.key), &text)?;
        self.hold(key, text.len());
        Ok(())
    }

    /// Only where it changes something: a file that is written makes the LANs be looked at, and is synced.
    fn write_lan(&self, name: &str, text: &[u8]) -> Result<()> {
        let before = self.lans.read_up_to(name, MAX_LAN_FILE as u64).ok().flatten();
        if before.as_deref() != Some(text) {
            self.lans.write(name, text, Durability::Kept)?;
        }
        Ok(())
    }

    fn put_hostname(&mut self, hostname: Option<String>) -> Result<()> {
        if let Some(name) = &hostname
            && (name.len() > MAX_LABEL || !is_kubernetes_name(&name.to_ascii_lowercase().replace('_', "-")))
        {
            bail!("{:?} is not a host name", brief(name, MAX_LABEL));
        }
        if self.hostname == hostname && self.hostname_stored {
            return Ok(());
        }
        if self.hostname != hostname {
            tracing::info!(hostname, "the node's host name");
        }
        (self.hostname, self.hostname_stored) = (hostname, false);
        // A file that cannot be changed keeps no other one from it.
        let files = self.lan_files()?;
        let stored: Vec<Result<()>> =
            files.into_iter().map(|(key, name)| self.rename_host(key, &name)).collect();
        stored.into_iter().collect::<Result<()>>()?;
        self.hostname_stored = true;
        Ok(())
    }

    fn rename_host(&mut self, key: LanKey, name: &str) -> Result<()> {
        let Some(text) = self.lans.read_up_to(name, MAX_LAN_FILE as u64)? else { return Ok(()) };
        if let Some(text) = link::with_hostname(&text, self.hostname.as_deref())? {
            self.write_lan(name, &text)?;
            self.hold(ObjectKey::Lan(key), text.len());
        }
        Ok(())
    }

    fn put_pod(
        &mut self,
        key: ObjectKey,
        uid: String,
        static_uid: Option<String>,
        records: &PodRecords,
    ) -> Result<()> {
        check_uid(&uid)?;
        // A pod's author can write it; a static pod's is the kubelet's.
        let static_uid = static_uid.filter(|uid| check_uid(uid).is_ok());
        let len = records.check()?;
        self.check_room(&key, len + uid.len())?;
        records.write(&self.owners, &uid)?;
        self.hold(key, len + uid.len());
        if self.pods.get(&uid) != Some(&static_uid) {
            self.pods.insert(uid, static_uid);
            self.publish_pods();
        }
        Ok(())
    }

    fn remove(&mut self, key: &ObjectKey) -> Result<()> {
        match key {
            ObjectKey::HostName => {}
            ObjectKey::Lan(lan) => self.lans.remove(&link::lan_file_name(lan))?,
            ObjectKey::Pod(uid) => {
                check_uid(uid)?;
                PodRecords::default().write(&self.owners, uid)?;
                if self.pods.remove(uid).is_some() {
                    self.publish_pods();
                }
            }
            ObjectKey::DeletedVm(vm) => {
                self.publishers.deleted_vms.send_if_modified(|vms| vms.remove(vm));
            }
            ObjectKey::LanPool(name) => self.pools.folder().remove(name)?,
        }
        self.unconfirmed.remove(key);
        self.let_go(key);
        Ok(())
    }

    /// Removes what was not sent.
    fn complete(&mut self, kind: Kind) -> Result<()> {
        let gone: Vec<ObjectKey> =
            self.unconfirmed.iter().filter(|key| key.kind() == Some(kind)).cloned().collect();
        let removed: Vec<Result<()>> = gone.iter().map(|key| self.remove(key)).collect();
        if kind == Kind::Pod {
            self.pods_heard = true;
            self.publish_pods();
        }
        if kind == Kind::LanPool {
            self.pools.folder().complete();
        }
        removed.into_iter().collect()
    }

    /// Tells what the node's disk or folders keep from being stored; what is wrong with an object itself is no fault of
    /// the node.
    fn note_stored(&mut self, key: ObjectKey, done: &Result<()>) {
        match done {
            Err(error) if error.is::<SafeDirError>() => {
                self.unstored.insert(key, brief(&format!("{error:#}"), MAX_REASON));
            }
            _ => drop(self.unstored.remove(&key)),
        }
        self.publish_storage_error();
    }

    fn publish_storage_error(&self) {
        let now = self.unstored.values().next();
        self.publishers.storage_error.send_if_modified(|before| {
            let changed = before.as_ref() != now;
            *before = now.cloned();
            changed
        });
    }

    fn tell_blocks(&self, event: LinkEvent) {
        // At the daemon's end nobody hears it.
        let _ = self.publishers.blocks.send(event);
    }

    fn lost(&mut self, kind: Kind) {
        if kind == Kind::Pod {
            self.pods_heard = false;
            self.publish_pods();
        }
    }

    fn publish_pods(&self) {
        let uids = || self.pods.iter().flat_map(|(uid, other)| [Some(uid), other.as_ref()]).flatten();
        let now = self.pods_heard.then(|| Arc::new(uids().cloned().collect()));
        self.publishers.live_pods.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}

impl ClusterObjects for NodeObjects {
    fn apply(&mut self, change: Change) -> Result<(), String> {
        let done = match change {
            Change::Put(object) => {
                let key = object.key();
                let done = self.put(object);
                self.note_stored(key, &done);
                done
            }
            Change::Remove(key) => {
                let done = self.remove(&key);
                self.note_stored(key, &done);
                done
            }
            Change::Complete(kind) => self.complete(kind),
            Change::Lost(kind) => {
                self.lost(kind);
                Ok(())
            }
        };
        done.map_err(|error| brief(&format!("{error:#}"), MAX_REASON))
    }

    fn pool_answer(&mut self, id: RequestId, answer: pool_blocks::Answer) {
        self.tell_blocks(LinkEvent::Answer(id, answer.into()));
    }

    fn connected(&mut self) {
        self.tell_blocks(LinkEvent::Connected);
    }

    fn disconnected(&mut self) {
        // Before who claims blocks hears of the next connection.
        self.pools.folder().disconnected();
        self.tell_blocks(LinkEvent::Disconnected);
        Kind::ALL.into_iter().for_each(|kind| self.lost(kind));
        // Who is asked about a machine asks again; nobody else may free its addresses.
        let machines: Vec<ObjectKey> =
            self.held.keys().filter(|key| key.kind() == Some(Kind::DeletedVm)).cloned().collect();
        machines.iter().for_each(|key| self.let_go(key));
        self.publishers.deleted_vms.send_if_modified(|vms| !std::mem::take(vms).is_empty());
        self.unconfirmed = self.held.keys().cloned().collect();
        // The next connection sends everything that exists by then.
        self.unstored.clear();
        self.publish_storage_error();
    }
}

/// A UID becomes a part of a file's name.
fn check_uid(uid: &str) -> Result<()> {
    match VmRecord::file_name(uid) {
        Some(_) if uid.len() <= MAX_UID => Ok(()),
        _ => bail!("{:?} is not a pod's UID", brief(uid, MAX_UID)),
    }
}
