//! Which changes of an object's conditions are published as events. Pure.
//!
//! An event informs a person that something is to be done, or no longer has to be done. So there is one per change,
//! not one per node, and for a condition that changes all the time there is one a minute: the condition itself is
//! always up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lan::{ACCEPTED, Condition, ConditionStatus, READY, find_condition};
use tokio::time::Instant;

use super::aggregate_status::{DELETING, MTU_UNIFORM, NETWORK_ATTACHMENTS, SPOKES_REMOVED, is_bad_when_true};
use super::event_publisher::MAX_NOTE;
use proto::brief;

/// The least time between two events about one condition of one LAN.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DueEvent {
    /// The kind of the condition.
    pub(super) kind: String,
    /// What k8slan was doing, in one word.
    pub(super) action: &'static str,
    /// Whether a person has to act.
    pub(super) warning: bool,
    /// In one word.
    pub(super) reason: String,
    /// The reason, and what to do.
    pub(super) note: String,
}

/// The last event, by the object's UID and the kind of the condition.
#[derive(Debug)]
pub(super) struct EventDedup {
    /// Whether a condition of this kind is a problem when it is true; of all others, when it is false.
    is_bad_when_true: fn(&str) -> bool,
    last_events: BTreeMap<(String, String), LastEvent>,
}

#[derive(Clone, Debug)]
struct LastEvent {
    /// The condition then, if there was one.
    condition: Option<Condition>,
    details: BTreeSet<String>,
    /// Its time; `None`: another leader published it.
    at: Option<Instant>,
}

impl Default for EventDedup {
    /// Of LANs.
    fn default() -> Self {
        Self::new(is_bad_when_true)
    }
}

impl EventDedup {
    pub(super) fn new(is_bad_when_true: fn(&str) -> bool) -> Self {
        Self { is_bad_when_true, last_events: BTreeMap::new() }
    }

    /// The events to publish for an object whose conditions were `before` and are now `conditions`; `details` contains by condition
    /// what it is about, for example which nodes. The caller reports a published event by [`Self::mark_published`].
    ///
    /// The second value is when to call this again although nothing changes.
    pub(super) fn due(
        &mut self,
        object: &str,
        before: Option<&[Condition]>,
        conditions: &[Condition],
        details: &BTreeMap<&'static str, BTreeSet<String>>,
        now: Instant,
    ) -> (Vec<DueEvent>, Option<Instant>) {
        let (mut due, mut later) = (Vec::new(), None);
        let refused = find_condition(conditions, ACCEPTED).is_some_and(is_false);
        for condition in conditions {
            // The LAN is refused: that it is not built either is not news.
            if refused && condition.kind != ACCEPTED && condition.kind != DELETING {
                continue;
            }
            let details = details.get(condition.kind.as_str()).cloned().unwrap_or_default();
            let next = LastEvent { condition: Some(condition.clone()), details, at: None };
            let key = (object.to_owned(), condition.kind.clone());
            let last = self.last_events.entry(key).or_insert_with(|| baseline(before, &next, condition));
            let bad = is_bad(condition, self.is_bad_when_true);
            let same = last.condition.as_ref().is_some_and(|last| is_same(last, condition));
            // It is not news that fewer nodes have the problem, or that a condition is good which never was bad.
            let news = if bad {
                !same || !next.details.is_subset(&last.details)
            } else {
                was_bad(condition, last, self.is_bad_when_true)
            };
            if !news {
                if same || !bad {
                    *last = LastEvent { at: last.at, ..next };
                }
                continue;
            }
            match last.at.map(|at| at + MIN_INTERVAL).filter(|again| *again > now) {
                Some(again) => later = Some(later.map_or(again, |later: Instant| later.min(again))),
                None => due.push(DueEvent {
                    kind: condition.kind.clone(),
                    action: action(&condition.kind),
                    warning: bad,
                    reason: condition.reason.clone(),
                    note: note(condition),
                }),
            }
        }
        // A problem that is over and comes back is a new one.
        self.last_events.retain(|(of, kind), _| of != object || find_condition(conditions, kind).is_some());
        (due, later)
    }

