use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// Finds the keys of a YAML document that stand there without a value (`policy:`, `exclude: ~`), however deep.
///
/// An administrator who writes such a key means "nothing", a parser takes it for "absent", and the default of a guard is
/// that everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysWithoutValue(Vec<String>);

impl KeysWithoutValue {
    /// What is wrong with the first one below (and at) `section`, or in all of the document, and what to do.
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
        Ok(match Place::deserialize(deserializer)? {
            Place::Nothing => Self(vec![String::new()]),
            Place::Value(below) => Self(below),
        })
    }
}

/// What stands at a place.
enum Place {
    Nothing,
    /// A value, with the keys below that have none.
    Value(Vec<String>),
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyPlace)
    }
}

struct AnyPlace;

impl<'de> Visitor<'de> for AnyPlace {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Place, E> {
        Ok(Place::Nothing)
    }

    fn visit_none<E>(self) -> Result<Place, E> {
        Ok(Place::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Place, D::Error> {
        Place::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Place, E> {
        Ok(Place::Value(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Place, A::Error> {
        let mut all = Vec::new();
        let mut nothing = false;
        while let Some(place) = seq.next_element()? {
            match place {
                Place::Nothing => nothing = true,
                Place::Value(below) => all.extend(below),
            }
        }
        // An element has no key: it is named by that of its list.
        Ok(if nothing { Place::Nothing } else { Place::Value(all) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Place, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match map.next_value()? {
                Place::Nothing => all.push(key),
                Place::Value(below) => all.extend(below.into_iter().map(|below| format!("{key}.{below}"))),
            }
        }
        Ok(Place::Value(all))
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
