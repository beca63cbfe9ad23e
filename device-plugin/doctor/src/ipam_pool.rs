//! Asks this node's `ipam-pool`.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

const PROGRAM: &str = "ipam-pool";
/// The folder where runtimes look for plugins.
const CNI_BIN: &str = "/opt/cni/bin";

/// Runs a command of `ipam-pool` with `--json`, and parses what it prints.
///
/// # Errors
/// The program is not there, fails, or prints something else.
pub(crate) fn ask<T: DeserializeOwned>(command: &str) -> Result<T> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let places = [beside, Some(PathBuf::from(CNI_BIN).join(PROGRAM)), Some(PROGRAM.into())];
    for place in places.into_iter().flatten() {
        let output = match Command::new(&place).args([command, "--json"]).stdin(Stdio::null()).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            output => output.with_context(|| format!("{} does not start", place.display()))?,
        };
        return match serde_json::from_slice(&output.stdout) {
            Ok(said) => Ok(said),
            Err(_) => bail!(
                "{} {command} --json ended with {}: {}",
                place.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        };
    }
    bail!("there is no {PROGRAM} beside this program, in {CNI_BIN} or on the PATH")
}
