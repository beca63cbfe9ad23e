//! What a cluster is made of, found or missing.

use std::path::PathBuf;

use k8slan_tests::containerd::needs_containerd;
use testnet::{Stop, bin_dir, needs, needs_found, workspace};

/// The programs and files of a cluster.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The parts of Kubernetes in one program, for the control plane.
    pub kube: PathBuf,
    /// The same for the nodes, which may have an older version.
    pub kubelet: PathBuf,
    /// The path of Debian's etcd.
    pub etcd: PathBuf,
    /// The archive of k8slan's image.
    pub image: PathBuf,
}

impl Programs {
    /// Looks for all of them.
    ///
    /// # Errors
    /// One is missing: the test is skipped by name; where `CI` is set, it fails.
    pub fn find() -> Result<Self, Stop> {
        let found = |what: &str, path: PathBuf, how: &str| {
            needs_found(what, Some(path).filter(|path| path.is_file()), how)
        };
        let target = workspace().join("target");
        let how = "make test-kubernetes builds it where there is Go";
        let kube = found("Kubernetes", target.join("kube/kube"), how)?;
        let kubelet = found("the kubelet", target.join("kube/kubelet"), how)?;
        let etcd = found("etcd", target.join("etcd/usr/bin/etcd"), how)?;
        let image = found("the image", bin_dir().join("k8slan-image.tar"), "make test-kubernetes builds it")?;
        needs_containerd()?;
        for program in ["openssl", "/usr/lib/cni/host-local"] {
            needs(program)?;
        }
        Ok(Self { kube, kubelet, etcd, image })
    }
}
