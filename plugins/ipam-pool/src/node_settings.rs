use node::{NodeConfig, Paths};

use crate::Error;
use crate::store::StoreDirs;

/// The node's configuration.
pub(crate) struct NodeSettings {
    pub(crate) config: NodeConfig,
    pub(crate) dirs: StoreDirs,
    pub(crate) paths: Paths,
}

impl NodeSettings {
    pub(crate) fn load() -> Result<Self, Error> {
        let mut config = NodeConfig::load()?;
        config.node_name = config.name()?;
        let paths = config.paths();
        Ok(Self { dirs: StoreDirs::new(&paths), paths, config })
    }
}
