//! What a node keeps.

use std::collections::BTreeMap;

use net_types::AddrSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{BootTime, Key, Owner, Uid};

/// The number of a write of the whole, ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskVersion(pub u64);

/// What survives a reboot, under `/var/lib/k8slan/blocks/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Disk {
    /// What the node holds, or stopped holding and has not been told to be gone.
    #[serde(with = "pairs")]
    pub records: BTreeMap<Key, Record>,
}

/// What is kept of one block or floating address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Record {
    /// The UID of the object by which it was claimed.
    pub uid: Uid,
    /// What may be done with it.
    pub phase: Phase,
    /// The addresses of a block that this node gave up, so that they can float.
    pub released: AddrSet,
    /// Whose floating address it is.
    pub owner: Option<Owner>,
}

/// What may be done with what is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Addresses are allocated from it.
    Held,
    /// Nothing is allocated from it any more, and its return is under way.
    Leaving,
    /// Another has it. Nothing is allocated from it; what was stays, and is told.
    Lost {
        /// Who has it.
        other: String,
    },
}

/// What survives a restart of the process and no reboot, under `/run/k8slan/blocks/`: until when what may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Run {
    /// The last read of the own `Node` that let the node allocate: its UID, and when the read was sent.
    pub node: Option<(Uid, BootTime)>,
    /// When the request was sent whose answer showed the object as this node's.
    #[serde(with = "pairs")]
    pub permits: BTreeMap<Key, BootTime>,
}

/// A map as a list of pairs: JSON has only texts as keys.
mod pairs {
    use super::*;

    pub(super) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<Key, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Key, V>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}
