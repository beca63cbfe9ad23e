use cni::{Code, PluginError, Request, Target};
use net_types::{IfName, MacAddr};
use netplumb::{Netlink, Netns};
use node::{
    Attachment, AttachmentLock, ConfigError, GuestError, LockError, NetnsRef, NetworkId, NodeConfig,
    Occupant, Pod, Role, TagError,
};

use crate::binding::{BindingError, GuestLink};
use crate::mac::{seeded_mac, stable_mac};

/// A request about one attachment whose namespace is there: what every verb but DEL starts with.
pub struct Call<'a, C> {
    /// The request.
    pub request: &'a Request<C>,
    /// The container's side of it.
    pub target: &'a Target,
    /// `/etc/k8slan/node.yaml`.
    pub node: NodeConfig,
    /// Who asks.
    pub attachment: Attachment,
    /// Who asks, as links and records state it.
    pub tag: String,
    /// Whom the interface is for.
    pub occupant: Occupant,
    /// The container's namespace.
    pub netns: Netns,
    /// A socket in it.
    pub netlink: Netlink,
}

/// Why a request cannot even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// `/etc/k8slan/node.yaml`.
    #[error(transparent)]
    NodeConfig(#[from] ConfigError),
    /// `CNI_NETNS` leads to something else than a network namespace.
    #[error("CNI_NETNS takes the path of a network namespace")]
    NoNamespace(#[source] netplumb::Error),
    /// The kernel gave no socket.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// The attachment's identity does not fit on a link.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// Whom the interface is for cannot be told.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// It is for the launcher pod or for its guest, and the one who knows has not said so yet.
    #[error(
        "the node daemon has not said yet which virtual machine pod {0} runs, so it is not known whether the interface is \
         the pod's or the guest's: try again"
    )]
    GuestNotYet(Pod),
    /// The virtual machine of a launcher pod whose name was cut is not known.
    #[error(
        "the node daemon has not said yet which virtual machine pod {0} runs, and the pod's name is cut, so the machine's \
         MAC address does not follow from it: try again"
    )]
    MacNotYet(Pod),
    /// KubeVirt cannot connect the guest.
    #[error(transparent)]
    Binding(#[from] BindingError),
}

impl PluginError for CallError {
    fn code(&self) -> Code {
        /// The kernel refused, in every plugin of ours.
        const KERNEL: Code = Code::plugin(100);
        /// A record is damaged, or others than root could have written it, in every plugin of ours.
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
    /// Either is not usable, or no link could carry the attachment's tag.
    pub fn open(request: &'a Request<C>, target: &'a Target) -> Result<Self, CallError> {
        let node = NodeConfig::load()?;
        let pod = stated_pod(request);
        let occupant = Occupant::of(&node.paths(), pod.as_ref(), &target.ifname, request.stated_vm())?;
        if let (Role::Undecided, Some(pod)) = (occupant.role, &pod) {
            return Err(CallError::GuestNotYet(pod.clone()));
        }
        let netns = Netns::open(&target.netns).map_err(CallError::NoNamespace)?;
        let netlink = Netlink::open(&netns)?;
        let attachment = Attachment {
            container_id: target.container_id.as_str().to_owned(),
            ifname: target.ifname.clone(),
            netns: NetnsRef { path: target.netns.clone(), inode: netns.id().ino },
            network: NetworkId::of(request.network.as_str()),
            pod,
        };
        let tag = attachment.tag()?;
        Ok(Self { request, target, node, attachment, tag, occupant, netns, netlink })
    }

    /// Keeps DEL and GC of this attachment away until it is dropped: a DEL that comes while ADD runs must neither find
    /// nothing, nor free the address of a link that stays.
    ///
    /// # Errors
    /// Another program works on it for longer than ten seconds.
    pub fn lock(&self) -> Result<Option<AttachmentLock>, LockError> {
        let attachment = &self.attachment;
        AttachmentLock::hold(self.node.paths().run(), &attachment.container_id, &attachment.ifname)
    }

    /// The pod's namespace, where the runtime states one.
    #[must_use]
    pub fn pod_namespace(&self) -> Option<&str> {
        self.attachment.pod.as_ref().map(|pod| pod.namespace.as_str())
    }

    /// Whether the interface is for the guest of a VM, not for the pod that launches it.
    #[must_use]
    pub fn is_for_a_guest(&self) -> bool {
        self.occupant.is_guest()
    }

    /// Finds out whether KubeVirt can connect the guest by what its interface gets.
    ///
    /// # Errors
    /// It cannot: the machine would never start.
    pub fn suits_guest(&self, link: GuestLink) -> Result<(), CallError> {
        Ok(BindingError::check(&self.occupant, &self.target.ifname, link)?)
    }

    /// The MAC address, nobody's, under which a guest's addresses are asked for
    /// ([`crate::PodLink::settle_for_guest`]).
    #[must_use]
    pub fn asker(&self) -> MacAddr {
        stable_mac(&["asker", self.target.container_id.as_str(), self.target.ifname.as_str()])
    }

    /// The stable MAC address of what the parts stand for: [`stable_mac`], in this node's cluster.
    #[must_use]
    pub fn stable_mac(&self, parts: &[&str]) -> MacAddr {
        seeded_mac(self.node.mac_seed.as_deref().unwrap_or_default(), parts)
    }

    /// Whom a stable MAC address belongs to: the VM, the pod, or else the container. `shared`: whether others
    /// are on the same link at the same time, as on a bridge or a master, and must not have the same owner.
    ///
    /// # Errors
    /// The VM will be known later, and must not have another address until then.
    pub fn owner(&self, shared: bool) -> Result<String, CallError> {
        let Some(pod) = &self.attachment.pod else { return Ok(self.attachment.container_id.clone()) };
        match owner(pod, &self.target.ifname, &self.occupant, shared) {
            Some(owner) => Ok(owner),
            None => Err(CallError::MacNotYet(pod.clone())),
        }
    }
}

/// The owner of a MAC address: a VM, by the name of its launcher pod without the random part, so that it keeps the
/// address over restarts; else the pod. Where the name was cut, and another VM's may begin alike, what is known of
/// the VM takes its place. None: that will be known later.
///
/// What this returned once it must return for ever: it is the MAC address of somebody's VM.
fn owner(pod: &Pod, ifname: &IfName, occupant: &Occupant, only_one: bool) -> Option<String> {
    /// The API server cuts what it is given, so that a name has at most these many bytes.
    const LONGEST: usize = 63;
    let launcher = pod.name.starts_with(Occupant::LAUNCHER);
    if !occupant.is_guest() || !launcher && !Occupant::is_launcher_link(ifname) {
        return Some(pod.to_string());
    }
    let namespace = &pod.namespace;
    if !only_one || pod.name.len() < LONGEST {
        let vm = pod.name.rsplit_once('-').map(|(vm, _)| vm);
        return Some(vm.map_or_else(|| pod.to_string(), |vm| format!("{namespace}/{vm}")));
    }
    match &occupant.vm {
        Some(vm) => Some(format!("{namespace}/{}{vm}", Occupant::LAUNCHER)),
        None if occupant.soon => None,
        None => Some(pod.to_string()),
    }
}

/// The pod that the runtime states.
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

