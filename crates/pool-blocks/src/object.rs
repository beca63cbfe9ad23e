//! The objects as the protocol sees them.

use std::fmt;

use net_types::AddrSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Key, NodeName, Owner};

/// The UID of an object: Kubernetes makes a new UUID for every object that is created, also under an old name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

impl Uid {
    /// That of no object.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// The UID with this number.
    #[must_use]
    pub const fn from_number(number: u128) -> Self {
        Self(number)
    }

    /// Parses the text form, 36 characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hyphens =
            text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        let digits = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        (hyphens && digits).then(|| u128::from_str_radix(&hex, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b, c, d, e) = (
            self.0 >> 96,
            self.0 >> 80 & 0xffff,
            self.0 >> 64 & 0xffff,
            self.0 >> 48 & 0xffff,
            self.0 & 0xffff_ffff_ffff,
        );
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is not a UID")))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:x}", self.0)
    }
}

/// An object's `metadata.resourceVersion`, compared for equality alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct ResourceVersion(pub u64);

impl ResourceVersion {
    /// Whatever it is by then: what the protocol without its protections asks for.
    pub(crate) const ANY: Self = Self(0);
}

/// A node that has a block, or on which the owner of a floating address may run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Holder {
    /// The `Node`'s name.
    pub node: NodeName,
    /// The `Node`'s UID.
    pub uid: Uid,
    /// Grows with every write by which the node takes the object again: an update that changes nothing would change no
    /// resourceVersion, and a late request from before would still fit.
    pub term: u64,
    /// Whether the leader found the `Node` gone or out of service: from then on, no read lets the node allocate.
    pub fenced: bool,
}

/// What a `LANBlock` or `LANAddress` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Spec {
    /// Whose address it is; a block has none.
    pub owner: Option<Owner>,
    /// The nodes: of a block exactly one.
    pub holders: Vec<Holder>,
    /// The addresses of a block that its node does not use, so that they can float.
    pub released: AddrSet,
    /// The nodes that used this as theirs when they found that it is not, after a restored backup or a deletion by hand.
    pub contested: Vec<NodeName>,
}

/// Whose an object is that cannot be read.
const UNREADABLE: &str = "somebody whose object cannot be read";

impl Spec {
    /// That of an object which is there and cannot be read: its name alone keeps others off.
    #[must_use]
    pub fn unreadable() -> Self {
        Self { owner: Some(UNREADABLE.into()), ..Self::default() }
    }

    /// Whether it can be read, and so be written.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner.as_str() != UNREADABLE)
    }

    /// What it says about this node.
    #[must_use]
    pub fn holder(&self, node: &NodeName) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.node == *node)
    }

    /// Who has it, for messages.
    #[must_use]
    pub fn holder_text(&self) -> String {
        let nodes: Vec<_> = self.holders.iter().map(|holder| holder.node.as_str()).collect();
        match (&self.owner, nodes.is_empty()) {
            (Some(owner), true) => owner.to_string(),
            (Some(owner), false) => format!("{owner} on {}", nodes.join(", ")),
            (None, _) => nodes.join(", "),
        }
    }

    /// The same with the nodes that contest it.
    #[must_use]
    pub fn users_text(&self) -> String {
        let contested = self.contested.iter().map(ToString::to_string);
        std::iter::once(self.holder_text()).chain(contested).collect::<Vec<_>>().join(", ")
    }
}

/// An object as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Object {
    /// Its kind and name.
    pub key: Key,
    /// Its UID.
    pub uid: Uid,
    /// Its version.
    pub version: ResourceVersion,
    /// What it says.
    pub spec: Spec,
}

/// What a `Node` says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its UID.
    pub uid: Uid,
    /// Whether it has the taint `node.kubernetes.io/out-of-service`: somebody says that the machine is off.
    pub out_of_service: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_read_back() {
        let text = "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b";
        assert_eq!(Uid::parse(text).unwrap().to_string(), text);
        for bad in ["", "0e4f1a2b3c4d4e5f8a9b0c1d2e3f4a5b", "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5g"] {
            assert_eq!(Uid::parse(bad), None, "{bad}");
        }
    }
}
