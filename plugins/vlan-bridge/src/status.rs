//! STATUS: whether ADD could be served now.

use cni::Request;
use netplumb::Netlink;

use crate::bridge::Bridge;
use crate::{Config, Error, uplink};

/// Says what is missing on this node: a bridge that fits, an uplink, or whatever the IPAM plugin lacks.
///
/// # Errors
/// The first thing that is missing.
pub(crate) fn status(request: &Request<Config>) -> Result<(), Error> {
    let config = &request.config;
    config.validate(request.ipam().is_some())?;
    let host = Netlink::open_current()?;
    let vlans = config.port_vlans()?.is_some();
    let fits = || -> Result<(), Error> {
        let bridge = Bridge::find(&host, config)?;
        uplink::find(&host, bridge.as_ref(), config)?;
        match bridge {
            Some(bridge) => bridge.suits(&host, config, vlans),
            None => Ok(()),
        }
    };
    fits().map_err(|error| Error::Unavailable(Box::new(error)))?;
    if let Some(ipam) = request.ipam() {
        ipam.status()?;
    }
    Ok(())
}
