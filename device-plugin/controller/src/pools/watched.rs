use std::collections::BTreeMap;

use kube::runtime::watcher::{self, Event};

/// What a watch said of each object of a kind, as far as it is kept, by name.
#[derive(Debug)]
pub(super) struct Watched<T> {
    objects: BTreeMap<String, T>,
    /// A list that is not complete.
    fresh: BTreeMap<String, T>,
    listed: bool,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), fresh: BTreeMap::new(), listed: false }
    }
}

impl<T: PartialEq> Watched<T> {
    /// Whether a list was complete.
    pub(super) const fn is_listed(&self) -> bool {
        self.listed
    }

    /// Applies an event; `keep` says the object's name and what is kept of it. Returns whether that changes anything.
    pub(super) fn apply<K>(&mut self, event: Event<K>, keep: impl Fn(&K) -> (String, T)) -> bool {
        match event {
            Event::Init => {
                self.fresh.clear();
                false
            }
            Event::InitApply(object) => {
                let (name, kept) = keep(&object);
                self.fresh.insert(name, kept);
                false
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.fresh);
                self.listed = true;
                true
            }
            Event::Apply(object) => {
                let (name, kept) = keep(&object);
                let changes = self.objects.get(&name) != Some(&kept);
                self.objects.insert(name, kept);
                changes
            }
            Event::Delete(object) => self.objects.remove(&keep(&object).0).is_some(),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.objects.iter()
    }
}

/// What the server answered, where it refuses: another request would not help.
pub(super) fn refusal_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_no_change() {
        let mut watched = Watched::default();
        let keep = |(name, kept, _): &(&str, u8, u8)| ((*name).to_owned(), *kept);
        for (event, changes) in [
            (Event::Init, false),
            (Event::InitApply(("a", 1, 0)), false),
            (Event::InitDone, true),
            (Event::Apply(("a", 1, 9)), false),
            (Event::Apply(("a", 2, 9)), true),
            (Event::Delete(("b", 0, 0)), false),
            (Event::Delete(("a", 0, 0)), true),
        ] {
            assert_eq!(watched.apply(event, keep), changes);
        }
        assert!(watched.is_listed() && watched.values().next().is_none());
    }
}
