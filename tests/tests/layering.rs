//! Imports point down only (docs/architecture.md): read from the manifests, not from what was intended.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each crate's own code may import; `*` is every library that is not a plugin.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("net-types", &[]),
    ("testnet", &[]),
    ("cni", &["net-types"]),
    ("lan", &["net-types"]),
    ("netplumb", &["net-types"]),
    ("node", &["net-types"]),
    ("attach", &["cni", "net-types", "netplumb", "node"]),
    ("ipam-pool", &["attach", "cni", "lan", "net-types", "netplumb", "node"]),
    ("macvtap", &["attach", "cni", "lan", "net-types", "netplumb", "node"]),
    ("vlan-bridge", &["attach", "cni", "net-types", "netplumb", "node"]),
    ("k8slan-device-plugin", &["lan", "net-types", "netplumb", "node"]),
];

/// Who may depend on a library that reaches outside, by the beginning of its name. Development
/// dependencies are held to it as well, but for those of the packages that only test.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("rtnetlink", &["netplumb"]),
    ("netlink-", &["netplumb"]),
    ("tokio", &["k8slan-device-plugin", "netplumb"]),
    ("tonic", &["k8slan-device-plugin"]),
    ("kube", &["k8slan-device-plugin", "lan"]),
];

/// Packages that nothing is built on and that may use everything.
const TESTERS: &[&str] = &["k8slan-benches", "k8slan-kubernetes-tests", "k8slan-manual", "k8slan-tests"];

/// What must not come into a plugin's program by any way: a plugin needs no API server and no daemon.
const NOT_IN_PLUGINS: &[&str] = &["hyper", "kube", "kube-client", "tonic"];

fn cargo(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn packages() -> BTreeMap<String, Vec<Value>> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|p| (p["name"].as_str().unwrap().to_owned(), p["dependencies"].as_array().unwrap().clone()))
        .collect()
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let packages = packages();
    let mut wrong = Vec::new();
    for (name, dependencies) in &packages {
        if TESTERS.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(crate_name, _)| crate_name == name) else {
            wrong.push(format!("{name} is not in the list: say what it may import"));
            continue;
        };
        for dependency in dependencies {
            let used = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"] == "dev";
            // A crate may ask for features of its own in its tests.
            let fine = allowed.contains(&used) || (for_tests && (used == "testnet" || used == name));
            if packages.contains_key(used) && !fine {
                wrong.push(format!("{name} imports {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_their_owners_use_netlink_and_the_kubernetes_client() {
    let mut wrong = Vec::new();
    for (name, dependencies) in packages() {
        for dependency in dependencies.iter().filter_map(|d| d["name"].as_str()) {
            let rule = OUTSIDE.iter().find(|(begin, _)| dependency.starts_with(begin));
            if let Some((_, owners)) = rule
                && !owners.contains(&name.as_str())
                && !TESTERS.contains(&name.as_str())
            {
                wrong.push(format!("{name} depends on {dependency}, which belongs to {owners:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_lan_crate_has_no_client() {
    let lan = packages().remove("lan").unwrap();
    for kube in lan.iter().filter(|d| d["name"] == "kube" && d["kind"].is_null()) {
        assert_eq!(kube["optional"], true, "kube must sit behind the feature `crd`");
        assert_eq!(kube["uses_default_features"], false);
        let features = kube["features"].as_array().unwrap();
        assert!(
            !features.iter().any(|f| ["client", "runtime"].contains(&f.as_str().unwrap())),
            "{features:?}"
        );
    }
}

#[test]
fn plugins_carry_no_client() {
    for plugin in ["ipam-pool", "macvtap", "vlan-bridge"] {
        let tree = cargo(&[
            "tree",
            "--offline",
            "--package",
            plugin,
            "--edges=normal",
            "--prefix=none",
            "--format={p}",
        ]);
        let found: Vec<&str> = tree
            .lines()
            .filter(|line| NOT_IN_PLUGINS.contains(&line.split(' ').next().unwrap_or_default()))
            .collect();
        assert!(found.is_empty(), "{plugin} carries {found:?}");
    }
}

#[test]
fn netplumb_needs_a_runtime_only_to_monitor() {
    let netplumb = packages().remove("netplumb").unwrap();
    let required = netplumb.iter().filter(|d| d["name"] == "tokio" && d["kind"].is_null());
    assert!(
        required.into_iter().all(|d| d["optional"] == true),
        "tokio must sit behind the feature `monitor`"
    );
}

#[test]
fn the_list_names_no_crate_that_is_gone() {
    let packages = packages();
    let gone: Vec<&str> =
        MAY_IMPORT.iter().map(|(name, _)| *name).filter(|name| !packages.contains_key(*name)).collect();
    assert!(gone.is_empty(), "{gone:?}");
}
