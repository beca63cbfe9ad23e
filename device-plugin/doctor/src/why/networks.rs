//! The networks that a pod asks for, and their definitions.

use proto::kubelet::RESOURCE_PREFIX;
use serde_json::Value;

const OWN_PLUGINS: [&str; 2] = ["macvtap", "vlan-bridge"];
const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";
const RESOURCE_ANNOTATION: &str = "k8s.v1.cni.cncf.io/resourceName";

/// An element of a pod's list of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// The namespace of its definition.
    pub(super) namespace: String,
    /// The name of its definition.
    pub(super) name: String,
    /// The requested interface name; `None`: the next of `net1`, `net2`, …
    pub(super) interface: Option<String>,
}

/// The needed parts of a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    /// The types of the plugins in its list.
    pub(super) types: Vec<String>,
    /// The resource that its device comes from.
    pub(super) resource: Option<String>,
    /// The pools that its addresses come from.
    pub(super) pools: Vec<String>,
    /// Why the configuration cannot be read.
    pub(super) unreadable: Option<String>,
}

/// The networks in a pod's annotation, which is a list of names or JSON.
///
/// # Errors
/// It is neither of the two.
pub(super) fn selected(pod: &Value) -> Result<Vec<Network>, String> {
    let own = pod["metadata"]["namespace"].as_str().unwrap_or("default");
    let Some(text) = pod["metadata"]["annotations"][NETWORKS_ANNOTATION].as_str().map(str::trim) else {
        return Ok(Vec::new());
    };
    if !text.starts_with('[') {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        return Ok(names.map(|name| by_name(name, own)).collect());
    }
    let list: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| format!("annotation {NETWORKS_ANNOTATION} is not JSON: {error}"))?;
    let text =
        |of: &Value, field: &str| of[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    list.iter()
        .map(|of| {
            let name = text(of, "name").ok_or_else(|| {
                format!("annotation {NETWORKS_ANNOTATION} has a network without a name: {of}")
            })?;
            let namespace = text(of, "namespace").unwrap_or_else(|| own.to_owned());
            let interface = text(of, "interface").or_else(|| text(of, "interfaceRequest"));
            Ok(Network { namespace, name, interface })
        })
        .collect()
}

fn by_name(text: &str, own: &str) -> Network {
    let (namespace, rest) = text.split_once('/').unwrap_or((own, text));
    let (name, interface) = match rest.split_once('@') {
        Some((name, interface)) => (name, Some(interface.to_owned())),
        None => (rest, None),
    };
    Network { namespace: namespace.to_owned(), name: name.to_owned(), interface }
}

impl Definition {
    /// Parses a NetworkAttachmentDefinition.
    pub(super) fn read(object: &Value) -> Self {
        let resource = object["metadata"]["annotations"][RESOURCE_ANNOTATION].as_str().map(str::to_owned);
        let text = object["spec"]["config"].as_str().unwrap_or_default();
        let config: Value = match serde_json::from_str(text) {
            Ok(config) => config,
            Err(error) => {
                let unreadable = Some(format!("its spec.config is not JSON: {error}"));
                return Self { resource, unreadable, ..Self::default() };
            }
        };
        let plugins = match config["plugins"].as_array() {
            Some(plugins) => plugins.clone(),
            None => vec![config],
        };
        let texts = |path: fn(&Value) -> &Value| {
            plugins.iter().filter_map(|plugin| path(plugin).as_str().map(str::to_owned)).collect()
        };
        Self {
            types: texts(|plugin| &plugin["type"]),
            resource,
            pools: texts(|plugin| &plugin["ipam"]["pool"]),
            unreadable: None,
        }
    }

    /// Whether one of our plugins makes its interface.
    pub(super) fn is_ours(&self) -> bool {
        self.types.iter().any(|name| OWN_PLUGINS.contains(&name.as_str()))
    }

    /// The spoke whose resource it names.
    pub(super) fn spoke(&self) -> Option<&str> {
        self.resource.as_deref()?.strip_prefix(RESOURCE_PREFIX)
    }
}

/// The spokes' resources that the pod's containers request.
pub(super) fn resources(pod: &Value) -> Vec<String> {
    let mut names: Vec<String> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
        .flat_map(|container| ["limits", "requests"].map(|of| &container["resources"][of]))
        .filter_map(Value::as_object)
        .flat_map(|resources| resources.keys())
        .filter(|name| name.starts_with(RESOURCE_PREFIX))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(networks: &str) -> Value {
        json!({ "metadata": { "namespace": "shop", "annotations": { NETWORKS_ANNOTATION: networks } } })
    }

    fn network(namespace: &str, name: &str, interface: Option<&str>) -> Network {
        let interface = interface.map(str::to_owned);
        Network { namespace: namespace.into(), name: name.into(), interface }
    }

    #[test]
    fn an_annotation_is_a_list_or_json() {
        let expected = [network("shop", "a", None), network("default", "b", Some("lan0"))];
        assert_eq!(selected(&pod("a, default/b@lan0")).unwrap(), expected);
        let text = r#"[{"name": "a"}, {"name": "b", "namespace": "default", "interface": "lan0"}]"#;
        assert_eq!(selected(&pod(text)).unwrap(), expected);
        assert_eq!(selected(&json!({})).unwrap(), []);
        assert!(selected(&pod("[{")).unwrap_err().contains("is not JSON"));
        assert!(selected(&pod(r#"[{"namespace": "a"}]"#)).unwrap_err().contains("without a name"));
    }

    #[test]
    fn a_definition_tells_its_plugins_resource_and_pools() {
        let object = |config: &str| {
            json!({
                "metadata": { "annotations": { RESOURCE_ANNOTATION: "macvtap.k8slan.io/pod2" } }, "spec": { "config": config },
            })
        };
        let one =
            Definition::read(&object(r#"{"type": "macvtap", "ipam": {"type": "ipam-pool", "pool": "iot"}}"#));
        assert_eq!((one.spoke(), one.pools.as_slice()), (Some("pod2"), ["iot".to_owned()].as_slice()));
        assert!(one.is_ours());
        let list = Definition::read(&object(r#"{"plugins": [{"type": "bridge"}, {"type": "tuning"}]}"#));
        assert!(!list.is_ours() && list.types == ["bridge", "tuning"]);
        assert!(Definition::read(&object("{")).unreadable.is_some());
    }
}
