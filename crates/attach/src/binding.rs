//! Whether KubeVirt can connect a guest to its interface in the launcher pod.

use cni::{Code, PluginError};
use net_types::IfName;
use node::{Binding, Occupant};

/// The kind of interface that an attachment gives to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestLink {
    /// A macvtap whose device `/dev/tapN` the kubelet gives to the container.
    Macvtap,
    /// A macvtap without a resource: the kubelet gives the container no device.
    MacvtapWithoutDevice,
    /// One end of a veth pair.
    Veth,
}

/// Why a virtual machine could never start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum BindingError {
    #[error(
        "virtual machine {vm} binds interface {ifname} by bridge: {{}}, and a macvtap cannot be the port of KubeVirt's bridge \
         (device or resource busy): use a spoke of a LAN with attach: veth, or bind the interface by binding: {{name: macvtap}}"
    )]
    BridgeOfMacvtap { vm: String, ifname: IfName },
    #[error(
        "virtual machine {vm} binds interface {ifname} by macvtap, and its container gets no /dev/tapN, since the kubelet \
         gives devices for resources alone: use a spoke of a LAN instead of a master"
    )]
    NoDevice { vm: String, ifname: IfName },
    #[error(
        "virtual machine {vm} binds interface {ifname} by macvtap, and this network gives a veth, which has no /dev/tapN: \
         use a spoke of a LAN with attach: macvtap, or bind the interface by bridge: {{}}"
    )]
    NoMacvtap { vm: String, ifname: IfName },
}

impl PluginError for BindingError {
    fn code(&self) -> Code {
        Code::INVALID_CONFIG
    }
}

impl BindingError {
    /// Checks whether KubeVirt can connect the guest. If the machine's binding is not known, that is not an error.
    ///
    /// # Errors
    /// KubeVirt cannot connect the guest.
    pub(crate) fn check(occupant: &Occupant, ifname: &IfName, link: GuestLink) -> Result<(), Self> {
        let (Some(vm), Some(binding)) = (&occupant.vm, occupant.binding) else { return Ok(()) };
        let (vm, ifname) = (vm.clone(), ifname.clone());
        match (binding, link) {
            (Binding::Bridge, GuestLink::Veth) | (Binding::Tap, GuestLink::Macvtap) => Ok(()),
            (Binding::Bridge, GuestLink::Macvtap | GuestLink::MacvtapWithoutDevice) => {
                Err(Self::BridgeOfMacvtap { vm, ifname })
            }
            (Binding::Tap, GuestLink::MacvtapWithoutDevice) => Err(Self::NoDevice { vm, ifname }),
            (Binding::Tap, GuestLink::Veth) => Err(Self::NoMacvtap { vm, ifname }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_binding_and_each_link() {
        let check = |vm: Option<&str>, binding, link| {
            let occupant = Occupant { vm: vm.map(str::to_owned), binding, ..Occupant::default() };
            BindingError::check(&occupant, &"pod16477688c0e".parse().unwrap(), link)
        };
        let (bridge, tap) = (Some(Binding::Bridge), Some(Binding::Tap));
        for link in [GuestLink::Macvtap, GuestLink::MacvtapWithoutDevice, GuestLink::Veth] {
            assert!(check(None, None, link).is_ok() && check(Some("web"), None, link).is_ok());
            let said = check(Some("web"), bridge, link).map_err(|error| error.to_string());
            assert_eq!(said.is_ok(), link == GuestLink::Veth);
            assert!(said.is_ok() || said.is_err_and(|said| said.contains("attach: veth")));
            let said = check(Some("web"), tap, link);
            assert_eq!(said.is_ok(), link == GuestLink::Macvtap);
        }
    }
}
