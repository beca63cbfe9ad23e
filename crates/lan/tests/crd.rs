//! The checked-in CRD is the one that the types make, and its rules say what validation says.

use std::path::PathBuf;

use kube::core::cel::Validator;
use lan::{Lan, LanKey, LanSpec, SpokeOverride};
use serde_json::{Value, json};

#[test]
fn the_checked_in_crds_are_current() {
    let head =
        "# Made from crates/lan by its test 'crd'; UPDATE=1 cargo test -p lan --test crd writes it anew.\n";
    for crd in [lan::crd::crd(), lan::crd::node_crd()].into_iter().chain(lan::pool::crds()) {
        let file = format!("lan.k8slan.io_{}.yaml", crd.spec.names.plural);
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../install/crds", &file].iter().collect();
        let text = format!("{head}{}", serde_saphyr::to_string(&crd).unwrap());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{path:?} is not what the types say: run UPDATE=1 cargo test -p lan --test crd"
        );
    }
}

fn schema() -> Value {
    let crd = serde_json::to_value(lan::crd::crd()).expect("a CRD is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every node of a schema with its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            walk(property, &format!("{path}.{name}"), visit);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn everything_in_the_spec_is_bounded_and_told() {
    walk(&schema()["properties"]["spec"], "spec", &mut |path, schema| {
        let bound = match schema["type"].as_str().unwrap_or_else(|| panic!("{path} has no type")) {
            "string" => schema["maxLength"].is_u64() || schema["enum"].is_array(),
            "array" => schema["maxItems"].is_u64(),
            "object" => schema["properties"].is_object() || schema["maxProperties"].is_u64(),
            "integer" => schema["minimum"].is_number() && schema["maximum"].is_number(),
            "boolean" => true,
            other => panic!("{path} is a {other}"),
        };
        assert!(bound, "{path} has no bound, so no CEL rule may walk it");
        assert!(path.ends_with("[]") || path == "spec" || schema["description"].is_string(), "{path}");
        assert!(schema["nullable"] != json!(true), "{path}: null would be stored");
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            assert!(rule["message"].is_string(), "{path}: {rule}");
        }
    });
}

#[test]
fn defaults_are_in_the_schema() {
    let spec = &schema()["properties"]["spec"]["properties"];
    assert_eq!(spec["vxlanGrp"]["default"], "ff02::14");
    assert_eq!(spec["vxlanPort"]["default"], 4789);
    assert_eq!(spec["attach"]["default"], "macvtap");
    assert_eq!(spec["mode"]["default"], "passthru");
    assert!(spec["allowedNamespaces"].get("default").is_none());
    assert_eq!(spec["spokes"]["x-kubernetes-list-type"], "set");
    let required = &schema()["properties"]["spec"]["required"];
    assert_eq!(required, &json!(["bridge", "ns", "vni", "vxlan"]));
}

type Edit = fn(&mut LanSpec);

fn document() -> LanSpec {
    serde_json::from_value(json!({
        "ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "defaultVxlanDev": "eth0.10",
        "vxlanDevMap": { "worker1": "eth1", "worker2": "eth2" }, "spokes": ["pod1", "pod2"],
    }))
    .expect("the document's LAN")
}

