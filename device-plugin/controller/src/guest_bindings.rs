//! How KubeVirt connects a guest to the interfaces of its launcher pod; only the VirtualMachineInstance says it.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta};
use kube::{Api, Client};
use net_types::IfName;
use node::Binding;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::chain;

/// The pod is attached even without an answer; KubeVirt then reports what does not fit.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct GuestBindings {
    client: Client,
}

impl GuestBindings {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The bindings of the guest that `pod` launches, whose instance is called `vm`; empty if they cannot be found
    /// out.
    pub(super) async fn find(&self, pod: &ObjectMeta, vm: &str) -> BTreeMap<IfName, Binding> {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let kind = GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstance");
        let resource = ApiResource::from_gvk_with_plural(&kind, "virtualmachineinstances");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let why = match tokio::time::timeout(TIMEOUT, api.get(vm)).await {
            Ok(Ok(instance)) => match serde_json::from_value(instance.data["spec"].clone()) {
                Ok(spec) => return bindings(&spec),
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) => chain(&error),
            Err(elapsed) => elapsed.to_string(),
        };
        tracing::warn!(
            namespace,
            vm,
            error = why,
            "cannot read how KubeVirt binds the virtual machine's interfaces"
        );
        BTreeMap::new()
    }
}

/// The part of an instance's `spec` that is read: `v1.VirtualMachineInstanceSpec` in KubeVirt's
/// `staging/src/kubevirt.io/api`.
#[derive(Deserialize)]
struct Spec {
    domain: Domain,
    #[serde(default)]
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Domain {
    devices: Devices,
}

#[derive(Deserialize)]
struct Devices {
    #[serde(default)]
    interfaces: Vec<Interface>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    bridge: Option<Value>,
    /// The binding of KubeVirt before 1.3.
    macvtap: Option<Value>,
    binding: Option<Plugin>,
}

#[derive(Deserialize)]
struct Plugin {
    name: String,
}

#[derive(Deserialize)]
struct Network {
    name: String,
    multus: Option<Multus>,
}

#[derive(Deserialize)]
struct Multus {
    #[serde(default)]
    default: bool,
}

fn bindings(spec: &Spec) -> BTreeMap<IfName, Binding> {
    let found = |network: &Network| {
        let ifname = match network.multus.as_ref()?.default {
            true => "eth0".to_owned(),
            false => hashed_name(&network.name),
        };
        let interface = spec.domain.devices.interfaces.iter().find(|one| one.name == network.name)?;
        Some((ifname.parse().ok()?, binding(interface)?))
    };
    spec.networks.iter().filter_map(found).collect()
}

/// The binding of an interface. One that is registered under another name than that of
/// `install/kubevirt/macvtap-binding.yaml` is unknown.
fn binding(interface: &Interface) -> Option<Binding> {
    let registered = interface.binding.as_ref().map(|plugin| plugin.name.as_str());
    match (&interface.bridge, &interface.macvtap, registered) {
        (Some(_), _, _) => Some(Binding::Bridge),
        (_, Some(_), _) | (_, _, Some("macvtap")) => Some(Binding::Tap),
        _ => None,
    }
}

/// A network's interface in the launcher pod: `pod` and eleven digits of its name's SHA-256 (`GenerateHashedInterfaceName`
/// in KubeVirt's `pkg/network/namescheme`).
fn hashed_name(network: &str) -> String {
    let hash = Sha256::digest(network);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("pod{}", &digits[..11])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn networks_of_an_instance() {
        let spec = json!({
            "domain": { "devices": { "interfaces": [
                { "name": "default", "masquerade": {} },
                { "name": "lan", "binding": { "name": "macvtap" } },
                { "name": "old", "macvtap": {} },
                { "name": "zone", "bridge": {}, "macAddress": "02:00:00:00:00:01" },
                { "name": "other", "binding": { "name": "passt" } },
                { "name": "without" },
            ] } },
            "networks": [
                { "name": "default", "pod": {} },
                { "name": "lan", "multus": { "networkName": "lan" } },
                { "name": "old", "multus": { "networkName": "lan", "default": true } },
                { "name": "zone", "multus": { "networkName": "default/zone" } },
                { "name": "other", "multus": { "networkName": "zone" } },
                { "name": "without", "multus": { "networkName": "zone" } },
            ],
        });
        let found = bindings(&serde_json::from_value(spec).unwrap());
        let expected = [("lan", Binding::Tap), ("zone", Binding::Bridge)]
            .map(|(network, binding)| (hashed_name(network).parse().unwrap(), binding));
        let mut expected = BTreeMap::from(expected);
        expected.insert("eth0".parse().unwrap(), Binding::Tap);
        assert_eq!(found, expected);
    }

    #[test]
    fn names_as_kubevirt_makes_them() {
        // From KubeVirt's test of the name scheme.
        assert_eq!(hashed_name("red"), "podb1f51a511f1");
        assert!(node::Occupant::is_launcher_link(&hashed_name("red").parse().unwrap()));
    }

    #[test]
    fn an_instance_without_networks_has_none() {
        let spec = serde_json::from_value(json!({ "domain": { "devices": {} } })).unwrap();
        assert_eq!(bindings(&spec), BTreeMap::new());
    }
}
