use serde::{Deserialize, Serialize};

/// A remark on a file that LANs are read from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Note {
    /// The path of the file.
    pub source: String,
    pub message: String,
}
