use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use node::{ClaimRecord, SetRecord};

use super::*;

struct Site {
    dir: tempfile::TempDir,
    pods: watch::Receiver<LivePods>,
    vms: watch::Receiver<VmNames>,
    storage: watch::Receiver<Option<String>>,
    pools: Pools,
    link: tokio::sync::mpsc::UnboundedReceiver<LinkEvent>,
    objects: NodeObjects,
}

fn open(dir: tempfile::TempDir) -> Site {
    let ((pod_sender, pods), (vm_sender, vms)) = (watch::channel(None), watch::channel(VmNames::new()));
    let config = format!("runDir: {0}/run\nstateDir: {0}/state\n", dir.path().display());
    let paths = node::NodeConfig::parse(&config).unwrap().paths();
    let (storage_error, storage) = watch::channel(None);
    let (blocks, link) = tokio::sync::mpsc::unbounded_channel();
    let publishers = Publishers { live_pods: pod_sender, deleted_vms: vm_sender, storage_error, blocks };
    let pools = Pools::open(&paths).unwrap();
    let objects =
        NodeObjects::open(&dir.path().join("state/lans"), &paths, pools.clone(), publishers).unwrap();
    Site { dir, pods, vms, storage, pools, link, objects }
}

fn lan(name: &str) -> Object {
    let key = format!("a/{name}").parse().unwrap();
    Object::Lan(LanObject { key, generation: Some(1), created: None, mtu: None, spec: json!({ "vni": 7 }) })
}

