//! Conditions, as every Kubernetes object has them (`metav1.Condition`): one shape from the reconciler of a node to the
//! objects `LANNode` and `LAN`, and to whoever shows them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of condition that says whether a LAN's specification is valid and conflicts with no other LAN.
pub const ACCEPTED: &str = "Accepted";
/// The kind of condition that says whether a LAN is built.
pub const READY: &str = "Ready";

/// A condition, as every Kubernetes object has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema), schemars(transform = require_transition_time))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[cfg_attr(
        feature = "crd",
        schemars(with = "String", extend("enum" = ["True", "False", "Unknown"]))
    )]
    pub status: ConditionStatus,
    /// Why, in a word.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
    /// When the status last changed, RFC 3339. Absent until it was compared with what was said before
    /// ([`set_transition_times`]); every object has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "crd",
        schemars(
            with = "String",
            description = "When the status last changed, RFC 3339.",
            extend("format" = "date-time")
        )
    )]
    pub last_transition_time: Option<String>,
    /// The generation that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody has looked.
    Unknown,
}

impl Condition {
    /// A condition that was not compared with an earlier one yet.
    #[must_use]
    pub fn new(
        kind: &str,
        status: impl Into<ConditionStatus>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind: kind.to_owned(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: None,
            observed_generation: None,
        }
    }

    /// The same, of this generation.
    #[must_use]
    pub fn observing(self, generation: Option<i64>) -> Self {
        Self { observed_generation: generation, ..self }
    }

    /// Whether it is so.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }

    /// Whether the two tell a person the same, whenever it began.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.kind, self.status, &self.reason, &self.message)
            == (&other.kind, other.status, &other.reason, &other.message)
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// The condition of one kind.
#[must_use]
pub fn find_condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Sets since when each condition has its status, `before` being what was said last: the time moves with the status and
/// with nothing else, or every new message would be another write of the whole.
///
/// What has changed, changed at the time that the condition itself has, if that is later than the time of `before`: whoever
/// found it out knows better than who passes it on. Otherwise it changed `now` (RFC 3339, UTC, in seconds, as are all of these).
pub fn set_transition_times(conditions: &mut [Condition], before: &[Condition], now: &str) {
    for condition in conditions {
        let last = find_condition(before, &condition.kind);
        let last_time = last.and_then(|last| last.last_transition_time.as_deref());
        let time = match (last_time, condition.last_transition_time.take()) {
            (Some(time), _) if last.is_some_and(|last| last.status == condition.status) => time.to_owned(),
            (Some(time), Some(own)) if own.as_str() > time => own,
            (None, Some(own)) => own,
            _ => now.to_owned(),
        };
        condition.last_transition_time = Some(time);
    }
}

/// As in Kubernetes' own: an object's condition has a time. It is optional in Rust alone.
#[cfg(feature = "crd")]
fn require_transition_time(schema: &mut schemars::Schema) {
    let name = serde_json::Value::from("lastTransitionTime");
    if let Some(property) =
        schema.pointer_mut("/properties/lastTransitionTime").and_then(|p| p.as_object_mut())
    {
        property.remove("default");
    }
    if let Some(required) = schema.get_mut("required").and_then(|required| required.as_array_mut())
        && !required.contains(&name)
    {
        required.push(name);
        required.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn at(status: ConditionStatus, time: Option<&str>) -> Condition {
        let condition = Condition::new(READY, status, "Reason", "message");
        Condition { last_transition_time: time.map(str::to_owned), ..condition }
    }

    fn time(condition: Condition, before: &[Condition]) -> String {
        let mut conditions = [condition];
        set_transition_times(&mut conditions, before, "2026-11-29T12:00:00Z");
        let [condition] = conditions;
        condition.last_transition_time.unwrap()
    }

    #[test]
    fn it_has_the_shape_of_kubernetes() {
        let whole = json!({
            "type": "Ready", "status": "True", "reason": "Built", "message": "built", "observedGeneration": 3,
            "lastTransitionTime": "2026-11-21T08:00:00Z",
        });
        let theirs: k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition =
            serde_json::from_value(whole.clone()).unwrap();
        let ours: Condition = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(serde_json::to_value(&theirs).unwrap(), whole);
        assert_eq!(serde_json::to_value(&ours).unwrap(), whole);
        // As the node's part of the version before wrote it.
        let older = json!({ "type": "Ready", "status": "False", "reason": "X", "message": "" });
        let read: Condition = serde_json::from_value(older.clone()).unwrap();
        assert_eq!((read.status, read.last_transition_time.as_deref()), (ConditionStatus::False, None));
        assert_eq!(serde_json::to_value(&read).unwrap(), older);
    }

    #[test]
    fn the_time_moves_with_the_status_alone() {
        use ConditionStatus::{False, True, Unknown};
        let (then, later) = ("2026-11-21T08:00:00Z", "2026-11-22T08:00:00Z");
        assert_eq!(time(at(True, None), &[]), "2026-11-29T12:00:00Z");
        assert_eq!(time(at(True, Some(then)), &[]), then);
        let other = Condition { reason: "Other".into(), message: "other".into(), ..at(True, Some(later)) };
        assert_eq!(time(other, &[at(True, Some(then))]), then);
        assert_eq!(time(at(False, None), &[at(True, Some(then))]), "2026-11-29T12:00:00Z");
        assert_eq!(time(at(Unknown, Some(later)), &[at(True, Some(then))]), later);
        // It was True, then something else that its source does not know of, and is True again.
        assert_eq!(time(at(True, Some(then)), &[at(False, Some(later))]), "2026-11-29T12:00:00Z");
        // What was said without a time, as the version before did, says nothing about when.
        assert_eq!(time(at(True, None), &[at(True, None)]), "2026-11-29T12:00:00Z");
        // Another kind is no earlier one.
        let accepted = Condition { kind: ACCEPTED.into(), ..at(True, Some(then)) };
        assert_eq!(time(at(True, None), &[accepted]), "2026-11-29T12:00:00Z");
    }

    fn status() -> impl Strategy<Value = ConditionStatus> {
        prop::sample::select(&[ConditionStatus::True, ConditionStatus::False, ConditionStatus::Unknown][..])
    }

    proptest! {
        /// Through any history: a time that moved has a status that moved, and the other way round.
        #[test]
        fn times_follow_statuses(history in prop::collection::vec((status(), "[a-c]"), 1..20)) {
            let mut before: Vec<Condition> = Vec::new();
            for (second, (status, message)) in history.into_iter().enumerate() {
                let mut now = vec![Condition::new(READY, status, "R", message)];
                set_transition_times(&mut now, &before, &format!("2026-11-29T12:00:{second:02}Z"));
                if let [last] = before.as_slice() {
                    let moved = last.last_transition_time != now[0].last_transition_time;
                    prop_assert_eq!(moved, last.status != now[0].status);
                }
                before = now;
            }
        }
    }
}
