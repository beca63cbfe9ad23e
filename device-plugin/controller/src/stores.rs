//! The leader's view of the cluster: a store for each kind of object, filled by its watch.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::Resource;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use lan::LanNode;

use super::lan_object::{self, StoredLan};
use super::net_attach_defs::{self, NetAttachDef};

pub(super) type ObjectKey = (String, String);

/// An event of one of the watches.
#[expect(clippy::large_enum_variant, reason = "each is applied at once, and none is kept")]
pub(super) enum StoreEvent {
    Lan(Event<StoredLan>),
    Report(Event<DeserializeGuard<LanNode>>),
    Node(Event<DeserializeGuard<Node>>),
    Definition(Event<NetAttachDef>),
}

/// The objects of all kinds that the leader watches.
pub(super) struct Stores {
    pub(super) lans: ObjectStore<StoredLan>,
    pub(super) reports: ObjectStore<DeserializeGuard<LanNode>>,
    pub(super) nodes: ObjectStore<DeserializeGuard<Node>>,
    pub(super) definitions: ObjectStore<NetAttachDef>,
}

pub(super) struct ObjectStore<K: Resource + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    kind: K::DynamicType,
    writer: Writer<K>,
    store: Store<K>,
    listed: bool,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            lans: ObjectStore::new(lan_object::lans()),
            reports: ObjectStore::new(()),
            nodes: ObjectStore::new(()),
            definitions: ObjectStore::new(net_attach_defs::resource()),
        }
    }
}

impl Stores {
    /// Whether all kinds that the status depends on were listed; definitions are not among them.
    pub(super) const fn are_listed(&self) -> bool {
        self.lans.listed && self.reports.listed && self.nodes.listed
    }

    /// Applies an event. Returns whether the leader has to reconcile.
    pub(super) fn apply(&mut self, event: StoreEvent) -> bool {
        match event {
            StoreEvent::Lan(event) => self.lans.apply(event),
            StoreEvent::Report(event) => {
                if let Event::Apply(DeserializeGuard(Err(invalid)))
                | Event::InitApply(DeserializeGuard(Err(invalid))) = &event
                {
                    let (name, error) = (&invalid.metadata.name, &invalid.error);
                    tracing::warn!(name, error, "a LANNode object with invalid fields is ignored");
                }
                self.reports.apply(event)
            }
            StoreEvent::Node(event) => {
                let event = event.modify(strip_unused);
                // A node's heartbeat changes nothing here.
                let heartbeat = match &event {
                    Event::Apply(node) => {
                        let last = self.nodes.get(&key(node));
                        last.is_some_and(|last| is_ready(&last) == is_ready(node))
                    }
                    _ => false,
                };
                self.nodes.apply(event) && !heartbeat
            }
            StoreEvent::Definition(event) => self.definitions.apply(event),
        }
    }

    /// The existing nodes, and whether the kubelet of each is heard.
    pub(super) fn node_liveness(&self) -> BTreeMap<String, bool> {
        self.nodes.all().into_iter().map(|((_, name), node)| (name, is_ready(&node))).collect()
    }
}

impl<K: Resource + Clone + 'static> ObjectStore<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn new(kind: K::DynamicType) -> Self {
        let writer = Writer::new(kind.clone());
        let store = writer.as_reader();
        Self { kind, writer, store, listed: false }
    }

    /// Whether the first list is complete.
    pub(super) const fn is_listed(&self) -> bool {
        self.listed
    }

    /// Applies an event. Returns whether it changes anything.
    fn apply(&mut self, event: Event<K>) -> bool {
        let event = event.modify(|object| object.meta_mut().managed_fields = None);
        let news = match &event {
            Event::Init | Event::InitApply(_) => false,
            Event::InitDone | Event::Apply(_) => true,
            // The leader's own deletions are not news.
            Event::Delete(object) => self.get(&key(object)).is_some(),
        };
        self.listed |= matches!(event, Event::InitDone);
        self.writer.apply_watcher_event(&event);
        news
    }

    pub(super) fn get(&self, (namespace, name): &ObjectKey) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new_with(name, self.kind.clone()).within(namespace))
    }

    /// All objects in the order of their names: of two that want the same thing, always the same one gets it.
    pub(super) fn all(&self) -> BTreeMap<ObjectKey, Arc<K>> {
        self.store.state().into_iter().map(|object| (key(&*object), object)).collect()
    }

    /// Adds an object that this process wrote: in a large cluster the watch reports it only after the next reconcile.
    pub(super) fn insert(&mut self, object: K) {
        self.apply(Event::Apply(object));
    }

    /// Removes an object that this process deleted.
    pub(super) fn remove(&mut self, object: &K) {
        self.apply(Event::Delete(object.clone()));
    }
}

fn key(object: &impl Resource) -> ObjectKey {
    let ObjectMeta { namespace, name, .. } = object.meta();
    (namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default())
}

