use std::path::{Path, PathBuf};

/// The root of the workspace that this crate was compiled in.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The folder of the binaries under test: `$K8SLAN_BIN`, otherwise `dist/`, which `make build` fills.
#[must_use]
pub fn bin_dir() -> PathBuf {
    std::env::var_os("K8SLAN_BIN").map_or_else(|| workspace().join("dist"), PathBuf::from)
}

/// The path of a binary under test; a name with a `/` is taken as it is.
///
/// # Panics
/// If it is not there: the message says how to build it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = if name.contains('/') { PathBuf::from(name) } else { bin_dir().join(name) };
    assert!(path.is_file(), "{} is not there: run `make build`, or set K8SLAN_BIN", path.display());
    path
}

/// `path`, a list as in `PATH`, behind the folders of what `tests/packages.sh` unpacked, since installed it would run as
/// a service.
pub(crate) fn unpacked_first(path: &str) -> String {
    let target = workspace().join("target");
    let unpacked = ["containerd/usr/bin", "containerd/usr/sbin", "keepalived/usr/sbin"]
        .map(|folder| target.join(folder).display().to_string());
    format!("{}:{path}", unpacked.join(":"))
}
