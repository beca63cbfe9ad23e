use serde::{Deserialize, Serialize};

/// Something about a place that LANs are read from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Note {
    /// The file.
    pub source: String,
    /// What about it.
    pub message: String,
}
