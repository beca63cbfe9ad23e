//! What the cluster's part says that the API server has: LANs as files that outlive the daemon, records of launcher pods
//! for the plugins, and for the sweep which pods live and which virtual machines were deleted.
//!
//! The cluster's part may be in anybody's hands. Names become file names only as [`LanKey`] or a checked UID, every kind
//! has a limit, and what is refused changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use lan::LanKey;
use node::{Durability, Paths, SafeDir, SafeDirError, VmRecord, is_kubernetes_name};
use proto::link::{self, Change, ClusterObjects, Kind, LanObject, MAX_LAN_FILE, Object, ObjectKey};
use proto::published::{MirrorAnnotations, VmNames};
use tokio::sync::watch;

/// Limits on each kind: as many LANs as a cluster may have, and several times more than a node can build.
pub(crate) const MAX_OBJECTS: usize = 10_000;
/// A limit on all objects together, in bytes.
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
}

/// The objects that this node has, of this connection and of earlier ones.
pub struct NodeObjects {
    lans: SafeDir,
    owners: SafeDir,
    /// The second name of the node.
    hostname: Option<String>,
    /// Whether all files have it.
    hostname_stored: bool,
    /// Everything, and its length in bytes.
    held: BTreeMap<ObjectKey, usize>,
    counts: BTreeMap<Option<Kind>, usize>,
    bytes: usize,
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
    pub fn open(lans: &Path, paths: &Paths, publishers: Publishers) -> Result<Self> {
        let (lans, owners) = (SafeDir::create(lans)?, SafeDir::create(&paths.owners())?);
        for folder in [&lans, &owners] {
            folder.remove_temporaries(|_| true)?;
        }
        let mut own = Self {
            lans,
            owners,
            hostname: None,
            hostname_stored: false,
            held: BTreeMap::new(),
            counts: BTreeMap::new(),
            bytes: 0,
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
            if let Some(uid) = name.strip_suffix(".json")
                && record_name(uid).is_ok()
            {
                let record = own.owners.read_up_to(&name, MAX_RECORD as u64).ok().flatten();
                own.hold(ObjectKey::Pod(uid.to_owned()), record.map_or(MAX_RECORD, |record| record.len()));
            }
        }
        own.disconnected();
        Ok(own)
    }

    fn lan_files(&self) -> Result<Vec<(LanKey, String)>> {
        let names = self.lans.names()?.into_iter();
        Ok(names.filter_map(|name| Some((link::lan_of_file(&name)?, name))).collect())
    }

    fn hold(&mut self, key: ObjectKey, len: usize) {
        let kind = key.kind();
        self.bytes += len;
        match self.held.insert(key, len) {
            Some(before) => self.bytes -= before,
            None => *self.counts.entry(kind).or_default() += 1,
        }
    }

    fn let_go(&mut self, key: &ObjectKey) {
        if let Some(before) = self.held.remove(key) {
            self.bytes -= before;
            *self.counts.entry(key.kind()).or_default() -= 1;
        }
    }

    /// Whether there is room for an object of that length.
    fn check_room(&self, key: &ObjectKey, len: usize) -> Result<()> {
        let before = self.held.get(key);
        if before.is_none() && self.counts.get(&key.kind()).is_some_and(|count| *count >= MAX_OBJECTS) {
            bail!("a node takes {MAX_OBJECTS} objects of a kind at most");
        }
        if self.bytes - before.copied().unwrap_or(0) + len > MAX_BYTES {
            bail!("a node takes {MAX_BYTES} bytes of objects at most");
        }
        Ok(())
    }

