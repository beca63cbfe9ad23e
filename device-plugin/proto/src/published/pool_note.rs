use std::collections::BTreeMap;

use net_types::AddrSet;
use serde::{Deserialize, Serialize};

/// What this node has to say of pools, by their names; of the others it has nothing to say.
pub type PoolNotes = BTreeMap<String, PoolNote>;

/// What this node says of a pool that nobody else can know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolNote {
    /// How many addresses are used here that the pool does not hand out any more.
    pub outside: u64,
    /// Why pods wait for an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Why addresses are handed out by a file of this node, or none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What this node hands out by the file, or pods have of it, until the pool is in charge here and has that in blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_ranges: Option<AddrSet>,
    /// The routing domain of the file; `None`: it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_domain: Option<String>,
    /// Whether the pool says the same as the file, and may take its place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub file_fits: bool,
    /// What is used here and another has as well, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}
