//! A LAN's conditions in `inspect --json`: as they are, and as the version before has them. `kubectl k8slan` joins what the
//! daemons of all nodes print, and those are upgraded one by one.

use lan::{ACCEPTED, Condition, OlderCondition, READY, find_condition};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Fields {
    accepted: Option<OlderCondition>,
    ready: Option<OlderCondition>,
    conditions: Vec<Condition>,
}

pub(super) fn serialize<S: Serializer>(conditions: &[Condition], serializer: S) -> Result<S::Ok, S::Error> {
    let older = |kind| find_condition(conditions, kind).map(OlderCondition::from);
    let fields = Fields { accepted: older(ACCEPTED), ready: older(READY), conditions: conditions.to_vec() };
    fields.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    let Fields { accepted, ready, mut conditions } = Fields::deserialize(deserializer)?;
    for (kind, older) in [(ACCEPTED, accepted), (READY, ready)] {
        if find_condition(&conditions, kind).is_none() {
            conditions.extend(older.map(|older| older.to_condition(kind)));
        }
    }
    Ok(conditions)
}
