use std::fmt;

use serde::Serialize;

use crate::store::PoolKey;

/// The pool of a row, or the network whose own ranges it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PoolOrNetwork {
    Pool(String),
    Network(String),
}

impl From<&PoolKey> for PoolOrNetwork {
    fn from(key: &PoolKey) -> Self {
        match key {
            PoolKey::Named(name) => Self::Pool(name.clone()),
            PoolKey::Network(name) => Self::Network(name.clone()),
        }
    }
}

impl fmt::Display for PoolOrNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Network(name) => write!(f, "network {name}"),
        }
    }
}
