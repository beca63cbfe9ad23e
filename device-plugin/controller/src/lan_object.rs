//! A LAN's object at the API server, and the file that the LAN is built from.

use kube::core::{ApiResource, GroupVersionKind, Object, ObjectMeta};
use lan::{
    ACCEPTED, ConditionStatus, DeletionPolicy, LanKey, LanKeyError, LanSpec, LanStatus, find_condition,
};
use net_types::Mtu;
use serde::Deserialize as _;

use super::guarded::Guarded;
use proto::link::LanObject;

/// A LAN at the API server. The parts are guarded so that one object that does not fit the types does not prevent the
/// others from being read.
pub(super) type StoredLan = Object<Guarded<LanSpec>, Guarded<LanStatus>>;

/// What the rest of the daemon needs to know about an object beside its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredLan {
    pub key: LanKey,
    /// Differs from that of an earlier object with the same name.
    pub uid: String,
    /// Grows with each change of its specification.
    pub generation: i64,
    /// Whether it was deleted and waits for its finalizers.
    pub deleting: bool,
    /// The nodes on which something is attached to it, as the leader has it.
    pub attached_on: Vec<String>,
}

/// The kind of [`StoredLan`].
pub(super) fn lans() -> ApiResource {
    let kind = GroupVersionKind::gvk("lan.k8slan.io", "v1beta1", "LAN");
    ApiResource::from_gvk_with_plural(&kind, "lans")
}

/// The namespace and name of an object.
pub(super) fn key(metadata: &ObjectMeta) -> Result<LanKey, LanKeyError> {
    LanKey::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

pub(super) fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

/// Whether a node has refused it, by its status.
pub(super) fn is_refused(lan: &StoredLan) -> bool {
    let status = lan.status.as_ref().and_then(Guarded::valid);
    let accepted = status.and_then(|status| find_condition(&status.conditions, ACCEPTED));
    accepted.is_some_and(|accepted| accepted.status == ConditionStatus::False)
}

/// The parts of an object that the daemon needs.
pub(super) fn parse_lan(object: &StoredLan, key: LanKey) -> MirroredLan {
    MirroredLan {
        key,
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        attached_on: attached_on(object),
    }
}

/// The nodes on which something is attached to it, as the leader has it.
pub(super) fn attached_on(object: &StoredLan) -> Vec<String> {
    match object.status.as_ref() {
        Some(Guarded::Valid(status)) => status.attached_on.clone(),
        Some(Guarded::Invalid(status)) => Vec::deserialize(&status["attachedOn"]).unwrap_or_default(),
        None => Vec::new(),
    }
}

/// The MTU that all nodes have room for, as the leader wrote it into the status.
pub(super) fn common_mtu(object: &StoredLan) -> Option<Mtu> {
    if asked_mtu(object).is_some() {
        return None;
    }
    let mtu = match object.status.as_ref()? {
        Guarded::Valid(status) => status.mtu,
        Guarded::Invalid(status) => status["mtu"].as_i64(),
    };
    Mtu::try_from(u64::try_from(mtu?).ok()?).ok()
}

/// The MTU that its author set.
pub(super) fn asked_mtu(object: &StoredLan) -> Option<i64> {
    match &object.spec {
        Guarded::Valid(spec) => spec.mtu,
        Guarded::Invalid(spec) => spec["mtu"].as_i64(),
    }
}

/// What happens when it is deleted while it is in use.
pub(super) fn deletion_policy(object: &StoredLan) -> DeletionPolicy {
    match &object.spec {
        Guarded::Valid(spec) => spec.deletion_policy,
        Guarded::Invalid(spec) => serde_json::from_value(spec["deletionPolicy"].clone()).unwrap_or_default(),
    }
}

/// What a node needs of the object.
///
/// The node's part reads specifications strictly. Fields that this version does not know, of an object that a newer API
/// server accepted, are therefore left out; a specification that cannot be read at all stays as it is, so that the
/// node's part reports what is wrong.
pub(super) fn for_node(object: &StoredLan, key: LanKey) -> LanObject {
    LanObject {
        key,
        generation: object.metadata.generation,
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .and_then(|created| serde_json::to_value(created).ok()?.as_str().map(str::to_owned)),
        mtu: common_mtu(object),
        // Names and numbers, which can always be written as JSON.
        spec: serde_json::to_value(&object.spec).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use lan::manifest::{Document, read};
    use proto::published::MirrorAnnotations;
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: Value) -> StoredLan {
        let object = json!({
            "apiVersion": "lan.k8slan.io/v1beta1",
            "kind": "LAN",
            "metadata": {
                "namespace": "k8slan-system", "name": "lan.test", "uid": "7", "generation": 3, "resourceVersion": "12",
                "creationTimestamp": "2026-11-21T07:00:00Z",
                "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
            },
            "spec": spec,
            "status": { "nodes": "1/3" },
        });
        serde_json::from_value(object).unwrap()
    }

    fn read_back(spec: Value) -> Document {
        let object = object(spec);
        let key = key(&object.metadata).unwrap();
        let text = String::from_utf8(for_node(&object, key).file_text(None).unwrap()).unwrap();
        assert!(!text.contains("managedFields") && !text.contains("status"), "{text}");
        let mut documents = read(&text);
        assert_eq!(documents.len(), 1, "{documents:?}");
        documents.remove(0)
    }

    fn spec() -> Value {
        json!({
            "ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "defaultVxlanDev": "eth0.10",
            "vxlanDevMap": { "worker1": "eth1", "worker2": "eth2" }, "spokes": ["pod1", "pod2"],
            "vxlanGrp": "ff02::14", "vxlanPort": 4789, "attach": "macvtap", "mode": "passthru",
            "deletionPolicy": "WhenUnused",
        })
    }

    #[test]
    fn the_file_says_what_the_object_says() {
        let Document::Lan { key, spec: read } = read_back(spec()) else { panic!("a LAN") };
        assert_eq!(key.to_string(), "k8slan-system/lan.test");
        assert_eq!(serde_json::to_value(*read).unwrap(), spec());
    }

    #[test]
    fn a_newer_field_does_no_harm_and_a_wrong_one_is_left_to_be_named() {
        let mut newer = spec();
        newer["laterInvention"] = json!(true);
        assert!(matches!(read_back(newer), Document::Lan { .. }));
        let mut wrong = spec();
        wrong["vni"] = json!("many");
        let Document::Broken { key, message } = read_back(wrong) else { panic!("broken") };
        assert_eq!(key.unwrap().to_string(), "k8slan-system/lan.test");
        assert!(message.contains("line ") && !message.contains("line 1,"), "{message}");
    }

    #[test]
    fn what_the_cluster_knows_stands_in_the_file() {
        let mut object = object(spec());
        object.status = serde_json::from_value(json!({ "mtu": 1426 })).unwrap();
        let notes = MirrorAnnotations { hostname: Some("worker1".into()), mtu: common_mtu(&object) };
        let lan = for_node(&object, key(&object.metadata).unwrap());
        let text = String::from_utf8(lan.file_text(notes.hostname.as_deref()).unwrap()).unwrap();
        assert_eq!(MirrorAnnotations::parse(&serde_json::from_str(&text).unwrap()), notes);
        assert!(matches!(read(&text).as_slice(), [Document::Lan { .. }]), "{text}");
        // The MTU that the author sets is in the specification.
        let mut asked = spec();
        asked["mtu"] = json!(1400);
        object.spec = serde_json::from_value(asked).unwrap();
        assert_eq!(common_mtu(&object), None);
    }
}
