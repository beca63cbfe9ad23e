use std::path::PathBuf;

use net_types::{Attach, IfName, MacvtapMode, Mtu, SpokeName};
use serde::{Deserialize, Serialize};

use crate::{LanKey, TapIndex};

/// The daemon's record of one spoke for the plugin: `/run/k8slan/spokes/<spoke>.json`.
///
/// Only the daemon of this node writes it; ADD and the other verbs read it. A reader ignores fields that it does not
/// know, so that a plugin works with a newer daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct SpokeRecord {
    /// The LAN that the spoke belongs to.
    pub lan: LanKey,
    /// The spoke; also the name of the veth end that carries the macvtap.
    pub spoke: SpokeName,
    /// The LAN's network namespace, `/run/netns/<ns>`.
    pub netns: PathBuf,
    /// The bridge in that namespace.
    pub bridge: IfName,
    /// The index that the spoke's macvtap has in the pod's namespace.
    pub tap_index: TapIndex,
    /// What the pod gets at its end.
    pub attach: Attach,
    /// The mode of the macvtap, if there is one.
    pub mode: MacvtapMode,
    /// The pod namespaces that may attach. `None`: all; empty: none.
    pub allowed_namespaces: Option<Vec<String>>,
    /// Whether the kubelet gives out this spoke; it then cannot be attached by its name alone.
    pub kubelet: bool,
    /// Whether the type `k8slanveth` may put the spoke's bare veth into a pod, whatever `attach` says.
    pub k8slanveth: bool,
    /// Whether a pod can be attached now.
    pub state: SpokeReadiness,
}

/// Whether the LAN of a spoke is ready on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpokeReadiness {
    /// The LAN is built. JSON: `"ready":true,"mtu":1426`.
    Ready {
        /// The MTU of the LAN and of every interface on it.
        mtu: Mtu,
    },
    /// The LAN is not built. JSON: `"ready":false,"reason":"…"`.
    NotReady {
        /// Why not, for the person who deploys the pod.
        reason: String,
    },
}

/// Why a text is not a spoke's record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not JSON, or a field has a wrong type or value.
    #[error("the record of a spoke is not readable")]
    Parse(#[source] serde_json::Error),
    /// It is the record of another spoke than its file's name says.
    #[error("the record of spoke {expected:?} says that it is of spoke {found:?}")]
    OtherSpoke {
        /// The spoke of the file's name.
        expected: String,
        /// The spoke of the record's text.
        found: String,
    },
}

impl SpokeRecord {
    /// The name of a spoke's file in the records' folder.
    #[must_use]
    pub fn file_name(spoke: &SpokeName) -> String {
        format!("{spoke}.json")
    }

    /// Parses the text of the record of `spoke`.
    ///
    /// # Errors
    /// Invalid JSON, missing or wrong fields, the record of another spoke.
    pub fn parse(spoke: &SpokeName, text: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(text).map_err(RecordError::Parse)?;
        if record.spoke != *spoke {
            return Err(RecordError::OtherSpoke {
                expected: spoke.to_string(),
                found: record.spoke.to_string(),
            });
        }
        Ok(record)
    }

    /// The record as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("strings, numbers and lists are always JSON");
        text.push(b'\n');
        text
    }

    /// Whether pods of a namespace may attach. `None` is a runtime that states none: it may only if every namespace
    /// may.
    #[must_use]
    pub fn allows(&self, namespace: Option<&str>) -> bool {
        let Some(allowed) = &self.allowed_namespaces else { return true };
        namespace.is_some_and(|namespace| allowed.iter().any(|entry| entry == namespace))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    lan: LanKey,
    spoke: SpokeName,
    netns: PathBuf,
    bridge: IfName,
    mtu: Option<Mtu>,
    tap_index: TapIndex,
    attach: Attach,
    mode: MacvtapMode,
    // Serde would accept a missing field as null, and null allows every namespace.
    #[serde(deserialize_with = "present")]
    allowed_namespaces: Option<Vec<String>>,
    kubelet: bool,
    // The records of an older daemon have no such field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    k8slanveth: bool,
    ready: bool,
    reason: Option<String>,
}

fn present<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer)
}

impl From<SpokeRecord> for Wire {
    fn from(record: SpokeRecord) -> Self {
        let (ready, mtu, reason) = match record.state {
            SpokeReadiness::Ready { mtu } => (true, Some(mtu), None),
            SpokeReadiness::NotReady { reason } => (false, None, Some(reason)),
        };
        Self {
            lan: record.lan,
            spoke: record.spoke,
            netns: record.netns,
            bridge: record.bridge,
            mtu,
            tap_index: record.tap_index,
            attach: record.attach,
            mode: record.mode,
            allowed_namespaces: record.allowed_namespaces,
            kubelet: record.kubelet,
            k8slanveth: record.k8slanveth,
            ready,
            reason,
        }
    }
}