    pub(super) fn mark_published(
        &mut self,
        object: &str,
        due_event: &DueEvent,
        conditions: &[Condition],
        details: &BTreeMap<&'static str, BTreeSet<String>>,
        now: Instant,
    ) {
        let Some(condition) = find_condition(conditions, &due_event.kind) else { return };
        let last = LastEvent {
            condition: Some(condition.clone()),
            details: details.get(condition.kind.as_str()).cloned().unwrap_or_default(),
            at: Some(now),
        };
        self.last_events.insert((object.to_owned(), due_event.kind.clone()), last);
    }

    /// Removes the objects that no longer exist.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.last_events.retain(|(object, _), _| is_there(object));
    }
}

/// The last event of an earlier leader, as the status that it wrote tells.
fn baseline(before: Option<&[Condition]>, next: &LastEvent, condition: &Condition) -> LastEvent {
    match before.and_then(|conditions| find_condition(conditions, &condition.kind)) {
        Some(last) if is_same(last, condition) => next.clone(),
        last => LastEvent { condition: last.cloned(), details: BTreeSet::new(), at: None },
    }
}

/// Whether two conditions of one kind need only one event, although their messages differ.
fn is_same(one: &Condition, other: &Condition) -> bool {
    (one.status, &one.reason) == (other.status, &other.reason)
}

fn is_false(condition: &Condition) -> bool {
    condition.status == ConditionStatus::False
}

/// Whether a person has to act. `Deleting` is `True` while a deleted LAN still exists.
fn is_bad(condition: &Condition, is_bad_when_true: fn(&str) -> bool) -> bool {
    match condition.kind.as_str() {
        DELETING => condition.reason != "Unused",
        kind if is_bad_when_true(kind) => condition.is_true(),
        _ => is_false(condition),
    }
}

/// Whether the end of a problem is to be published. That a LAN is accepted again is not: whether it is built says
/// more.
fn was_bad(condition: &Condition, last: &LastEvent, is_bad_when_true: fn(&str) -> bool) -> bool {
    !is_bad_when_true(&condition.kind)
        && condition.kind != ACCEPTED
        && condition.is_true()
        && last.condition.as_ref().is_some_and(is_false)
}

fn action(kind: &str) -> &'static str {
    match kind {
        ACCEPTED => "Accept",
        READY => "Build",
        MTU_UNIFORM => "SetMtu",
        NETWORK_ATTACHMENTS => "Define",
        SPOKES_REMOVED => "CutOff",
        _ => "Delete",
    }
}

/// What the event about a condition says.
fn note(condition: &Condition) -> String {
    match condition.message.as_str() {
        "" => format!("{} is {}", condition.kind, condition.status),
        message => brief(message, MAX_NOTE),
    }
}

#[cfg(test)]
mod tests {
    use lan::LanStatus;

    use super::*;

    fn status(kind: &str, state: &str, reason: &str) -> LanStatus {
        let status = match state {
            "Unknown" => ConditionStatus::Unknown,
            state => ConditionStatus::from(state == "True"),
        };
        let condition = Condition::new(kind, status, reason, format!("{kind} {reason}"));
        LanStatus { conditions: vec![condition], ..LanStatus::default() }
    }

    struct World {
        event_dedup: EventDedup,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { event_dedup: EventDedup::default(), start: Instant::now() }
        }

