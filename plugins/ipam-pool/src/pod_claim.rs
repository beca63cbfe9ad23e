//! The `IPAMClaim` that a pod names for an interface, as KubeVirt's persistent IPs have it: it owns the address.

use net_types::IfName;
use node::{NamedClaim, Occupant, Paths, Pod, PodRecordError, is_kubernetes_name};

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
    Record(#[from] PodRecordError),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use node::{ClaimRecord, NodeConfig, PodRecord, SafeDir};

    use super::*;
    use crate::blocks::Blocks;
    use crate::store::PoolKey;
    use crate::{AllowedNamespaces, Rules};

    const UID: &str = "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b";

    /// A node whose daemon has recorded that the pod names this claim for net1.
    fn node(claim: &str) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let config = format!("runDir: {0}/run\nstateDir: {0}/state\n", dir.path().display());
        let paths = NodeConfig::parse(&config).unwrap().paths();
        let claims = [("net1".parse().unwrap(), claim.to_owned())].into();
        ClaimRecord { claims }.write(&SafeDir::create(&paths.owners()).unwrap(), UID).unwrap();
        (dir, paths)
    }

    fn network(paths: &Paths) -> Network {
        Network {
            key: PoolKey::Named("office".to_owned()),
            sets: Vec::new(),
            rules: Rules::default(),
            sticky: None,
            host_scope: false,
            of_cluster: true,
            blocks: Some(Blocks::new(paths, "office")),
            allows_claims: true,
            reserved: BTreeSet::new(),
            quarantine: Duration::ZERO,
            allowed_namespaces: AllowedNamespaces::All,
            routes: Vec::new(),
            dns: cni::Dns::default(),
            warnings: Vec::new(),
        }
    }

    fn found(paths: &Paths, network: &Network, occupant: &Occupant, ifname: &str) -> String {
        let pod = Pod { namespace: "default".into(), name: "web".into(), uid: Some(UID.to_owned()) };
        match PodClaim::find(paths, network, "lan", (Some(&pod), occupant), &ifname.parse().unwrap()) {
            Ok(Some(claim)) => {
                let floating = claim.floating(&claim.owner);
                format!("{} {}", floating.name, if floating.shared { "shared" } else { "alone" })
            }
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_claim_owns_what_its_network_lets_it() {
        let (_dir, paths) = node("web.lan");
        let (pod, with) = (Occupant::default(), || network(&paths));
        assert_eq!(found(&paths, &with(), &pod, "net1"), "claim:default/web.lan/lan alone");
        for ifname in ["net2", "eth0"] {
            assert_eq!(found(&paths, &with(), &pod, ifname), "none");
        }
        let without = Network { allows_claims: false, ..with() };
        assert_eq!(found(&paths, &without, &pod, "net1"), "none");
        let reserved = Network { reserved: ["pod:default/web".to_owned()].into(), ..with() };
        assert_eq!(found(&paths, &reserved, &pod, "net1"), "none", "it has what is reserved");
        let file = Network { blocks: None, ..with() };
        assert!(found(&paths, &file, &pod, "net1").contains("no LANPool that nodes share in blocks"));
        let none = Network { sticky: Some(Sticky::No), ..with() };
        assert!(found(&paths, &none, &pod, "net1").contains("keeps no addresses"));
        let (_dir, paths) = node("Web/lan");
        assert!(found(&paths, &network(&paths), &pod, "net1").contains("no name of an object"));
    }

    #[test]
    fn only_a_recorded_machine_is_on_two_nodes() {
        let (_dir, paths) = node("web.lan");
        let vm = |recorded, attested| Occupant {
            vm: Some("web".to_owned()),
            recorded,
            attested,
            ..Occupant::default()
        };
        let of = |occupant: &Occupant| found(&paths, &network(&paths), occupant, "net1");
        assert_eq!(of(&vm(true, true)), "claim:default/web.lan/lan shared");
        for occupant in [vm(false, true), vm(true, false)] {
            assert_eq!(of(&occupant), "claim:default/web.lan/lan alone");
        }
        let soon = Occupant { launcher: true, soon: true, ..Occupant::default() };
        assert!(of(&soon).contains("has not recorded yet which virtual machine"));
    }
}
