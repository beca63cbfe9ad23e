//! `ipMasq`: what leaves the pod's network gets the node's address.

use ipnetwork::IpNetwork;
use net_types::IfName;
use netplumb::{Masquerade, Nftables, RuleState};

use crate::Error;
use crate::record::RecordStore;

/// Masquerades the pod's addresses.
pub(crate) fn put(store: &RecordStore, port: &IfName, addresses: &[IpNetwork]) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.masquerade(&of(port, addresses))?)
}

/// Masquerades nothing of it any more.
pub(crate) fn remove(store: &RecordStore, port: &IfName) -> Result<(), Error> {
    let nftables = Nftables::open_current()?;
    let _lock = store.lock_guards()?;
    Ok(nftables.unmasquerade(port)?)
}

/// Whether exactly these are masqueraded.
pub(crate) fn state(port: &IfName, addresses: &[IpNetwork]) -> Result<RuleState, Error> {
    Ok(Nftables::open_current()?.masquerade_state(&of(port, addresses))?)
}

fn of(port: &IfName, addresses: &[IpNetwork]) -> Masquerade {
    Masquerade { port: port.clone(), addresses: addresses.to_vec() }
}
