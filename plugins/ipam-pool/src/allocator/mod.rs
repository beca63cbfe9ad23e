//! Decides which address is given out, over a [`KvTxn`]: O(log n) in the number of leases. Of the node it only asks
//! whether another pod that has the requested address still exists.

mod conflict;
mod error;
mod free_addresses;

pub use conflict::ConflictOutcome;
pub use error::AllocError;

use crate::blocks::FloatingOwner;
use crate::lease_table::LeaseTable;
use crate::store::{KvTxn, StoreError};
use crate::{Addr, AddressState, Attachment, Lease, LeaseHolder, Millis, Owner, RangeSet};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Addresses that were never used first, ascending; then the one that was released first.
    #[default]
    Oldest,
    /// The lowest address whose cooldown is over.
    Lowest,
}

/// How a pool hands out its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How long a released address rests, in milliseconds.
    pub cooldown: u64,
    /// Which free address is next.
    pub order: Order,
    /// Whether the caller probes an address before it is used; a quarantined address that is requested by name may
    /// then be tried again.
    pub probing: bool,
    /// Whether an address that is kept for an owner who is away is given to another one when no other address is free:
    /// so that what one user of a network's own ranges keeps takes nothing from the others for ever.
    pub kept_gives_way: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    pub holder: LeaseHolder,
    /// The owner, if it is known.
    pub owner: Option<Owner>,
    /// Whose address it is on every node, where the cluster keeps one for the owner.
    pub floating: Option<FloatingOwner>,
    /// The same where another interface of the pod has the owner's address: a further one that it keeps.
    pub further: Option<(Owner, FloatingOwner)>,
    /// Whether the owner keeps the address on this node after the attachment ends.
    pub sticky: bool,
    /// Whether the owner is a VM that is migrating to this pod and keeps the addresses that it has where it runs.
    pub migrating: bool,
    /// Whether the VM may still run in another pod of this node: this one is the target of a migration, or nobody
    /// records which pods are.
    pub beside_source: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub address: Addr,
    /// The index of the set that it is from.
    pub set: usize,
    /// Whether it is outside the pool's ranges, which were reduced after it was leased.
    pub outside: bool,
    /// Whether it was chosen as the next free one: it was not requested by name, and neither holder nor owner had it.
    pub picked: bool,
}

/// The allocator of one pool within one transaction.
pub struct Allocator<'a> {
    table: LeaseTable<'a>,
    sets: &'a [RangeSet],
    rules: Rules,
    now: Millis,
}

impl<'a> Allocator<'a> {
    /// `sets` are all sets of the pool; to release addresses, it may be empty.
    pub fn new(txn: &'a mut dyn KvTxn, sets: &'a [RangeSet], rules: Rules, now: Millis) -> Self {
        Self { table: LeaseTable::new(txn), sets, rules, now }
    }

    /// Gives one address from each set. `requested[i]` is the address requested from set `i`.
    ///
    /// An attachment that holds addresses gets the same ones again.
    ///
    /// # Errors
    /// No address was given; the transaction must be rolled back.
    pub fn allocate(
        &mut self,
        request: &LeaseRequest,
        requested: &[Option<Addr>],
    ) -> Result<Vec<Grant>, AllocError> {
        self.end_quarantines()?;
        let held = self.table.addresses_of(&request.holder.attachment)?;
        if let Some(address) = held.iter().copied().find(|address| !self.belongs_to_any_set(*address)) {
            return Err(self.subnet_removed(address, &request.holder.attachment));
        }
        let mut grants = Vec::with_capacity(self.sets.len());
        for (index, set) in self.sets.iter().enumerate() {
            let requested = requested.get(index).copied().flatten();
            let (address, picked) = self.allocate_from(set, request, requested, &held)?;
            grants.push(Grant { address, set: index, outside: !set.pool().contains(address), picked });
        }
        Ok(grants)
    }

