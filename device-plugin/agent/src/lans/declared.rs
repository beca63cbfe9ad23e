use std::collections::{BTreeMap, BTreeSet};

use lan::{Lan, LanKey};
use net_types::SpokeName;
use proto::published::Note;

/// The declared LANs, whatever their source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    pub lans: BTreeMap<LanKey, Declaration>,
    /// What could not be read. While there is anything, a LAN that is not in `lans` may still be wanted, and is left
    /// as it is.
    pub unread: Vec<Note>,
    /// What was ignored intentionally.
    pub ignored: Vec<Note>,
}

/// The declaration of one LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The file or object that declares it, for messages.
    pub source: String,
    /// When its object was created, in seconds since 1970; the older one wins a conflict. `None` if it is not known:
    /// then the LAN that is already built wins.
    pub created: Option<i64>,
    /// The generation of its object.
    pub generation: Option<i64>,
    /// The LAN, or everything that is wrong with it.
    pub lan: Result<Lan, Mistaken>,
}

/// A declaration that cannot be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistaken {
    /// All mistakes in one text.
    pub message: String,
    /// The spokes that it lists nevertheless.
    pub spokes: BTreeSet<SpokeName>,
    /// The nodes that it names; `None` if it has an underlay for all others too, or cannot be read.
    pub nodes: Option<BTreeSet<String>>,
}

impl From<String> for Mistaken {
    fn from(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}
