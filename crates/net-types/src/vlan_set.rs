use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{self, MapAccess, SeqAccess, Visitor};

use crate::{OutOfRange, VlanId};

/// A set of VLAN IDs, as a trunk carries it.
///
/// Text is numbers and ranges with commas between them: `10,20,30-39`. Serde also takes what the
/// configurations of CNI plugins have: a number, or a list of numbers, texts, `{"id": 10}` and
/// `{"minID": 10, "maxID": 20}`. Each ID may be named once: naming it twice is a mistake somewhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VlanSet([u64; 64]);

/// Why a text is not a set of VLAN IDs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum VlanSetError {
    /// One ID is not a number or out of range.
    #[error(transparent)]
    Id(#[from] OutOfRange),
    #[error("VLAN range {0}-{1} is reversed: the smaller ID comes first")]
    Reversed(VlanId, VlanId),
    #[error("VLAN {0} is named twice: ranges must not overlap")]
    Overlap(VlanId),
    /// The entry is `{}`, or has `minID` without `maxID`.
    #[error("{0}: an entry is {{\"id\": …}} or {{\"minID\": …, \"maxID\": …}}")]
    Entry(&'static str),
}

impl VlanSet {
    /// The set without any ID.
    pub const EMPTY: Self = Self([0; 64]);

    /// All IDs, 1 to 4094.
    #[must_use]
    pub fn all() -> Self {
        Self::from(VlanId::MIN..=VlanId::MAX)
    }

    /// Whether the set has no ID.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// How many IDs the set has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether an ID is in the set.
    #[must_use]
    pub fn contains(&self, id: VlanId) -> bool {
        self.0[usize::from(id.get() / 64)] & bit(id) != 0
    }

    /// Adds an ID; false if it was in the set already.
    pub fn insert(&mut self, id: VlanId) -> bool {
        let new = !self.contains(id);
        self.0[usize::from(id.get() / 64)] |= bit(id);
        new
    }

    /// Removes an ID; false if it was not in the set.
    pub fn remove(&mut self, id: VlanId) -> bool {
        let was = self.contains(id);
        self.0[usize::from(id.get() / 64)] &= !bit(id);
        was
    }

    /// The IDs that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.with(other, |a, b| a | b)
    }

    /// The IDs of this that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.with(other, |a, b| a & !b)
    }

    /// The IDs that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.with(other, |a, b| a & b)
    }

    fn with(&self, other: &Self, word: impl Fn(u64, u64) -> u64) -> Self {
        let mut result = Self::EMPTY;
        for (at, to) in result.0.iter_mut().enumerate() {
            *to = word(self.0[at], other.0[at]);
        }
        result
    }

    /// The IDs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> {
        (VlanId::MIN.get()..=VlanId::MAX.get())
            .filter_map(|id| VlanId::try_from(u64::from(id)).ok())
            .filter(|&id| self.contains(id))
    }

    /// The fewest ranges that make up the set, in ascending order.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<VlanId>> {
        let mut ranges: Vec<RangeInclusive<VlanId>> = Vec::new();
        for id in self.iter() {
            match ranges.last_mut() {
                Some(last) if last.end().get() + 1 == id.get() => *last = *last.start()..=id,
                _ => ranges.push(id..=id),
            }
        }
        ranges
    }

    /// Adds a range of which no ID is in the set yet.
    fn add(&mut self, range: RangeInclusive<VlanId>) -> Result<(), VlanSetError> {
        if range.start() > range.end() {
            return Err(VlanSetError::Reversed(*range.start(), *range.end()));
        }
        let range = Self::from(range);
        match self.intersection(&range).iter().next() {
            Some(twice) => Err(VlanSetError::Overlap(twice)),
            None => {
                *self = self.union(&range);
                Ok(())
            }
        }
    }

    fn add_text(&mut self, text: &str) -> Result<(), VlanSetError> {
        for part in text.split(',') {
            let part = part.trim();
            match part.split_once('-') {
                Some((from, to)) => self.add(from.trim().parse()?..=to.trim().parse()?)?,
                None => {
                    let id: VlanId = part.parse()?;
                    self.add(id..=id)?;
                }
            }
        }
        Ok(())
    }
}

