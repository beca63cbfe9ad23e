//! `IPAMClaim`s, by which KubeVirt asks for addresses that stay: whether one may own an address, and what its status says. Pure.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use lan::pool::{AddressOwner, ParsedPool};
use net_types::Addr;
use pool_blocks::ClaimUser;

pub(super) const GROUP: &str = "k8s.cni.cncf.io";
pub(super) const VERSION: &str = "v1alpha1";
pub(super) const KIND: &str = "IPAMClaim";
pub(super) const PLURAL: &str = "ipamclaims";

pub(super) fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, KIND), PLURAL)
}

/// Why a pod gets no address by a claim, behind its name.
pub(super) fn refusal(
    claim: &DynamicObject,
    owner: &AddressOwner,
    user: Option<&ClaimUser>,
) -> Option<String> {
    let text = |field: &str| claim.data["spec"][field].as_str().unwrap_or_default();
    let (of, network) = (text("network"), owner.network.as_deref().unwrap_or_default());
    if of != network {
        return Some(format!(
            "is of the network {of:?} (spec.network), and the pod names it for {network:?}"
        ));
    }
    let user = user?;
    // KubeVirt's says none.
    let (of, interface) = (text("interface"), &user.interface);
    if !of.is_empty() && of != interface {
        return Some(format!(
            "is of the interface {of:?} (spec.interface), and the pod names it for {interface:?}"
        ));
    }
    let runs = user.machine.as_deref()?;
    match machine(claim) {
        Some(of) if of == runs => None,
        Some(of) => Some(format!("is the virtual machine {of}'s (ownerReferences), and the pod runs {runs}")),
        None => Some(format!("does not say that it is the virtual machine {runs}'s (ownerReferences)")),
    }
}

/// The virtual machine that a claim was made for. Its instance has the same name.
fn machine(claim: &DynamicObject) -> Option<&str> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let is_machine = |kind: &str| matches!(kind, "VirtualMachine" | "VirtualMachineInstance");
    let found = owners.find(|owner| owner.api_version.starts_with("kubevirt.io/") && is_machine(&owner.kind));
    found.map(|owner| &*owner.name)
}

/// The addresses that a claim says it has; what is none is left out.
pub(super) fn said(claim: &DynamicObject) -> Vec<Addr> {
    let ips = claim.data["status"]["ips"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str());
    ips.filter_map(|ip| ip.split('/').next()?.parse().ok()).collect()
}

/// As others write it into claims: with the length of the subnet's prefix.
pub(super) fn with_prefix(pool: &ParsedPool, address: Addr) -> String {
    let mut parts = pool.parts().iter().filter(|part| part.addresses().contains(address));
    parts.next().map_or_else(|| address.to_string(), |part| format!("{address}/{}", part.prefix()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use lan::pool::LanPoolSpec;

    use super::*;

    fn claim(spec: Value, more: Value) -> DynamicObject {
        let mut claim = json!({
            "apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": KIND,
            "metadata": { "name": "web.lan", "namespace": "default" }, "spec": spec,
        });
        claim.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(claim).unwrap()
    }

    fn of_machine(kind: &str, name: &str) -> DynamicObject {
        let owner = json!({ "apiVersion": "kubevirt.io/v1", "kind": kind, "name": name, "uid": "u", "controller": true });
        let metadata = json!({ "name": "web.lan", "namespace": "default", "ownerReferences": [owner] });
        claim(json!({ "network": "lan", "interface": "" }), json!({ "metadata": metadata }))
    }

    fn refused(claim: &DynamicObject, network: &str, interface: &str, machine: Option<&str>) -> String {
        let owner = AddressOwner {
            kind: KIND.to_owned(),
            namespace: "default".to_owned(),
            name: "web.lan".to_owned(),
            network: Some(network.to_owned()),
            interface: None,
        };
        let user = ClaimUser { interface: interface.to_owned(), machine: machine.map(str::to_owned) };
        refusal(claim, &owner, Some(&user)).unwrap_or_default()
    }

    #[test]
    fn a_claim_is_of_one_network_and_may_be_of_one_interface() {
        let kubevirts = claim(json!({ "network": "lan", "interface": "" }), json!({}));
        assert_eq!(refused(&kubevirts, "lan", "net1", None), "");
        assert!(refused(&kubevirts, "dmz", "net1", None).contains(r#"the network "lan" (spec.network)"#));
        let of_interface = claim(json!({ "network": "lan", "interface": "net1" }), json!({}));
        assert_eq!(refused(&of_interface, "lan", "net1", None), "");
        assert!(refused(&of_interface, "lan", "net2", None).contains(r#"the interface "net1""#));
        assert!(refused(&claim(json!({}), json!({})), "lan", "net1", None).contains("the network \"\""));
    }

    #[test]
    fn who_may_be_on_two_nodes_is_the_machine_that_it_was_made_for() {
        for kind in ["VirtualMachine", "VirtualMachineInstance"] {
            let claim = of_machine(kind, "web");
            assert_eq!(refused(&claim, "lan", "net1", Some("web")), "");
            assert_eq!(refused(&claim, "lan", "net1", None), "", "on one node at a time");
            assert!(refused(&claim, "lan", "net1", Some("db")).contains("is the virtual machine web's"));
        }
        let nobodys = of_machine("ReplicaSet", "web");
        assert!(refused(&nobodys, "lan", "net1", Some("web")).contains("does not say"));
    }

    #[test]
    fn what_it_says_is_compared_by_address() {
        let with = |ips: Value| claim(json!({}), json!({ "status": { "ips": ips } }));
        let texts =
            |claim: &DynamicObject| -> Vec<String> { said(claim).iter().map(ToString::to_string).collect() };
        assert_eq!(texts(&with(json!(["10.0.0.7/24", "fd00::7", "x", 7]))), ["10.0.0.7", "fd00::7"]);
        assert!(said(&claim(json!({}), json!({}))).is_empty() && said(&with(Value::Null)).is_empty());
        let spec = LanPoolSpec {
            subnets: vec!["10.0.0.0/24".to_owned(), "fd00::/64".to_owned()],
            ..LanPoolSpec::default()
        };
        let pool = ParsedPool::parse(&spec).unwrap();
        assert_eq!(with_prefix(&pool, "10.0.0.7".parse().unwrap()), "10.0.0.7/24");
        assert_eq!(with_prefix(&pool, "fd00::7".parse().unwrap()), "fd00::7/64");
        assert_eq!(with_prefix(&pool, "10.1.0.7".parse().unwrap()), "10.1.0.7");
    }
}
