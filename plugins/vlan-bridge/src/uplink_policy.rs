//! Which links of the node may become uplinks of a pod's bridge: those that the node uses itself may not.

use attach::NodeUse;
use net_types::IfName;
use netplumb::{Link, LinkChange, Master, Netlink};
use node::{NodeConfig, Resource, Underlays};

use crate::Error;

/// Whether links of the node may become ports, so that only the pods' frames arrive by them.
pub(crate) struct UplinkPolicy<'a> {
    node: &'a NodeConfig,
    /// The namespace of the pod.
    namespace: Option<&'a str>,
    /// Whether there is a pod, whose namespace the policy decides by.
    asked: bool,
}

impl<'a> UplinkPolicy<'a> {
    /// The policy for pods of this namespace.
    pub(crate) fn for_pod(node: &'a NodeConfig, namespace: Option<&'a str>) -> Self {
        Self { node, namespace, asked: true }
    }

    /// The policy for a call without a pod, such as STATUS.
    pub(crate) fn for_any_pod(node: &'a NodeConfig) -> Self {
        Self { node, namespace: None, asked: false }
    }

    /// Checks a link before it becomes a port.
    ///
    /// # Errors
    /// The node uses it itself, and its policy does not allow that.
    pub(crate) fn allowed(&self, host: &Netlink, link: &Link) -> Result<(), Error> {
        if self.is_given(link) {
            return Ok(());
        }
        match NodeUse::find(host, link, &Underlays::read(&self.node.paths())?)? {
            Some(how) => Err(Error::UplinkInUse { uplink: link.name.clone(), how }),
            None => Ok(()),
        }
    }

    /// Whether the policy allows the link in any case, used or not.
    fn is_given(&self, link: &Link) -> bool {
        match &self.node.policy {
            Some(policy) if self.asked => {
                policy.check(self.namespace, Resource::UsedLink(&link.name)).is_ok()
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Checks that a bridge of the node carries no LAN, before it is changed for pods.
    ///
    /// # Errors
    /// It carries one, and the policy does not allow that.
    pub(crate) fn allows_bridge(&self, name: &IfName, bridge: &Link) -> Result<(), Error> {
        if self.is_given(bridge) {
            return Ok(());
        }
        match NodeUse::lan(bridge, &Underlays::read(&self.node.paths())?) {
            Some(how) => Err(Error::BridgeInUse { bridge: name.clone(), how }),
            None => Ok(()),
        }
    }

    /// Makes a link a port of the bridge. If a LAN was declared on it meanwhile, the link stays the LAN's: the daemon
    /// records its underlays, and then checks that they are no ports.
    ///
    /// # Errors
    /// It became a LAN's underlay, or the kernel refuses; the link is then unchanged.
    pub(crate) fn add_to_bridge(&self, host: &Netlink, link: &Link, bridge: u32) -> Result<(), Error> {
        let master = |master, up| LinkChange { master: Some(master), up, ..LinkChange::default() };
        host.set_link(link.index, &master(Master::Index(bridge), Some(true)))
            .map_err(|error| Error::no_port(&link.name, error))?;
        let back = || host.set_link(link.index, &master(Master::None, (!link.up).then_some(false)));
        let lan = match Underlays::read(&self.node.paths()) {
            Ok(underlays) => NodeUse::lan(link, &underlays).filter(|_| !self.is_given(link)),
            Err(error) => {
                back()?;
                return Err(error.into());
            }
        };
        match lan {
            None => Ok(()),
            Some(how) => {
                back()?;
                Err(Error::UplinkInUse { uplink: link.name.clone(), how })
            }
        }
    }
}