fn object(name: &str, spec: &LanSpec) -> Value {
    json!({ "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "metadata": { "name": name }, "spec": spec })
}

/// The messages of the CEL rules that an object breaks.
fn cel(new: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(&schema(), new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn cel_refuses_what_validation_refuses() {
    let edits: [(&str, Edit); 11] = [
        ("different names", |s| s.vxlan = "br2".into()),
        ("a name of its own", |s| s.spokes.push("br2".into())),
        ("a name of its own", |s| s.spokes.push("vx2".into())),
        ("no node has an underlay", |s| {
            s.default_vxlan_dev = None;
            s.vxlan_dev_map.clear();
        }),
        ("not in spokes", |s| {
            s.spoke_overrides.insert("pod9".into(), SpokeOverride::default());
        }),
        ("something else", |s| s.bridge = "all".into()),
        ("no link can have", |s| s.default_vxlan_dev = Some("default".into())),
        ("no link can have", |s| {
            s.vxlan_dev_map.insert("worker1".into(), "..".into());
        }),
        ("something else", |s| s.spokes.push("lo".into())),
        ("bridge ports", |s| s.vxlan = "+4a3b2c1d".into()),
        ("KubeVirt", |s| s.spokes.push("tap0".into())),
    ];
    assert_eq!(cel(&object("a", &document()), None), [""; 0]);
    for (message, edit) in edits {
        let mut spec = document();
        edit(&mut spec);
        let found = cel(&object("a", &spec), None);
        assert!(found.len() == 1 && found[0].contains(message), "{message}: {found:?}");
        assert!(Lan::new(LanKey::new("a", "b").unwrap(), &spec).is_err(), "{message}");
    }
}

#[test]
fn ns_and_vni_stay_and_names_fit_an_alias() {
    let old = object("a", &document());
    assert_eq!(cel(&old, Some(&old)), [""; 0]);
    let edits: [(&str, Edit); 2] =
        [("ns cannot be changed", |s| s.ns = "x".into()), ("vni cannot be changed", |s| s.vni = 7)];
    for (message, edit) in edits {
        let mut spec = document();
        edit(&mut spec);
        let found = cel(&object("a", &spec), Some(&old));
        assert!(found.len() == 1 && found[0].contains(message), "{message}: {found:?}");
    }
    let found = cel(&object(&"a".repeat(181), &document()), None);
    assert!(found.len() == 1 && found[0].contains("180 characters"), "{found:?}");
}

/// What the schema's patterns let through, validation lets through as well: a LAN that the API
/// server stored is one that the nodes build. (The other way round is no promise.)
#[test]
fn patterns_agree_with_validation() {
    let spec = &schema()["properties"]["spec"]["properties"];
    let pattern = |schema: &Value| regex::Regex::new(schema["pattern"].as_str().unwrap()).unwrap();
    let good = |edit: &dyn Fn(&mut LanSpec)| {
        let mut spec = document();
        edit(&mut spec);
        Lan::new(LanKey::new("a", "b").unwrap(), &spec).is_ok()
    };
    let texts: Vec<String> = (0x20_u8..0x7f)
        .flat_map(|c| {
            let c = char::from(c);
            [c.to_string(), format!("a{c}"), format!("{c}a"), format!("a{c}a"), format!("{c}{c}")]
        })
        .chain(["é", "", "0123456789abcde", "0123456789abcdef"].map(str::to_owned))
        .filter(|text| !text.is_empty() && !matches!(text.as_str(), "." | ".."))
        .collect();
    type Set = fn(&mut LanSpec, String);
    let fields: [(&str, &Value, Set); 5] = [
        ("ns", &spec["ns"], |s, t| s.ns = t),
        ("bridge", &spec["bridge"], |s, t| s.bridge = t),
        ("defaultVxlanDev", &spec["defaultVxlanDev"], |s, t| s.default_vxlan_dev = Some(t)),
        ("spokes", &spec["spokes"]["items"], |s, t| s.spokes.push(t)),
        ("allowedNamespaces", &spec["allowedNamespaces"]["items"], |s, t| {
            s.allowed_namespaces = Some(vec![t])
        }),
    ];
    for (field, schema, set) in fields {
        let pattern = pattern(schema);
        let mut passed = 0;
        for text in texts.iter().filter(|text| pattern.is_match(text)) {
            passed += 1;
            assert!(good(&|s| set(s, text.clone())), "{field}: the CRD lets {text:?} through");
        }
        assert!(passed > 30, "{field}: the pattern lets hardly anything through");
    }
    let group = pattern(&spec["vxlanGrp"]);
    for (text, multicast) in [
        ("ff02::14", true),
        ("239.0.0.1", true),
        ("224.0.0.5", true),
        ("fe80::1", false),
        ("10.0.0.1", false),
        ("240.0.0.1", false),
    ] {
        assert_eq!(group.is_match(text), multicast, "{text}");
        assert_eq!(good(&|s| s.vxlan_grp = text.to_owned()), multicast, "{text}");
    }
}
