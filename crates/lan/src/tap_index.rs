use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use net_types::{IfName, SpokeName};
use serde::{Deserialize, Serialize};

/// The interface index of a spoke's macvtap, 2^30 to 2^31-1; its device node is `/dev/tap<index>`.
///
/// The kernel numbers other links from 1 upwards, so that this half of the range (an interface index is a positive
/// `int`) never collides with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct TapIndex(u32);

/// A number outside the range of tap indices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tap index {0} is out of range: it must be {min} to {max}", min = TapIndex::MIN, max = TapIndex::MAX)]
pub struct TapIndexError(u32);

impl TapIndex {
    /// The smallest index, 2^30, far above those that the kernel assigns.
    pub const MIN: u32 = 1 << 30;
    /// The largest index, the largest `int`.
    pub const MAX: u32 = (1 << 31) - 1;

    /// The index as a plain integer.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The name of this spoke's port on the bridge, `+` and the index as eight hexadecimal digits.
    ///
    /// A spoke's name cannot contain a `+`, so the names of a spoke's two ends never collide.
    #[must_use]
    pub fn port_name(self) -> IfName {
        // Nine ASCII characters without '/' and ':' are a valid link name for every index.
        format!("+{:08x}", self.0).parse().expect("a '+' and eight hexadecimal digits are a link name")
    }

    /// Whether [`TapIndex::port_name`] could make this name.
    #[must_use]
    pub fn is_port_name(name: &str) -> bool {
        name.strip_prefix('+').is_some_and(|digits| {
            digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    }

    fn next(self) -> Self {
        Self(if self.0 == Self::MAX { Self::MIN } else { self.0 + 1 })
    }
}

impl TryFrom<u32> for TapIndex {
    type Error = TapIndexError;

    fn try_from(index: u32) -> Result<Self, Self::Error> {
        if (Self::MIN..=Self::MAX).contains(&index) { Ok(Self(index)) } else { Err(TapIndexError(index)) }
    }
}

impl From<TapIndex> for u32 {
    fn from(index: TapIndex) -> Self {
        index.0
    }
}

impl fmt::Display for TapIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The tap index of each spoke on this node, for ever.
///
/// As JSON an object of spoke names and numbers, `{"pod1":1245789213}`. An index is never given to another spoke,
/// even if the LAN of the first is deleted: a container may still hold a device node with that number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<SpokeName, TapIndex>", into = "BTreeMap<SpokeName, TapIndex>")]
pub struct TapIndices {
    by_spoke: BTreeMap<SpokeName, TapIndex>,
    taken: BTreeSet<TapIndex>,
}

/// Two spokes have one index: the second would get the first one's traffic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spokes {first:?} and {second:?} have the same tap index {index}")]
pub struct SharedTapIndex {
    first: String,
    second: String,
    index: TapIndex,
}

impl TapIndices {
    /// The index of a spoke; if it has none yet, it gets one.
    ///
    /// Without a collision it depends only on the name, so that different nodes mostly agree and a lost file does
    /// little harm.
    pub fn assign(&mut self, spoke: &SpokeName) -> TapIndex {
        if let Some(index) = self.by_spoke.get(spoke) {
            return *index;
        }
        let mut index = hashed(spoke);
        while self.taken.contains(&index) {
            index = index.next();
        }
        self.by_spoke.insert(spoke.clone(), index);
        self.taken.insert(index);
        index
    }

    /// The index of a spoke, if it has one.
    #[must_use]
    pub fn get(&self, spoke: &SpokeName) -> Option<TapIndex> {
        self.by_spoke.get(spoke).copied()
    }

    /// The spoke whose port has this name.
    #[must_use]
    pub fn spoke_of_port(&self, name: &str) -> Option<&SpokeName> {
        let digits = name.strip_prefix('+').filter(|_| TapIndex::is_port_name(name))?;
        let index = u32::from_str_radix(digits, 16).ok()?;
        self.by_spoke.iter().find(|(_, own)| own.0 == index).map(|(spoke, _)| spoke)
    }

    /// How many spokes have an index.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_spoke.len()
    }

    /// Whether no spoke has an index.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_spoke.is_empty()
    }
}

