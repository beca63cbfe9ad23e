//! What a check says.

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Nobody looked, or could.
    NotLookedAt,
    /// Something will not work, or not in every case.
    Warning,
    /// k8slan, or a LAN, will not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; with what it was looked at on, where there are several: `MTU: eth1`.
    pub check: String,
    /// How it is.
    pub result: Level,
    /// What was found.
    pub found: String,
    /// What to do.
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
