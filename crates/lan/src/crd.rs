//! The custom resource definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::CustomResourceExt as _;

use crate::schema::rule;
use crate::{LanNode, LanObject};

/// The custom resource definition of `LAN`, as `install/crds/` has it.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = LanObject::crd();
    let name_rule = rule(
        "self.metadata.name.size() <= 180",
        "metadata.name takes 180 characters at most: it stands in the aliases of the LAN's links",
    );
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            let rules = schema.x_kubernetes_validations.get_or_insert_default();
            rules.push(name_rule.clone());
        }
    }
    crd
}

/// The custom resource definition of `LANNode`: the state of one LAN on one node.
#[must_use]
pub fn node_crd() -> CustomResourceDefinition {
    let mut crd = LanNode::crd();
    // What a node says is one write: without the subresource, the conditions come with the rest.
    for version in &mut crd.spec.versions {
        version.subresources = None;
    }
    crd
}
