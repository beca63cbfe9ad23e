use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// Finds the keys of a YAML document that have no value (`policy:`, `exclude: ~`), at any depth.
///
/// An administrator who writes such a key means "nothing", but a parser takes it for "absent", and without a policy
/// everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysWithoutValue(Vec<String>);

impl KeysWithoutValue {
    /// An error about the first such key at or below `section`, or in the whole document.
    #[must_use]
    pub fn message(&self, section: Option<&str>) -> Option<String> {
        let within = |key: &&String| section.is_none_or(|section| key.split('.').next() == Some(section));
        let key = self.0.iter().find(within)?;
        let advice = match key.as_str() {
            "allowedNamespaces" => "leave it out for all namespaces, write [] for none",
            "policy" => "leave it out to allow everything, write {} to allow nothing",
            _ => "give it one, or leave it out for its default",
        };
        Some(format!("{key} stands there without a value: {advice}"))
    }
}

impl<'de> Deserialize<'de> for KeysWithoutValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match ValueAt::deserialize(deserializer)? {
            ValueAt::Nothing => Self(vec![String::new()]),
            ValueAt::Value(below) => Self(below),
        })
    }
}

/// The value at one position of the document.
enum ValueAt {
    Nothing,
    /// A value, with the keys below it that have none.
    Value(Vec<String>),
}

impl<'de> Deserialize<'de> for ValueAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyPlace)
    }
}

struct AnyPlace;

impl<'de> Visitor<'de> for AnyPlace {
    type Value = ValueAt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<ValueAt, E> {
        Ok(ValueAt::Nothing)
    }

    fn visit_none<E>(self) -> Result<ValueAt, E> {
        Ok(ValueAt::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<ValueAt, D::Error> {
        ValueAt::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_i128<E>(self, _: i128) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_u128<E>(self, _: u128) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<ValueAt, E> {
        Ok(ValueAt::Value(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ValueAt, A::Error> {
        let mut all = Vec::new();
        let mut nothing = false;
        while let Some(place) = seq.next_element()? {
            match place {
                ValueAt::Nothing => nothing = true,
                ValueAt::Value(below) => all.extend(below),
            }
        }
        // An element has no key: it is reported with its list's.
        Ok(if nothing { ValueAt::Nothing } else { ValueAt::Value(all) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueAt, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match map.next_value()? {
                ValueAt::Nothing => all.push(key),
                ValueAt::Value(below) => all.extend(below.into_iter().map(|below| format!("{key}.{below}"))),
            }
        }
        Ok(ValueAt::Value(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_any_spelling_of_nothing() {
        let find = |text: &str| {
            let found: KeysWithoutValue = serde_saphyr::from_str(text).unwrap();
            found.0.first().cloned()
        };
        for nothing in ["", " ~", " null", " Null", " NULL", " # none yet", " !!null"] {
            assert_eq!(
                find(&format!("a: 1\npolicy:{nothing}\nb: 2\n")).as_deref(),
                Some("policy"),
                "{nothing:?}"
            );
            let deep = find(&format!("a:\n- b: 1\n  c:{nothing}\n"));
            assert_eq!(deep.as_deref(), Some("a.c"), "{nothing:?}");
        }
        assert_eq!(find("a: [1, ~]").as_deref(), Some("a"));
        assert_eq!(find("a: {b, c: 1}").as_deref(), Some("a.b"));
        for text in
            ["a: ''", "a: \"null\"", "a: []", "a: {}", "a: 0", "a: [no, 1.5, -3, 'x']", "a: {b: {c: []}}"]
        {
            assert_eq!(find(text), None, "{text}");
        }
        let two: KeysWithoutValue = serde_saphyr::from_str("a:\nb: {c: , d: 1}\n").unwrap();
        assert!(
            two.message(None).unwrap().starts_with("a stands")
                && two.message(Some("b")).unwrap().starts_with("b.c stands")
        );
        assert_eq!(two.message(Some("c")), None);
    }
}
