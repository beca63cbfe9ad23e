use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::CustomResourceExt as _;

use super::schema::MAX_POOL_NAME;
use super::{LanAddress, LanBlock, LanPool, LanPoolNode, LanReservation};
use crate::schema::rule;

/// The custom resource definitions of pools: `LANPool`, `LANReservation`, `LANBlock`, `LANAddress`, `LANPoolNode`.
#[must_use]
pub fn crds() -> [CustomResourceDefinition; 5] {
    let mut pool = LanPool::crd();
    for version in &mut pool.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            schema.x_kubernetes_validations.get_or_insert_default().push(rule(
                &format!("self.metadata.name.size() <= {MAX_POOL_NAME}"),
                "metadata.name takes 63 characters at most: it stands in the names of the pool's blocks",
            ));
        }
    }
    [pool, LanReservation::crd(), LanBlock::crd(), LanAddress::crd(), LanPoolNode::crd()]
}
