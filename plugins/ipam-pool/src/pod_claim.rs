//! The `IPAMClaim` that a pod names for an interface, as KubeVirt's persistent IPs have it: it owns the address.

use net_types::IfName;
use node::{ClaimRecordError, NamedClaim, Occupant, Paths, Pod, is_kubernetes_name};

use crate::Owner;
use crate::blocks::{ClaimUser, FloatingOwner};
use crate::network::Network;
use crate::options::Sticky;

/// The interface of a pod's default network. Claims are named for the others.
const DEFAULT: &str = "eth0";

/// The claim of an interface.
pub(crate) struct PodClaim {
    pub(crate) owner: Owner,
    user: ClaimUser,
}

/// Why a claim cannot own an address.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum ClaimError {
    /// The node daemon may record it soon.
    #[error(
        "the network lets IPAMClaims keep addresses (allowPersistentIPs), and the node daemon has not recorded yet which one the pod \
         names: try again"
    )]
    NotYet,
    /// The same for the machine.
    #[error(
        "the pod names an IPAMClaim, and the node daemon has not recorded yet which virtual machine this launcher pod runs: try again"
    )]
    VmNotYet,
    #[error("cannot tell which IPAMClaim the pod names")]
    Record(#[from] ClaimRecordError),
    #[error(
        "the pod names an IPAMClaim {0:?} (ipam-claim-reference), which is no name of an object of Kubernetes"
    )]
    Name(String),
    #[error(
        "the pod names the IPAMClaim {claim:?}, but {pool} is no LANPool that nodes share in blocks, so that its addresses cannot follow \
         the claim: name one without nodes, or take allowPersistentIPs out of the network"
    )]
    NotShared { claim: String, pool: String },
    #[error(
        "the pod names the IPAMClaim {claim:?}, but {pool} keeps no addresses (sticky: None): take that out of the LANPool, or \
         allowPersistentIPs out of the network"
    )]
    NotKept { claim: String, pool: String },
}

impl PodClaim {
    /// The claim that the pod names for this interface, where the network lets claims keep addresses.
    ///
    /// # Errors
    /// It cannot own an address of the pool, or the daemon has not heard of the pod yet.
    pub(crate) fn find(
        paths: &Paths,
        network: &Network,
        name: &str,
        (pod, occupant): (Option<&Pod>, &Occupant),
        ifname: &IfName,
    ) -> Result<Option<Self>, ClaimError> {
        let Some(pod) = pod.filter(|_| network.allows_claims && ifname.as_str() != DEFAULT) else {
            return Ok(None);
        };
        let claim = match NamedClaim::find(paths, Some(pod), ifname)? {
            NamedClaim::Named(claim) => claim,
            NamedClaim::None => return Ok(None),
            NamedClaim::NotYet => return Err(ClaimError::NotYet),
        };
        // What is reserved for the machine or the pod is its.
        let vm = occupant.vm.as_ref().map(|vm| Owner::vm(&pod.namespace, vm, name));
        let own = [Some(Owner::pod(&pod.namespace, &pod.name, name)), vm];
        if own.into_iter().flatten().any(|owner| network.is_reserved_for(&owner)) {
            return Ok(None);
        }
        if !is_kubernetes_name(&claim) {
            return Err(ClaimError::Name(claim));
        }
        let pool = network.key.to_string();
        if network.blocks.is_none() {
            return Err(ClaimError::NotShared { claim, pool });
        }
        if network.sticky == Some(Sticky::No) {
            return Err(ClaimError::NotKept { claim, pool });
        }
        if occupant.soon {
            return Err(ClaimError::VmNotYet);
        }
        // Two of a machine's launchers may be there at once, of what only says that it is one, one.
        let machine = occupant.vm.clone().filter(|_| occupant.recorded && occupant.attested);
        let user = ClaimUser { interface: ifname.to_string(), machine };
        Ok(Some(Self { owner: Owner::claim(&pod.namespace, &claim, name), user }))
    }

    /// Whether the pod runs a machine, whose other launcher may have the address, too; absent where it runs none.
    pub(crate) fn launcher(&self) -> Option<bool> {
        self.user.machine.as_ref().map(|_| true)
    }

    /// Whose address it is on every node: the claim's, or that of a further interface that names it.
    pub(crate) fn floating(&self, owner: &Owner) -> FloatingOwner {
        let shared = self.user.machine.is_some();
        FloatingOwner { name: owner.floating_name(), create: true, shared, user: Some(self.user.clone()) }
    }
}
