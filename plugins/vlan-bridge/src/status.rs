//! STATUS: whether ADD could be served now.

use cni::Request;
use net_types::IfName;
use netplumb::{Dropped, DroppingChain, Netlink, Netns, Nftables, Sysctl, legacy_chains_that_drop};
use node::NodeConfig;

use crate::bridge::Bridge;
use crate::uplink_policy::UplinkPolicy;
use crate::{Config, Error, mtu, uplink};

/// Finds what is missing on this node: a suitable bridge, an uplink, or what the IPAM plugin reports.
///
/// # Errors
/// The first thing that is missing.
pub(crate) fn status(request: &Request<Config>) -> Result<(), Error> {
    let config = &request.config;
    config.validate(request.ipam().is_some())?;
    let host = Netlink::open_current()?;
    let vlans = config.port_vlans()?;
    let node = NodeConfig::load()?;
    let fits = || -> Result<(), Error> {
        let bridge = Bridge::find(&host, config)?;
        let uplinks = uplink::find(&host, bridge.as_ref(), config, &UplinkPolicy::for_any_pod(&node))?;
        if let Some(bridge) = &bridge {
            bridge.suits(&host, config, vlans.is_some())?;
        }
        mtu::decide(config, bridge.as_ref(), &uplinks).map(drop)
    };
    fits().map_err(|error| Error::Unavailable(Box::new(error)))?;
    node::check_room(node.paths().run()).map_err(|error| Error::Unavailable(Box::new(error.into())))?;
    nothing_drops(&config.bridge, vlans.is_some_and(|vlans| vlans.untagged.is_empty()))?;
    if let Some(ipam) = request.ipam() {
        ipam.status()?;
    }
    Ok(())
}

/// Checks whether the node's rules pass what the bridge forwards, as far as can be told: a chain that drops by
/// default without a rule that names the bridge counts as dropping its frames.
///
/// # Errors
/// The first such chain.
fn nothing_drops(bridge: &IfName, all_tagged: bool) -> Result<(), Error> {
    // Without netfilter, or without nftables, there is no chain.
    let chains =
        Nftables::open_current().and_then(|nftables| nftables.chains_that_drop(bridge)).unwrap_or_default();
    let chains = chains.into_iter().chain(legacy_chains_that_drop(bridge)?);
    let netns = Netns::current()?;
    let on = |setting: &'static str| -> Result<bool, Error> {
        Ok(netns.sysctl_get(&Sysctl::net(setting))?.is_some_and(|value| value != "0"))
    };
    // iptables sees tagged frames only if this setting is on.
    let shown = !all_tagged || on("bridge/bridge-nf-filter-vlan-tagged")?;
    let (v4, v6) =
        (shown && on("bridge/bridge-nf-call-iptables")?, shown && on("bridge/bridge-nf-call-ip6tables")?);
    let drops = |chain: &DroppingChain| match chain.what {
        Dropped::Frames => true,
        Dropped::V4 => v4,
        Dropped::V6 => v6,
        Dropped::V4AndV6 => v4 || v6,
    };
    let mut chains = chains.filter(drops);
    match chains.next() {
        Some(chain) => Err(Error::FramesDropped {
            bridge: bridge.clone(),
            chain: chain.name,
            frames: chain.what == Dropped::Frames,
        }),
        None => Ok(()),
    }
}
