//! Imports point down only (docs/architecture.md): read from the manifests and the sources, not from what was intended.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod length;
mod modules;
mod wall_time;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use modules::Modules;

/// Which crates of the workspace each crate's own code may import; `*` is every library that is not a plugin.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("net-types", &[]),
    ("testnet", &[]),
    ("cni", &["net-types"]),
    ("lan", &["net-types"]),
    ("netplumb", &["net-types"]),
    ("node", &["net-types"]),
    ("pool-blocks", &["net-types"]),
    ("attach", &["cni", "net-types", "netplumb", "node"]),
    ("ipam-pool", &["attach", "cni", "lan", "net-types", "netplumb", "node"]),
    ("macvtap", &["attach", "cni", "lan", "net-types", "netplumb", "node"]),
    ("vlan-bridge", &["attach", "cni", "net-types", "netplumb", "node"]),
    ("proto", &["lan", "net-types", "node", "pool-blocks"]),
    ("controller", &["lan", "net-types", "node", "pool-blocks", "proto"]),
    ("agent", &["lan", "net-types", "netplumb", "node", "pool-blocks", "proto"]),
    ("doctor", &["agent", "controller", "lan", "net-types", "netplumb", "node", "proto"]),
    ("installer", &["agent", "node", "proto"]),
    ("daemon", &["agent", "controller", "node", "proto"]),
    ("k8slan-device-plugin", &["controller", "daemon", "doctor", "installer", "node", "proto"]),
];

/// Who may depend on a library that reaches outside, by the beginning of its name. Development
/// dependencies are held to it as well, but for those of the packages that only test.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("rtnetlink", &["netplumb"]),
    ("netlink-", &["netplumb"]),
    ("tokio", &["agent", "controller", "daemon", "doctor", "k8slan-device-plugin", "netplumb", "proto"]),
    ("tonic", &["agent", "proto"]),
    ("kube", &["controller", "daemon", "doctor", "k8slan-device-plugin", "lan"]),
];

/// Packages that nothing is built on and that may use everything.
const TESTERS: &[&str] = &["k8slan-benches", "k8slan-kubernetes-tests", "k8slan-manual", "k8slan-tests"];

/// What must not come into a package by any way. A plugin needs no API server and no daemon; of the daemon's two parts, the
/// one with privileges has no Kubernetes client, and the one with a client makes no links (docs/decisions/0045-two-processes.md).
const NOT_CARRIED: &[(&str, &[&str])] = &[
    ("agent", &["controller", "kube-client"]),
    ("controller", &["agent", "netplumb", "rtnetlink"]),
    ("ipam-pool", NO_CLIENT),
    ("macvtap", NO_CLIENT),
    ("proto", &["kube-client", "netplumb", "rtnetlink"]),
    ("vlan-bridge", NO_CLIENT),
];
const NO_CLIENT: &[&str] = &["hyper", "kube", "kube-client", "tonic"];

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
fn what_a_package_must_not_carry_comes_in_by_no_other_one() {
    for (package, unwanted) in NOT_CARRIED {
        let tree = cargo(&[
            "tree",
            "--offline",
            "--package",
            package,
            "--edges=normal",
            "--prefix=none",
            "--format={p}",
        ]);
        let found: Vec<&str> = tree
            .lines()
            .filter(|line| unwanted.contains(&line.split(' ').next().unwrap_or_default()))
            .collect();
        assert!(found.is_empty(), "{package} carries {found:?}");
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

/// The root files of the crates that make up the product, by their paths in the workspace.
fn roots() -> BTreeMap<String, std::path::PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap();
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let packages = packages.filter(|package| !TESTERS.contains(&package["name"].as_str().unwrap()));
    let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
    let built = targets.filter(|target| ["lib", "bin"].iter().any(|kind| target["kind"][0] == *kind));
    built
        .map(|target| {
            let file = Path::new(target["src_path"].as_str().unwrap()).canonicalize().unwrap();
            (file.strip_prefix(&top).unwrap().to_str().unwrap().to_owned(), file)
        })
        .collect()
}

#[test]
fn modules_use_one_another_in_no_cycle() {
    let cycles = roots().into_iter().flat_map(|(root, file)| {
        Modules::read(&file)
            .cycles()
            .into_iter()
            .map(move |cycle| format!("{root}: these use one another: {cycle}"))
    });
    let wrong: Vec<String> = cycles.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Writes a small crate and returns its cycles.
fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    Modules::read(&folder.path().join("lib.rs")).cycles().into_iter().collect()
}

#[test]
fn a_cycle_is_found_however_it_is_written() {
    let lib = "mod a; mod b; pub use a::A; pub use b::{B, make as build};";
    let none: [String; 0] = [];
    for (a, b) in [
        ("use crate::B; pub struct A(B);", "pub struct B; pub fn make() {}"),
        ("pub struct A;", "pub struct B(super::A); pub fn make() {}"),
        (
            "#[cfg(test)] mod tests { use crate::B; } pub struct A;",
            "pub struct B(crate::A); pub fn make() {}",
        ),
        ("/// As [`crate::B`].\npub struct A;", "pub struct B(crate::A); pub fn make() {}"),
        ("use super::*; pub struct A;", "pub struct B(crate::A); pub fn make() {}"),
    ] {
        assert_eq!(cycles_of(&[("lib.rs", lib), ("a.rs", a), ("b.rs", b)]), none, "{a} {b}");
    }
    let b = "use crate::A; pub struct B(A); pub fn make() {}";
    for a in [
        "use crate::B; pub struct A(B);",
        "pub struct A(Box<crate::b::B>);",
        "use crate::{b}; pub struct A; fn f() { b::make() }",
        "use crate::b::{self}; pub struct A; fn f() { let _ = vec![b::B]; }",
        "pub struct A; fn f() { g(|| crate::build()) }",
        "pub struct A; mod inner { fn f() { use crate::b as other; other::make() } }",
    ] {
        assert_eq!(cycles_of(&[("lib.rs", lib), ("a.rs", a), ("b.rs", b)]), ["a, b"], "{a}");
    }
}

#[test]
fn a_cycle_goes_through_folders() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a/mod.rs", "mod inside; pub use inside::Inside; pub struct A;"),
        ("a/inside.rs", "use super::A; use crate::b::B; pub struct Inside(A, B);"),
        ("b.rs", "use crate::c::C; pub struct B(C);"),
        ("c.rs", "use crate::a::Inside; pub struct C(Box<Inside>);"),
    ];
    assert_eq!(cycles_of(&files), ["a::inside, b, c"]);
}
