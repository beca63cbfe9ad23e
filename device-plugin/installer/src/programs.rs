use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The plugins that a node needs, as they are called in the CNI folder.
pub(super) const PLUGINS: [&str; 3] = ["ipam-pool", "macvtap", "vlan-bridge"];

/// The name that k8slan (Go) has for what `macvtap` does for its pods, where that is asked for: one program under two names.
pub(super) const K8SLANVETH: &str = "k8slanveth";

/// The file that a plugin is made of, in the folder that has them all.
pub(super) fn program_file(name: &str) -> &str {
    if name == K8SLANVETH { "macvtap" } else { name }
}

/// The folder that has the plugins: they come with this program.
pub(super) fn plugins_folder(from: Option<&Path>) -> Result<PathBuf> {
    if let Some(from) = from {
        return Ok(from.to_owned());
    }
    let program = std::env::current_exe().context("find this program's own folder")?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}
