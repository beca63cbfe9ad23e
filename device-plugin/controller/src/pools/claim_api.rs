//! Reads `IPAMClaim`s, and writes their status.
//!
//! Nothing is watched: a claim is read when its address is fetched to a node, and listed with other owners. Its status is written and
//! never believed, since whoever may write it must not choose addresses.

use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use lan::pool::{AddressOwner, LanPoolSpec, ParsedPool};
use net_types::Addr;
use pool_blocks::{Float, PoolName};
use serde_json::json;

use super::api::{NodeReader, PoolApi, RequestError};
use super::convert::parse_owner;
use super::ip_claims::{KIND, refusal, resource, said, with_prefix};
use crate::chain;

/// What the API server says of the claim that a pod names.
pub(super) enum Claim {
    /// The owner is another than a claim.
    Unneeded,
    Valid(Box<DynamicObject>),
    /// Why the pod gets no address by it.
    Refused(String),
}

impl<N: NodeReader> PoolApi<N> {
    fn claims(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client().clone(), namespace, &resource())
    }

    /// The claim by which an address is asked for.
    pub(super) async fn claim(&self, asked: &Float) -> Result<Claim, RequestError> {
        let Ok(owner) = parse_owner(&asked.owner) else { return Ok(Claim::Unneeded) };
        if owner.kind != KIND {
            return Ok(Claim::Unneeded);
        }
        let AddressOwner { namespace, name, .. } = &owner;
        let claim = match self.claims(namespace).get_opt(name).await {
            Ok(claim) => claim,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let reason =
                    "k8slan's daemon may not read IPAMClaims, which the ClusterRole of its version permits";
                return Ok(Claim::Refused(reason.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let Some(claim) = claim else {
            return Ok(Claim::Refused(format!(
                "the IPAMClaim {namespace}/{name} that the pod names does not exist: kubevirt/ipam-extensions makes it for a virtual \
                 machine"
            )));
        };
        Ok(match refusal(&claim, &owner, asked.user.as_ref()) {
            Some(reason) => Claim::Refused(format!("the IPAMClaim {namespace}/{name} {reason}")),
            None => Claim::Valid(Box::new(claim)),
        })
    }

    /// Writes into a claim that it has these addresses of a pool, if it does not say so.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn tell_claim(
        &self,
        claim: &DynamicObject,
        pool: &PoolName,
        addresses: &[Addr],
    ) -> Result<(), RequestError> {
        if said(claim) == addresses {
            return Ok(());
        }
        let pool = self.pools().get_opt(pool.as_str()).await?;
        let spec = pool.and_then(|pool| serde_json::from_value::<LanPoolSpec>(pool.spec).ok());
        let Some(pool) = spec.and_then(|spec| ParsedPool::parse(&spec).ok()) else { return Ok(()) };
        let ips: Vec<String> = addresses.iter().map(|address| with_prefix(&pool, *address)).collect();
        let patch = json!({ "metadata": { "uid": claim.metadata.uid }, "status": { "ips": ips } });
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        let api = self.claims(&namespace);
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            // The pod gets its address all the same.
            Err(error @ kube::Error::Api(_)) => {
                let error = chain(&error);
                tracing::warn!(namespace, name, error, "the status of an IPAMClaim cannot be written");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
