//! The checked-in gRPC code is what the proto file gives.
//!
//! `K8SLAN_REGENERATE=1 cargo test -p proto --test generated` writes it anew.

use std::fs;
use std::path::Path;

#[test]
fn kubelet_api_is_generated_from_its_proto_file() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["deviceplugin/v1beta1.proto"], [package]).expect("the proto file");
    let dir = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(dir.path())
        .btree_map(".")
        .codec_path("crate::kubelet::codec::SmallCodec")
        .compile_fds(descriptors)
        .expect("generates");
    let fresh = fs::read_to_string(dir.path().join("v1beta1.rs")).unwrap();
    let kept = package.join("src/kubelet/generated/v1beta1.rs");
    if std::env::var_os("K8SLAN_REGENERATE").is_some() {
        fs::write(&kept, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&kept).unwrap() == fresh,
        "{} differs from what the proto file gives: run with K8SLAN_REGENERATE=1",
        kept.display()
    );
}
