//! Whether an attachment may give the node an address, or a link where its pods are.

use std::net::Ipv6Addr;

use attach::NetworkUse;
use ipnetwork::{IpNetwork, Ipv6Network};
use netplumb::Netlink;
use node::{NodeConfig, Resource};

use crate::Error;
use crate::bridge::is_ours;
use crate::record::{PortRecord, RecordedHostInterface};

/// Who asks, and for what network.
pub(crate) struct Giving<'a> {
    pub(crate) node: &'a NodeConfig,
    /// Whose pod it is.
    pub(crate) namespace: Option<&'a str>,
    /// The pod's addresses.
    pub(crate) subnets: &'a [IpNetwork],
}

impl Giving<'_> {
    /// Finds out before a planned interface is made; `others` are the records of the bridge's other ports.
    ///
    /// # Errors
    /// The policy does not let that namespace give the node addresses there, or the node has the network by another
    /// link, and the policy does not say that it may have it twice.
    pub(crate) fn allowed(
        &self,
        host: &Netlink,
        interface: &RecordedHostInterface,
        others: &[PortRecord],
    ) -> Result<(), Error> {
        let link = host.link_by_name(&interface.link)?;
        let own = match interface.address {
            // The node's own, which nobody gave it.
            Some(_) if !interface.added => return Ok(()),
            None if link.as_ref().is_some_and(|link| !is_ours(link)) => return Ok(()),
            Some(address) => address,
            None => link_local(),
        };
        if let Some(policy) = &self.node.policy {
            policy.check(self.namespace, Resource::NodeAddress(own))?;
        }
        let before = |other: &RecordedHostInterface| {
            other.link == interface.link && other.address == interface.address
        };
        if interface.address.is_some() && others.iter().flat_map(|record| &record.host_interfaces).any(before)
        {
            // There since an attachment that was asked the same.
            return Ok(());
        }
        let networks = match &interface.address {
            Some(address) => std::slice::from_ref(address),
            None => self.subnets,
        };
        let link = link.map(|link| link.index);
        for &network in networks {
            if self.is_given(network) {
                continue;
            }
            let Some(how) = NetworkUse::of(host, network, link)? else { continue };
            let link = interface.link.clone();
            return Err(match interface.address {
                Some(address) => Error::NetworkInUse { link, address, how },
                None => Error::NetworkTwice { link, network, how },
            });
        }
        Ok(())
    }

    /// Whether the policy gives a network away, used or not.
    fn is_given(&self, network: IpNetwork) -> bool {
        let policy = self.node.policy.as_ref();
        policy.is_some_and(|policy| policy.check(self.namespace, Resource::UsedNetwork(network)).is_ok())
    }
}

/// Where a link without another address has one.
fn link_local() -> IpNetwork {
    const NETWORK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
    Ipv6Network::new(NETWORK, 64).unwrap_or_else(|_| unreachable!("a prefix length")).into()
}
