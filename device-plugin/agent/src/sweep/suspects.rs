use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::candidates::Candidates;
use crate::attachments::AttachmentKey;

/// The suspects, and since when they are. Pure: it decides, others read and remove.
pub(super) struct Suspects {
    grace: Duration,
    since: BTreeMap<AttachmentKey, Instant>,
}

impl Suspects {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, since: BTreeMap::new() }
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// Updates the suspects by the candidates, and returns those that already were suspects in an earlier sweep and
    /// for the whole grace period.
    pub(super) fn update(
        &mut self,
        now: Instant,
        found: &Candidates,
        pods: &BTreeSet<String>,
    ) -> BTreeSet<AttachmentKey> {
        let suspicious = found.dead(|uid| pods.contains(uid));
        // Whatever came back, or was removed otherwise, is not a suspect any more.
        self.since.retain(|key, _| suspicious.contains(key));
        let mut gone = BTreeSet::new();
        for key in suspicious {
            match self.since.get(&key) {
                Some(since) if now.duration_since(*since) >= self.grace => {
                    gone.insert(key);
                }
                Some(_) => {}
                None => {
                    self.since.insert(key, now);
                }
            }
        }
        for key in &gone {
            self.since.remove(key);
        }
        gone
    }

    /// Gives something that could not be removed another grace period.
    pub(super) fn postpone(&mut self, key: &AttachmentKey, now: Instant) {
        self.since.insert(key.clone(), now);
    }

    pub(super) fn clear(&mut self) {
        self.since.clear();
    }

    /// When the next grace period ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.since.values().min().map(|since| *since + self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn pods(uids: &[&str]) -> BTreeSet<String> {
        uids.iter().map(|uid| (*uid).to_owned()).collect()
    }

    fn containers(keys: &BTreeSet<AttachmentKey>) -> Vec<&str> {
        keys.iter().map(|key| key.container.as_str()).collect()
    }

    #[test]
    fn only_what_lost_pod_and_namespace_goes_after_two_looks_and_the_grace() {
        let found = Candidates::for_test(&[
            ("both-gone", Some("u1"), false),
            ("pod-lives", Some("u2"), false),
            ("namespace-lives", Some("u3"), true),
            ("no-uid", None, false),
        ]);
        let mut suspects = Suspects::new(GRACE);
        let start = Instant::now();
        assert!(suspects.update(start, &found, &pods(&["u2"])).is_empty());
        assert_eq!(suspects.next(), Some(start + GRACE));
        assert!(suspects.update(start + GRACE / 2, &found, &pods(&["u2"])).is_empty());
        assert_eq!(containers(&suspects.update(start + GRACE, &found, &pods(&["u2"]))), ["both-gone"]);
        assert_eq!(suspects.next(), None);
    }

    #[test]
    fn one_look_never_suffices_and_whoever_comes_back_starts_again() {
        let found = Candidates::for_test(&[("c", Some("u1"), false)]);
        let mut suspects = Suspects::new(Duration::ZERO);
        let start = Instant::now();
        assert!(suspects.update(start, &found, &pods(&[])).is_empty());
        assert!(suspects.update(start, &found, &pods(&["u1"])).is_empty());
        assert!(suspects.update(start, &found, &pods(&[])).is_empty());
        suspects.clear();
        assert!(suspects.update(start, &found, &pods(&[])).is_empty());
        assert_eq!(containers(&suspects.update(start, &found, &pods(&[]))), ["c"]);
        for key in found.dead(|_| false) {
            suspects.postpone(&key, start);
        }
        assert_eq!(suspects.next(), Some(start));
    }
}