    fn allocate_from(
        &mut self,
        set: &RangeSet,
        request: &LeaseRequest,
        requested: Option<Addr>,
        held: &[Addr],
    ) -> Result<(Addr, bool), AllocError> {
        if let Some(current) = held.iter().copied().find(|address| self.belongs_to(set, *address)) {
            if let Some(requested) = requested.filter(|requested| *requested != current) {
                let holder = request.holder.attachment.to_string();
                return Err(AllocError::HoldsAnother { requested, holder, current });
            }
            self.make_sticky(request, current)?;
            return Ok((current, false));
        }
        let reserved = request.owner.as_ref().and_then(|owner| set.reservation_of(owner));
        if let (Some(owner), true) = (&request.owner, request.sticky)
            && let Some(current) = self.find_sticky_lease(set, request, owner)?
        {
            if let Some(requested) = requested.filter(|requested| *requested != current) {
                return Err(AllocError::HoldsAnother { requested, holder: owner.to_string(), current });
            }
            check_sharing(current, &self.read_lease(current)?, request)?;
            // The machine may have another address by now than the one that this node keeps for it.
            let known = requested.is_some()
                || reserved == Some(current)
                || !self.read_lease(current)?.holders.is_empty();
            if request.migrating && !known {
                return Err(AllocError::Migrating {
                    owner: owner.clone(),
                    pool: set.node_part().to_string(),
                });
            }
            self.add_lease(set, current, request)?;
            return Ok((current, false));
        }
        let wanted = match requested {
            Some(requested) => Some(requested),
            // The pod's first interface in the same network already holds its reservation.
            None => match reserved {
                Some(reserved) if self.is_held_by_same_container(reserved, request)? => None,
                reserved => reserved,
            },
        };
        let address = match wanted {
            Some(address) => {
                set.check_allowed(address, request.owner.as_ref())
                    .map_err(|refusal| AllocError::Refused { address, refusal })?;
                self.check_available(address, request)?;
                address
            }
            None => match &request.owner {
                Some(owner) if request.migrating => {
                    return Err(AllocError::Migrating {
                        owner: owner.clone(),
                        pool: set.node_part().to_string(),
                    });
                }
                _ => self.find_free(set)?,
            },
        };
        self.add_lease(set, address, request)?;
        Ok((address, wanted.is_none()))
    }

    /// Checks that every set has an address for a request without an address. The transaction must be rolled back.
    ///
    /// # Errors
    /// A set has no free address.
    pub fn check_capacity(&mut self) -> Result<(), AllocError> {
        self.end_quarantines()?;
        self.sets.iter().try_for_each(|set| self.find_free(set).map(drop))
    }

    /// Whether an address that is in use belongs to this set.
    fn belongs_to(&self, set: &RangeSet, address: Addr) -> bool {
        if set.pool().contains(address) {
            return true;
        }
        // If the ranges were reduced, the subnet decides, unless another set contains the address.
        set.range_of(address).is_some() && !self.sets.iter().any(|other| other.pool().contains(address))
    }

    /// Whether an address that is in use belongs to any set.
    fn belongs_to_any_set(&self, address: Addr) -> bool {
        self.sets.iter().any(|set| self.belongs_to(set, address))
    }

    fn subnet_removed(&self, address: Addr, holder: &impl ToString) -> AllocError {
        let pool: Vec<_> = self.sets.iter().map(|set| set.pool().to_string()).collect();
        AllocError::SubnetRemoved { address, holder: holder.to_string(), pool: pool.join(", ") }
    }

    /// The address of this set that is kept for a sticky owner.
    fn find_sticky_lease(
        &mut self,
        set: &RangeSet,
        request: &LeaseRequest,
        owner: &Owner,
    ) -> Result<Option<Addr>, AllocError> {
        let mut best: Option<(Addr, bool)> = None;
        for address in self.table.addresses_of(owner)? {
            let in_no_set = address.family() == set.family() && !self.belongs_to_any_set(address);
            if !in_no_set && !self.belongs_to(set, address) {
                continue;
            }
            let lease = self.read_lease(address)?;
            if is_held_by_other_interface(&lease, request) {
                continue;
            }
            // An owner that is not running loses an address that is no longer in the pool.
            if lease.holders.is_empty() && !set.pool().contains(address) {
                self.end_lease(address, lease)?;
                continue;
            }
            if in_no_set {
                return Err(self.subnet_removed(address, owner));
            }
            let same_interface = lease.interface == request.holder.attachment.interface;
            if best.is_none_or(|(_, same)| same_interface && !same) {
                best = Some((address, same_interface));
            }
        }
        Ok(best.map(|(address, _)| address))
    }

