use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The plugins that a node needs, by their names in the CNI folder.
pub(super) const PLUGINS: [&str; 3] = ["ipam-pool", "macvtap", "vlan-bridge"];

/// The name under which pods of k8slan (Go) call `macvtap`, installed if it is asked for: one program under two
/// names.
pub(super) const K8SLANVETH: &str = "k8slanveth";

/// The file of a plugin in the folder that has them all.
pub(super) fn program_file(name: &str) -> &str {
    if name == K8SLANVETH { "macvtap" } else { name }
}

/// The folder with the plugins: by default that of this program, which they come with.
pub(super) fn plugins_folder(from: Option<&Path>) -> Result<PathBuf> {
    if let Some(from) = from {
        return Ok(from.to_owned());
    }
    let program = std::env::current_exe().context("find this program's own folder")?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}
