use cni::{Code, PluginError, Request, Target};
use net_types::{IfName, MacAddr};
use netplumb::{Netlink, Netns};
use node::{
    Attachment, AttachmentLock, ConfigError, GuestError, LockError, NetnsRef, NetworkId, NodeConfig,
    Occupant, Pod, Role, TagError,
};

use crate::PodLink;
use crate::binding::{BindingError, GuestLink};
use crate::mac::{seeded_mac, stable_mac};

/// A request about an attachment whose namespace exists, as every verb but DEL needs it.
pub struct Call<'a, C> {
    /// The request as the `cni` crate checked it.
    pub request: &'a Request<C>,
    /// The container, its interface and its namespace.
    pub target: &'a Target,
    /// The configuration of the node, `/etc/k8slan/node.yaml`.
    pub node: NodeConfig,
    /// The identity of the attachment.
    pub attachment: Attachment,
    /// The identity as links and records have it.
    pub tag: String,
    /// Whether the interface is the pod's own or a guest's.
    pub occupant: Occupant,
    /// The network namespace of the container.
    pub netns: Netns,
    /// A netlink socket in that namespace.
    pub netlink: Netlink,
}

/// Why a request is refused before anything else is read.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node's configuration cannot be used.
    #[error(transparent)]
    NodeConfig(#[from] ConfigError),
    /// `CNI_NETNS` is not the path of a network namespace.
    #[error("CNI_NETNS takes the path of a network namespace")]
    NoNamespace(#[source] netplumb::Error),
    /// The kernel refuses a socket.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// The attachment's identity does not fit into a link's alias.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// It cannot be found out whether the interface is a guest's.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The interface is the launcher pod's or its guest's, and the daemon's record is not there yet.
    #[error(
        "the node daemon has not said yet which virtual machine pod {0} runs, so it is not known whether the interface is \
         the pod's or the guest's: try again"
    )]
    GuestNotYet(Pod),
    /// The launcher pod's name was cut, and the virtual machine's name is not known otherwise.
    #[error(
        "the node daemon has not said yet which virtual machine pod {0} runs, and the pod's name is cut, so the machine's \
         MAC address does not follow from it: try again"
    )]
    MacNotYet(Pod),
    /// KubeVirt could not connect the guest.
    #[error(transparent)]
    Binding(#[from] BindingError),
}

impl PluginError for CallError {
    fn code(&self) -> Code {
        /// The kernel refused: the code is the same in all plugins.
        const KERNEL: Code = Code::plugin(100);
        /// A record is damaged, or others than root may write it: the code is the same in all plugins.
        const UNTRUSTED: Code = Code::plugin(104);
        match self {
            Self::NoNamespace(_) => Code::ENVIRONMENT,
            Self::NodeConfig(_) | Self::Tag(_) | Self::Guest(GuestError::Name(_)) => Code::INVALID_CONFIG,
            Self::Net(_) => KERNEL,
            Self::Guest(_) => UNTRUSTED,
            Self::GuestNotYet(_) | Self::MacNotYet(_) => Code::TRY_AGAIN,
            Self::Binding(error) => error.code(),
        }
    }
}

impl<'a, C> Call<'a, C> {
    /// Reads the node's configuration and opens the container's namespace.
    ///
    /// # Errors
    /// One of the two cannot be used, or the attachment's tag does not fit into an alias.
    pub fn open(request: &'a Request<C>, target: &'a Target) -> Result<Self, CallError> {
        let node = NodeConfig::load()?;
        let pod = stated_pod(request);
        let occupant = Occupant::find(&node.paths(), pod.as_ref(), &target.ifname, request.stated_vm())?;
        if let (Role::Undecided, Some(pod)) = (occupant.role, &pod) {
            return Err(CallError::GuestNotYet(pod.clone()));
        }
        let netns = Netns::open(&target.netns).map_err(CallError::NoNamespace)?;
        let netlink = Netlink::open(&netns)?;
        let attachment = Attachment {
            container_id: target.container_id.as_str().to_owned(),
            ifname: target.ifname.clone(),
            netns: NetnsRef { path: target.netns.clone(), inode: netns.id().ino },
            network: NetworkId::from_name(request.network.as_str()),
            pod,
        };
        let tag = attachment.tag()?;
        Ok(Self { request, target, node, attachment, tag, occupant, netns, netlink })
    }

