use crate::{ConfigError, Durability, NodeConfig, SafeDir, SafeDirError};

/// Below the run directory: it ends with the boot, so that a copied disk does not carry another node's name.
const FILE: &str = "node-name";

impl NodeConfig {
    /// The node's name: that of node.yaml, otherwise the one that the daemon has recorded since the boot.
    ///
    /// # Errors
    /// Others than root may write the daemon's record.
    pub fn name(&self) -> Result<Option<String>, ConfigError> {
        if self.node_name.is_some() {
            return Ok(self.node_name.clone());
        }
        let Some(dir) = SafeDir::open(self.paths().run())? else { return Ok(None) };
        let told = dir.read(FILE)?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(told.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()))
    }
}

/// Records the node's name for the plugins, for files that give each node its own part.
///
/// # Errors
/// The file cannot be written.
pub fn tell_name(run: &SafeDir, name: &str) -> Result<(), SafeDirError> {
    run.write(FILE, format!("{name}\n").as_bytes(), Durability::UntilReboot)
}
