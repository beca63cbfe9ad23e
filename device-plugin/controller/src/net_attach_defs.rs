//! NetworkAttachmentDefinitions that the leader keeps for LANs that ask for them.

use std::collections::BTreeMap;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use lan::{LanKey, NetworkAttachments};
use net_types::SpokeName;
use serde_json::{Map, Value, json};

use proto::kubelet::resource_name;

/// The label of the leader's definitions; those without it are the users', and are never changed.
pub(super) const LABEL: &str = "app.kubernetes.io/managed-by";
pub(super) const OURS: &str = "k8slan";
/// Which LAN a definition belongs to, `<namespace>/<name>`; too long for a label.
pub(super) const OF_LAN: &str = "lan.k8slan.io/lan";
/// What Multus asks the kubelet for.
pub(super) const RESOURCE: &str = "k8s.v1.cni.cncf.io/resourceName";

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
    pub(super) objects: BTreeMap<(String, String), Value>,
    pub(super) problems: Vec<String>,
}

pub(super) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
    ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions")
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

fn definition(request: &DefinitionRequest<'_>, spoke: &SpokeName, namespace: &str) -> Value {
    let mut config = Map::from_iter([
        ("cniVersion".to_owned(), json!("1.0.0")),
        ("name".to_owned(), json!(spoke)),
        ("type".to_owned(), json!("macvtap")),
    ]);
    if let Some(ipam) = &request.asked.ipam {
        config.insert("ipam".to_owned(), Value::Object(ipam.clone()));
    }
    object((request.key, request.uid), spoke.as_str(), namespace, config)
}

/// The leader's definition for a LAN, which is given with its object's UID. It is named as its resource.
pub(super) fn object(lan: (&LanKey, &str), name: &str, namespace: &str, config: Map<String, Value>) -> Value {
    let (key, uid) = lan;
    let mut metadata = json!({
        "namespace": namespace,
        "name": name,
        "labels": { LABEL: OURS },
        "annotations": { RESOURCE: resource_name(&name), OF_LAN: key.to_string() },
    });
    // An owner in another namespace would make the garbage collector delete the definition.
    if namespace == key.namespace() {
        metadata["ownerReferences"] = json!([{
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "name": key.name(), "uid": uid,
        }]);
    }
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": metadata,
        "spec": { "config": Value::Object(config).to_string() },
    })
}

/// Whether the leader made the definition.
pub(super) fn is_ours(object: &DynamicObject) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.get(LABEL).map(String::as_str) == Some(OURS))
        && of_lan(object).is_some()
}

/// The LAN of a definition that the leader made.
pub(super) fn of_lan(object: &DynamicObject) -> Option<&str> {
    object.metadata.annotations.as_ref()?.get(OF_LAN).map(String::as_str)
}

/// Whether an existing definition has the wanted contents.
pub(super) fn is_current(object: &DynamicObject, wanted: &Value) -> bool {
    let annotation = |name: &str| object.metadata.annotations.as_ref().and_then(|all| all.get(name));
    object.data["spec"] == wanted["spec"]
        && [RESOURCE, OF_LAN].iter().all(|name| {
            annotation(name).map(String::as_str) == wanted["metadata"]["annotations"][name].as_str()
        })
}

pub(super) fn is_object_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.split('.').all(|part| {
        part.bytes().all(|b| plain(b) || b == b'-')
            && part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
    })
}

#[cfg(test)]
mod tests {
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
        assert_eq!(object["metadata"]["annotations"][RESOURCE], "macvtap.k8slan.io/pod1");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
        let config: Value = serde_json::from_str(object["spec"]["config"].as_str().unwrap()).unwrap();
        assert_eq!((&config["type"], &config["ipam"]["pool"]), (&json!("macvtap"), &json!("lan")));
        let elsewhere = build(&["pod1"], Some(&["web"]), json!({}));
        let object = elsewhere.objects.values().next().unwrap();
        assert!(object["metadata"].get("ownerReferences").is_none(), "{object}");
    }

    #[test]
    fn a_spoke_that_names_no_object_is_told() {
        let wanted = build(&["Pod_1", "pod2"], None, json!({}));
        assert_eq!(places(&wanted), ["k8slan-system/pod2"]);
        assert!(wanted.problems[0].contains("Pod_1"), "{wanted:?}");
    }
}
