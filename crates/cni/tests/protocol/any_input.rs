//! Whatever stands in the environment and on standard input: one document or nothing, and no panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use cni::{Environment, Verb, dispatch};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::echo::Echo;

const NAMES: [&str; 7] =
    ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "PATH"];

/// A value that is often right, so that all verbs are reached.
fn value(name: &'static str) -> BoxedStrategy<OsString> {
    let good: &[&str] = match name {
        "CNI_COMMAND" => &["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"],
        "CNI_NETNS" => &["/proc/self/ns/uts", "/proc/self/ns/net", "/run/netns/none"],
        "CNI_ARGS" => &["IgnoreUnknown=1;K8S_POD_NAME=p", "MAC=02:00:00:00:00:01;IP=10.0.0.1/24,::1", "A=1"],
        // Nothing may be found there.
        "CNI_PATH" | "PATH" => return prop_oneof![Just("/nowhere".into()), Just(OsString::new())].boxed(),
        _ => &["c1"],
    };
    prop_oneof![
        4 => proptest::sample::select(good).prop_map(OsString::from),
        1 => "[A-Za-z0-9=;,:/. -]{0,24}".prop_map(OsString::from),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(OsString::from_vec),
    ]
    .boxed()
}

fn environment() -> impl Strategy<Value = Vec<(&'static str, OsString)>> {
    let variable = proptest::sample::select(&NAMES[..])
        .prop_flat_map(|name| value(name).prop_map(move |value| (name, value)));
    let all: Vec<_> = NAMES.iter().map(|name| value(name).prop_map(|value| (*name, value)).boxed()).collect();
    prop_oneof![3 => all, 1 => proptest::collection::vec(variable, 0..9)]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "(0\\.3\\.1|1\\.1\\.0|10\\.0\\.0\\.1(/24)?|fd00::1/64|02:00:00:00:00:01|.{0,12})"
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = "(cniVersion|name|mac|ips|address|gateway|interface|interfaces|routes|dst|gw|dns|type|cni|domain|containerID|ifname|mtu|.{0,5})";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A right document with some fields replaced.
fn document() -> impl Strategy<Value = String> {
    let keys = [
        "cniVersion",
        "name",
        "type",
        "ipam",
        "dns",
        "capabilities",
        "runtimeConfig",
        "args",
        "prevResult",
        "cni.dev/valid-attachments",
        "mtu",
        "fail",
        "other",
    ];
    let changes = proptest::collection::vec((proptest::sample::select(keys.to_vec()), any_json()), 0..4);
    let version = proptest::sample::select(vec!["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.1.0"]);
    (version, changes).prop_map(|(version, changes)| {
        let mut document = json!({"cniVersion": version, "name": "n", "prevResult": {}});
        for (key, value) in changes {
            document[key] = value;
        }
        document.to_string()
    })
}

fn stdin() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => document().prop_map(String::into_bytes),
        // Cut off, or with a byte changed.
        2 => (document(), any::<proptest::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            if byte < 128 { bytes.truncate(at) } else { bytes[at] = byte }
            bytes
        }),
        1 => any_json().prop_map(|json| json.to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn one_document_or_nothing(variables in environment(), stdin in stdin()) {
        let verb = variables.iter().find(|(name, _)| *name == "CNI_COMMAND")
            .and_then(|(_, value)| Verb::parse(value.to_str()?));
        let answer = dispatch(&Echo, variables.iter().cloned().collect::<Environment>(), &stdin[..]);
        if answer.success {
            let verb = verb.expect("success without a verb");
            prop_assert_eq!(answer.stdout.is_empty(), !matches!(verb, Verb::Add | Verb::Version));
        }
        if !answer.stdout.is_empty() || !answer.success {
            let document: Value = serde_json::from_slice(&answer.stdout).unwrap();
            prop_assert_eq!(document.get("code").is_some(), !answer.success);
            prop_assert!(document["cniVersion"].is_string());
            if !answer.success {
                prop_assert!(document["code"].as_u64() > Some(0));
                prop_assert!(!document["msg"].as_str().unwrap().is_empty());
            }
        }
    }
}
