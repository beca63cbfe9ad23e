//! ADD's changes of a pool's store.

use std::borrow::Cow;

use net_types::MacAddr;

use crate::blocks::{Blocks, Deadline, Held};
use crate::lease_table::LeaseTable;
use crate::node_settings::NodeSettings;
use crate::store::{HostStore, PoolKey, Store};
use crate::{
    Addr, AddressState, AllocError, Allocator, Attachment, ConflictOutcome, Error, Grant, LeaseHolder,
    LeaseRequest, Millis, Network, PoolFile, RangeSet, Refusal, Rules, pool_overlap,
};

/// What became of an attempt.
pub(crate) enum Allocated {
    /// The store is to be closed by who has told of them.
    Given(Box<HostStore>, Vec<Grant>),
    /// The pool is to be read again.
    Again,
    /// The same, and nothing was written.
    Replaced,
}

/// Gives the addresses. Where the node's blocks of the pool do not suffice, waits for more, without the lock, and returns
/// [`Allocated::Again`]: the conflicts are in the store by then, and the pool may be another one. The same where the cluster's pool has
/// taken the place of the file, but for the conflicts.
pub(crate) fn allocate(
    node: &NodeSettings,
    network: &Network,
    lease_request: &LeaseRequest,
    asked: &[Option<Addr>],
    conflicts: &[(Addr, MacAddr)],
    deadline: &mut Deadline,
) -> Result<Allocated, Error> {
    let mut store = HostStore::open(&node.dirs, &network.key)?;
    // The daemon reads the leases under this lock, after it has put the cluster's pool in charge.
    if let (PoolKey::Named(pool), false) = (&network.key, network.of_cluster)
        && PoolFile::is_the_clusters(&node.paths, pool)?
    {
        return Ok(Allocated::Replaced);
    }
    let grants = allocate_held(&mut store, node, network, lease_request, asked, conflicts);
    let error = match grants {
        Ok(grants) => return Ok(Allocated::Given(Box::new(store), grants)),
        Err(error) => error,
    };
    store.give_back_reserve_if_idle();
    drop(store);
    match (&network.blocks, error.question()) {
        (Some(blocks), Some(question)) => {
            blocks.claim(&question, lease_request.holder.pod.as_deref(), deadline)?;
        }
        _ => return Err(error),
    }
    Ok(Allocated::Again)
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
    let held = network.blocks.as_ref().map(Blocks::held).transpose()?;
    let further = match &held {
        Some(held) => of_further_interface(store, network, held, lease_request)?,
        None => None,
    };
    let lease_request = further.as_ref().unwrap_or(lease_request);
    let sets = sets_within(network, held.as_ref(), lease_request);
    if !conflicts.is_empty() {
        report_conflicts(store, (network, &sets), lease_request, asked, conflicts)?;
    }
    let attachment = &lease_request.holder.attachment;
    let (before, grants) = store.change(|txn| {
        if !network.of_cluster {
            pool_overlap::check(txn, &network.key, &node.paths)?;
        }
        let before = LeaseTable::new(txn).addresses_of(attachment)?;
        if let (Some(blocks), Some(held)) = (&network.blocks, &held) {
            check_joined(&LeaseTable::new(txn), (blocks, held), &sets, lease_request, (asked, &before))?;
        }
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
        && let Some(late) = take_back_late(store, attachment, held, &grants, &before)?
    {
        return Err(blocks.expired(late).into());
    }
    Ok(grants)
}

/// Takes back what was given anew, if any of it may not be handed out any more. Returns which. What the attachment had before
/// stays its own, and what was kept for its owner stays kept.
fn take_back_late(
    store: &mut impl Store,
    attachment: &Attachment,
    held: &Held,
    grants: &[Grant],
    before: &[Addr],
) -> Result<Option<Addr>, AllocError> {
    let Some(late) = new_addresses(grants, before).find(|address| !held.is_valid(*address)) else {
        return Ok(None);
    };
    store.change(|txn| {
        let mut allocator = Allocator::new(txn, &[], Rules::default(), Millis::now());
        for grant in grants.iter().filter(|grant| !before.contains(&grant.address)) {
            if grant.picked {
                allocator.revoke(grant.address)?;
            } else {
                allocator.detach(attachment, grant.address)?;
            }
        }
        Ok::<_, AllocError>(())
    })?;
    Ok(Some(late))
}

/// The request of a further interface, if another one of the container has the owner's address: it gets one that follows the
/// owner as well, by the interface's name. Which of two is the first, the order of ADDs says.
fn of_further_interface(
    store: &mut impl Store,
    network: &Network,
    held: &Held,
    lease_request: &LeaseRequest,
) -> Result<Option<LeaseRequest>, AllocError> {
    let (Some(first), Some((owner, floating))) = (&lease_request.floating, &lease_request.further) else {
        return Ok(None);
    };
    let attachment = &lease_request.holder.attachment;
    let is_other = |holder: &LeaseHolder| {
        let Attachment { container, interface, .. } = &holder.attachment;
        *container == attachment.container && *interface != attachment.interface
    };
    let of_owner: Vec<Addr> =
        network.sets.iter().filter_map(|set| held.floating(first, set.family())).collect();
    let is_taken = store.dry_run(|txn| {
        let table = LeaseTable::new(txn);
        for address in of_owner {
            if let Some(AddressState::Leased(lease)) = table.read_state(address)?
                && lease.holders.iter().any(is_other)
            {
                return Ok(true);
            }
        }
        Ok::<_, AllocError>(false)
    })?;
    let of_interface = || LeaseRequest {
        owner: Some(owner.clone()),
        floating: Some(floating.clone()),
        ..lease_request.clone()
    };
    Ok(is_taken.then(of_interface))
}

/// The network's sets, limited to what this node has of a pool of the cluster, with the owner's address as reserved for it.
fn sets_within<'a>(
    network: &'a Network,
    held: Option<&Held>,
    lease_request: &LeaseRequest,
) -> Cow<'a, [RangeSet]> {
    let Some(held) = held else { return Cow::Borrowed(&network.sets) };
    let mut sets = network.sets.clone();
    for set in &mut sets {
        set.restrict_to_blocks(held.addresses());
        if let (Some(floating), Some(owner)) = (&lease_request.floating, &lease_request.owner)
            && let Some(address) = held.floating(floating, set.family())
        {
            set.reserve_floating(owner, address);
        }
    }
    Cow::Owned(sets)
}

