use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A part of an object that is deserialized by itself. If it does not fit its type, for example because the API
/// server is newer, the other parts and other objects can still be read.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Guarded<T> {
    Valid(T),
    /// The value as the API server sent it; null if it is missing.
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
        // An `Option`, because a missing field is not a null.
        let value = Option::<Value>::deserialize(deserializer)?.unwrap_or_default();
        Ok(T::deserialize(&value).map_or_else(|_| Self::Invalid(value.clone()), Self::Valid))
    }
}
