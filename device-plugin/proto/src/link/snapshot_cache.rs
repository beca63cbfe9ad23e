//! What the cluster's part tells the node's part: the objects as they are now. A connection sends what changed since it
//! last looked, so that an object that changes often, or a connection that is away, costs no memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::message::{Change, Kind, Object, ObjectKey};

/// Shared by those who know objects and the connection that sends them.
#[derive(Clone)]
pub struct SnapshotCache(Arc<Shared>);

struct Shared {
    contents: Mutex<Contents>,
    changed: Notify,
    /// The kinds that the node's part has all of.
    stored: watch::Sender<BTreeSet<Kind>>,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<ObjectKey, Object>,
    /// What a connection has to send or to remove.
    dirty: BTreeSet<ObjectKey>,
    /// The kinds of which all is known.
    complete: BTreeSet<Kind>,
    /// The kinds that the connection called complete.
    sent: BTreeSet<Kind>,
}

/// What a change was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Object(ObjectKey),
    Kind(Kind),
}

impl Default for SnapshotCache {
    fn default() -> Self {
        let stored = watch::channel(BTreeSet::new()).0;
        Self(Arc::new(Shared { contents: Mutex::default(), changed: Notify::new(), stored }))
    }
}

impl SnapshotCache {
    pub fn put(&self, object: Object) {
        let key = object.key();
        self.change(|contents| {
            if contents.objects.get(&key) != Some(&object) {
                contents.objects.insert(key.clone(), object);
                contents.dirty.insert(key);
            }
        });
    }

    /// The object as it was put last.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        self.lock().objects.get(key).cloned()
    }

    pub fn remove(&self, key: &ObjectKey) {
        self.change(|contents| {
            if contents.objects.remove(key).is_some() {
                contents.dirty.insert(key.clone());
            }
        });
    }

    /// All objects of a kind are known; those that `exists` denies do not exist any more.
    pub fn complete(&self, kind: Kind, exists: impl Fn(&ObjectKey) -> bool) {
        self.change(|contents| {
            let gone: Vec<ObjectKey> = contents
                .objects
                .keys()
                .filter(|key| key.kind() == Some(kind) && !exists(key))
                .cloned()
                .collect();
            for key in gone {
                contents.objects.remove(&key);
                contents.dirty.insert(key);
            }
            contents.complete.insert(kind);
        });
    }

    /// The API server is not heard about a kind any more.
    pub fn lost(&self, kind: Kind) {
        self.change(|contents| {
            contents.complete.remove(&kind);
        });
    }

    /// The kinds that the node's part has all of, now and at each change.
    pub fn stored(&self) -> watch::Receiver<BTreeSet<Kind>> {
        self.0.stored.subscribe()
    }

    /// Begins a connection, which has sent nothing.
    pub(super) fn begin(&self) {
        self.change(|contents| {
            // What was said of machines may be hours old: the node's part is told once it has been asked again.
            contents.objects.retain(|key, _| key.kind() != Some(Kind::DeletedVm));
            contents.complete.remove(&Kind::DeletedVm);
            contents.dirty = contents.objects.keys().cloned().collect();
            contents.sent.clear();
        });
        self.0.stored.send_replace(BTreeSet::new());
    }

    /// What to send next, if anything.
    pub(super) fn next(&self) -> Option<(Subject, Change)> {
        let mut contents = self.lock();
        let Contents { objects, dirty, complete, sent } = &mut *contents;
        if let Some(&kind) = sent.difference(complete).next() {
            sent.remove(&kind);
            return Some((Subject::Kind(kind), Change::Lost(kind)));
        }
        if let Some(key) = dirty.pop_first() {
            let change = match objects.get(&key) {
                Some(object) => Change::Put(object.clone()),
                None => Change::Remove(key.clone()),
            };
            return Some((Subject::Object(key), change));
        }
        let &kind = complete.difference(sent).next()?;
        sent.insert(kind);
        Some((Subject::Kind(kind), Change::Complete(kind)))
    }

    /// Waits until there may be something to send. Cancelling it loses nothing.
    pub(super) async fn wait(&self) {
        self.0.changed.notified().await;
    }

    /// The node's part has made the change.
    pub(super) fn acknowledged(&self, subject: &Subject) {
        if let Subject::Kind(kind) = subject
            && self.lock().sent.contains(kind)
        {
            self.0.stored.send_if_modified(|stored| stored.insert(*kind));
        }
    }

    /// The change is to be sent again.
    pub(super) fn requeue(&self, subject: Subject) {
        self.change(|contents| {
            match subject {
                Subject::Object(key) => contents.dirty.insert(key),
                Subject::Kind(kind) => contents.sent.remove(&kind),
            };
        });
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.lock());
        self.0.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Object {
        Object::Pod { uid: name.to_owned(), static_uid: None, vm: None, set: None, claims: None }
    }

    fn key(name: &str) -> ObjectKey {
        pod(name).key()
    }

    fn changes(cache: &SnapshotCache) -> Vec<Change> {
        std::iter::from_fn(|| cache.next()).map(|(_, change)| change).collect()
    }

    #[test]
    fn a_connection_gets_all_that_is_known_and_then_what_changes() {
        let cache = SnapshotCache::default();
        cache.put(pod("1"));
        cache.put(pod("2"));
        assert_eq!(changes(&cache), [Change::Put(pod("1")), Change::Put(pod("2"))], "not known to be all");
        cache.remove(&key("2"));
        cache.put(pod("1"));
        cache.complete(Kind::Pod, |_| true);
        let complete = Change::Complete(Kind::Pod);
        assert_eq!(changes(&cache), [Change::Remove(key("2")), complete.clone()]);
        cache.begin();
        assert_eq!(changes(&cache), [Change::Put(pod("1")), complete.clone()]);
        cache.put(Object::HostName(None));
        cache.complete(Kind::Pod, |_| false);
        assert_eq!(changes(&cache), [Change::Put(Object::HostName(None)), Change::Remove(key("1"))]);
        cache.lost(Kind::Pod);
        assert_eq!(changes(&cache), [Change::Lost(Kind::Pod)]);
        cache.complete(Kind::Pod, |_| true);
        assert_eq!(changes(&cache), [complete]);
    }

    #[test]
    fn what_was_refused_is_sent_again_and_what_is_stored_is_known() {
        let cache = SnapshotCache::default();
        cache.put(pod("1"));
        cache.complete(Kind::Pod, |_| true);
        let sent: Vec<Subject> = std::iter::from_fn(|| cache.next()).map(|(subject, _)| subject).collect();
        cache.acknowledged(&sent[0]);
        assert!(cache.stored().borrow().is_empty());
        cache.acknowledged(&sent[1]);
        assert_eq!(*cache.stored().borrow(), [Kind::Pod].into());
        cache.requeue(sent[0].clone());
        assert_eq!(changes(&cache), [Change::Put(pod("1"))]);
        cache.begin();
        assert!(cache.stored().borrow().is_empty(), "the next connection has stored nothing");
    }

    #[test]
    fn what_was_said_of_machines_is_not_said_again() {
        let cache = SnapshotCache::default();
        let machine = Object::DeletedVm("a/vm".to_owned());
        cache.put(machine.clone());
        cache.complete(Kind::DeletedVm, |_| true);
        assert_eq!(changes(&cache), [Change::Put(machine.clone()), Change::Complete(Kind::DeletedVm)]);
        cache.begin();
        assert_eq!(changes(&cache), []);
        cache.put(machine.clone());
        assert_eq!(changes(&cache), [Change::Put(machine)], "after another question");
    }
}
