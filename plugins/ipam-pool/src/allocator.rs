//! Who gets which address: pure decisions over a [`KvTxn`], O(log n) in the leases.

use crate::lease_table::LeaseTable;
use crate::store::{KvTxn, StoreError};
use crate::{
    Addr, AddrRange, AddrSet, AddressState, Attachment, Family, Lease, LeaseHolder, Millis, Owner, RangeSet,
    Refusal,
};

/// In which order addresses are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Those that were never used, ascending; then the one that rests longest.
    #[default]
    Oldest,
    /// The lowest one that does not rest.
    Lowest,
}

/// How a pool hands out its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How long a released address rests, in milliseconds.
    pub cooldown: u64,
    /// Which free address is next.
    pub order: Order,
    /// Whether the caller asks the wire before it uses an address; one that is asked for by name may
    /// then be tried again while it is quarantined.
    pub probing: bool,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The attachment.
    pub holder: LeaseHolder,
    /// Its owner, where it is known.
    pub owner: Option<Owner>,
    /// Whether the owner keeps what it gets.
    pub sticky: bool,
    /// The owner is a VM that runs in another pod, with the addresses that it has there, and comes to this one.
    pub migrating: bool,
}

/// An address that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: Addr,
    /// Which of the sets it is from.
    pub set: usize,
    /// Whether it lies outside of the pool's ranges, which shrank since.
    pub outside: bool,
    /// Whether it is the next free one: nobody asked for it, and neither holder nor owner had it.
    pub picked: bool,
}

