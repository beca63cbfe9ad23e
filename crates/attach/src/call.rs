use cni::{Code, PluginError, Request, Target};
use net_types::MacAddr;
use netplumb::{Netlink, Netns};
use node::{Attachment, ConfigError, NetnsRef, NetworkId, NodeConfig, Pod, TagError};

use crate::{is_launcher_link, stable_mac};

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
}

impl PluginError for CallError {
    fn code(&self) -> Code {
        /// The kernel refused, in every plugin of ours.
        const KERNEL: Code = Code::plugin(100);
        match self {
            Self::NoNamespace(_) => Code::ENVIRONMENT,
            Self::NodeConfig(_) | Self::Tag(_) => Code::INVALID_CONFIG,
            Self::Net(_) => KERNEL,
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
        let netns = Netns::open(&target.netns).map_err(CallError::NoNamespace)?;
        let netlink = Netlink::open(&netns)?;
        let attachment = Attachment {
            container_id: target.container_id.as_str().to_owned(),
            ifname: target.ifname.clone(),
            netns: NetnsRef { path: target.netns.clone(), inode: netns.id().ino },
            network: NetworkId::of(request.network.as_str()),
            pod: stated_pod(request),
        };
        let tag = attachment.tag()?;
        Ok(Self { request, target, node, attachment, tag, netns, netlink })
    }

    /// The pod's namespace, where the runtime states one.
    #[must_use]
    pub fn pod_namespace(&self) -> Option<&str> {
        self.attachment.pod.as_ref().map(|pod| pod.namespace.as_str())
    }

    /// Whether the interface is for the guest of a VM, not for the pod that launches it.
    #[must_use]
    pub fn is_for_a_guest(&self) -> bool {
        is_launcher_link(&self.target.ifname)
    }

    /// The MAC address, nobody's, under which a guest's addresses are asked for
    /// ([`crate::PodLink::settle_for_guest`]).
    #[must_use]
    pub fn asker(&self) -> MacAddr {
        stable_mac(&["asker", self.target.container_id.as_str(), self.target.ifname.as_str()])
    }

    /// Whom a stable MAC address belongs to: the VM, the pod, or else the container. `shared`: whether others
    /// are on the same link at the same time, as on a bridge or a master, and must not have the same owner.
    #[must_use]
    pub fn owner(&self, shared: bool) -> String {
        match &self.attachment.pod {
            Some(pod) if self.is_for_a_guest() => match vm(&pod.name, shared) {
                Some(vm) => format!("{}/{vm}", pod.namespace),
                None => pod.to_string(),
            },
            Some(pod) => pod.to_string(),
            None => self.attachment.container_id.clone(),
        }
    }
}

/// The VM of a launcher pod, whose name is the VM's and a random part: the VM keeps its address over restarts.
/// None if only one VM may be meant and the pod's name is so long that its VM's may have been cut.
fn vm(pod: &str, only_one: bool) -> Option<&str> {
    /// The API server cuts what it is given, so that a name has at most these many bytes.
    const LONGEST: usize = 63;
    if only_one && pod.len() >= LONGEST {
        return None;
    }
    pod.rsplit_once('-').map(|(vm, _)| vm)
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

    #[test]
    fn a_vm_is_told_by_its_launcher_unless_the_name_was_cut() {
        assert_eq!(vm("virt-launcher-web-x7k2p", true), Some("virt-launcher-web"));
        let cut = format!("virt-launcher-{}x7k2p", "a-long-name-of-many-".repeat(3).split_at(44).0);
        assert_eq!(cut.len(), 63);
        assert_eq!(vm(&cut, true), None, "another VM's name may begin alike");
        assert!(vm(&cut, false).is_some());
    }
}
