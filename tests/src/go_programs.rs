//! Programs in Go that tests use where they are: in the PATH, or where `go install` puts them.

use std::path::{Path, PathBuf};
use std::process::Command;

use testnet::{Stop, workspace};

/// kustomize by itself, or the one in kubectl, up to the folder that it builds.
///
/// # Errors
/// Neither is here: the test is skipped by name.
pub fn kustomize() -> Result<Command, Stop> {
    let with = |program: PathBuf, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words);
        command
    };
    // The cluster's program is kubectl, too.
    let kube = workspace().join("target/kube/kube");
    if let Some(program) = find("kustomize") {
        Ok(with(program, &["build"]))
    } else if let Some(program) = find("kubectl") {
        Ok(with(program, &["kustomize"]))
    } else if kube.is_file() {
        Ok(with(kube, &["kubectl", "kustomize"]))
    } else {
        // Neither is a package of Debian that could build these: test peers that one has or has not, also in CI.
        Err(Stop::Skipped("needs kubectl, or kustomize, which go installs".to_owned()))
    }
}

/// helm.
///
/// # Errors
/// It is not here: the test is skipped by name.
pub fn helm() -> Result<PathBuf, Stop> {
    find("helm").ok_or_else(|| Stop::Skipped("needs helm, which go installs (tests/packages.sh)".to_owned()))
}

/// whereabouts, which benches compare `ipam-pool` with; `None`: `tests/packages.sh scale` has not built it.
#[must_use]
pub fn whereabouts() -> Option<PathBuf> {
    Some(workspace().join("target/whereabouts/whereabouts")).filter(|path| path.is_file())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let below =
        |variable: &str, folder: &str| std::env::var_os(variable).map(|dir| Path::new(&dir).join(folder));
    let places = [below("GOBIN", ""), below("GOPATH", "bin"), below("HOME", "go/bin")];
    let mut places = std::env::split_paths(&path).chain(places.into_iter().flatten());
    places.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
}