/// Checks that what follows the owner is known here. `asked` and `before` are the addresses that are requested, and those that the
/// attachment has.
fn check_joined(
    table: &LeaseTable<'_>,
    (blocks, held): (&Blocks, &Held),
    sets: &[RangeSet],
    lease_request: &LeaseRequest,
    (asked, before): (&[Option<Addr>], &[Addr]),
) -> Result<(), Error> {
    let (Some(floating), Some(owner)) = (&lease_request.floating, &lease_request.owner) else {
        return Ok(());
    };
    for (index, set) in sets.iter().enumerate() {
        let (requested, family) = (asked.get(index).copied().flatten(), set.family());
        if before.iter().any(|address| address.family() == family) {
            continue;
        }
        match (held.floating(floating, family), requested) {
            (Some(current), Some(requested)) if current != requested => {
                let holder = floating.name.clone();
                return Err(AllocError::HoldsAnother { requested, holder, current }.into());
            }
            (Some(_), _) => {}
            (None, requested) => {
                // What this node alone kept for it until now.
                let of_blocks =
                    |address: &Addr| address.family() == family && held.addresses().contains(*address);
                let kept = table.addresses_of(owner)?.into_iter().find(of_blocks);
                return Err(blocks.not_joined(floating, family, requested.or(kept)).into());
            }
        }
    }
    Ok(())
}

