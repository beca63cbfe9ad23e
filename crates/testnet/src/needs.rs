use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Stop, finish};

/// What may be missing even if `CI` is set, and why. Everything else that is missing is an error there.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("apiextensions-apiserver", "a Go program, for machines that have Go and reach its modules"),
    (
        "kube-apiserver",
        "make test-kubernetes builds it, in ten minutes; the double does the same, but for what only a real one checks",
    ),
    (
        "the version before",
        "built from the history, which a shallow clone lacks; what it wrote is in tests/fixtures/version-before, and read by unit tests",
    ),
];

/// The test needs this program: a name (looked for in `PATH` and the system's `sbin` folders) or a path.
///
/// # Errors
/// The test is skipped by name; where `CI` is set, it fails.
pub fn needs(program: &str) -> Result<(), Stop> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = if program.contains('/') {
        Path::new(program).exists()
    } else {
        path.split(':')
            .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
            .any(|dir| Path::new(dir).join(program).is_file())
    };
    if found { Ok(()) } else { Err(missing(program, &format!("needs {program}: `make test` provides it"))) }
}

/// The test needs something that it looked for itself; `how` says how to get it.
///
/// # Errors
/// It was not found: as [`needs`].
pub fn needs_found<T>(what: &str, found: Option<T>, how: &str) -> Result<T, Stop> {
    found.ok_or_else(|| missing(what, &format!("needs {what}: {how}")))
}

/// The test needs a kernel that knows this kind of link (`ip link add type …`).
///
/// # Errors
/// The test is skipped by name; where `CI` is set, it fails.
pub fn needs_link_kind(kind: &str) -> Result<(), Stop> {
    // The kernel looks the kind up before anything else, so that "Unknown device type" tells it apart from
    // attributes that are missing; the namespace is the test process's own.
    let add = ["link", "add", "name", "probe", "type", kind];
    let answer = finish(Command::new("ip").args(add).stdin(Stdio::null()))?;
    let known = !String::from_utf8_lossy(&answer.stderr).contains("Unknown device type");
    if answer.status.success() {
        finish(Command::new("ip").args(["link", "del", "probe"]))?;
    }
    if known { Ok(()) } else { Err(missing(kind, &format!("needs a kernel with links of type {kind}"))) }
}

fn missing(what: &str, reason: &str) -> Stop {
    let excused = EXCEPTIONS.iter().find(|(name, _)| *name == what);
    match (std::env::var_os("CI"), excused) {
        (None, _) => Stop::Skipped(reason.to_owned()),
        (Some(_), Some((_, why))) => Stop::Skipped(format!("{reason} ({why})")),
        (Some(_), None) => Stop::Failed(format!("{reason}, and CI is set")),
    }
}
