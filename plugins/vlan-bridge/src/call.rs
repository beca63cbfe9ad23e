//! What every verb about one attachment starts with.

use attach::is_launcher_link;
use cni::{Request, Target};
use netplumb::{Netlink, Netns};
use node::{Attachment, NetnsRef, NetworkId, NodeConfig, Pod};

use crate::{Config, Error};

/// A request about one attachment whose namespace is there.
pub(crate) struct Call<'a> {
    /// The request.
    pub(crate) request: &'a Request<Config>,
    /// The container's side of it.
    pub(crate) target: &'a Target,
    /// `/etc/k8slan/node.yaml`.
    pub(crate) node: NodeConfig,
    /// Who asks.
    pub(crate) attachment: Attachment,
    /// The container's namespace.
    pub(crate) netns: Netns,
    /// A socket in it.
    pub(crate) pod: Netlink,
    /// A socket in the node's namespace.
    pub(crate) host: Netlink,
}

impl<'a> Call<'a> {
    /// Reads the node's configuration and opens both namespaces.
    ///
    /// # Errors
    /// One of them is not usable.
    pub(crate) fn open(request: &'a Request<Config>, target: &'a Target) -> Result<Self, Error> {
        let node = NodeConfig::load()?;
        let netns = Netns::open(&target.netns)?;
        let pod = Netlink::open(&netns)?;
        let host = Netlink::open_current()?;
        let attachment = Attachment {
            container_id: target.container_id.as_str().to_owned(),
            ifname: target.ifname.clone(),
            netns: NetnsRef { path: target.netns.clone(), inode: netns.id().ino },
            network: NetworkId::of(request.network.as_str()),
            pod: stated_pod(request),
        };
        Ok(Self { request, target, node, attachment, netns, pod, host })
    }

    /// The pod's namespace, where the runtime states one.
    pub(crate) fn pod_namespace(&self) -> Option<&str> {
        self.attachment.pod.as_ref().map(|pod| pod.namespace.as_str())
    }

    /// Whether the interface is for the guest of a VM, not for the pod that launches it.
    pub(crate) fn is_for_a_guest(&self) -> bool {
        is_launcher_link(&self.target.ifname)
    }

    /// Whom a stable MAC address belongs to: the VM, the pod, or else the container.
    pub(crate) fn owner(&self) -> String {
        match &self.attachment.pod {
            // A launcher pod's name ends in a random part; the VM keeps its address over restarts.
            Some(pod) if self.is_for_a_guest() => {
                let vm = pod.name.rsplit_once('-').map_or(pod.name.as_str(), |(vm, _)| vm);
                format!("{}/{vm}", pod.namespace)
            }
            Some(pod) => pod.to_string(),
            None => self.attachment.container_id.clone(),
        }
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