/// Checks that what is given anew is in a block of this node: what is kept for an owner may be in none any more.
fn check_held(held: &Held, grants: &[Grant], before: &[Addr]) -> Result<(), AllocError> {
    match new_addresses(grants, before).find(|address| !held.has(*address)) {
        Some(address) => Err(AllocError::Refused { address, refusal: Refusal::BlockNotHeld }),
        None => Ok(()),
    }
}

fn new_addresses<'a>(grants: &'a [Grant], before: &'a [Addr]) -> impl Iterator<Item = Addr> + 'a {
    grants.iter().map(|grant| grant.address).filter(|address| !before.contains(address))
}

/// Quarantines addresses with conflicts; a conflict of an address that cannot be replaced ends ADD. `sets` are those of the network
/// as far as this node hands them out, since so much of that may be quarantined.
fn report_conflicts(
    store: &mut HostStore,
    (network, sets): (&Network, &[RangeSet]),
    lease_request: &LeaseRequest,
    asked: &[Option<Addr>],
    conflicts: &[(Addr, MacAddr)],
) -> Result<(), Error> {
    let quarantine = u64::try_from(network.quarantine.as_millis()).unwrap_or(u64::MAX);
    for (address, mac) in conflicts {
        let reserved = lease_request
            .owner
            .as_ref()
            .is_some_and(|owner| sets.iter().any(|set| set.reservation_of(owner) == Some(*address)));
        let fixed = reserved || lease_request.floating.is_some() || asked.contains(&Some(*address));
        let mac = mac.to_string();
        let outcome = store.change(|txn| {
            Allocator::new(txn, sets, network.rules, Millis::now()).report_conflict(
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

#[cfg(test)]
mod tests {
    use net_types::{AddrRange, AddrSet};

    use super::*;
    use crate::store::MemoryStore;
    use crate::{LeaseHolder, RangeSpec, find_address};

    fn at(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn granted(until: u64) -> Held {
        let range = AddrRange::new(at("10.9.0.7"), at("10.9.0.9")).unwrap();
        Held::of(vec![node::Grant { addresses: AddrSet::union([range]), until }])
    }

    #[test]
    fn what_may_not_be_handed_out_any_more_is_taken_back() {
        let range = RangeSpec { subnet: "10.9.0.0/24".to_owned(), ..RangeSpec::default() }.parse().unwrap();
        let mut sets = [RangeSet::new(0, vec![range]).unwrap()];
        sets[0].restrict_to_blocks(granted(u64::MAX).addresses());
        let attachment =
            Attachment { container: "c".into(), interface: "net1".into(), network: "net".into() };
        let holder = LeaseHolder {
            attachment: attachment.clone(),
            pod: None,
            uid: None,
            netns: None,
            launcher: None,
            since: Millis(0),
        };
        let request = LeaseRequest {
            holder,
            owner: None,
            floating: None,
            further: None,
            sticky: false,
            migrating: false,
            beside_source: false,
        };
        let mut store = MemoryStore::default();
        let allocate = |store: &mut MemoryStore| {
            let rules = Rules { cooldown: 0, ..Rules::default() };
            store
                .change(|txn| Allocator::new(txn, &sets, rules, Millis::now()).allocate(&request, &[]))
                .unwrap()
        };
        let grants = allocate(&mut store);
        let late = |store: &mut MemoryStore, held: &Held, before: &[Addr]| {
            take_back_late(store, &attachment, held, &grants, before).unwrap()
        };
        assert_eq!(late(&mut store, &granted(u64::MAX), &[]), None);
        assert_eq!(late(&mut store, &granted(1), &[at("10.9.0.7")]), None, "it had it before");
        assert_eq!(allocate(&mut store), [Grant { picked: false, ..grants[0] }]);
        assert_eq!(late(&mut store, &granted(1), &[]), Some(at("10.9.0.7")));
        let state = store.change(|txn| find_address(txn, at("10.9.0.7"))).unwrap();
        assert!(matches!(state, Some(AddressState::Resting { .. })), "{state:?}");
    }
}
