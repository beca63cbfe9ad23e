use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// Finds the first key of a YAML document that stands there without a value (`policy:`, `exclude: ~`), however deep.
///
/// An administrator who writes such a key means "nothing", a parser takes it for "absent", and the default of a guard is
/// that everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyWithoutValue(Option<String>);

impl KeyWithoutValue {
    /// The first such key, with those around it: `nodes.worker1`.
    #[must_use]
    pub fn find(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// What is wrong, and what to do.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        let key = self.find()?;
        let advice = match key {
            "allowedNamespaces" => "leave it out for all namespaces, write [] for none",
            "policy" => "leave it out to allow everything, write {} to allow nothing",
            _ => "give it one, or leave it out for its default",
        };
        Some(format!("{key} stands there without a value: {advice}"))
    }
}

impl<'de> Deserialize<'de> for KeyWithoutValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Place::deserialize(deserializer)? {
            Place::Value => Self(None),
            Place::None(path) => Self(Some(path)),
        })
    }
}

/// What stands at a place.
enum Place {
    Value,
    /// No value there, or below, at this path.
    None(String),
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
        Ok(Place::None(String::new()))
    }

    fn visit_none<E>(self) -> Result<Place, E> {
        Ok(Place::None(String::new()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Place, D::Error> {
        Place::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_str<E>(self, _: &str) -> Result<Place, E> {
        Ok(Place::Value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Place, A::Error> {
        let mut first = Place::Value;
        while let Some(place) = seq.next_element()? {
            if let (Place::Value, Place::None(_)) = (&first, &place) {
                first = place;
            }
        }
        Ok(first)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Place, A::Error> {
        let mut first = Place::Value;
        while let Some(key) = map.next_key::<String>()? {
            let place = map.next_value()?;
            if let (Place::Value, Place::None(below)) = (&first, place) {
                first = Place::None(if below.is_empty() { key } else { format!("{key}.{below}") });
            }
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_any_spelling_of_nothing() {
        let find = |text: &str| {
            let found: KeyWithoutValue = serde_saphyr::from_str(text).unwrap();
            found.find().map(str::to_owned)
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
    }
}
