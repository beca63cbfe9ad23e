//! Virtual machines that addresses are kept for while no pod runs them. The node's part lists them, and the cluster's
//! part lists which of them do not exist any more: two files, each a list of `<namespace>/<name>`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use node::{Durability, SafeDir};

/// Each is `<namespace>/<name>`.
pub type VmNames = BTreeSet<String>;

/// The machines that addresses are kept for, in the folder that the node's part publishes.
pub const STICKY_VMS_FILE: &str = "kept-vms.json";
/// Those of them that were deleted, in the folder of the cluster's part.
pub const DELETED_VMS_FILE: &str = "gone-vms.json";

/// Reads a list; a missing file is an empty list.
///
/// # Errors
/// The file cannot be read, or is not trusted.
pub fn read(dir: &SafeDir, name: &str) -> Result<VmNames> {
    let Some(text) = dir.read(name)? else { return Ok(VmNames::new()) };
    let path = dir.path().join(name);
    serde_json::from_slice(&text).with_context(|| format!("{path:?} is not a list of virtual machines"))
}

/// Writes a list, if it differs from the present one.
///
/// # Errors
/// The file cannot be written.
pub fn write(dir: &SafeDir, name: &str, vms: &VmNames) -> Result<()> {
    if read(dir, name).ok().as_ref() == Some(vms) {
        return Ok(());
    }
    let text = serde_json::to_vec(vms).context("write virtual machines as JSON")?;
    Ok(dir.write(name, &text, Durability::UntilReboot)?)
}
