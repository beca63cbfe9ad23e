//! Which links of the node a pod's bridge may have: what the node uses itself is not given away.

use attach::NodeUse;
use net_types::IfName;
use netplumb::{Link, LinkChange, Master, Netlink};
use node::{NodeConfig, Resource, Underlays};

use crate::Error;

/// Whether links of the node may become ports, where nothing but the pods' frames then comes in by them.
pub(crate) struct UplinkPolicy<'a> {
    node: &'a NodeConfig,
    /// Whose pod asks.
    namespace: Option<&'a str>,
    /// Whether it is known who asks.
    asked: bool,
}

impl<'a> UplinkPolicy<'a> {
    /// For a pod of this namespace.
    pub(crate) fn by(node: &'a NodeConfig, namespace: Option<&'a str>) -> Self {
        Self { node, namespace, asked: true }
    }

    /// For whoever may.
    pub(crate) fn by_anybody(node: &'a NodeConfig) -> Self {
        Self { node, namespace: None, asked: false }
    }

    /// Finds out before the link is taken.
    ///
    /// # Errors
    /// The node uses it itself, and its policy says nothing else.
    pub(crate) fn allowed(&self, host: &Netlink, link: &Link) -> Result<(), Error> {
        if self.is_given(link) {
            return Ok(());
        }
        match NodeUse::of(host, link, &Underlays::read(&self.node.paths())?)? {
            Some(how) => Err(Error::UplinkInUse { uplink: link.name.clone(), how }),
            None => Ok(()),
        }
    }

    /// Whether the policy gives it away, used or not.
    fn is_given(&self, link: &Link) -> bool {
        match &self.node.policy {
            Some(policy) if self.asked => {
                policy.check(self.namespace, Resource::UsedLink(&link.name)).is_ok()
            }
            Some(_) => true,
            None => false,
        }
    }

    /// That a bridge of the node's carries no LAN, before it is changed for pods.
    ///
    /// # Errors
    /// It does, and the policy says nothing else.
    pub(crate) fn leaves(&self, name: &IfName, bridge: &Link) -> Result<(), Error> {
        if self.is_given(bridge) {
            return Ok(());
        }
        match NodeUse::lan(bridge, &Underlays::read(&self.node.paths())?) {
            Some(how) => Err(Error::BridgeInUse { bridge: name.clone(), how }),
            None => Ok(()),
        }
    }

    /// Takes a link: makes it a port of the bridge. A LAN that was declared on it meanwhile keeps it: its daemon writes
    /// down what it builds on, and then looks whether it is anybody's port.
    ///
    /// # Errors
    /// It became a LAN's, or the kernel refused; the link is then as it was.
    pub(crate) fn take(&self, host: &Netlink, link: &Link, bridge: u32) -> Result<(), Error> {
        let master = |master| LinkChange { master: Some(master), ..LinkChange::default() };
        host.set_link(link.index, &LinkChange { up: Some(true), ..master(Master::Index(bridge)) })?;
        let lan = match Underlays::read(&self.node.paths()) {
            Ok(underlays) => NodeUse::lan(link, &underlays).filter(|_| !self.is_given(link)),
            Err(error) => {
                host.set_link(link.index, &master(Master::None))?;
                return Err(error.into());
            }
        };
        match lan {
            None => Ok(()),
            Some(how) => {
                host.set_link(link.index, &master(Master::None))?;
                Err(Error::UplinkInUse { uplink: link.name.clone(), how })
            }
        }
    }
}
