//! The kinds of objects that the leader asks the API server for.

use kube::core::{ApiResource, GroupVersionKind};

/// What nodes say of LANs.
pub(super) fn lan_nodes() -> ApiResource {
    resource("lan.k8slan.io", "v1beta1", "LANNode", "lannodes")
}

/// A kind of object, by its names.
pub(super) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}
