use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use testnet::{Node, Outcome, Stop, workspace};

use crate::Network;

/// A folder of `nad-examples/`: what a user would apply, for a test that builds it.
#[derive(Clone, Debug)]
pub struct Example {
    folder: PathBuf,
}

impl Example {
    /// The folder of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { folder: workspace().join("nad-examples").join(name) }
    }

    /// A file's text.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(&self, file: &str) -> Result<String, Stop> {
        let path = self.folder.join(file);
        fs::read_to_string(&path).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))
    }

    /// The configuration of the NetworkAttachmentDefinition of this name in a file, as Multus hands it to the
    /// plugin: with the network's name, and with the device if it asks for a resource.
    ///
    /// # Errors
    /// If the file has none.
    pub fn network(&self, file: &str, name: &str) -> Result<Value, Stop> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&self.text(file)?)?;
        let wanted = |object: &&Value| {
            object["kind"] == "NetworkAttachmentDefinition" && object["metadata"]["name"] == name
        };
        let object = objects
            .iter()
            .find(wanted)
            .ok_or_else(|| Stop::Failed(format!("{file} has no network {name}")))?;
        if !object["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"].is_null() {
            return Ok(Network::of_object(object)?.config);
        }
        let mut config: Value = serde_json::from_str(object["spec"]["config"].as_str().unwrap_or_default())?;
        config["name"] = object["metadata"]["name"].clone();
        Ok(config)
    }

    /// Copies the pool files to where a node looks for them, and tells it its name.
    ///
    /// # Errors
    /// If that fails.
    pub fn pools_to(&self, node: &Node) -> Outcome {
        node.write("/etc/k8slan/node.yaml", format!("nodeName: {}\n", node.name()))?;
        for entry in fs::read_dir(self.folder.join("pools"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            node.write(&format!("/var/lib/k8slan/pools.d/{name}"), fs::read(&path)?)?;
        }
        Ok(())
    }
}
