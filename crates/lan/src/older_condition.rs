use serde::{Deserialize, Serialize};

use crate::{Condition, ConditionStatus};

/// A condition as the version before this one wrote it, in `LANNode` objects and in `inspect --json`.
///
/// Nodes are upgraded one by one, so that a leader reads what nodes of the other version write: this version writes both shapes
/// and reads both. The next one has [`Condition`] alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OlderCondition {
    /// Whether it is so.
    pub holds: bool,
    /// Why, in a word.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
}

impl OlderCondition {
    /// The same as a condition of this kind. Since when it is so, nobody wrote down.
    #[must_use]
    pub fn to_condition(&self, kind: &str) -> Condition {
        Condition::new(kind, ConditionStatus::from(self.holds), self.reason.clone(), self.message.clone())
    }
}

impl From<&Condition> for OlderCondition {
    fn from(condition: &Condition) -> Self {
        let Condition { reason, message, .. } = condition;
        Self { holds: condition.is_true(), reason: reason.clone(), message: message.clone() }
    }
}