    /// The owner of a guest's MAC address; `vm` as the daemon has it.
    fn owner_of(pod: &str, ifname: &str, vm: Option<&str>, shared: bool) -> Option<String> {
        let pod = Pod { uid: None, namespace: "default".into(), name: pod.into() };
        let vm = vm.map(str::to_owned);
        let occupant =
            Occupant { role: Role::Guest, soon: vm.is_none(), launcher: true, vm, ..Occupant::default() };
        owner(&pod, &ifname.parse().unwrap(), &occupant, shared)
    }

    /// A launcher pod's name, as the API server makes it.
    fn launcher(vm: &str, random: &str) -> String {
        let base = format!("virt-launcher-{vm}-");
        format!("{}{random}", &base[..base.len().min(58)])
    }

    #[test]
    fn a_vm_is_told_by_its_launcher_unless_the_name_was_cut() {
        for vm in [None, Some("web"), Some("another")] {
            for shared in [true, false] {
                let is = owner_of("virt-launcher-web-x7k2p", HASH, vm, shared);
                assert_eq!(is.as_deref(), Some("default/virt-launcher-web"), "{vm:?}");
            }
        }
        let long = "a-long-name-of-many-a-long-name-of-many-a-long";
        let (one, other) = (launcher(long, "x7k2p"), launcher(long, "zzzzz"));
        assert_eq!(one.len(), 63);
        let whole = format!("default/virt-launcher-{long}");
        assert_eq!(owner_of(&one, HASH, Some(long), true), Some(whole.clone()));
        assert_eq!(owner_of(&other, HASH, Some(long), true), Some(whole));
        assert_eq!(owner_of(&one, HASH, None, true), None, "another VM's name may begin alike");
    }

    #[test]
    fn a_name_is_taken_for_cut_from_43_characters_on() {
        for length in 1..60 {
            let vm = "v".repeat(length);
            let owners = ["x7k2p", "zzzzz"].map(|end| owner_of(&launcher(&vm, end), HASH, Some(&vm), true));
            assert_eq!(owners[0].as_deref(), Some(&*format!("default/virt-launcher-{vm}")), "{length}");
            assert_eq!(owners[0], owners[1], "{length}");
            let waits = owner_of(&launcher(&vm, "x7k2p"), HASH, None, true).is_none();
            assert_eq!(waits, length >= 43, "{length}");
        }
    }

    #[test]
    fn a_guest_on_eth0_has_its_vms_address_too() {
        let is = owner_of("virt-launcher-web-x7k2p", "eth0", Some("web"), true);
        assert_eq!(is.as_deref(), Some("default/virt-launcher-web"));
        // A VM that somebody runs in a pod of another name had the pod's address before, and has it still.
        let is = owner_of("qemu-0", "net1", Some("web"), true);
        assert_eq!(is.as_deref(), Some("default/qemu-0"));
    }
}