fn bit(id: VlanId) -> u64 {
    1 << (id.get() % 64)
}

impl From<VlanId> for VlanSet {
    fn from(id: VlanId) -> Self {
        Self::from(id..=id)
    }
}

impl From<RangeInclusive<VlanId>> for VlanSet {
    fn from(range: RangeInclusive<VlanId>) -> Self {
        let mut set = Self::EMPTY;
        for id in range.start().get()..=range.end().get() {
            set.0[usize::from(id / 64)] |= 1 << (id % 64);
        }
        set
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(ids: I) -> Self {
        let mut set = Self::EMPTY;
        for id in ids {
            set.insert(id);
        }
        set
    }
}

impl Default for VlanSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl FromStr for VlanSet {
    type Err = VlanSetError;

    /// The empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, VlanSetError> {
        let mut set = Self::EMPTY;
        if !text.trim().is_empty() {
            set.add_text(text)?;
        }
        Ok(set)
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.ranges().iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (from, to) if from == to => write!(f, "{comma}{from}")?,
                (from, to) => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VlanSet({self})")
    }
}

impl serde::Serialize for VlanSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for VlanSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut set = Self::EMPTY;
        deserializer.deserialize_any(Adder { set: &mut set, list: true })?;
        Ok(set)
    }
}

/// Deserialises one entry and adds its IDs to a set.
struct Adder<'a> {
    set: &'a mut VlanSet,
    /// Whether a list is accepted (not inside another list).
    list: bool,
}

