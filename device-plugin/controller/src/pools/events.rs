//! The events about pools: what a person must act on, once when it begins.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::events::{Event, EventType};
use lan::{ACCEPTED, Condition, READY, find_condition};
use tokio::time::Instant;

use super::acceptance::PROPOSED;
use super::conditions::{
    CONTESTED, DRAINING, FILE_ON_NODES, NEARLY_FULL, NodeNotes, PODS_WAITING, is_bad_when_true, nodes_of,
};
use super::for_node::{EXHAUSTED, StoredPool, status};
use crate::event_dedup::EventDedup;
use crate::event_publisher::{self, EventPublisher};

/// What was published.
pub(super) struct PoolEvents {
    publisher: EventPublisher,
    dedup: EventDedup,
}

impl PoolEvents {
    pub(super) fn new(publisher: EventPublisher) -> Self {
        Self { publisher, dedup: EventDedup::new(is_bad_when_true) }
    }

    /// Forgets pools that are gone.
    pub(super) fn retain(&mut self, pools: &[StoredPool]) {
        let uids: BTreeSet<&str> = pools.iter().map(uid).collect();
        self.dedup.retain(|uid| uids.contains(uid));
    }

    /// Publishes what is new in the conditions that a pool has now.
    ///
    /// # Errors
    /// The API server does not take it.
    pub(super) async fn tell(
        &mut self,
        pool: &StoredPool,
        now: &[Condition],
        notes: &NodeNotes,
    ) -> Result<(), kube::Error> {
        let before = status(pool).map(|status| to_tell(&status.conditions));
        let conditions = to_tell(now);
        let details: BTreeMap<&'static str, BTreeSet<String>> = [PODS_WAITING, FILE_ON_NODES, CONTESTED]
            .map(|kind| (kind, nodes_of(kind, notes).into_iter().collect()))
            .into();
        let (due, _) = self.dedup.due(uid(pool), before.as_deref(), &conditions, &details, Instant::now());
        let is_full = find_condition(&conditions, EXHAUSTED).is_some_and(Condition::is_true);
        for event in due {
            // That it is full says more.
            if !(is_full && event.kind == NEARLY_FULL) {
                let type_ = if event.warning { EventType::Warning } else { EventType::Normal };
                self.publish(pool, type_, &event.reason, &event.note).await?;
            }
            self.dedup.mark_published(uid(pool), &event, &conditions, &details, Instant::now());
        }
        Ok(())
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// The API server does not take it.
    pub(super) async fn publish(
        &self,
        pool: &StoredPool,
        type_: EventType,
        reason: &str,
        note: &str,
    ) -> Result<(), kube::Error> {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(proto::brief(note, event_publisher::MAX_NOTE)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let of = event_publisher::reference("lan.k8slan.io/v1beta1", "LANPool", &pool.metadata);
        self.publisher.publish(&of, &event).await
    }
}

fn uid(pool: &StoredPool) -> &str {
    pool.metadata.uid.as_deref().unwrap_or_default()
}

/// The conditions that are worth an event: a pool that is about to be accepted has no problem, and a block that goes back in its
/// time needs nobody.
fn to_tell(conditions: &[Condition]) -> Vec<Condition> {
    let is_news = |condition: &&Condition| match condition.kind.as_str() {
        DRAINING => false,
        ACCEPTED | READY => condition.reason != PROPOSED,
        _ => true,
    };
    conditions.iter().filter(is_news).cloned().collect()
}

#[cfg(test)]
mod tests {
    use lan::ConditionStatus;

    use super::*;

    #[test]
    fn a_new_pool_is_no_news() {
        let condition = |kind: &str, status, reason| Condition::new(kind, status, reason, "");
        let proposed = [
            condition(ACCEPTED, ConditionStatus::False, PROPOSED),
            condition(READY, ConditionStatus::False, PROPOSED),
        ];
        let accepted = [
            condition(ACCEPTED, ConditionStatus::True, "Accepted"),
            condition(READY, ConditionStatus::True, "Accepted"),
            condition(EXHAUSTED, ConditionStatus::False, "BlocksLeft"),
            condition(DRAINING, ConditionStatus::True, "OutsideRanges"),
        ];
        let full = [condition(EXHAUSTED, ConditionStatus::True, "NoBlockLeft")];
        let mut dedup = EventDedup::new(is_bad_when_true);
        let mut reasons = |before: &[Condition], now: &[Condition]| -> Vec<String> {
            let (before, now) = (to_tell(before), to_tell(now));
            let (due, _) = dedup.due("uid", Some(&before), &now, &BTreeMap::new(), Instant::now());
            due.into_iter().map(|event| event.reason).collect()
        };
        assert_eq!(reasons(&[], &proposed), [""; 0]);
        assert_eq!(reasons(&proposed, &accepted), [""; 0]);
        assert_eq!(reasons(&accepted, &full), ["NoBlockLeft"]);
    }
}