fn pod(uid: &str, vm: Option<&str>) -> Object {
    let vm = vm.map(|vm| serde_json::from_value(json!({ "vm": vm })).unwrap());
    Object::Pod { uid: uid.to_owned(), static_uid: None, vm, set: None, claims: None }
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

    fn bytes(&self) -> usize {
        self.objects.sizes.values().map(|size| size.bytes).sum()
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
    let inode = |site: &Site| std::fs::metadata(site.dir.path().join("state/lans/a.1.yaml")).unwrap().ino();
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
    site.put(Object::Pod {
        uid: "u2".into(),
        static_uid: Some("h2".into()),
        vm: None,
        set: None,
        claims: None,
    });
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
    assert!(site.vms.borrow().is_empty() && site.bytes() == 0);
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
fn what_could_not_be_stored_is_forgotten_with_its_connection() {
    let mut site = open(tempfile::tempdir().unwrap());
    std::fs::create_dir(site.dir.path().join("state/lans/a.1.yaml")).unwrap();
    site.refused(lan("1"));
    assert!(site.storage.borrow().is_some());
    // It is deleted while nobody listens: the next connection does not name it.
    site.objects.disconnected();
    site.put(lan("2"));
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
    site.put(Object::Pod { uid: "u1".into(), static_uid: wrong, vm: None, set: None, claims: None });
    assert!(!site.pods.has_changed().unwrap());
    assert_eq!(site.pods.borrow().as_deref().unwrap().len(), 1);
}

#[test]
fn records_count_in_the_next_process_too() {
    let mut site = open(tempfile::tempdir().unwrap());
    site.put(pod("u1", Some("vyos")));
    std::fs::write(site.dir.path().join("run/owners/a.b.json"), "{}").unwrap();
    let bytes = site.bytes();
    let mut site = site.reopen();
    assert!(bytes - site.bytes() <= "u1".len() && site.bytes() > 0);
    site.complete(Kind::Pod);
    assert_eq!(site.bytes(), 0);
}

#[test]
fn who_is_of_a_set_is_recorded_while_the_pod_lives() {
    let mut site = open(tempfile::tempdir().unwrap());
    let of_set = |uid: &str, stateful_set| {
        let set = Some(SetRecord { stateful_set });
        Object::Pod { uid: uid.to_owned(), static_uid: None, vm: None, set, claims: None }
    };
    site.put(of_set("u1", true));
    site.put(of_set("u2", false));
    site.put(pod("u3", None));
    assert_eq!(site.files("run/owners"), ["u1.set", "u2.set"]);
    let text = std::fs::read_to_string(site.dir.path().join("run/owners/u1.set")).unwrap();
    assert_eq!(text, r#"{"statefulSet":true}"#);
    let mut site = site.reopen();
    site.put(of_set("u2", false));
    site.complete(Kind::Pod);
    assert_eq!(site.files("run/owners"), ["u2.set"], "what went meanwhile is recorded no more");
    site.put(pod("u2", None));
    assert!(site.files("run/owners").is_empty());
}

#[test]
fn the_claims_that_a_pod_names_are_recorded_while_it_lives() {
    let mut site = open(tempfile::tempdir().unwrap());
    let of = |uid: &str, claims: &[(&str, &str)]| {
        let claims =
            claims.iter().map(|(ifname, name)| (ifname.parse().unwrap(), (*name).to_owned())).collect();
        let claims = Some(ClaimRecord { claims });
        Object::Pod { uid: uid.to_owned(), static_uid: None, vm: None, set: None, claims }
    };
    site.put(of("u1", &[("net1", "web.lan")]));
    site.put(of("u2", &[]));
    site.put(pod("u3", None));
    assert_eq!(site.files("run/owners"), ["u1.claims", "u2.claims"]);
    let text = std::fs::read_to_string(site.dir.path().join("run/owners/u1.claims")).unwrap();
    assert_eq!(text, r#"{"claims":{"net1":"web.lan"}}"#);
    let refused = site.refused(of("u4", &[("net1", &"x".repeat(MAX_RECORD))]));
    assert!(refused.contains("at most"), "{refused}");
    let mut site = site.reopen();
    site.put(of("u2", &[]));
    site.complete(Kind::Pod);
    assert_eq!(site.files("run/owners"), ["u2.claims"], "what went meanwhile is recorded no more");
    site.put(pod("u2", None));
    assert!(site.files("run/owners").is_empty());
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
    // Pools have room of their own.
    site.put(Object::LanPool(node::ClusterPool {
        name: "office".to_owned(),
        ..node::ClusterPool::default()
    }));
    // What goes makes room.
    site.objects.apply(Change::Remove(large("0").key())).unwrap();
    site.put(large("other"));
    // Also what an earlier process kept counts.
    let mut site = site.reopen();
    assert!(site.refused(large("another")).contains("33554432 bytes"));
}

#[test]
fn pools_are_files_until_nothing_of_them_is_held() {
    let pool = |name: &str, v4: u8| {
        let blocks = json!({ "v4": v4, "v6": 128 });
        let pool = json!({ "name": name, "spec": { "subnets": ["10.0.0.0/24"] }, "blocks": blocks });
        Object::LanPool(serde_json::from_value(pool).unwrap())
    };
    let mut site = open(tempfile::tempdir().unwrap());
    site.put(pool("office", 32));
    site.refused(pool("../x", 32));
    site.refused(pool(&"x".repeat(64), 32));
    assert!(site.refused(pool("office", 28)).contains("does not change"));
    let mut site = site.reopen();
    site.objects.apply(Change::Complete(Kind::LanPool)).unwrap();
    let known = site.pools.known().borrow().clone();
    assert!(known.complete && known.pools["office"].refusal.as_ref().unwrap().contains("was deleted"));
    assert_eq!(site.files("state/blocks/pools"), ["office.json"]);
    site.pools.folder().set_in_use(BTreeSet::new());
    assert_eq!(site.files("state/blocks/pools").len(), 0);
    site.objects.connected();
    assert!(matches!(site.link.try_recv(), Ok(LinkEvent::Disconnected)), "at the start");
    assert!(matches!(site.link.try_recv(), Ok(LinkEvent::Connected)));
    site.objects.disconnected();
    assert!(!site.pools.known().borrow().complete);
}

#[test]
fn a_pool_that_is_created_again_hands_nothing_out_before_it_is_accepted() {
    let pool = |uid: &str, subnet: &str, v4: Option<u8>| {
        let mut pool = json!({ "name": "office", "uid": uid, "spec": { "subnets": [subnet] } });
        match v4 {
            Some(v4) => pool["blocks"] = json!({ "v4": v4, "v6": 128 }),
            None => pool["refusal"] = json!("it is not accepted"),
        }
        Object::LanPool(serde_json::from_value(pool).unwrap())
    };
    let mut site = open(tempfile::tempdir().unwrap());
    let known = |site: &Site| site.pools.known().borrow().pools["office"].clone();
    site.put(pool("one", "10.0.0.0/24", Some(32)));
    // An edit that is not accepted yet, told by a process that does not know what was accepted before.
    site.put(pool("one", "10.0.1.0/24", None));
    let now = known(&site);
    assert!(!now.deleted && now.blocks.is_some() && now.spec["subnets"][0] == "10.0.0.0/24", "{now:?}");
    assert_eq!(now.refusal.as_deref(), Some("it is not accepted"));
    site.put(pool("two", "10.0.1.0/24", None));
    let now = known(&site);
    assert!(now.deleted && now.blocks.is_some() && now.spec["subnets"][0] == "10.0.0.0/24", "{now:?}");
    // Accepted, with blocks that do not fit what is held.
    assert!(site.refused(pool("two", "10.0.1.0/24", Some(28))).contains("in another length"));
    let now = known(&site);
    assert!(now.deleted && now.refusal.is_some_and(|refusal| refusal.contains("in another length")));
    site.put(pool("two", "10.0.1.0/24", Some(32)));
    let now = known(&site);
    assert!(!now.deleted && now.spec["subnets"][0] == "10.0.1.0/24", "{now:?}");
    // Nothing of it is here any more.
    site.pools.folder().set_in_use(BTreeSet::new());
    site.put(pool("three", "10.0.2.0/24", None));
    assert_eq!(known(&site).blocks, None);
    site.put(pool("three", "10.0.2.0/24", Some(28)));
    assert_eq!(known(&site).blocks.map(|blocks| blocks.v4), Some(28));
}