/// FNV-1a (64 bits) folded into the range: it must never change, and the standard library's hashers may.
fn hashed(spoke: &SpokeName) -> TapIndex {
    let hash = spoke.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = (hash ^ (hash >> 32)) as u32;
    TapIndex(TapIndex::MIN | (folded & (TapIndex::MIN - 1)))
}

impl TryFrom<BTreeMap<SpokeName, TapIndex>> for TapIndices {
    type Error = SharedTapIndex;

    fn try_from(by_spoke: BTreeMap<SpokeName, TapIndex>) -> Result<Self, Self::Error> {
        let mut owners = BTreeMap::new();
        for (spoke, index) in &by_spoke {
            if let Some(first) = owners.insert(*index, spoke) {
                return Err(SharedTapIndex {
                    first: first.to_string(),
                    second: spoke.to_string(),
                    index: *index,
                });
            }
        }
        let taken = owners.into_keys().collect();
        Ok(Self { by_spoke, taken })
    }
}

impl From<TapIndices> for BTreeMap<SpokeName, TapIndex> {
    fn from(indices: TapIndices) -> Self {
        indices.by_spoke
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spoke(name: &str) -> SpokeName {
        name.parse().unwrap()
    }

    #[test]
    fn the_hash_never_changes() {
        let mut indices = TapIndices::default();
        assert_eq!(indices.assign(&spoke("pod1")).get(), 1_670_875_530);
        assert_eq!(indices.assign(&spoke("pod2")).get(), 1_670_875_703);
    }

    #[test]
    fn a_collision_takes_the_next_number_and_keeps_it() {
        let wanted = hashed(&spoke("pod1"));
        let mut indices =
            TapIndices::try_from(BTreeMap::from([(spoke("other"), wanted), (spoke("more"), wanted.next())]))
                .unwrap();
        let index = indices.assign(&spoke("pod1"));
        assert_eq!(index, wanted.next().next());
        let text = serde_json::to_string(&indices).unwrap();
        let mut back: TapIndices = serde_json::from_str(&text).unwrap();
        assert_eq!(back, indices);
        assert_eq!(back.assign(&spoke("pod1")), index);
        assert_eq!(back.spoke_of_port(index.port_name().as_str()), Some(&spoke("pod1")));
        assert_eq!(back.spoke_of_port("pod1"), None);
    }

    #[test]
    fn probing_wraps_at_the_end_of_the_range() {
        assert_eq!(TapIndex(TapIndex::MAX).next().get(), TapIndex::MIN);
    }

    #[test]
    fn a_file_with_a_shared_or_strange_index_is_refused() {
        let error =
            serde_json::from_str::<TapIndices>(r#"{"a":1073741824,"b":1073741824}"#).unwrap_err().to_string();
        assert!(error.contains("\"a\" and \"b\" have the same tap index 1073741824"), "{error}");
        assert!(serde_json::from_str::<TapIndices>(r#"{"a":7}"#).is_err());
        assert!(serde_json::from_str::<TapIndices>(r#"{"a/b":1073741824}"#).is_err());
    }

    #[test]
    fn port_names_are_recognised() {
        let port = TapIndex(0x4a3b_2c1d).port_name();
        assert_eq!(port.as_str(), "+4a3b2c1d");
        assert!(TapIndex::is_port_name(port.as_str()));
        for other in ["pod1", "+", "+4a3b2c1", "+4A3B2C1D", "+4a3b2c1d0"] {
            assert!(!TapIndex::is_port_name(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn indices_are_unique_in_range_and_kept(names in proptest::collection::vec("[a-z0-9]{1,3}x", 1..200)) {
            let mut indices = TapIndices::default();
            let first: BTreeMap<_, _> = names.iter().map(|n| (n.clone(), indices.assign(&spoke(n)))).collect();
            let distinct: BTreeSet<_> = first.values().collect();
            prop_assert_eq!(distinct.len(), first.len());
            for (name, index) in &first {
                prop_assert!((TapIndex::MIN..=TapIndex::MAX).contains(&index.get()));
                prop_assert_eq!(indices.assign(&spoke(name)), *index);
            }
        }
    }
}
