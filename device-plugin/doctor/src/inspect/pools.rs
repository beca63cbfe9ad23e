//! The address pools, as `ipam-pool` reports them.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::view::{NodeView, PoolView};

const PROGRAM: &str = "ipam-pool";
/// The folder where runtimes look for plugins.
const CNI_BIN: &str = "/opt/cni/bin";

/// Adds the pools; without the program a note is added.
pub(super) fn fill(view: &mut NodeView) {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let places = [beside, Some(PathBuf::from(CNI_BIN).join(PROGRAM)), Some(PROGRAM.into())];
    for place in places.into_iter().flatten() {
        let output = Command::new(&place).args(["pools", "--json"]).stdin(Stdio::null()).output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return view.notes.push(format!("pools: {} does not start: {error}", place.display()));
            }
            Ok(output) => {
                let pools: Result<Vec<PoolView>, _> = serde_json::from_slice(&output.stdout);
                match pools {
                    Ok(pools) => view.pools = pools,
                    Err(_) => view.notes.push(format!(
                        "pools: {} pools --json ended with {}: {}",
                        place.display(),
                        output.status,
                        String::from_utf8_lossy(&output.stderr).trim()
                    )),
                }
                return;
            }
        }
    }
    view.notes
        .push(format!("pools are left out: no {PROGRAM} beside this program, in {CNI_BIN} or on the PATH"));
}
