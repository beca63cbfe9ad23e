//! Options that a network's configuration and a pool file share.

use std::fmt;
use std::time::Duration;

use net_types::Probe;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::Order;

/// Who keeps an address while no container holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    /// Nobody: the lease ends with the attachment.
    #[default]
    No,
    /// The pod of that name.
    Pod,
    /// The virtual machine, while it exists.
    Vm,
}

/// Reservations as written: owner, then one or more addresses. Unlike in a map, a second entry of an owner is not
/// lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations(pub Vec<(String, Vec<String>)>);

/// How long an address is quarantined after another host answered a probe for it.
pub(crate) const DEFAULT_QUARANTINE: Duration = Duration::from_secs(600);

/// The longest quarantine that a network may set: a pod can answer probes, and must not take addresses out of use for
/// longer than a person needs to notice.
pub(crate) const MAX_QUARANTINE: Duration = Duration::from_secs(3600);

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "none",
            Self::Pod => "pod",
            Self::Vm => "vm",
        })
    }
}

impl<'de> Deserialize<'de> for Sticky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "sticky is one of none, pod, vm")]
        enum Written {
            Flag(bool),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Flag(false) => Ok(Self::No),
            Written::Name(name) if name == "none" => Ok(Self::No),
            Written::Name(name) if name == "pod" => Ok(Self::Pod),
            Written::Name(name) if name == "vm" => Ok(Self::Vm),
            Written::Flag(true) => Err(de::Error::custom("unknown sticky true: choose one of none, pod, vm")),
            Written::Name(name) => {
                Err(de::Error::custom(format!("unknown sticky {name:?}: choose one of none, pod, vm")))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.as_str() {
            "oldest" => Ok(Self::Oldest),
            "lowest" => Ok(Self::Lowest),
            _ => Err(de::Error::custom(format!("unknown order {name:?}: choose one of oldest, lowest"))),
        }
    }
}

/// Reads `probe`, of which only the quarantine is for this plugin.
pub(crate) fn probe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Probe>, D::Error> {
    let probe = Probe::parse(deserializer)?;
    match probe.and_then(|probe| probe.quarantine) {
        Some(quarantine) if quarantine > MAX_QUARANTINE => Err(de::Error::custom(
            "quarantine is too long: the maximum in a network is 1h, only a pool's file may set more",
        )),
        _ => Ok(probe),
    }
}

impl<'de> Deserialize<'de> for Reservations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Reservations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("owners, each with an address or a list of addresses")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(owner) = map.next_key::<String>()? {
                    entries.push((owner, map.next_value::<Addresses>()?.0));
                }
                Ok(Reservations(entries))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Reservations::default())
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

struct Addresses(Vec<String>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Addresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a list of addresses")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Addresses(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(address) = seq.next_element()? {
                    all.push(address);
                }
                Ok(Addresses(all))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reservation_is_seen() {
        let text = r#"{"a/b":"10.0.0.1","c/d":["10.0.0.2","fd00::2"],"a/b":"10.0.0.3"}"#;
        let Reservations(entries) = serde_json::from_str(text).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].1, ["10.0.0.2", "fd00::2"]);
    }
}