        /// The reasons that are published after so many seconds, and when to call again.
        fn at(
            &mut self,
            seconds: u64,
            before: Option<&LanStatus>,
            status: &LanStatus,
            nodes: &[&str],
        ) -> (Vec<String>, Option<u64>) {
            let now = self.start + Duration::from_secs(seconds);
            let nodes: BTreeSet<String> = nodes.iter().map(|&node| node.to_owned()).collect();
            let details = BTreeMap::from([("Ready", nodes)]);
            let before = before.map(|status| &*status.conditions);
            let (due, later) = self.event_dedup.due("uid", before, &status.conditions, &details, now);
            for due_event in &due {
                self.event_dedup.mark_published("uid", due_event, &status.conditions, &details, now);
            }
            let later = later.map(|later| (later - self.start).as_secs());
            (due.into_iter().map(|due_event| due_event.reason).collect(), later)
        }
    }

    fn reasons(texts: &[&str]) -> (Vec<String>, Option<u64>) {
        (texts.iter().map(|&text| text.to_owned()).collect(), None)
    }

    #[test]
    fn what_is_well_from_the_start_is_no_event() {
        let mut world = World::new();
        assert_eq!(world.at(0, None, &status("Ready", "Unknown", "NoNode"), &[]), reasons(&[]));
        assert_eq!(world.at(1, None, &status("Ready", "True", "Built"), &[]), reasons(&[]));
    }

    #[test]
    fn once_when_it_goes_wrong_and_once_when_it_is_well_again() {
        let (good, bad) = (status("Ready", "True", "Built"), status("Ready", "False", "UnderlayMissing"));
        let mut world = World::new();
        assert_eq!(world.at(0, None, &bad, &["a"]), reasons(&["UnderlayMissing"]));
        for second in 1..50 {
            assert_eq!(world.at(second, Some(&bad), &bad, &["a"]), reasons(&[]));
        }
        assert_eq!(world.at(100, Some(&bad), &good, &[]), reasons(&["Built"]));
        assert_eq!(world.at(101, Some(&good), &good, &[]), reasons(&[]));
    }

    #[test]
    fn two_hundred_nodes_are_two_events() {
        let bad = status("Ready", "False", "UnderlayMissing");
        let mut world = World::new();
        let names: Vec<String> = (0..200).map(|n| format!("n{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut told = 0;
        for count in 1..=200 {
            let (now, later) = world.at(0, None, &bad, &names[..count]);
            told += now.len();
            assert!(count == 1 || later == Some(60), "{later:?}");
        }
        told += world.at(60, Some(&bad), &bad, &names).0.len();
        // The nodes come back one after the other.
        for count in (1..200).rev() {
            told += world.at(200, Some(&bad), &bad, &names[..count]).0.len();
        }
        assert_eq!(told, 2);
    }

    #[test]
    fn what_flaps_is_told_once_a_minute() {
        let (good, bad) = (status("Ready", "True", "Built"), status("Ready", "False", "UnderlayMissing"));
        let mut world = World::new();
        let mut told = 0;
        for second in 0..600 {
            let now = if second % 2 == 0 { &bad } else { &good };
            told += world.at(second, None, now, &["a"]).0.len();
        }
        assert!((2..=11).contains(&told), "{told} events");
    }

    #[test]
    fn the_next_leader_does_not_repeat() {
        let bad = status("Ready", "False", "UnderlayMissing");
        assert_eq!(World::new().at(0, Some(&bad), &bad, &["a"]), reasons(&[]));
        let good = status("Ready", "True", "Built");
        assert_eq!(World::new().at(0, Some(&bad), &good, &[]), reasons(&["Built"]));
        assert_eq!(World::new().at(0, Some(&good), &bad, &["a"]), reasons(&["UnderlayMissing"]));
    }

    #[test]
    fn a_refused_lan_is_told_once() {
        let mut both = status("Accepted", "False", "Conflict");
        both.conditions.extend(status("Ready", "False", "Refused").conditions);
        assert_eq!(World::new().at(0, None, &both, &["a"]), reasons(&["Conflict"]));
    }

    #[test]
    fn what_is_refused_again_is_told_again() {
        let (good, bad) = (status("Accepted", "True", "Accepted"), status("Accepted", "False", "Conflict"));
        let mut world = World::new();
        assert_eq!(world.at(0, None, &bad, &[]), reasons(&["Conflict"]));
        assert_eq!(world.at(70, Some(&bad), &good, &[]), reasons(&[]));
        assert_eq!(world.at(80, Some(&good), &bad, &[]), reasons(&["Conflict"]));
    }

    #[test]
    fn a_deletion_that_waits_is_told_and_one_that_is_done_is_not() {
        let mut world = World::new();
        assert_eq!(world.at(0, None, &status("Deleting", "True", "InUse"), &[]), reasons(&["InUse"]));
        assert_eq!(world.at(90, None, &status("Deleting", "True", "Unused"), &[]), reasons(&[]));
    }

    #[test]
    fn notes_fit() {
        let mut long = status("Ready", "False", "X").conditions.remove(0);
        long.message = "é".repeat(900);
        assert!(note(&long).len() <= 1024);
    }
}
