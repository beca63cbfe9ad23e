//! What the API server takes of pools, by the schemas and rules that it gets.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::{BTreeMap, BTreeSet};

use kube::core::cel::Validator;
use lan::pool::{LanPoolSpec, LanReservationSpec, PoolOrder, PoolRange, PoolSticky, crds};
use serde_json::{Value, json};

/// The schema of a kind.
fn schema(kind: &str) -> Value {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let crd = serde_json::to_value(crd).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn broken(kind: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(&schema(kind), new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn pool(spec: Value) -> Value {
    json!({ "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": "office" }, "spec": spec })
}

/// What the API server fills in.
fn with_defaults(spec: Value) -> Value {
    let parsed: LanPoolSpec = serde_json::from_value(spec).unwrap();
    pool(serde_json::to_value(parsed).unwrap())
}

#[test]
fn kinds_are_in_one_category_and_have_no_short_name() {
    let mut names = BTreeMap::new();
    for crd in crds() {
        let crd_names = crd.spec.names;
        assert_eq!(crd_names.categories.as_deref(), Some(&["k8slan".to_owned()][..]), "{}", crd_names.kind);
        assert!(crd_names.short_names.is_none_or(|short| short.is_empty()), "{}", crd_names.kind);
        names.insert(crd_names.plural, crd.spec.scope);
    }
    let expected = [
        ("lanaddresses", "Cluster"),
        ("lanblocks", "Cluster"),
        ("lanpoolnodes", "Cluster"),
        ("lanpools", "Cluster"),
        ("lanreservations", "Namespaced"),
    ];
    assert_eq!(names, expected.map(|(name, scope)| (name.to_owned(), scope.to_owned())).into());
}

#[test]
fn every_spec_is_bounded_and_told() {
    fn walk(schema: &Value, path: &str) {
        let bound = match schema["type"].as_str().unwrap_or_else(|| panic!("{path} has no type")) {
            "string" => schema["maxLength"].is_u64() || schema["enum"].is_array(),
            "array" => schema["maxItems"].is_u64(),
            "object" => schema["properties"].is_object() || schema["maxProperties"].is_u64(),
            "integer" => schema["minimum"].is_number() && schema["maximum"].is_number(),
            "boolean" => true,
            other => panic!("{path} is a {other}"),
        };
        assert!(bound, "{path} has no bound, so no CEL rule may walk it");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{path}.{name} says nothing");
            walk(property, &format!("{path}.{name}"));
        }
        for inner in ["items", "additionalProperties"].into_iter().filter(|inner| schema[inner].is_object()) {
            walk(&schema[inner], &format!("{path}[]"));
        }
    }
    for kind in ["LANPool", "LANReservation", "LANBlock", "LANAddress", "LANPoolNode"] {
        walk(&schema(kind)["properties"]["spec"], kind);
    }
}

#[test]
fn five_lines_make_a_pool() {
    let spec: LanPoolSpec = serde_json::from_value(json!({ "subnets": ["192.168.1.0/24"] })).unwrap();
    assert_eq!(
        (spec.sticky, spec.order, spec.cooldown.as_str()),
        (PoolSticky::Auto, PoolOrder::Oldest, "1m")
    );
    let schema = &schema("LANPool")["properties"]["spec"]["properties"];
    assert_eq!(
        (&schema["sticky"]["default"], &schema["cooldown"]["default"]),
        (&json!("Auto"), &json!("1m"))
    );
    assert_eq!(broken("LANPool", &with_defaults(json!({ "subnets": ["192.168.1.0/24"] })), None), [""; 0]);
    let short: LanReservationSpec = serde_json::from_value(json!({ "pool": "office" })).unwrap();
    assert_eq!((short.address, short.owner), (None, None));
}

#[test]
fn mistakes_are_told() {
    let good = json!({ "subnets": ["192.168.1.0/24"] });
    let ranges = json!([{ "subnet": "10.0.0.0/24" }]);
    for (edit, message) in [
        (json!({ "ranges": ranges }), "either subnets or ranges"),
        (json!({ "subnets": null }), "either subnets or ranges"),
        (
            json!({ "allowedNamespaces": ["a"], "namespaceSelector": { "team": "a" } }),
            "either allowedNamespaces or",
        ),
        (
            json!({ "nodes": { "worker1": ["192.168.1.0/26"] }, "nodeSelector": { "a": "b" } }),
            "leave nodeSelector out",
        ),
        (json!({ "nodes": { "worker1": ["192.168.1.0/26"] }, "blockSize": 16 }), "leave blockSize out"),
        (json!({ "inventory": true, "blockSize": 16 }), "an inventory hands out nothing"),
        (json!({ "blockSize": 24 }), "a power of two"),
    ] {
        let mut spec = good.clone();
        for (field, value) in edit.as_object().unwrap() {
            match value {
                Value::Null => drop(spec.as_object_mut().unwrap().remove(field)),
                value => spec[field] = value.clone(),
            }
        }
        let found = broken("LANPool", &with_defaults(spec), None);
        assert!(found.len() == 1 && found[0].contains(message), "{message}: {found:?}");
    }
    let long = json!({ "metadata": { "name": "p".repeat(64) }, "spec": with_defaults(good)["spec"] });
    let found = broken("LANPool", &long, None);
    assert!(found.len() == 1 && found[0].contains("63 characters"), "{found:?}");
}

#[test]
fn what_blocks_are_named_by_stays() {
    let of_size = |size: Option<i64>| with_defaults(json!({ "subnets": ["10.0.0.0/16"], "blockSize": size }));
    for (before, after) in [(None, Some(16)), (Some(16), None), (Some(16), Some(32))] {
        let found = broken("LANPool", &of_size(after), Some(&of_size(before)));
        assert!(
            found.len() == 1 && found[0].contains("blockSize cannot be changed"),
            "{before:?} {after:?}: {found:?}"
        );
    }
    let good = json!({ "subnets": ["10.0.0.0/16"] });
    let parts = json!({ "subnets": ["10.0.0.0/16"], "nodes": { "worker1": ["10.0.0.0/24"] } });
    let inventory = json!({ "subnets": ["10.0.0.0/16"], "inventory": true });
    for (other, message) in
        [(parts, "nodes can neither be added nor"), (inventory, "inventory cannot be changed")]
    {
        let pools = [with_defaults(good.clone()), with_defaults(other)];
        for [before, after] in [[&pools[0], &pools[1]], [&pools[1], &pools[0]]] {
            let found = broken("LANPool", after, Some(before));
            assert!(found.len() == 1 && found[0].contains(message), "{found:?}");
        }
    }
    let wider = with_defaults(json!({ "subnets": ["10.0.0.0/15"], "blockSize": 16 }));
    assert_eq!(broken("LANPool", &wider, Some(&of_size(Some(16)))), [""; 0]);
    let block = |pool: &str, prefix: &str| {
        let holder = json!({ "node": "worker1", "uid": "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b", "term": 0, "fenced": false });
        json!({ "metadata": { "name": "x" }, "spec": { "pool": pool, "prefix": prefix, "holder": holder } })
    };
    let old = block("office", "10.0.0.0/28");
    assert_eq!(broken("LANBlock", &old, Some(&old)), [""; 0]);
    for (other, field) in [(block("lab", "10.0.0.0/28"), "pool"), (block("office", "10.0.0.16/28"), "prefix")]
    {
        let found = broken("LANBlock", &other, Some(&old));
        assert!(found.len() == 1 && found[0].contains(&format!("{field} cannot be changed")), "{found:?}");
    }
}

#[test]
fn patterns_know_the_forms() {
    let spec = &schema("LANPool")["properties"]["spec"]["properties"];
    let matches = |schema: &Value, text: &str| {
        regex::Regex::new(schema["pattern"].as_str().unwrap()).unwrap().is_match(text)
    };
    let range = &spec["ranges"]["items"]["properties"];
    for (schema, good, bad) in [
        (
            &spec["subnets"]["items"],
            &["10.0.0.0/24", "fd00::/64", "::/0"][..],
            &["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/24"][..],
        ),
        (
            &spec["exclude"]["items"],
            &["10.0.0.5", "10.0.0.5-10.0.0.9", "fd00::5", "10.0.0.0/28"],
            &["", "10.0.0.5-", "web"],
        ),
        (&spec["cooldown"], &["90", "90s", "1h30m", "250ms"], &["", "-5s", "1d", "5 s"]),
        (&range["gateway"], &["none", "10.0.0.1", "fe80::1"], &["router", ""]),
        (&range["rangeStart"], &["10.0.0.1", "::1"], &["none", "10.0.0"]),
    ] {
        for text in good {
            assert!(matches(schema, text), "{text}");
        }
        for text in bad {
            assert!(!matches(schema, text), "{text}");
        }
    }
}

#[test]
fn a_file_knows_all_fields() {
    let spec = &schema("LANPool")["properties"]["spec"]["properties"];
    let names = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let known =
        |fields: &[&str]| -> BTreeSet<String> { fields.iter().map(|&field| field.to_owned()).collect() };
    assert_eq!(names(spec), known(&LanPoolSpec::FIELDS));
    assert_eq!(names(&spec["ranges"]["items"]["properties"]), known(&PoolRange::FIELDS));
}
