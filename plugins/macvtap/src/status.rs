//! STATUS: whether ADD could be served now.

use cni::Request;
use lan::SpokeReadiness;
use netplumb::{LinkKind, Netlink};
use node::{NodeConfig, SafeDir};

use crate::config::Wanted;
use crate::lower::{Named, device_link, named};
use crate::{Config, Error};

/// Finds what is missing on this node: the daemon's records, the spoke's LAN, the master, or what the IPAM plugin
/// reports.
///
/// # Errors
/// The first thing that is missing.
pub(crate) fn status(request: &Request<Config>) -> Result<(), Error> {
    let node = NodeConfig::load()?;
    let paths = node.paths();
    match named(request, &paths) {
        Ok(Named::Spoke(record, keys)) => {
            if keys.is_some() && !record.k8slanveth {
                return Err(Error::Unavailable(Error::K8slanvethOff(record.spoke.clone()).to_string()));
            }
            if let SpokeReadiness::NotReady { reason } = &record.state {
                return Err(Error::Unavailable(format!(
                    "LAN {} of spoke {} is not built on this node: {reason}",
                    record.lan, record.spoke
                )));
            }
        }
        Ok(Named::Other(Wanted::Master(master))) => {
            if Netlink::open_current()?.link_by_name(&master)?.is_none() {
                return Err(Error::Unavailable(Error::NoMaster(master).to_string()));
            }
        }
        Ok(Named::Other(Wanted::Spoke(spoke))) => {
            return Err(Error::Unavailable(Error::NoSpoke(spoke).to_string()));
        }
        Ok(Named::Other(Wanted::Device(id))) if is_macvtap(&id)? => {}
        // Only ADD knows which device it will be; whether there are any records is known now.
        Ok(Named::Other(Wanted::Device(_))) | Err(Error::NothingWanted) => {
            let dir = SafeDir::open(&paths.spokes())
                .map_err(|source| Error::Record { spoke: "any".to_owned(), source })?;
            if dir.is_none() {
                return Err(Error::Unavailable(format!(
                    "{} does not exist: k8slan-device-plugin has not run on this node since it started",
                    paths.spokes().display()
                )));
            }
        }
        Err(error) => return Err(error),
    }
    node::check_room(paths.run()).map_err(|error| Error::Unavailable(error.to_string()))?;
    if let Some(ipam) = request.ipam() {
        ipam.status()?;
    }
    Ok(())
}

/// Whether the host has a macvtap with that name, which needs no LAN.
fn is_macvtap(id: &str) -> Result<bool, Error> {
    let link = device_link(&Netlink::open_current()?, id)?;
    Ok(link.is_some_and(|link| matches!(link.kind, LinkKind::Macvtap(_))))
}