    /// Whether the same container holds the address on another interface.
    fn is_held_by_same_container(&self, address: Addr, request: &LeaseRequest) -> Result<bool, AllocError> {
        Ok(match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => is_held_by_other_interface(&lease, request),
            _ => false,
        })
    }

    /// Checks that a requested or reserved address is available.
    fn check_available(&self, address: Addr, request: &LeaseRequest) -> Result<(), AllocError> {
        match self.table.read_state(address)? {
            None | Some(AddressState::Resting { .. }) => Ok(()),
            Some(AddressState::Quarantined { mac, .. }) => {
                if self.rules.probing {
                    Ok(())
                } else {
                    Err(AllocError::Conflict { address, mac })
                }
            }
            Some(AddressState::Leased(lease)) => {
                let own = request.owner.is_some() && request.owner == lease.owner;
                if own && !is_held_by_other_interface(&lease, request) {
                    return check_sharing(address, &lease, request);
                }
                Err(AllocError::Held { address, holder: lease.holder_text() })
            }
        }
    }

    /// Adds the requesting attachment to the lease of the address.
    fn add_lease(&mut self, set: &RangeSet, address: Addr, request: &LeaseRequest) -> Result<(), AllocError> {
        let mut lease = match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => lease,
            _ => Lease {
                owner: request.owner.clone(),
                queue: set.queue(),
                since: self.now,
                ..Lease::default()
            },
        };
        lease.away = None;
        lease.cooldown = Some(self.rules.cooldown);
        lease.sticky |= request.sticky && request.owner.is_some();
        lease.interface.clone_from(&request.holder.attachment.interface);
        lease.holders.push(request.holder.clone());
        if let (Some(floating), Some(owner)) = (&request.floating, &request.owner)
            && set.reservation_of(owner) == Some(address)
        {
            // From now on the cluster keeps it, not this node.
            if std::mem::take(&mut lease.sticky) {
                self.table.remove_from_index(owner, address)?;
            }
            self.end_kept(owner, address, request)?;
            lease.floating = Some(floating.name.clone());
        }
        self.table.write_state(address, &AddressState::Leased(lease.clone()))?;
        self.table.add_to_index(&request.holder.attachment, address)?;
        if let (Some(owner), true) = (&lease.owner, lease.sticky) {
            self.table.add_to_index(owner, address)?;
        }
        Ok(())
    }

    /// Ends what this node kept for an owner whose address in the cluster is another one: it may be in another node's block by now.
    fn end_kept(&mut self, owner: &Owner, current: Addr, request: &LeaseRequest) -> Result<(), AllocError> {
        for address in self.table.addresses_of(owner)? {
            if address == current || address.family() != current.family() {
                continue;
            }
            let lease = self.read_lease(address)?;
            if lease.holders.is_empty() && lease.interface == request.holder.attachment.interface {
                self.end_lease(address, lease)?;
            }
        }
        Ok(())
    }

    /// Makes the owner's existing lease sticky, if the request is.
    fn make_sticky(&mut self, request: &LeaseRequest, address: Addr) -> Result<(), AllocError> {
        if request.sticky
            && let Some(AddressState::Leased(mut lease)) = self.table.read_state(address)?
            && !lease.sticky
            && let Some(owner) = lease.owner.clone().filter(|owner| request.owner.as_ref() == Some(owner))
        {
            lease.sticky = true;
            self.table.write_state(address, &AddressState::Leased(lease))?;
            self.table.add_to_index(&owner, address)?;
        }
        Ok(())
    }

    fn read_lease(&self, address: Addr) -> Result<Lease, AllocError> {
        match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => Ok(lease),
            _ => {
                Err(StoreError::record(format!("{address} is in an index of leases, but has no lease"))
                    .into())
            }
        }
    }

    /// Removes an attachment from all its leases. A lease without attachments ends, unless its owner is sticky.
    /// Returns the addresses that the attachment held.
    pub fn release(&mut self, attachment: &Attachment) -> Result<Vec<Addr>, AllocError> {
        let held = self.table.addresses_of(attachment)?;
        for address in &held {
            self.detach(attachment, *address)?;
        }
        Ok(held)
    }

    /// Removes an attachment from the lease of one address.
    pub fn detach(&mut self, attachment: &Attachment, address: Addr) -> Result<(), AllocError> {
        let mut lease = self.read_lease(address)?;
        lease.holders.retain(|holder| holder.attachment != *attachment);
        self.table.remove_from_index(attachment, address)?;
        if lease.holders.is_empty() && !lease.sticky {
            self.end_lease(address, lease)
        } else {
            lease.away = lease.holders.is_empty().then_some(self.now);
            Ok(self.table.write_state(address, &AddressState::Leased(lease))?)
        }
    }

    /// Ends the lease of an address, whoever holds it.
    pub fn revoke(&mut self, address: Addr) -> Result<bool, AllocError> {
        match self.table.read_state(address)? {
            None => return Ok(false),
            Some(AddressState::Leased(lease)) => self.end_lease(address, lease)?,
            Some(AddressState::Quarantined { since, queue, cooldown, .. }) => {
                let state = AddressState::Resting { since, queue, last: None, cooldown };
                self.table.write_state(address, &state)?;
            }
            Some(AddressState::Resting { .. }) => self.table.remove_state(address)?,
        }
        Ok(true)
    }

    /// Ends a lease and removes its index entries.
    fn end_lease(&mut self, address: Addr, lease: Lease) -> Result<(), AllocError> {
        for holder in &lease.holders {
            self.table.remove_from_index(&holder.attachment, address)?;
        }
        if let (Some(owner), true) = (&lease.owner, lease.sticky) {
            self.table.remove_from_index(owner, address)?;
        }
        if lease.floating.is_some() {
            // Only its owner is given it again, on whatever node.
            return Ok(self.table.remove_state(address)?);
        }
        let last = lease.owner.map(|owner| owner.to_string());
        let Lease { queue, cooldown, .. } = lease;
        let state = AddressState::Resting { since: self.now, queue, last, cooldown };
        Ok(self.table.write_state(address, &state)?)
    }

    /// The attachments of the network that hold an address and are not valid.
    pub fn find_stale_attachments(
        &self,
        network: &str,
        is_valid: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<Attachment>, AllocError> {
        self.find_attachments(|attachment| attachment.network == network && !is_valid(attachment))
    }

    /// The attachments that hold an address and are wanted.
    pub fn find_attachments(
        &self,
        is_wanted: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<Attachment>, AllocError> {
        let mut all = Vec::new();
        for found in self.table.indexed::<Attachment>() {
            let (attachment, _) = found?;
            if is_wanted(&attachment) {
                all.push(attachment);
            }
        }
        Ok(all)
    }

    /// Releases imported leases of this network that the other IPAM plugin no longer has.
    pub fn release_imported(
        &mut self,
        network: &str,
        is_there: impl Fn(&Attachment, Addr) -> bool,
    ) -> Result<(), AllocError> {
        let mut gone = Vec::new();
        for found in self.table.indexed::<Attachment>() {
            let (attachment, addresses) = found?;
            if attachment.network == network {
                gone.extend(addresses.into_iter().map(|address| (attachment.clone(), address)));
            }
        }
        for (attachment, address) in gone {
            if !is_there(&attachment, address) && self.read_lease(address)?.imported {
                self.detach(&attachment, address)?;
            }
        }
        Ok(())
    }

    /// Imports a lease of another IPAM plugin. The address may be outside the pool.
    ///
    /// # Errors
    /// Another attachment holds the address, or the store failed.
    pub fn import(&mut self, address: Addr, queue: u8, holder: &LeaseHolder) -> Result<bool, AllocError> {
        match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => {
                if lease.holders.iter().any(|other| other.attachment == holder.attachment) {
                    return Ok(false);
                }
                return Err(AllocError::Held { address, holder: lease.holder_text() });
            }
            Some(AddressState::Resting { .. } | AddressState::Quarantined { .. }) | None => {}
        }
        let lease = Lease {
            imported: true,
            interface: holder.attachment.interface.clone(),
            queue,
            holders: vec![holder.clone()],
            since: self.now,
            ..Lease::default()
        };
        self.table.write_state(address, &AddressState::Leased(lease))?;
        self.table.add_to_index(&holder.attachment, address)?;
        Ok(true)
    }
}

