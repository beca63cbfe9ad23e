//! The guard of a port: which addresses it may send from.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr};
use netplumb::{Nftables, PortGuard};

use crate::record::{RecordStore, RecordedGuard};
use crate::{Config, Error};

/// The guard that a configuration asks for, for a pod with this MAC address and these addresses.
pub(crate) fn wanted(
    port: &IfName,
    config: &Config,
    mac: MacAddr,
    addresses: &[IpAddr],
) -> Option<RecordedGuard> {
    if !config.macspoofchk && !config.ipspoofchk {
        return None;
    }
    let mut own = vec![mac];
    own.extend(&config.allowed_macs);
    own.extend(config.vrrp.iter().flat_map(|&id| virtual_macs(id)));
    own.sort();
    own.dedup();
    let addresses = config.ipspoofchk.then(|| {
        let mut all: Vec<IpNetwork> = addresses.iter().copied().map(IpNetwork::from).collect();
        all.extend(&config.allowed_addresses);
        all.sort();
        all.dedup();
        all
    });
    let mut guard = if config.macspoofchk {
        RecordedGuard { macs: Some(own), addresses, own: Vec::new(), rules: None }
    } else {
        RecordedGuard { macs: None, addresses, own, rules: None }
    };
    guard.rules = Some(guard.of_port(port).rules_hash());
    Some(guard)
}

/// The virtual MAC addresses of a VRRP router, for IPv4 and IPv6 (RFC 5798, section 7.3).
fn virtual_macs(id: u8) -> [MacAddr; 2] {
    [1, 2].map(|family| {
        MacAddr::try_from([0, 0, 0x5e, 0, family, id]).unwrap_or_else(|_| unreachable!("it is unicast"))
    })
}

/// Installs the guard in the kernel.
pub(crate) fn install(store: &RecordStore, guard: &PortGuard) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.guard(guard)?)
}

/// Removes the guard from the kernel.
pub(crate) fn remove(store: &RecordStore, port: &IfName) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.unguard(port)?)
}