/// Why no address was given.
#[derive(Debug, thiserror::Error)]
pub enum AllocError {
    /// All are in use.
    #[error("no address is free in {pool}{}: release some ('ipam-pool leases'), or widen the pool",
        resting.map_or_else(String::new, |ms| format!(" (the next one rests for another {:.1} s)", seconds(ms))))]
    Exhausted {
        /// The ranges, as far as they are this node's.
        pool: String,
        /// In how many milliseconds the next address has rested.
        resting: Option<u64>,
        /// Addresses that would do, if this node held them.
        wanted: AddrSet,
    },
    /// A requested address is somebody else's.
    #[error("{address} is held by {holder}")]
    Held {
        /// The address.
        address: Addr,
        /// By whom.
        holder: String,
    },
    /// A requested address is never handed out, or not to this owner.
    #[error("{address} is not handed out: it is {}", describe_refusal(refusal))]
    Refused {
        /// The address.
        address: Addr,
        /// Why.
        refusal: Refusal,
    },
    /// Another station has the address.
    #[error(
        "{address} is used by another station on the link: {mac} answered for it; it is left alone until that stops"
    )]
    Conflict {
        /// The address.
        address: Addr,
        /// Who answered.
        mac: String,
    },
    /// A request for another address than the one that is held.
    #[error("{asked} was asked for, but {whom} has {has} already: release that first")]
    HoldsAnother {
        /// What was asked for.
        asked: Addr,
        /// Who has the other.
        whom: String,
        /// What it has.
        has: Addr,
    },
    /// What is held lies in no subnet of the pool, which was changed meanwhile.
    #[error(
        "{whom} has {address}, which is in no subnet of {pool} any more: the pool was changed while that was leased. \
         End it first (DEL, or 'ipam-pool release {address}'), or put the subnet back"
    )]
    SubnetRemoved {
        /// The address.
        address: Addr,
        /// Who has it.
        whom: String,
        /// The ranges as they are now.
        pool: String,
    },
    /// The VM's address is another node's to know.
    #[error(
        "{owner} comes here by a live migration, with the address that it has where it runs, which {pool} on this node does \
         not know: reserve it (reservations: {{\"{}\": <address>}} in the pool), which holds on every node, or stop the \
         machine and start it here; until then it stays where it runs", owner.in_any_network()
    )]
    Migrating {
        /// The VM.
        owner: Owner,
        /// The ranges, as far as they are this node's.
        pool: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AllocError {
    /// What this node would have to hold, where that is what is missing.
    #[must_use]
    pub fn wanted(&self) -> Option<AddrSet> {
        match self {
            Self::Exhausted { wanted, .. } => Some(wanted.clone()),
            Self::Refused { address, refusal: Refusal::BlockNotHeld } => {
                Some(AddrSet::union([AddrRange::single(*address)]))
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn describe_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Gateway => "a gateway".to_owned(),
        Refusal::Excluded => "excluded from the pool".to_owned(),
        Refusal::Reserved(owner) => format!("reserved for {owner}"),
        Refusal::OtherNode(node) => format!("handed out by {node}, not by this node"),
        Refusal::NoNode => "in no node's part of the pool".to_owned(),
        Refusal::BlockNotHeld => "in a block that this node does not hold".to_owned(),
    }
}

/// What happened to an address that another station answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictOutcome {
    /// Nobody gets it for a while; ask again for another one.
    Quarantined,
    /// It is its owner's and stays so.
    Kept,
    /// This attachment does not hold it.
    NotHeld,
}

/// The most rested addresses that one call makes available again with [`Order::Lowest`].
const MOVED_PER_CALL: usize = 64;

/// One pool at one moment.
pub struct Allocator<'a> {
    table: LeaseTable<'a>,
    sets: &'a [RangeSet],
    rules: Rules,
    now: Millis,
}

impl<'a> Allocator<'a> {
    /// `sets` are all sets of the pool; none are needed to release.
    pub fn new(txn: &'a mut dyn KvTxn, sets: &'a [RangeSet], rules: Rules, now: Millis) -> Self {
        Self { table: LeaseTable::new(txn), sets, rules, now }
    }

    /// One address from each set. `asked[i]` is what was asked for from set `i`.
    ///
    /// The same attachment gets the same again.
    ///
    /// # Errors
    /// Why not; then nothing of the change may be kept.
    pub fn allocate(
        &mut self,
        lease_request: &LeaseRequest,
        asked: &[Option<Addr>],
    ) -> Result<Vec<Grant>, AllocError> {
        self.end_quarantines()?;
        let held = self.table.addresses_of_attachment(&lease_request.holder.attachment)?;
        if let Some(address) = held.iter().copied().find(|address| !self.belongs_to_any_set(*address)) {
            return Err(self.subnet_removed(address, &lease_request.holder.attachment));
        }
        let mut grants = Vec::with_capacity(self.sets.len());
        for (index, set) in self.sets.iter().enumerate() {
            let asked = asked.get(index).copied().flatten();
            let (address, picked) = self.allocate_from(set, lease_request, asked, &held)?;
            grants.push(Grant { address, set: index, outside: !set.pool().contains(address), picked });
        }
        Ok(grants)
    }

    fn allocate_from(
        &mut self,
        set: &RangeSet,
        lease_request: &LeaseRequest,
        asked: Option<Addr>,
        held: &[Addr],
    ) -> Result<(Addr, bool), AllocError> {
        if let Some(has) = held.iter().copied().find(|address| self.belongs_to(set, *address)) {
            if let Some(asked) = asked.filter(|asked| *asked != has) {
                let whom = lease_request.holder.attachment.to_string();
                return Err(AllocError::HoldsAnother { asked, whom, has });
            }
            self.make_sticky(lease_request, has)?;
            return Ok((has, false));
        }
        let reserved = lease_request.owner.as_ref().and_then(|owner| set.reservation_of(owner));
        if let (Some(owner), true) = (&lease_request.owner, lease_request.sticky)
            && let Some(has) = self.find_sticky_lease(set, lease_request, owner)?
        {
            if let Some(asked) = asked.filter(|asked| *asked != has) {
                return Err(AllocError::HoldsAnother { asked, whom: owner.to_string(), has });
            }
            // What was kept here since it last ran here it need not have any more.
            let known = asked.is_some() || reserved == Some(has) || !self.read_lease(has)?.holders.is_empty();
            if lease_request.migrating && !known {
                return Err(AllocError::Migrating {
                    owner: owner.clone(),
                    pool: set.node_part().to_string(),
                });
            }
            self.add_lease(set, has, lease_request)?;
            return Ok((has, false));
        }
        let wanted = match asked {
            Some(asked) => Some(asked),
            // A pod's second interface in the same network finds its reservation taken by the first.
            None => match reserved {
                Some(reserved) if self.is_held_by_same_container(reserved, lease_request)? => None,
                reserved => reserved,
            },
        };
        let address = match wanted {
            Some(address) => {
                set.check_allowed(address, lease_request.owner.as_ref())
                    .map_err(|refusal| AllocError::Refused { address, refusal })?;
                self.check_available(address, lease_request)?;
                address
            }
            None => match &lease_request.owner {
                Some(owner) if lease_request.migrating => {
                    return Err(AllocError::Migrating {
                        owner: owner.clone(),
                        pool: set.node_part().to_string(),
                    });
                }
                _ => self.find_free(set)?,
            },
        };
        self.add_lease(set, address, lease_request)?;
        Ok((address, wanted.is_none()))
    }

    /// Whether every set has an address for somebody who asks for none by name. Changes nothing that
    /// may be kept.
    ///
    /// # Errors
    /// A set has none.
    pub fn check_capacity(&mut self) -> Result<(), AllocError> {
        self.end_quarantines()?;
        self.sets.iter().try_for_each(|set| self.find_free(set).map(drop))
    }

    /// Whether an address that is in use is to be counted to this set.
    fn belongs_to(&self, set: &RangeSet, address: Addr) -> bool {
        if set.pool().contains(address) {
            return true;
        }
        // After a pool shrank: the subnet decides, unless another set names the address.
        set.range_of(address).is_some() && !self.sets.iter().any(|other| other.pool().contains(address))
    }

    /// Whether an address that is in use can be counted to any set.
    fn belongs_to_any_set(&self, address: Addr) -> bool {
        self.sets.iter().any(|set| self.belongs_to(set, address))
    }

    fn subnet_removed(&self, address: Addr, whom: &impl ToString) -> AllocError {
        let pool: Vec<_> = self.sets.iter().map(|set| set.pool().to_string()).collect();
        AllocError::SubnetRemoved { address, whom: whom.to_string(), pool: pool.join(", ") }
    }

    /// The address of this set that a sticky owner comes back to.
    fn find_sticky_lease(
        &mut self,
        set: &RangeSet,
        lease_request: &LeaseRequest,
        owner: &Owner,
    ) -> Result<Option<Addr>, AllocError> {
        let mut best: Option<(Addr, bool)> = None;
        for address in self.table.addresses_of_owner(owner)? {
            let in_no_set = address.family() == set.family() && !self.belongs_to_any_set(address);
            if !in_no_set && !self.belongs_to(set, address) {
                continue;
            }
            let lease = self.read_lease(address)?;
            if is_held_by_other_interface(&lease, lease_request) {
                continue;
            }
            // An address that the pool no longer names is given up by an owner that is not running.
            if lease.holders.is_empty() && !set.pool().contains(address) {
                self.end_lease(address, lease)?;
                continue;
            }
            if in_no_set {
                return Err(self.subnet_removed(address, owner));
            }
            let same_interface = lease.interface == lease_request.holder.attachment.interface;
            if best.is_none_or(|(_, same)| same_interface && !same) {
                best = Some((address, same_interface));
            }
        }
        Ok(best.map(|(address, _)| address))
    }

    /// Whether the same container has the address on another interface.
    fn is_held_by_same_container(
        &self,
        address: Addr,
        lease_request: &LeaseRequest,
    ) -> Result<bool, AllocError> {
        Ok(match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => is_held_by_other_interface(&lease, lease_request),
            _ => false,
        })
    }

    /// Whether an address that was asked for, or is reserved, can be given.
    fn check_available(&self, address: Addr, lease_request: &LeaseRequest) -> Result<(), AllocError> {
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
                // The owner's old sandbox may still be on its way out.
                let own = lease_request.owner.is_some() && lease_request.owner == lease.owner;
                if own && !is_held_by_other_interface(&lease, lease_request) {
                    return Ok(());
                }
                Err(AllocError::Held { address, holder: lease.holder_text() })
            }
        }
    }

    /// The next free address.
    fn find_free(&mut self, set: &RangeSet) -> Result<Addr, AllocError> {
        if self.rules.order == Order::Lowest {
            self.forget_rested(set)?;
        }
        if let Some(address) = self.first_unused(set)? {
            // Two indices have to agree before an address is given: a damaged one alone gives none twice.
            return match self.table.read_state(address)? {
                None => Ok(address),
                Some(_) => {
                    Err(StoreError::record(format!("{address} has a record and is not marked as used"))
                        .into())
                }
            };
        }
        if let Some(address) = self.find_longest_rested(set)? {
            return Ok(address);
        }
        // The sets may have been numbered differently when those that rest were released.
        let mut queue = 0;
        while let Some(found) = self.table.next_queue(set.family(), queue)? {
            if found != set.queue() {
                self.requeue(set, found)?;
            }
            match found.checked_add(1) {
                Some(next) => queue = next,
                None => break,
            }
        }
        if let Some(address) = self.find_longest_rested(set)? {
            return Ok(address);
        }
        let resting = self.table.longest_resting(set.family(), set.queue())?;
        let resting = resting.map(|(_, since)| since.after(self.rules.cooldown).0.saturating_sub(self.now.0));
        Err(AllocError::Exhausted {
            pool: set.node_part().to_string(),
            resting,
            wanted: set.node_part().clone(),
        })
    }

    /// The lowest address that nobody had, of the first range that has one, or of all of them.
    fn first_unused(&self, set: &RangeSet) -> Result<Option<Addr>, AllocError> {
        if self.rules.order == Order::Lowest {
            return Ok(self.table.first_unused(set.allocatable())?);
        }
        for open in set.allocatable_by_range() {
            if let Some(address) = self.table.first_unused(open)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// The head of the set's queue, if it has rested; what the set does not hand out is dropped on the
    /// way.
    fn find_longest_rested(&mut self, set: &RangeSet) -> Result<Option<Addr>, AllocError> {
        while let Some((address, since)) = self.table.longest_resting(set.family(), set.queue())? {
            if !self.has_rested(since) {
                return Ok(None);
            }
            if !set.allocatable().contains(address) {
                self.move_to_current_set(address)?;
                continue;
            }
            return match self.table.read_state(address)? {
                Some(AddressState::Resting { .. }) => Ok(Some(address)),
                _ => Err(StoreError::record(format!("{address} is in a queue and does not rest")).into()),
            };
        }
        Ok(None)
    }

    fn has_rested(&self, since: Millis) -> bool {
        since.after(self.rules.cooldown) <= self.now
    }

    /// Moves what rests in another set's queue to where it belongs now, if that set is gone.
    fn requeue(&mut self, set: &RangeSet, queue: u8) -> Result<(), AllocError> {
        let live = self.sets.iter().find(|other| other.queue() == queue && other.family() == set.family());
        while let Some((address, since)) = self.table.longest_resting(set.family(), queue)? {
            // Nobody could have it yet, and all behind it came later.
            if !self.has_rested(since) || live.is_some_and(|live| live.allocatable().contains(address)) {
                break;
            }
            self.move_to_current_set(address)?;
        }
        Ok(())
    }

    /// Puts a resting address into the queue of the set that hands it out, or forgets it.
    fn move_to_current_set(&mut self, address: Addr) -> Result<(), AllocError> {
        let home = self.sets.iter().find(|set| set.allocatable().contains(address));
        match (self.table.read_state(address)?, home) {
            (Some(AddressState::Resting { since, last, .. }), Some(set)) => Ok(self
                .table
                .write_state(address, &AddressState::Resting { since, queue: set.queue(), last })?),
            (Some(AddressState::Resting { .. }), None) => Ok(self.table.remove_state(address)?),
            _ => Err(StoreError::record(format!("{address} is in a queue and does not rest")).into()),
        }
    }

    /// Makes rested addresses of the set as good as never used.
    fn forget_rested(&mut self, set: &RangeSet) -> Result<(), AllocError> {
        for _ in 0..MOVED_PER_CALL {
            match self.table.longest_resting(set.family(), set.queue())? {
                Some((address, since)) if self.has_rested(since) => {
                    self.table.remove_state(address)?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Lets those rest whose quarantine is over.
    fn end_quarantines(&mut self) -> Result<(), AllocError> {
        for family in Family::BOTH {
            for _ in 0..MOVED_PER_CALL {
                match self.table.first_quarantined(family)? {
                    Some((address, until)) if until <= self.now => match self.table.read_state(address)? {
                        Some(AddressState::Quarantined { since, queue, .. }) => {
                            self.table
                                .write_state(address, &AddressState::Resting { since, queue, last: None })?;
                        }
                        _ => {
                            let what = format!("{address} is in quarantine's queue and not quarantined");
                            return Err(StoreError::record(what).into());
                        }
                    },
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Writes down that the seeker has the address.
    fn add_lease(
        &mut self,
        set: &RangeSet,
        address: Addr,
        lease_request: &LeaseRequest,
    ) -> Result<(), AllocError> {
        let mut lease = match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => lease,
            _ => Lease {
                owner: lease_request.owner.clone(),
                sticky: false,
                imported: false,
                interface: lease_request.holder.attachment.interface.clone(),
                queue: set.queue(),
                holders: Vec::new(),
                since: self.now,
            },
        };
        lease.sticky |= lease_request.sticky && lease_request.owner.is_some();
        lease.interface.clone_from(&lease_request.holder.attachment.interface);
        lease.holders.push(lease_request.holder.clone());
        self.table.write_state(address, &AddressState::Leased(lease.clone()))?;
        self.table.add_to_attachment(&lease_request.holder.attachment, address)?;
        if let (Some(owner), true) = (&lease.owner, lease.sticky) {
            self.table.add_to_owner(owner, address)?;
        }
        Ok(())
    }

    /// What was given to an owner without being kept is kept from now on, if that is wanted.
    fn make_sticky(&mut self, lease_request: &LeaseRequest, address: Addr) -> Result<(), AllocError> {
        if lease_request.sticky
            && let Some(AddressState::Leased(mut lease)) = self.table.read_state(address)?
            && !lease.sticky
            && let Some(owner) =
                lease.owner.clone().filter(|owner| lease_request.owner.as_ref() == Some(owner))
        {
            lease.sticky = true;
            self.table.write_state(address, &AddressState::Leased(lease))?;
            self.table.add_to_owner(&owner, address)?;
        }
        Ok(())
    }

    fn read_lease(&self, address: Addr) -> Result<Lease, AllocError> {
        match self.table.read_state(address)? {
            Some(AddressState::Leased(lease)) => Ok(lease),
            _ => {
                Err(StoreError::record(format!("{address} is in an index of leases and has no lease")).into())
            }
        }
    }

    /// Detaches an attachment from all its addresses. Those that no sticky owner keeps rest from now
    /// on. Returns what it held.
    ///
    /// # Errors
    /// The store's.
    pub fn release(&mut self, attachment: &Attachment) -> Result<Vec<Addr>, AllocError> {
        let held = self.table.addresses_of_attachment(attachment)?;
        for address in &held {
            self.detach(attachment, *address)?;
        }
        Ok(held)
    }

    fn detach(&mut self, attachment: &Attachment, address: Addr) -> Result<(), AllocError> {
        let mut lease = self.read_lease(address)?;
        lease.holders.retain(|holder| holder.attachment != *attachment);
        self.table.remove_from_attachment(attachment, address)?;
        if lease.holders.is_empty() && !lease.sticky {
            self.end_lease(address, lease)
        } else {
            Ok(self.table.write_state(address, &AddressState::Leased(lease))?)
        }
    }

    /// Takes an address from everybody who has it.
    ///
    /// # Errors
    /// The store's.
    pub fn revoke(&mut self, address: Addr) -> Result<bool, AllocError> {
        match self.table.read_state(address)? {
            None => return Ok(false),
            Some(AddressState::Leased(lease)) => self.end_lease(address, lease)?,
            Some(AddressState::Quarantined { since, queue, .. }) => {
                self.table.write_state(address, &AddressState::Resting { since, queue, last: None })?;
            }
            Some(AddressState::Resting { .. }) => self.table.remove_state(address)?,
        }
        Ok(true)
    }

    /// Ends a lease with all that refers to it.
    fn end_lease(&mut self, address: Addr, lease: Lease) -> Result<(), AllocError> {
        for holder in &lease.holders {
            self.table.remove_from_attachment(&holder.attachment, address)?;
        }
        if let (Some(owner), true) = (&lease.owner, lease.sticky) {
            self.table.remove_from_owner(owner, address)?;
        }
        let last = lease.owner.map(|owner| owner.to_string());
        let state = AddressState::Resting { since: self.now, queue: lease.queue, last };
        Ok(self.table.write_state(address, &state)?)
    }

    /// The attachments of the network that hold something and that `is_valid` does not know.
    ///
    /// # Errors
    /// The store's.
    pub fn find_stale_attachments(
        &self,
        network: &str,
        is_valid: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<Attachment>, AllocError> {
        self.find_attachments(|attachment| attachment.network == network && !is_valid(attachment))
    }

    /// The attachments that hold something and that `is_wanted` picks.
    ///
    /// # Errors
    /// The store's.
    pub fn find_attachments(
        &self,
        is_wanted: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<Attachment>, AllocError> {
        let mut all = Vec::new();
        for found in self.table.attachments() {
            let (attachment, _) = found?;
            if is_wanted(&attachment) {
                all.push(attachment);
            }
        }
        Ok(all)
    }

    /// Releases what was taken over from another IPAM plugin for this network and that one no longer
    /// has.
    ///
    /// # Errors
    /// The store's.
    pub fn release_imported(
        &mut self,
        network: &str,
        is_there: impl Fn(&Attachment, Addr) -> bool,
    ) -> Result<(), AllocError> {
        let mut gone = Vec::new();
        for found in self.table.attachments() {
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

    /// Another station answered for an address that this attachment was just given.
    ///
    /// `fixed` says that nothing else may take its place: it was asked for, or is reserved.
    ///
    /// # Errors
    /// The store's.
    pub fn report_conflict(
        &mut self,
        attachment: &Attachment,
        address: Addr,
        mac: &str,
        quarantine: u64,
        fixed: bool,
    ) -> Result<ConflictOutcome, AllocError> {
        let Some(AddressState::Leased(lease)) = self.table.read_state(address)? else {
            return Ok(ConflictOutcome::NotHeld);
        };
        let Some(holder) = lease.holders.iter().find(|holder| holder.attachment == *attachment) else {
            return Ok(ConflictOutcome::NotHeld);
        };
        // An owner that had it before this attachment came, or has it elsewhere at the same time.
        let older = lease.since < holder.since || lease.holders.len() > 1;
        if fixed || older {
            return Ok(ConflictOutcome::Kept);
        }
        let queue = lease.queue;
        self.end_lease(address, lease)?;
        let until = self.now.after(quarantine);
        let state = AddressState::Quarantined { since: self.now, until, mac: mac.to_owned(), queue };
        self.table.write_state(address, &state)?;
        self.limit_quarantine(address)?;
        Ok(ConflictOutcome::Quarantined)
    }

    /// At most half of a set's addresses are in quarantine: one station that answers for everything must not take all of
    /// them from those that do not even ask. The oldest go to the end of those that rest.
    fn limit_quarantine(&mut self, latest: Addr) -> Result<(), AllocError> {
        let Some(set) = self.sets.iter().find(|set| set.pool().contains(latest)) else { return Ok(()) };
        let most = (set.allocatable().len() / 2).max(1);
        let quarantined = self.table.quarantined(set.family())?;
        let of_set: Vec<Addr> =
            quarantined.into_iter().filter(|address| set.pool().contains(*address)).collect();
        let surplus = (of_set.len() as u128).saturating_sub(most);
        let surplus = usize::try_from(surplus).unwrap_or(of_set.len());
        for address in of_set.into_iter().filter(|address| *address != latest).take(surplus) {
            if let Some(AddressState::Quarantined { queue, .. }) = self.table.read_state(address)? {
                self.table
                    .write_state(address, &AddressState::Resting { since: self.now, queue, last: None })?;
            }
        }
        Ok(())
    }

    /// Takes over a lease that another IPAM plugin gave. The address may lie anywhere.
    ///
    /// # Errors
    /// Somebody else has it here, or the store's.
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
            owner: None,
            sticky: false,
            imported: true,
            interface: holder.attachment.interface.clone(),
            queue,
            holders: vec![holder.clone()],
            since: self.now,
        };
        self.table.write_state(address, &AddressState::Leased(lease))?;
        self.table.add_to_attachment(&holder.attachment, address)?;
        Ok(true)
    }
}

/// Whether the seeker's own container has this address on another interface.
fn is_held_by_other_interface(lease: &Lease, lease_request: &LeaseRequest) -> bool {
    let own = &lease_request.holder.attachment;
    lease.holders.iter().any(|holder| {
        holder.attachment.container == own.container && holder.attachment.interface != own.interface
    })
}