/// Keeps only the parts of a node that are read: there are hundreds of nodes, and each is large.
fn strip_unused(node: &mut DeserializeGuard<Node>) {
    node.meta_mut().annotations = None;
    node.meta_mut().labels = None;
    if let Ok(node) = &mut node.0 {
        node.spec = None;
        if let Some(status) = node.status.take() {
            let mut conditions = status.conditions;
            conditions.iter_mut().for_each(|all| all.retain(|condition| condition.type_ == "Ready"));
            node.status.get_or_insert_default().conditions = conditions;
        }
    }
}

/// Whether the node's kubelet is heard. A node without a `Ready` condition counts as heard.
fn is_ready(node: &DeserializeGuard<Node>) -> bool {
    let status = node.0.as_ref().ok().and_then(|node| node.status.as_ref());
    let mut conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default().iter();
    conditions.find(|condition| condition.type_ == "Ready").is_none_or(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn of<K: DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn lan(name: &str, spec: Value) -> StoredLan {
        let kind = json!({ "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN" });
        let mut object = json!({ "metadata": { "namespace": "a", "name": name }, "spec": spec });
        object.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        of(object)
    }

    fn node(ready: &str, heartbeat: &str) -> Event<DeserializeGuard<Node>> {
        Event::Apply(of(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "worker1", "labels": { "a": "b" } },
            "status": { "conditions": [
                { "type": "MemoryPressure", "status": "False", "lastHeartbeatTime": heartbeat },
                { "type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat },
            ] },
        })))
    }

    #[test]
    fn a_summary_waits_for_lans_reports_and_nodes_and_for_no_definition() {
        let mut stores = Stores::default();
        assert!(!stores.apply(StoreEvent::Lan(Event::Init)));
        assert!(!stores.apply(StoreEvent::Lan(Event::InitApply(lan("b", json!({}))))));
        assert!(stores.lans.all().is_empty() && !stores.lans.is_listed());
        assert!(stores.apply(StoreEvent::Lan(Event::InitDone)));
        assert_eq!(stores.lans.all().len(), 1);
        for event in [StoreEvent::Report(Event::InitDone), StoreEvent::Node(Event::InitDone)] {
            assert!(!stores.are_listed());
            stores.apply(event);
        }
        assert!(stores.are_listed());
        // An object that a new list lacks was deleted.
        stores.apply(StoreEvent::Lan(Event::Init));
        assert_eq!(stores.lans.all().len(), 1, "until the list is complete");
        stores.apply(StoreEvent::Lan(Event::InitDone));
        assert!(stores.lans.all().is_empty());
    }

    #[test]
    fn a_heartbeat_is_no_news_and_a_kubelet_that_falls_silent_is() {
        let mut stores = Stores::default();
        let mut apply = |event| stores.apply(StoreEvent::Node(event));
        assert!(apply(node("True", "2026-11-29T12:00:00Z")));
        assert!(!apply(node("True", "2026-11-29T12:00:10Z")));
        assert!(apply(node("Unknown", "2026-11-29T12:00:20Z")));
        assert_eq!(stores.node_liveness(), BTreeMap::from([("worker1".to_owned(), false)]));
        let kept = stores.nodes.get(&(String::new(), "worker1".to_owned())).unwrap();
        let kept = kept.0.as_ref().unwrap();
        assert!(
            kept.metadata.labels.is_none()
                && kept.status.as_ref().unwrap().conditions.as_ref().unwrap().len() == 1
        );
    }

    #[test]
    fn what_this_process_wrote_is_there_at_once_and_what_it_deleted_is_no_news() {
        let mut stores = Stores::default();
        let object: NetAttachDef = of(json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "namespace": "a", "name": "pod1" }, "spec": { "config": "{}" },
        }));
        stores.definitions.insert(object.clone());
        assert!(stores.definitions.get(&("a".to_owned(), "pod1".to_owned())).is_some());
        assert!(!stores.definitions.is_listed(), "one is not all");
        stores.definitions.remove(&object);
        assert!(stores.definitions.all().is_empty());
        assert!(!stores.apply(StoreEvent::Definition(Event::Delete(object))));
    }

    #[test]
    fn objects_that_no_type_fits_keep_nobody_from_being_read() {
        let strange = lan("strange", json!({ "vni": "many", "mtu": 1400, "deletionPolicy": "Force" }));
        assert_eq!((strange.spec.valid(), lan_object::asked_mtu(&strange)), (None, Some(1400)));
        assert_eq!(lan_object::deletion_policy(&strange), lan::DeletionPolicy::Force);
        let empty: StoredLan = of(json!({ "metadata": { "namespace": "a", "name": "b" } }));
        assert_eq!((empty.spec.valid(), lan_object::asked_mtu(&empty)), (None, None));
        let report: DeserializeGuard<LanNode> = of(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANNode", "metadata": { "namespace": "a", "name": "c" }, "spec": 1,
        }));
        assert!(report.0.is_err());
        let mut stores = Stores::default();
        assert!(stores.apply(StoreEvent::Report(Event::Apply(report))));
        assert_eq!(stores.reports.all().len(), 1);
    }
}
