//! NetworkAttachmentDefinitions that the leader keeps for LANs that ask for them.

mod desired;
mod k8slan_go;
mod keeper;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, GroupVersionKind, NotUsed, Object};
use lan::LanKey;
use proto::kubelet::resource_name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(super) use keeper::DefinitionKeeper;

use super::guarded::Guarded;

/// The label of the leader's definitions; those without it are the users', and are never changed.
pub(super) const LABEL: &str = "app.kubernetes.io/managed-by";
pub(super) const OURS: &str = "k8slan";
/// Which LAN a definition belongs to, `<namespace>/<name>`; too long for a label.
const OF_LAN: &str = "lan.k8slan.io/lan";
/// What Multus asks the kubelet for.
const RESOURCE: &str = "k8s.v1.cni.cncf.io/resourceName";

/// A definition at the API server; the kind is Multus'.
pub(super) type NetAttachDef = Object<Guarded<NetAttachDefSpec>, NotUsed>;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct NetAttachDefSpec {
    /// A network configuration, as JSON; absent: a file of the node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<String>,
}

/// The kind of [`NetAttachDef`].
pub(super) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
    ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions")
}

/// The leader's definition for a LAN, which is given with its object's UID. It is named as its resource.
fn definition(
    lan: (&LanKey, &str),
    name: &str,
    namespace: &str,
    config: &Map<String, Value>,
) -> NetAttachDef {
    let (key, uid) = lan;
    // Text and names, which can always be written as JSON.
    let config = serde_json::to_string(config).ok();
    let mut definition =
        NetAttachDef::new(name, &resource(), Guarded::Valid(NetAttachDefSpec { config })).within(namespace);
    definition.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), OURS.to_owned())]));
    definition.metadata.annotations = Some(BTreeMap::from([
        (RESOURCE.to_owned(), resource_name(&name)),
        (OF_LAN.to_owned(), key.to_string()),
    ]));
    // An owner in another namespace would make the garbage collector delete the definition.
    if namespace == key.namespace() {
        definition.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "lan.k8slan.io/v1beta1".to_owned(),
            kind: "LAN".to_owned(),
            name: key.name().to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
    }
    definition
}

/// Whether the leader made the definition.
pub(super) fn is_ours(definition: &NetAttachDef) -> bool {
    let labels = definition.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.get(LABEL).map(String::as_str) == Some(OURS))
        && of_lan(definition).is_some()
}

/// The LAN of a definition that the leader made.
fn of_lan(definition: &NetAttachDef) -> Option<&str> {
    annotation(definition, OF_LAN)
}

fn annotation<'a>(definition: &'a NetAttachDef, name: &str) -> Option<&'a str> {
    definition.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The network configuration in a definition.
fn config(definition: &NetAttachDef) -> Option<&str> {
    definition.spec.valid()?.config.as_deref()
}

/// Whether an existing definition has the wanted contents.
fn is_current(definition: &NetAttachDef, wanted: &NetAttachDef) -> bool {
    let same = |name: &&str| annotation(definition, name) == annotation(wanted, name);
    config(definition) == config(wanted) && [RESOURCE, OF_LAN].iter().all(same)
}

/// Whether the API server takes it as the name of an object.
fn is_object_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.split('.').all(|part| {
        part.bytes().all(|b| plain(b) || b == b'-')
            && part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
    })
}
