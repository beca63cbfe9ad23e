//! The result of a check.

use serde::Serialize;

/// The severity of a finding, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    Fine,
    /// The check could not be made, or was not.
    NotLookedAt,
    /// Something will not work, or not in every case.
    Warning,
    /// k8slan, or a LAN, will not work.
    Failure,
}

/// The finding of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, with its object if there are several: `MTU: eth1`.
    pub check: String,
    pub result: Level,
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    pub(super) fn fine(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), result: Level::Fine, found: found.into(), advice: None }
    }

    pub(super) fn not_looked_at(check: impl Into<String>, why: impl Into<String>) -> Self {
        Self { check: check.into(), result: Level::NotLookedAt, found: why.into(), advice: None }
    }

    pub(super) fn warning(
        check: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), result: Level::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn failure(
        check: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), result: Level::Failure, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn with_advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}