impl<'de> Visitor<'de> for Adder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "VLAN IDs: a number, text like \"10,20,30-39\", {\"id\": …} or {\"minID\": …, \"maxID\": …}",
        )?;
        if self.list { f.write_str(", or a list of these") } else { Ok(()) }
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<(), E> {
        let id = VlanId::try_from(id).map_err(E::custom)?;
        self.set.add(id..=id).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, id: i64) -> Result<(), E> {
        match u64::try_from(id) {
            Ok(id) => self.visit_u64(id),
            // VlanId's own parser has the error message.
            Err(_) => id.to_string().parse::<VlanId>().map(drop).map_err(E::custom),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if self.list && text.trim().is_empty() {
            return Ok(());
        }
        self.set.add_text(text).map_err(E::custom)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if self.list { Ok(()) } else { Err(E::invalid_type(de::Unexpected::Unit, &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.list {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        while list.next_element_seed(Adder { set: &mut *self.set, list: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entry: A) -> Result<(), A::Error> {
        let (mut id, mut min, mut max) = (None, None, None);
        while let Some(key) = entry.next_key::<String>()? {
            let place = match key.as_str() {
                "id" => &mut id,
                "minID" => &mut min,
                "maxID" => &mut max,
                other => return Err(de::Error::unknown_field(other, &["id", "minID", "maxID"])),
            };
            *place = entry.next_value::<Option<VlanId>>()?;
        }
        let add = |set: &mut VlanSet, range| set.add(range).map_err(de::Error::custom);
        let wrong = |what| Err(de::Error::custom(VlanSetError::Entry(what)));
        match (min, max) {
            (Some(min), Some(max)) => add(self.set, min..=max)?,
            (Some(_), None) => return wrong("maxID is missing"),
            (None, Some(_)) => return wrong("minID is missing"),
            (None, None) if id.is_none() => return wrong("the entry is empty"),
            (None, None) => {}
        }
        id.map_or(Ok(()), |id| add(self.set, id..=id))
    }
}

impl<'de> de::DeserializeSeed<'de> for Adder<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> VlanSet {
        text.parse().unwrap()
    }

    #[test]
    fn every_way_to_write_a_trunk() {
        for json in [
            r#""10,20,30-39""#,
            r#"[10, 20, "30-39"]"#,
            r#"[{"id": 10}, {"id": 20}, {"minID": 30, "maxID": 39}]"#,
            r#"[{"id": 10, "minID": 30, "maxID": 39}, 20]"#,
            r#"["10,20", {"minID": 30, "maxID": 39, "id": null}]"#,
        ] {
            let parsed: VlanSet = serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"));
            assert_eq!(parsed.to_string(), "10,20,30-39", "{json}");
        }
        assert_eq!(serde_json::from_str::<VlanSet>("40").unwrap(), set("40"));
        for empty in ["[]", "\"\"", "null"] {
            assert_eq!(serde_json::from_str::<VlanSet>(empty).unwrap(), VlanSet::EMPTY);
        }
        assert_eq!(set("1-4094"), VlanSet::all());
        assert_eq!(VlanSet::all().len(), 4094);
    }

    #[test]
    fn each_mistake_has_its_message() {
        for (json, says) in [
            ("0", "VLAN ID 0 is out of range: it must be 1 to 4094"),
            ("[4095]", "VLAN ID 4095 is out of range"),
            ("[-1]", "VLAN ID -1 is out of range"),
            (r#""20-10""#, "VLAN range 20-10 is reversed"),
            (r#"[{"minID": 20, "maxID": 10}]"#, "VLAN range 20-10 is reversed"),
            (r#"["10-20", 15]"#, "VLAN 15 is named twice"),
            (r#"[{"minID": 20}]"#, "maxID is missing"),
            (r#"[{"maxID": 20}]"#, "minID is missing"),
            ("[{}]", "the entry is empty"),
            (r#"[{"ids": 3}]"#, "unknown field `ids`"),
            ("[[10]]", "invalid type: sequence"),
            ("[null]", "invalid type: null"),
            (r#""10,,20""#, "VLAN ID  is out of range"),
            (r#""a""#, "VLAN ID a is out of range"),
            (r#""10-20-30""#, "VLAN ID 20-30 is out of range"),
            ("1.5", "invalid type: floating point"),
        ] {
            let error = serde_json::from_str::<VlanSet>(json).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    fn any_set() -> impl Strategy<Value = VlanSet> {
        proptest::collection::vec((1_u16..=4094, 0_u16..300), 0..12).prop_map(|ranges| {
            ranges
                .into_iter()
                .flat_map(|(from, len)| from..=(from + len).min(4094))
                .filter_map(|id| VlanId::try_from(u64::from(id)).ok())
                .collect()
        })
    }

    proptest! {
        #[test]
        fn text_reads_back(a in any_set()) {
            prop_assert_eq!(a.to_string().parse::<VlanSet>(), Ok(a.clone()));
            let json = serde_json::to_string(&a).unwrap();
            prop_assert_eq!(serde_json::from_str::<VlanSet>(&json).unwrap(), a);
        }

        #[test]
        fn ranges_are_the_set_and_apart(a in any_set()) {
            let ranges = a.ranges();
            prop_assert_eq!(ranges.iter().cloned().map(VlanSet::from).fold(VlanSet::EMPTY, |x, y| x.union(&y)), a);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end().get() + 1 < pair[1].start().get());
            }
        }

        #[test]
        fn it_is_a_set(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.without(&b).union(&a.intersection(&b)), a.clone());
            prop_assert_eq!(a.union(&b).len() + a.intersection(&b).len(), a.len() + b.len());
            prop_assert!(a.without(&b).intersection(&b).is_empty());
            prop_assert_eq!(a.iter().count(), a.len());
        }

        #[test]
        fn no_text_makes_the_parser_stumble(text in "[0-9, -]{0,20}|.{0,10}") {
            if let Ok(set) = text.parse::<VlanSet>() {
                prop_assert_eq!(set.to_string().parse::<VlanSet>(), Ok(set));
            }
        }
    }
}
