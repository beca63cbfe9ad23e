//! Virtual machines that addresses are kept for while no pod runs them. The node's part says which there are, the
//! cluster's part which of them do not exist any more: two files, each a list of `<namespace>/<name>`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use node::{Durability, SafeDir};

/// `<namespace>/<name>` each.
pub type VmNames = BTreeSet<String>;

/// In the folder of what is told: those that addresses are kept for.
pub const STICKY_VMS_FILE: &str = "kept-vms.json";
/// In the folder of the cluster's part: those of them that are gone.
pub const DELETED_VMS_FILE: &str = "gone-vms.json";

/// Reads a list; where there is none it is empty.
///
/// # Errors
/// It cannot be read, or is not trusted.
pub fn read(dir: &SafeDir, name: &str) -> Result<VmNames> {
    let Some(text) = dir.read(name)? else { return Ok(VmNames::new()) };
    let path = dir.path().join(name);
    serde_json::from_slice(&text).with_context(|| format!("{path:?} is not a list of virtual machines"))
}

/// Writes a list where it is another one.
///
/// # Errors
/// It cannot be written.
pub fn write(dir: &SafeDir, name: &str, vms: &VmNames) -> Result<()> {
    if read(dir, name).ok().as_ref() == Some(vms) {
        return Ok(());
    }
    let text = serde_json::to_vec(vms).context("write virtual machines as JSON")?;
    Ok(dir.write(name, &text, Durability::UntilReboot)?)
}
