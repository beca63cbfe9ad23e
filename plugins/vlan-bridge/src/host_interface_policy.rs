//! Whether an attachment may give the node an address, or a link into its pods' network.

use std::net::Ipv6Addr;

use attach::NetworkUse;
use ipnetwork::{IpNetwork, Ipv6Network};
use netplumb::Netlink;
use node::{NodeConfig, Resource};

use crate::Error;
use crate::bridge::is_ours;
use crate::record::{PortRecord, RecordedHostInterface};

/// The attachment and the network that the policy is asked about.
pub(crate) struct HostInterfacePolicy<'a> {
    pub(crate) node: &'a NodeConfig,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) subnets: &'a [IpNetwork],
}

impl HostInterfacePolicy<'_> {
    /// Checks a planned interface before it is created; `others` are the records of the bridge's other ports.
    ///
    /// # Errors
    /// The policy does not let that namespace give the node addresses there, or the node has the network by another
    /// link already, and the policy does not allow it twice.
    pub(crate) fn check(
        &self,
        host: &Netlink,
        interface: &RecordedHostInterface,
        others: &[PortRecord],
    ) -> Result<(), Error> {
        let link = host.link_by_name(&interface.link)?;
        let own = match interface.address {
            // The node has it by itself, not from an attachment.
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
            // It exists since another attachment passed this check.
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
            let how = match NetworkUse::find(host, network, link)? {
                // A link without an address takes no way from the node.
                None => interface.address.and_then(NetworkUse::by_cloud),
                found => found,
            };
            let Some(how) = how else { continue };
            let link = interface.link.clone();
            return Err(match interface.address {
                Some(address) => Error::NetworkInUse { link, address, how },
                None => Error::NetworkTwice { link, network, how },
            });
        }
        Ok(())
    }

    /// Whether the policy allows a network in any case, used or not.
    fn is_given(&self, network: IpNetwork) -> bool {
        let policy = self.node.policy.as_ref();
        policy.is_some_and(|policy| policy.check(self.namespace, Resource::UsedNetwork(network)).is_ok())
    }
}

/// The network of the address that a link without any other address has.
fn link_local() -> IpNetwork {
    const NETWORK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
    Ipv6Network::new(NETWORK, 64).unwrap_or_else(|_| unreachable!("a prefix length")).into()
}