impl TryFrom<Wire> for SpokeRecord {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let state = match (wire.ready, wire.mtu) {
            (true, Some(mtu)) => SpokeReadiness::Ready { mtu },
            (true, None) => return Err("a spoke that is ready has an mtu"),
            (false, _) => {
                let reason = wire.reason.unwrap_or_else(|| "no reason is stated".to_owned());
                SpokeReadiness::NotReady { reason }
            }
        };
        if !wire.netns.is_absolute() {
            return Err("netns must be an absolute path");
        }
        Ok(Self {
            lan: wire.lan,
            spoke: wire.spoke,
            netns: wire.netns,
            bridge: wire.bridge,
            tap_index: wire.tap_index,
            attach: wire.attach,
            mode: wire.mode,
            allowed_namespaces: wire.allowed_namespaces,
            kubelet: wire.kubelet,
            k8slanveth: wire.k8slanveth,
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"lan":"k8slan-system/lan-test","spoke":"pod1","netns":"/run/netns/knlvrf","bridge":"br2","mtu":1426,"tapIndex":1245789213,"attach":"macvtap","mode":"passthru","allowedNamespaces":null,"kubelet":false,"ready":true,"reason":null}"#;

    fn pod1() -> SpokeName {
        "pod1".parse().unwrap()
    }

    fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> Result<SpokeRecord, RecordError> {
        let mut json: serde_json::Value = serde_json::from_str(TEXT).unwrap();
        edit(&mut json);
        SpokeRecord::parse(&pod1(), json.to_string().as_bytes())
    }

    #[test]
    fn the_contracts_text_reads_and_writes_back() {
        let record = SpokeRecord::parse(&pod1(), TEXT.as_bytes()).unwrap();
        assert_eq!(record.state, SpokeReadiness::Ready { mtu: 1426.try_into().unwrap() });
        assert_eq!(String::from_utf8(record.to_json()).unwrap(), format!("{TEXT}\n"));
    }

    /// Of the programs before this version (`tests/tests/daemon/upgrade.rs`).
    #[test]
    fn a_record_of_the_version_before_reads() {
        let text = include_bytes!("../../../tests/fixtures/version-before/run/k8slan/spokes/v.json");
        let record = SpokeRecord::parse(&"v".parse().unwrap(), text).unwrap();
        assert_eq!((record.attach, record.tap_index.get()), (Attach::Veth, 1_768_025_413));
        assert!(record.allowed_namespaces.is_none() && !record.kubelet);
        assert_eq!(record.to_json(), text);
    }

    #[test]
    fn not_ready_carries_its_reason() {
        let record = edited(|json| {
            json["ready"] = false.into();
            json["mtu"] = serde_json::Value::Null;
            json["reason"] = "underlay eth1 is missing".into();
        })
        .unwrap();
        assert_eq!(record.state, SpokeReadiness::NotReady { reason: "underlay eth1 is missing".into() });
        assert_eq!(SpokeRecord::parse(&pod1(), &record.to_json()).unwrap(), record);
    }

    #[test]
    fn unknown_fields_are_ignored_and_needed_ones_are_needed() {
        assert!(edited(|json| json["later"] = 1.into()).is_ok());
        let fields =
            ["lan", "spoke", "netns", "bridge", "tapIndex", "attach", "mode", "kubelet", "ready", "mtu"];
        for field in fields.iter().chain(&["allowedNamespaces"]) {
            let result = edited(|json| {
                json.as_object_mut().unwrap().remove(*field);
            });
            assert!(result.is_err(), "{field}");
        }
    }

    #[test]
    fn nobody_may_take_the_veth_unless_the_record_says_so() {
        assert!(!edited(|_| ()).unwrap().k8slanveth);
        let record = edited(|json| json["k8slanveth"] = true.into()).unwrap();
        assert!(record.k8slanveth);
        assert_eq!(SpokeRecord::parse(&pod1(), &record.to_json()).unwrap(), record);
    }

    #[test]
    fn a_record_under_another_name_is_refused() {
        let error = SpokeRecord::parse(&"pod2".parse().unwrap(), TEXT.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "the record of spoke \"pod2\" says that it is of spoke \"pod1\"");
        assert!(edited(|json| json["netns"] = "run/netns/x".into()).is_err());
        assert!(edited(|json| json["tapIndex"] = 7.into()).is_err());
    }

    #[test]
    fn who_may_attach() {
        let with = |list: serde_json::Value| edited(|json| json["allowedNamespaces"] = list).unwrap();
        let all = with(serde_json::Value::Null);
        assert!(all.allows(None) && all.allows(Some("web")));
        let none = with(serde_json::json!([]));
        assert!(!none.allows(None) && !none.allows(Some("web")));
        let web = with(serde_json::json!(["web"]));
        assert!(!web.allows(None) && web.allows(Some("web")) && !web.allows(Some("webx")));
    }
}
