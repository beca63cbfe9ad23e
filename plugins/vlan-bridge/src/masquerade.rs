//! `ipMasq`: packets that leave the pod's network get the node's address.

use ipnetwork::IpNetwork;
use net_types::IfName;
use netplumb::{Masquerade, Nftables, RuleState};

use crate::Error;
use crate::record::RecordStore;

/// Installs the masquerading of the pod's addresses.
pub(crate) fn install(store: &RecordStore, port: &IfName, addresses: &[IpNetwork]) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.masquerade(&rules(port, addresses))?)
}

/// Removes the masquerading of the port.
pub(crate) fn remove(store: &RecordStore, port: &IfName) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.unmasquerade(port)?)
}

/// Whether exactly these addresses are masqueraded.
pub(crate) fn state(port: &IfName, addresses: &[IpNetwork]) -> Result<RuleState, Error> {
    Ok(Nftables::open_current()?.masquerade_state(&rules(port, addresses))?)
}

fn rules(port: &IfName, addresses: &[IpNetwork]) -> Masquerade {
    Masquerade { port: port.clone(), addresses: addresses.to_vec() }
}
