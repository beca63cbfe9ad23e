use serde_json::{Value, json};
use testnet::Stop;

/// A NetworkAttachmentDefinition, and what Multus makes of it for a pod that has one unit of its resource.
#[derive(Clone, Debug)]
pub struct Network {
    /// The definition's name, `metadata.name`.
    pub name: String,
    /// The spoke: the resource's name less `macvtap.k8slan.io/`.
    pub spoke: String,
    /// The plugin's configuration, with the network's name and the device ID filled in.
    pub config: Value,
}

impl Network {
    /// Reads the text of a NetworkAttachmentDefinition.
    ///
    /// # Errors
    /// What it lacks.
    pub fn read(text: &str) -> Result<Self, Stop> {
        Self::of_object(&serde_saphyr::from_str(text)?)
    }

    /// The same of an object.
    ///
    /// # Errors
    /// What it lacks.
    pub fn of_object(object: &Value) -> Result<Self, Stop> {
        let lacks =
            |what: &str| Stop::Failed(format!("the NetworkAttachmentDefinition has no {what}: {object}"));
        let name = object["metadata"]["name"].as_str().ok_or_else(|| lacks("name"))?;
        let resource = object["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"].as_str();
        let spoke =
            resource.and_then(|r| r.strip_prefix("macvtap.k8slan.io/")).ok_or_else(|| lacks("resource"))?;
        let config = object["spec"]["config"].as_str().ok_or_else(|| lacks("configuration"))?;
        Self::of(name, spoke, serde_json::from_str(config)?)
    }

    /// A network without a file.
    ///
    /// # Errors
    /// If the configuration is no object.
    pub fn of(name: &str, spoke: &str, mut config: Value) -> Result<Self, Stop> {
        if !config.is_object() {
            return Err(Stop::Failed(format!("network {name}: the configuration is no object")));
        }
        // Both as Multus does it: the name where there is none, the device in two fields.
        if config["name"].as_str().is_none_or(str::is_empty) {
            config["name"] = json!(name);
        }
        config["deviceID"] = json!(spoke);
        config["pciBusID"] = json!(spoke);
        Ok(Self { name: name.to_owned(), spoke: spoke.to_owned(), config })
    }
}