/// Checks that no other pod has the address that is its owner's: an owner is a name, which a pod that was deleted by
/// force and the one after it have at once, and which a pod can only claim to be (`args.cni.vm`). The old sandbox of the
/// same pod, and what no longer exists, may not have been detached yet.
fn check_sharing(address: Addr, lease: &Lease, request: &LeaseRequest) -> Result<(), AllocError> {
    let Some(owner) = &lease.owner else { return Ok(()) };
    let others = lease.holders.iter().filter(|holder| !request.holder.is_of_same_pod(holder));
    for holder in others.filter(|holder| holder.netns.is_none() || holder.is_live()) {
        let (owner, holder_text) = (owner.clone(), holder.to_string());
        let are_launchers = request.holder.is_launcher_as(holder);
        if owner.is_vm() && !are_launchers {
            return Err(AllocError::VmInUse { address, owner, holder: holder_text });
        }
        if holder.is_live() && !(are_launchers && request.beside_source) {
            return Err(AllocError::StillInUse { address, owner, holder: holder_text });
        }
    }
    Ok(())
}

/// Whether the requesting container holds this address on another interface.
fn is_held_by_other_interface(lease: &Lease, request: &LeaseRequest) -> bool {
    let own = &request.holder.attachment;
    lease.holders.iter().any(|holder| {
        holder.attachment.container == own.container && holder.attachment.interface != own.interface
    })
}