    fn put(&mut self, object: Object) -> Result<()> {
        let key = object.key();
        self.unconfirmed.remove(&key);
        match object {
            Object::HostName(hostname) => self.put_hostname(hostname),
            Object::Lan(lan) => self.put_lan(key, &lan),
            Object::Pod { uid, static_uid, vm } => self.put_pod(key, uid, static_uid, vm.as_ref()),
            Object::DeletedVm(vm) => {
                let (namespace, name) = vm.split_once('/').unwrap_or_default();
                if vm.len() > MAX_VM || ![namespace, name].into_iter().all(is_kubernetes_name) {
                    bail!("{:?} is not the name of a virtual machine", link::brief(&vm, MAX_VM));
                }
                self.check_room(&key, vm.len())?;
                self.hold(key, vm.len());
                self.publishers.deleted_vms.send_if_modified(|vms| vms.insert(vm));
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
            bail!("{:?} is not a host name", link::brief(name, MAX_LABEL));
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
        vm: Option<&VmRecord>,
    ) -> Result<()> {
        let record = record_name(&uid)?;
        // A pod's author can write it; a static pod's is the kubelet's.
        let static_uid = static_uid.filter(|uid| record_name(uid).is_ok());
        let len = match vm {
            Some(vm) if !is_kubernetes_name(&vm.vm) => {
                bail!("{:?} is not the name of a virtual machine", link::brief(&vm.vm, MAX_VM))
            }
            Some(vm) => serde_json::to_vec(vm).context("write a record as JSON")?.len(),
            None => 0,
        };
        if len > MAX_RECORD {
            bail!("a record of {len} bytes; at most {MAX_RECORD} are taken");
        }
        self.check_room(&key, len + uid.len())?;
        match vm {
            Some(vm) => vm.write(&self.owners, &uid)?,
            None => self.owners.remove(&record)?,
        }
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
                self.owners.remove(&record_name(uid)?)?;
                if self.pods.remove(uid).is_some() {
                    self.publish_pods();
                }
            }
            ObjectKey::DeletedVm(vm) => {
                self.publishers.deleted_vms.send_if_modified(|vms| vms.remove(vm));
            }
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
        removed.into_iter().collect()
    }

    /// Tells what the node's disk or folders keep from being stored; what is wrong with an object itself is no fault of
    /// the node.
    fn note_stored(&mut self, key: ObjectKey, done: &Result<()>) {
        match done {
            Err(error) if error.is::<SafeDirError>() => {
                self.unstored.insert(key, link::brief(&format!("{error:#}"), MAX_REASON));
            }
            _ => drop(self.unstored.remove(&key)),
        }
        let now = self.unstored.values().next();
        self.publishers.storage_error.send_if_modified(|before| {
            let changed = before.as_ref() != now;
            *before = now.cloned();
            changed
        });
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
        done.map_err(|error| link::brief(&format!("{error:#}"), MAX_REASON))
    }

    fn disconnected(&mut self) {
        Kind::ALL.into_iter().for_each(|kind| self.lost(kind));
        // Who is asked about a machine asks again; nobody else may free its addresses.
        let machines: Vec<ObjectKey> =
            self.held.keys().filter(|key| key.kind() == Some(Kind::DeletedVm)).cloned().collect();
        machines.iter().for_each(|key| self.let_go(key));
        self.publishers.deleted_vms.send_if_modified(|vms| !std::mem::take(vms).is_empty());
        self.unconfirmed = self.held.keys().cloned().collect();
    }
}

/// The name of a pod's record, which is also what a UID must be to be one.
fn record_name(uid: &str) -> Result<String> {
    match VmRecord::file_name(uid) {
        Some(name) if uid.len() <= MAX_UID => Ok(name),
        _ => bail!("{:?} is not a pod's UID", link::brief(uid, MAX_UID)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use serde_json::json;

    use super::*;

    struct Site {
        dir: tempfile::TempDir,
        pods: watch::Receiver<LivePods>,
        vms: watch::Receiver<VmNames>,
        storage: watch::Receiver<Option<String>>,
        objects: NodeObjects,
    }

    fn open(dir: tempfile::TempDir) -> Site {
        let ((pod_sender, pods), (vm_sender, vms)) = (watch::channel(None), watch::channel(VmNames::new()));
        let config = format!("runDir: {0}/run\nstateDir: {0}/state\n", dir.path().display());
        let paths = node::NodeConfig::parse(&config).unwrap().paths();
        let (storage_error, storage) = watch::channel(None);
        let publishers = Publishers { live_pods: pod_sender, deleted_vms: vm_sender, storage_error };
        let objects = NodeObjects::open(&dir.path().join("state/lans"), &paths, publishers).unwrap();
        Site { dir, pods, vms, storage, objects }
    }

    fn lan(name: &str) -> Object {
        let key = format!("a/{name}").parse().unwrap();
        Object::Lan(LanObject {
            key,
            generation: Some(1),
            created: None,
            mtu: None,
            spec: json!({ "vni": 7 }),
        })
    }

    fn pod(uid: &str, vm: Option<&str>) -> Object {
        let vm = vm.map(|vm| serde_json::from_value(json!({ "vm": vm })).unwrap());
        Object::Pod { uid: uid.to_owned(), static_uid: None, vm }
    }

    impl Site {
        fn files(&self, folder: &str) -> Vec<String> {
            let mut names = SafeDir::create(&self.dir.path().join(folder)).unwrap().names().unwrap();
            names.sort();
            names
        }

        fn lans(&self) -> Vec<String> {
            self.files("state/lans")
        }

        fn put(&mut self, object: Object) {
            self.objects.apply(Change::Put(object)).unwrap();
        }

        fn refused(&mut self, object: Object) -> String {
            self.objects.apply(Change::Put(object)).unwrap_err()
        }

        fn complete(&mut self, kind: Kind) {
            self.objects.apply(Change::Complete(kind)).unwrap();
        }

        /// As the next process.
        fn reopen(self) -> Self {
            let Self { dir, objects, .. } = self;
            drop(objects);
            open(dir)
        }
    }

    #[test]
    fn what_is_not_in_a_complete_list_goes_and_not_before() {
        let mut site = open(tempfile::tempdir().unwrap());
        for name in ["1", "2", "3"] {
            site.put(lan(name));
        }
        std::fs::write(site.dir.path().join("state/lans/README"), "").unwrap();
        site.complete(Kind::Lan);
        let mut site = site.reopen();
        site.put(lan("1"));
        assert_eq!(site.lans().len(), 4);
        // A list that is never complete removes nothing, whatever other kinds are.
        site.complete(Kind::Pod);
        site.objects.disconnected();
        site.put(lan("2"));
        assert_eq!(site.lans().len(), 4);
        site.objects.apply(Change::Remove(lan("3").key())).unwrap();
        assert_eq!(site.lans(), ["README", "a.1.yaml", "a.2.yaml"]);
        site.complete(Kind::Lan);
        assert_eq!(site.lans(), ["README", "a.2.yaml"]);
        site.complete(Kind::Lan);
        assert_eq!(site.lans(), ["README", "a.2.yaml"], "it was sent on this connection");
    }

    #[test]
    fn a_lan_that_did_not_change_is_not_written() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.put(lan("1"));
        let inode =
            |site: &Site| std::fs::metadata(site.dir.path().join("state/lans/a.1.yaml")).unwrap().ino();
        let before = inode(&site);
        site.put(lan("1"));
        site.put(Object::HostName(None));
        assert_eq!(inode(&site), before);
        site.put(Object::HostName(Some("host-1".into())));
        assert_ne!(inode(&site), before);
        let mut site = site.reopen();
        let named = inode(&site);
        site.put(lan("1"));
        site.put(Object::HostName(Some("host-1".into())));
        assert_eq!(inode(&site), named, "it is known from the files");
        site.put(lan("2"));
        let text = std::fs::read_to_string(site.dir.path().join("state/lans/a.2.yaml")).unwrap();
        assert!(text.contains("host-1"), "{text}");
    }

    #[test]
    fn pods_count_while_they_are_heard_of() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.put(pod("u1", Some("vyos")));
        assert_eq!(*site.pods.borrow(), None, "not all of them");
        site.complete(Kind::Pod);
        site.put(Object::Pod { uid: "u2".into(), static_uid: Some("h2".into()), vm: None });
        let uids =
            |site: &Site| site.pods.borrow().as_deref().map(|uids| uids.iter().cloned().collect::<Vec<_>>());
        assert_eq!(uids(&site).unwrap(), ["h2", "u1", "u2"]);
        assert_eq!(site.files("run/owners"), ["u1.json"]);
        site.objects.apply(Change::Lost(Kind::Pod)).unwrap();
        assert_eq!(uids(&site), None);
        site.complete(Kind::Pod);
        assert_eq!(uids(&site).unwrap().len(), 3);
        site.objects.disconnected();
        assert_eq!(uids(&site), None);
        // The record of a pod that may live stays; that of one that does not goes with the list.
        let mut site = site.reopen();
        assert_eq!(site.files("run/owners"), ["u1.json"]);
        site.put(pod("u3", Some("other")));
        site.complete(Kind::Pod);
        assert_eq!(site.files("run/owners"), ["u3.json"]);
        site.objects.apply(Change::Remove(pod("u3", None).key())).unwrap();
        assert_eq!((site.files("run/owners").len(), uids(&site).unwrap().len()), (0, 0));
    }

    #[test]
    fn what_an_earlier_connection_said_of_machines_is_not_believed() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.put(Object::DeletedVm("a/vm".into()));
        assert_eq!(site.vms.borrow().len(), 1);
        site.objects.disconnected();
        assert!(site.vms.borrow().is_empty() && site.objects.bytes == 0);
    }

