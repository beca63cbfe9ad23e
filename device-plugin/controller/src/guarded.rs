use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A part of an object, guarded apart from the others: one that its type does not fit, as of a newer API server's version,
/// keeps neither the other parts nor other objects from being read.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Guarded<T> {
    /// As its type has it.
    Valid(T),
    /// As the API server has it; null where it is missing.
    Invalid(Value),
}

impl<T> Guarded<T> {
    pub(super) const fn valid(&self) -> Option<&T> {
        match self {
            Self::Valid(part) => Some(part),
            Self::Invalid(_) => None,
        }
    }
}

impl<T> Default for Guarded<T> {
    fn default() -> Self {
        Self::Invalid(Value::Null)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Guarded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An option, since a missing field is none.
        let value = Option::<Value>::deserialize(deserializer)?.unwrap_or_default();
        Ok(T::deserialize(&value).map_or_else(|_| Self::Invalid(value.clone()), Self::Valid))
    }
}
