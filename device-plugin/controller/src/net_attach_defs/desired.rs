//! The definitions that a LAN asks for.

use std::collections::BTreeMap;

use lan::{LanKey, NetworkAttachments};
use net_types::SpokeName;
use serde_json::{Map, Value, json};

use super::{NetAttachDef, is_object_name};
use crate::stores::ObjectKey;

/// The parts of a LAN's object that its definitions depend on.
pub(super) struct DefinitionRequest<'a> {
    pub(super) key: &'a LanKey,
    pub(super) uid: &'a str,
    pub(super) spokes: &'a [String],
    pub(super) allowed: Option<&'a [String]>,
    pub(super) asked: &'a NetworkAttachments,
}

/// The definitions of a LAN, by namespace and name, and those that cannot be made, as texts.
#[derive(Debug, Default)]
pub(super) struct DesiredDefinitions {
    pub(super) objects: BTreeMap<ObjectKey, NetAttachDef>,
    pub(super) problems: Vec<String>,
}

/// One definition per spoke and namespace.
pub(super) fn desired(request: &DefinitionRequest<'_>) -> DesiredDefinitions {
    let own = [request.key.namespace().to_owned()];
    let namespaces = request.asked.namespaces.as_deref().or(request.allowed).unwrap_or(&own);
    let mut wanted = DesiredDefinitions::default();
    for spoke in request.spokes {
        let Ok(spoke) = spoke.parse::<SpokeName>() else { continue };
        if !is_object_name(spoke.as_str()) {
            wanted.problems.push(format!(
                "spoke {spoke} cannot name an object (lower-case letters, digits, '-' and '.' only): make its definition \
                 yourself, under another name"
            ));
            continue;
        }
        for namespace in namespaces {
            let refused = request.allowed.is_some_and(|allowed| !allowed.contains(namespace));
            if refused {
                continue;
            }
            let object = definition(request, &spoke, namespace);
            wanted.objects.insert((namespace.clone(), spoke.to_string()), object);
        }
    }
    if let (Some(namespaces), Some(allowed)) = (&request.asked.namespaces, request.allowed) {
        for namespace in namespaces.iter().filter(|namespace| !allowed.contains(namespace)) {
            wanted.problems.push(format!("namespace {namespace} is not among allowedNamespaces"));
        }
    }
    wanted
}

fn definition(request: &DefinitionRequest<'_>, spoke: &SpokeName, namespace: &str) -> NetAttachDef {
    let mut config = Map::from_iter([
        ("cniVersion".to_owned(), json!("1.0.0")),
        ("name".to_owned(), json!(spoke)),
        ("type".to_owned(), json!("macvtap")),
    ]);
    if let Some(ipam) = &request.asked.ipam {
        config.insert("ipam".to_owned(), Value::Object(ipam.clone()));
    }
    if request.asked.allow_persistent_ips == Some(true) {
        config.insert("allowPersistentIPs".to_owned(), Value::Bool(true));
    }
    super::definition((request.key, request.uid), spoke.as_str(), namespace, &config)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::RESOURCE;
    use super::*;

    fn build(spokes: &[&str], allowed: Option<&[&str]>, asked: Value) -> DesiredDefinitions {
        let key: LanKey = "k8slan-system/lan-test".parse().unwrap();
        let spokes: Vec<String> = spokes.iter().map(|&s| s.to_owned()).collect();
        let allowed: Option<Vec<String>> = allowed.map(|list| list.iter().map(|&s| s.to_owned()).collect());
        let asked: NetworkAttachments = serde_json::from_value(asked).unwrap();
        desired(&DefinitionRequest {
            key: &key,
            uid: "u",
            spokes: &spokes,
            allowed: allowed.as_deref(),
            asked: &asked,
        })
    }

    fn places(wanted: &DesiredDefinitions) -> Vec<String> {
        wanted.objects.keys().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn one_per_spoke_where_pods_may_join() {
        assert_eq!(
            places(&build(&["pod1", "pod2"], None, json!({}))),
            ["k8slan-system/pod1", "k8slan-system/pod2"]
        );
        assert_eq!(places(&build(&["pod1"], Some(&["web", "db"]), json!({}))), ["db/pod1", "web/pod1"]);
        let chosen = build(&["pod1"], None, json!({ "namespaces": ["web"] }));
        assert_eq!(places(&chosen), ["web/pod1"]);
        let refused = build(&["pod1"], Some(&["web"]), json!({ "namespaces": ["web", "db"] }));
        assert_eq!(places(&refused), ["web/pod1"]);
        assert!(refused.problems[0].contains("db is not among allowedNamespaces"), "{refused:?}");
        assert!(places(&build(&["pod1"], Some(&[]), json!({}))).is_empty());
    }

    #[test]
    fn they_say_what_multus_needs() {
        let wanted = build(&["pod1"], None, json!({ "ipam": { "type": "ipam-pool", "pool": "lan" } }));
        let object = &wanted.objects[&("k8slan-system".to_owned(), "pod1".to_owned())];
        assert_eq!(object.metadata.annotations.as_ref().unwrap()[RESOURCE], "macvtap.k8slan.io/pod1");
        assert_eq!(object.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        let written = serde_json::to_value(object).unwrap();
        assert_eq!(written["kind"], "NetworkAttachmentDefinition");
        let config: Value = serde_json::from_str(written["spec"]["config"].as_str().unwrap()).unwrap();
        assert_eq!((&config["type"], &config["ipam"]["pool"]), (&json!("macvtap"), &json!("lan")));
        assert_eq!(config.get("allowPersistentIPs"), None);
        let wanted = build(&["pod1"], None, json!({ "allowPersistentIPs": true }));
        let text = serde_json::to_value(wanted.objects.values().next().unwrap()).unwrap();
        let config: Value = serde_json::from_str(text["spec"]["config"].as_str().unwrap()).unwrap();
        assert_eq!(config["allowPersistentIPs"], true);
        let elsewhere = build(&["pod1"], Some(&["web"]), json!({}));
        let object = elsewhere.objects.values().next().unwrap();
        assert!(object.metadata.owner_references.is_none(), "{object:?}");
    }

    #[test]
    fn a_spoke_that_names_no_object_is_told() {
        let wanted = build(&["Pod_1", "pod2"], None, json!({}));
        assert_eq!(places(&wanted), ["k8slan-system/pod2"]);
        assert!(wanted.problems[0].contains("Pod_1"), "{wanted:?}");
    }
}