    /// Keeps DEL and GC of this attachment away until it is dropped: a DEL during an ADD must neither find nothing,
    /// nor free the address of a link that stays.
    ///
    /// # Errors
    /// Another program works on the attachment for longer than ten seconds.
    pub fn lock(&self) -> Result<Option<AttachmentLock>, LockError> {
        let attachment = &self.attachment;
        AttachmentLock::hold(self.node.paths().run(), &attachment.container_id, &attachment.ifname)
    }

    /// The interface in the pod, for its addresses and routes.
    #[must_use]
    pub fn pod_link(&self, index: u32, mac: MacAddr) -> PodLink<'_> {
        PodLink { netns: &self.netns, netlink: &self.netlink, index, name: &self.target.ifname, mac }
    }

    /// The pod's namespace, if the runtime states one.
    #[must_use]
    pub fn pod_namespace(&self) -> Option<&str> {
        self.attachment.pod.as_ref().map(|pod| pod.namespace.as_str())
    }

    /// Whether the interface is for the guest of a VM, not for the pod that launches it.
    #[must_use]
    pub fn is_for_a_guest(&self) -> bool {
        self.occupant.is_guest()
    }

    /// Checks whether KubeVirt can connect the guest to this kind of interface.
    ///
    /// # Errors
    /// It cannot: the machine would never start.
    pub fn suits_guest(&self, link: GuestLink) -> Result<(), CallError> {
        Ok(BindingError::check(&self.occupant, &self.target.ifname, link)?)
    }

    /// A MAC address that no interface has, for probing a guest's addresses
    /// ([`crate::PodLink::replace_taken_of_guest`]).
    #[must_use]
    pub fn asker(&self) -> MacAddr {
        stable_mac(&["asker", self.target.container_id.as_str(), self.target.ifname.as_str()])
    }

    /// The stable MAC address that the parts give in this node's cluster, see [`stable_mac`].
    #[must_use]
    pub fn stable_mac(&self, parts: &[&str]) -> MacAddr {
        seeded_mac(self.node.mac_seed.as_deref().unwrap_or_default(), parts)
    }

    /// What a stable MAC address is made from: the name of the VM, the pod, or else the container. `shared`: whether others are on the
    /// same link at the same time, as on a bridge or a master, and must not have the same identity.
    ///
    /// # Errors
    /// The VM's name is not known yet, and another address must not be used until then.
    pub fn mac_identity(&self, shared: bool) -> Result<String, CallError> {
        let Some(pod) = &self.attachment.pod else { return Ok(self.attachment.container_id.clone()) };
        match mac_identity(pod, &self.target.ifname, &self.occupant, shared) {
            Some(identity) => Ok(identity),
            None => Err(CallError::MacNotYet(pod.clone())),
        }
    }
}

