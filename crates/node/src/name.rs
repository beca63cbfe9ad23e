use crate::{ConfigError, Durability, NodeConfig, SafeDir, SafeDirError};

/// Below the run directory: it dies with the boot, so a disk that was copied names no other node.
const FILE: &str = "node-name";

impl NodeConfig {
    /// The node's name: what node.yaml says, otherwise what the daemon told since the node was started.
    ///
    /// # Errors
    /// What the daemon told could have been written by others than root.
    pub fn name(&self) -> Result<Option<String>, ConfigError> {
        if self.node_name.is_some() {
            return Ok(self.node_name.clone());
        }
        let Some(dir) = SafeDir::open(self.paths().run())? else { return Ok(None) };
        let told = dir.read(FILE)?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(told.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()))
    }
}

/// Tells the plugins the node's name, for files that give each node its own part.
///
/// # Errors
/// It cannot be written.
pub fn tell_name(run: &SafeDir, name: &str) -> Result<(), SafeDirError> {
    run.write(FILE, format!("{name}\n").as_bytes(), Durability::UntilReboot)
}
