use std::collections::{BTreeMap, BTreeSet};

use lan::{Lan, LanKey};
use net_types::SpokeName;
use proto::published::Note;

/// The LANs that somebody asked for, from wherever they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// By their key.
    pub lans: BTreeMap<LanKey, Declaration>,
    /// What could not be read. While there is anything, a LAN that is not in `lans` may still be
    /// wanted, and is left as it stands.
    pub unread: Vec<Note>,
    /// What was left out on purpose.
    pub ignored: Vec<Note>,
}

/// One LAN that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Where it stands, for people.
    pub source: String,
    /// When its object was created, in seconds since 1970; the older one wins a conflict. `None` where
    /// nobody knows: what is built already wins.
    pub created: Option<i64>,
    /// Which version of its object this is.
    pub generation: Option<i64>,
    /// What it is, or everything that is wrong with it.
    pub lan: Result<Lan, Mistaken>,
}

/// A declaration that cannot be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistaken {
    /// Everything that is wrong with it.
    pub message: String,
    /// The spokes that it names all the same.
    pub spokes: BTreeSet<SpokeName>,
    /// The nodes that it names; `None` where it has an underlay for all others too, or cannot be read.
    pub nodes: Option<BTreeSet<String>>,
}

impl From<String> for Mistaken {
    fn from(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}