/// What a stable MAC address is made from: a VM, by the name of its launcher pod without the random part, so that it keeps the
/// address over restarts; otherwise the pod. If the name was cut, so that another VM's may begin with the same text,
/// it is the VM's name from the daemon's record. `None`: that is not known yet.
///
/// Its result for the same arguments must never change: it is the MAC address of somebody's VM.
fn mac_identity(pod: &Pod, ifname: &IfName, occupant: &Occupant, shared: bool) -> Option<String> {
    /// The API server cuts longer names to this many bytes.
    const LONGEST: usize = 63;
    let launcher = pod.name.starts_with(Occupant::LAUNCHER);
    if !occupant.is_guest() || !launcher && !Occupant::is_launcher_link(ifname) {
        return Some(pod.to_string());
    }
    let namespace = &pod.namespace;
    if !shared || pod.name.len() < LONGEST {
        let vm = pod.name.rsplit_once('-').map(|(vm, _)| vm);
        return Some(vm.map_or_else(|| pod.to_string(), |vm| format!("{namespace}/{vm}")));
    }
    match &occupant.vm {
        Some(vm) => Some(format!("{namespace}/{}{vm}", Occupant::LAUNCHER)),
        None if occupant.soon => None,
        None => Some(pod.to_string()),
    }
}

/// The pod that the runtime states, if it states one.
fn stated_pod<C>(request: &Request<C>) -> Option<Pod> {
    let args = &request.args;
    let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Some(Pod {
        uid: stated(&args.pod_uid),
        namespace: stated(&args.pod_namespace)?,
        name: stated(&args.pod_name).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "pod16477688c0e";

    /// What a guest's MAC address is made from; `vm` is the daemon's record.
    fn identity_of(pod: &str, ifname: &str, vm: Option<&str>, shared: bool) -> Option<String> {
        let pod = Pod { uid: None, namespace: "default".into(), name: pod.into() };
        let vm = vm.map(str::to_owned);
        let occupant =
            Occupant { role: Role::Guest, soon: vm.is_none(), launcher: true, vm, ..Occupant::default() };
        mac_identity(&pod, &ifname.parse().unwrap(), &occupant, shared)
    }

    /// The name of a launcher pod, as the API server makes it.
    fn launcher(vm: &str, random: &str) -> String {
        let base = format!("virt-launcher-{vm}-");
        format!("{}{random}", &base[..base.len().min(58)])
    }

    #[test]
    fn a_vm_is_told_by_its_launcher_unless_the_name_was_cut() {
        for vm in [None, Some("web"), Some("another")] {
            for shared in [true, false] {
                let is = identity_of("virt-launcher-web-x7k2p", HASH, vm, shared);
                assert_eq!(is.as_deref(), Some("default/virt-launcher-web"), "{vm:?}");
            }
        }
        let long = "a-long-name-of-many-a-long-name-of-many-a-long";
        let (one, other) = (launcher(long, "x7k2p"), launcher(long, "zzzzz"));
        assert_eq!(one.len(), 63);
        let whole = format!("default/virt-launcher-{long}");
        assert_eq!(identity_of(&one, HASH, Some(long), true), Some(whole.clone()));
        assert_eq!(identity_of(&other, HASH, Some(long), true), Some(whole));
        assert_eq!(identity_of(&one, HASH, None, true), None, "another VM's name may begin alike");
    }

    #[test]
    fn a_name_is_taken_for_cut_from_43_characters_on() {
        for length in 1..60 {
            let vm = "v".repeat(length);
            let owners =
                ["x7k2p", "zzzzz"].map(|end| identity_of(&launcher(&vm, end), HASH, Some(&vm), true));
            assert_eq!(owners[0].as_deref(), Some(&*format!("default/virt-launcher-{vm}")), "{length}");
            assert_eq!(owners[0], owners[1], "{length}");
            let waits = identity_of(&launcher(&vm, "x7k2p"), HASH, None, true).is_none();
            assert_eq!(waits, length >= 43, "{length}");
        }
    }

    #[test]
    fn a_guest_on_eth0_has_its_vms_address_too() {
        let is = identity_of("virt-launcher-web-x7k2p", "eth0", Some("web"), true);
        assert_eq!(is.as_deref(), Some("default/virt-launcher-web"));
        // A VM in a pod with a name of the user's had the pod's address before, and must keep it.
        let is = identity_of("qemu-0", "net1", Some("web"), true);
        assert_eq!(is.as_deref(), Some("default/qemu-0"));
    }
}