    #[test]
    fn names_lead_to_no_other_file_and_what_is_refused_changes_nothing() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.complete(Kind::Pod);
        let long = "u".repeat(MAX_UID + 1);
        for uid in ["", "../x", "a/b", ".", "a\0b", "u1.json", &long] {
            assert!(site.refused(pod(uid, Some("vm"))).contains("not a pod's UID"), "{uid:?}");
            let error = site.objects.apply(Change::Remove(ObjectKey::Pod(uid.to_owned()))).unwrap_err();
            assert!(error.contains("not a pod's UID"), "{error}");
        }
        for vm in ["", "../vm", "a b", "VM"] {
            assert!(site.refused(pod("u1", Some(vm))).contains("not the name"), "{vm:?}");
            assert!(site.refused(Object::DeletedVm(format!("a/{vm}"))).contains("not the name"), "{vm:?}");
        }
        for name in ["a\nb", "../x", "", &"h".repeat(64)] {
            assert!(
                site.refused(Object::HostName(Some(name.to_owned()))).contains("not a host name"),
                "{name:?}"
            );
        }
        assert_eq!(site.pods.borrow().as_deref(), Some(&BTreeSet::new()));
        assert!(site.vms.borrow().is_empty() && site.files("run/owners").is_empty());
        site.put(Object::HostName(Some("Host_1".into())));
    }

    #[test]
    fn a_refusal_does_not_repeat_what_was_sent() {
        let mut site = open(tempfile::tempdir().unwrap());
        let long = "\u{7f}".repeat(1 << 20);
        for object in [
            pod(&long, None),
            pod("u", Some(&long)),
            Object::DeletedVm(format!("a/{long}")),
            Object::HostName(Some(long.clone())),
        ] {
            let error = site.refused(object);
            assert!(error.len() < 1024 && error.contains(" not "), "{} bytes", error.len());
        }
        let error = site.objects.apply(Change::Remove(ObjectKey::Pod(long))).unwrap_err();
        assert!(error.len() < 1024, "{} bytes", error.len());
    }

    #[test]
    fn a_host_name_that_is_not_in_every_file_is_put_again() {
        let mut site = open(tempfile::tempdir().unwrap());
        let folder = site.dir.path().join("state/lans");
        for name in ["1", "2"] {
            site.put(lan(name));
        }
        // Before the others by its name, and no file.
        std::fs::create_dir(folder.join("a.0.yaml")).unwrap();
        let name = || Object::HostName(Some("host-1".into()));
        for _ in 0..2 {
            site.refused(name());
        }
        assert!(site.storage.borrow().as_ref().is_some_and(|text| text.contains("a.0.yaml")));
        for file in ["a.1.yaml", "a.2.yaml"] {
            assert!(std::fs::read_to_string(folder.join(file)).unwrap().contains("host-1"), "{file}");
        }
        std::fs::remove_dir(folder.join("a.0.yaml")).unwrap();
        site.put(name());
        assert_eq!(*site.storage.borrow(), None);
    }

    #[test]
    fn a_lan_that_was_refused_stays_as_it_was() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.put(lan("1"));
        site.complete(Kind::Lan);
        site.objects.disconnected();
        let Object::Lan(large) = lan("1") else { panic!("a LAN") };
        let spec = serde_json::Value::String("\n".repeat(MAX_LAN_FILE));
        site.refused(Object::Lan(LanObject { spec, ..large }));
        site.complete(Kind::Lan);
        assert_eq!(site.lans(), ["a.1.yaml"], "it exists, whatever cannot be stored of it");
        assert_eq!(*site.storage.borrow(), None, "that is no fault of the node");
    }

    #[test]
    fn a_pod_is_published_when_it_changes() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.complete(Kind::Pod);
        site.put(pod("u1", None));
        site.pods.mark_unchanged();
        // What a pod's author wrote instead of a UID is no UID, and keeps the pod from nothing.
        let wrong = Some("../x".to_owned());
        site.put(Object::Pod { uid: "u1".into(), static_uid: wrong, vm: None });
        assert!(!site.pods.has_changed().unwrap());
        assert_eq!(site.pods.borrow().as_deref().unwrap().len(), 1);
    }

    #[test]
    fn records_count_in_the_next_process_too() {
        let mut site = open(tempfile::tempdir().unwrap());
        site.put(pod("u1", Some("vyos")));
        std::fs::write(site.dir.path().join("run/owners/a.b.json"), "{}").unwrap();
        let bytes = site.objects.bytes;
        let mut site = site.reopen();
        assert!(bytes - site.objects.bytes <= "u1".len() && site.objects.bytes > 0);
        site.complete(Kind::Pod);
        assert_eq!(site.objects.bytes, 0);
    }

    #[test]
    fn there_is_a_limit_on_all() {
        let mut site = open(tempfile::tempdir().unwrap());
        for number in 0..MAX_OBJECTS {
            site.put(Object::DeletedVm(format!("a/{number}")));
        }
        assert!(site.refused(Object::DeletedVm("a/more".into())).contains("10000 objects"));
        site.put(Object::DeletedVm("a/7".into()));
        let large = |name: &str| {
            let Object::Lan(lan) = lan(name) else { panic!("a LAN") };
            Object::Lan(LanObject { spec: "x".repeat(1 << 20).into(), ..lan })
        };
        let mut put = 0;
        let error = loop {
            match site.objects.apply(Change::Put(large(&put.to_string()))) {
                Ok(()) => put += 1,
                Err(error) => break error,
            }
        };
        assert!(error.contains("33554432 bytes") && put == 31, "{put}: {error}");
        assert_eq!(site.lans().len(), 31);
        // What goes makes room.
        site.objects.apply(Change::Remove(large("0").key())).unwrap();
        site.put(large("other"));
        // Also what an earlier process kept counts.
        let mut site = site.reopen();
        assert!(site.refused(large("another")).contains("33554432 bytes"));
    }
}
