//! What is written from something else agrees with it: the client of the container runtime with its proto file, the
//! index of the decisions with their pages.
//!
//! `K8SLAN_REGENERATE=1 cargo test -p k8slan-tests --test docs generated` writes it anew.

use std::fs;
use std::path::Path;

#[test]
fn the_client_of_the_container_runtime_is_generated_from_its_proto_file() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["cri.proto"], [package.join("proto")]).expect("the proto file");
    let dir = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(dir.path())
        .build_server(false)
        .btree_map(".")
        .compile_fds(descriptors)
        .expect("generates");
    let fresh = fs::read_to_string(dir.path().join("runtime.v1.rs")).unwrap();
    let kept = package.join("src/containerd/generated/runtime.v1.rs");
    if std::env::var_os("K8SLAN_REGENERATE").is_some() {
        fs::write(&kept, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&kept).unwrap() == fresh,
        "{} differs from what the proto file gives: run with K8SLAN_REGENERATE=1",
        kept.display()
    );
}

#[test]
fn every_decision_is_in_the_index() {
    let folder = testnet::workspace().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    for page in fs::read_dir(&folder).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        let listed = index.matches(&format!("({name})")).count();
        assert_eq!(listed, usize::from(name != "README.md"), "{name} in docs/decisions/README.md");
    }
}
