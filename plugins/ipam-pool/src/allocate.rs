//! ADD's changes of a pool's store.

use std::borrow::Cow;

use net_types::MacAddr;

use crate::blocks::{Blocks, Deadline, Held};
use crate::lease_table::LeaseTable;
use crate::node_settings::NodeSettings;
use crate::store::{HostStore, Store};
use crate::{
    Addr, AllocError, Allocator, ConflictOutcome, Error, Grant, LeaseRequest, Millis, Network, RangeSet,
    Refusal, Rules, pool_overlap,
};

/// Gives the addresses. Where the node's blocks of the pool do not suffice, waits for more, without the lock.
pub(crate) fn allocate(
    node: &NodeSettings,
    network: &Network,
    lease_request: &LeaseRequest,
    asked: &[Option<Addr>],
    conflicts: &[(Addr, MacAddr)],
) -> Result<(HostStore, Vec<Grant>), Error> {
    let deadline = Deadline::new();
    let mut conflicts = conflicts;
    loop {
        let mut store = HostStore::open(&node.dirs, &network.key)?;
        let grants = allocate_held(&mut store, node, network, lease_request, asked, conflicts);
        let error = match grants {
            Ok(grants) => return Ok((store, grants)),
            Err(error) => error,
        };
        store.give_back_reserve_if_idle();
        drop(store);
        match (&network.blocks, error.wanted()) {
            (Some(blocks), Some(wanted)) => blocks.claim(&wanted, deadline)?,
            _ => return Err(error),
        }
        // They are in the store by now.
        conflicts = &[];
    }
}

/// Gives the addresses from what this node has.
fn allocate_held(
    store: &mut HostStore,
    node: &NodeSettings,
    network: &Network,
    lease_request: &LeaseRequest,
    asked: &[Option<Addr>],
    conflicts: &[(Addr, MacAddr)],
) -> Result<Vec<Grant>, Error> {
    store.reserve()?;
    if !conflicts.is_empty() {
        report_conflicts(store, network, lease_request, asked, conflicts)?;
    }
    let held = network.blocks.as_ref().map(Blocks::held).transpose()?;
    let sets = sets_within(network, held.as_ref());
    let attachment = &lease_request.holder.attachment;
    let (before, grants) = store.change(|txn| {
        if !network.of_cluster {
            pool_overlap::check(txn, &network.key, &node.paths.pools())?;
        }
        let before = LeaseTable::new(txn).addresses_of(attachment)?;
        let mut allocator = Allocator::new(txn, &sets, network.rules, Millis::now());
        let grants = allocator.allocate(lease_request, asked)?;
        if let Some(held) = &held {
            check_held(held, &grants, &before)?;
        }
        Ok::<_, Error>((before, grants))
    })?;
    if lease_request.sticky {
        store.sync_kept()?;
    }
    // Time went by, perhaps much, since the grant was read.
    if let (Some(blocks), Some(held)) = (&network.blocks, &held)
        && let Some(late) = new_addresses(&grants, &before).find(|address| !held.is_valid(*address))
    {
        store.change(|txn| Allocator::new(txn, &[], Rules::default(), Millis::now()).release(attachment))?;
        return Err(blocks.expired(late).into());
    }
    Ok(grants)
}

/// The network's sets, limited to what this node has of a pool of the cluster.
fn sets_within<'a>(network: &'a Network, held: Option<&Held>) -> Cow<'a, [RangeSet]> {
    let Some(held) = held else { return Cow::Borrowed(&network.sets) };
    let mut sets = network.sets.clone();
    sets.iter_mut().for_each(|set| set.restrict_to_blocks(held.addresses()));
    Cow::Owned(sets)
}

/// Checks that what is given anew is in a block of this node: what is kept for an owner may be in none any more.
fn check_held(held: &Held, grants: &[Grant], before: &[Addr]) -> Result<(), AllocError> {
    match new_addresses(grants, before).find(|address| !held.addresses().contains(*address)) {
        Some(address) => Err(AllocError::Refused { address, refusal: Refusal::BlockNotHeld }),
        None => Ok(()),
    }
}

fn new_addresses<'a>(grants: &'a [Grant], before: &'a [Addr]) -> impl Iterator<Item = Addr> + 'a {
    grants.iter().map(|grant| grant.address).filter(|address| !before.contains(address))
}

/// Quarantines addresses with conflicts; a conflict of an address that cannot be replaced ends ADD.
fn report_conflicts(
    store: &mut HostStore,
    network: &Network,
    lease_request: &LeaseRequest,
    asked: &[Option<Addr>],
    conflicts: &[(Addr, MacAddr)],
) -> Result<(), Error> {
    let quarantine = u64::try_from(network.quarantine.as_millis()).unwrap_or(u64::MAX);
    for (address, mac) in conflicts {
        let reserved = lease_request
            .owner
            .as_ref()
            .is_some_and(|owner| network.sets.iter().any(|set| set.reservation_of(owner) == Some(*address)));
        let fixed = reserved || asked.contains(&Some(*address));
        let mac = mac.to_string();
        let outcome = store.change(|txn| {
            Allocator::new(txn, &network.sets, network.rules, Millis::now()).report_conflict(
                &lease_request.holder.attachment,
                *address,
                &mac,
                quarantine,
                fixed,
            )
        })?;
        match outcome {
            ConflictOutcome::Quarantined => {
                eprintln!("ipam-pool: {address} is in use by {mac} on the link: another address is given")
            }
            ConflictOutcome::Kept => return Err(AllocError::Conflict { address: *address, mac }.into()),
            ConflictOutcome::NotHeld => {}
        }
    }
    Ok(())
}
