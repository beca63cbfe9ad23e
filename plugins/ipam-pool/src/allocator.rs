//! Who gets which address: pure decisions over a [`Ledger`], O(log n) in the leases.

use crate::book::Book;
use crate::store::{Ledger, StoreError};
use crate::{Addr, Attachment, Family, Holder, Lease, Millis, Owner, Refusal, Set, Slot, Span, Spans};

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
pub struct Seeker {
    /// The attachment.
    pub holder: Holder,
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
        /// The ranges.
        pool: String,
        /// In how many milliseconds the next address has rested.
        resting: Option<u64>,
        /// Addresses that would do, if this node held them.
        wanted: Spans,
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
    #[error("{address} is not handed out: it is {}", why(refusal))]
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
    Has {
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
    Moved {
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
        /// The ranges.
        pool: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AllocError {
    /// What this node would have to hold, where that is what is missing.
    #[must_use]
    pub fn wanted(&self) -> Option<Spans> {
        match self {
            Self::Exhausted { wanted, .. } => Some(wanted.clone()),
            Self::Refused { address, refusal: Refusal::Unheld } => {
                Some(Spans::union([Span::single(*address)]))
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn why(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Gateway => "a gateway".to_owned(),
        Refusal::Excluded => "excluded from the pool".to_owned(),
        Refusal::Reserved(owner) => format!("reserved for {owner}"),
        Refusal::Elsewhere(node) => format!("handed out by {node}, not by this node"),
        Refusal::Nowhere => "in no node's part of the pool".to_owned(),
        Refusal::Unheld => "in a block that this node does not hold".to_owned(),
    }
}

/// What happened to an address that another station answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Nobody gets it for a while; ask again for another one.
    Quarantined,
    /// It is its owner's and stays so.
    Kept,
    /// This attachment does not hold it.
    NotHeld,
}

/// The most rested addresses that one call makes available again with [`Order::Lowest`].
const RETURNED_PER_CALL: usize = 64;

/// One pool at one moment.
pub struct Allocator<'a> {
    book: Book<'a>,
    sets: &'a [Set],
    rules: Rules,
    now: Millis,
}

impl<'a> Allocator<'a> {
    /// `sets` are all sets of the pool; none are needed to release.
    pub fn new(ledger: &'a mut dyn Ledger, sets: &'a [Set], rules: Rules, now: Millis) -> Self {
        Self { book: Book::new(ledger), sets, rules, now }
    }

    /// One address from each set. `asked[i]` is what was asked for from set `i`.
    ///
    /// The same attachment gets the same again.
    ///
    /// # Errors
    /// Why not; then nothing of the change may be kept.
    pub fn grant(&mut self, seeker: &Seeker, asked: &[Option<Addr>]) -> Result<Vec<Grant>, AllocError> {
        self.end_quarantines()?;
        let held = self.book.held_by(&seeker.holder.attachment)?;
        if let Some(address) = held.iter().copied().find(|address| !self.has_home(*address)) {
            return Err(self.moved(address, &seeker.holder.attachment));
        }
        let mut grants = Vec::with_capacity(self.sets.len());
        for (index, set) in self.sets.iter().enumerate() {
            let asked = asked.get(index).copied().flatten();
            let (address, picked) = self.grant_from(set, seeker, asked, &held)?;
            grants.push(Grant { address, set: index, outside: !set.pool().contains(address), picked });
        }
        Ok(grants)
    }

    fn grant_from(
        &mut self,
        set: &Set,
        seeker: &Seeker,
        asked: Option<Addr>,
        held: &[Addr],
    ) -> Result<(Addr, bool), AllocError> {
        if let Some(has) = held.iter().copied().find(|address| self.is_of(set, *address)) {
            if let Some(asked) = asked.filter(|asked| *asked != has) {
                let whom = seeker.holder.attachment.to_string();
                return Err(AllocError::Has { asked, whom, has });
            }
            self.keep_from_now_on(seeker, has)?;
            return Ok((has, false));
        }
        let reserved = seeker.owner.as_ref().and_then(|owner| set.reservation_of(owner));
        if let (Some(owner), true) = (&seeker.owner, seeker.sticky)
            && let Some(has) = self.kept_for(set, seeker, owner)?
        {
            if let Some(asked) = asked.filter(|asked| *asked != has) {
                return Err(AllocError::Has { asked, whom: owner.to_string(), has });
            }
            // What was kept here since it last ran here it need not have any more.
            let known = asked.is_some() || reserved == Some(has) || !self.lease(has)?.holders.is_empty();
            if seeker.migrating && !known {
                return Err(AllocError::Migrating { owner: owner.clone(), pool: set.pool().to_string() });
            }
            self.take(set, has, seeker)?;
            return Ok((has, false));
        }
        let wanted = match asked {
            Some(asked) => Some(asked),
            // A pod's second interface in the same network finds its reservation taken by the first.
            None => match reserved {
                Some(reserved) if self.taken_by_sibling(reserved, seeker)? => None,
                reserved => reserved,
            },
        };
        let address = match wanted {
            Some(address) => {
                set.may_have(address, seeker.owner.as_ref())
                    .map_err(|refusal| AllocError::Refused { address, refusal })?;
                self.may_take(address, seeker)?;
                address
            }
            None => match &seeker.owner {
                Some(owner) if seeker.migrating => {
                    return Err(AllocError::Migrating { owner: owner.clone(), pool: set.pool().to_string() });
                }
                _ => self.pick(set)?,
            },
        };
        self.take(set, address, seeker)?;
        Ok((address, wanted.is_none()))
    }

    /// Whether every set has an address for somebody who asks for none by name. Changes nothing that
    /// may be kept.
    ///
    /// # Errors
    /// A set has none.
    pub fn try_all(&mut self) -> Result<(), AllocError> {
        self.end_quarantines()?;
        self.sets.iter().try_for_each(|set| self.pick(set).map(drop))
    }

    /// Whether an address that is in use is to be counted to this set.
    fn is_of(&self, set: &Set, address: Addr) -> bool {
        if set.pool().contains(address) {
            return true;
        }
        // After a pool shrank: the subnet decides, unless another set names the address.
        set.range_of(address).is_some() && !self.sets.iter().any(|other| other.pool().contains(address))
    }

    /// Whether an address that is in use can be counted to any set.
    fn has_home(&self, address: Addr) -> bool {
        self.sets.iter().any(|set| self.is_of(set, address))
    }

    fn moved(&self, address: Addr, whom: &impl ToString) -> AllocError {
        let pool: Vec<_> = self.sets.iter().map(|set| set.pool().to_string()).collect();
        AllocError::Moved { address, whom: whom.to_string(), pool: pool.join(", ") }
    }

    /// The address of this set that a sticky owner comes back to.
    fn kept_for(&mut self, set: &Set, seeker: &Seeker, owner: &Owner) -> Result<Option<Addr>, AllocError> {
        let mut best: Option<(Addr, bool)> = None;
        for address in self.book.owned_by(owner)? {
            let homeless = address.family() == set.family() && !self.has_home(address);
            if !homeless && !self.is_of(set, address) {
                continue;
            }
            let lease = self.lease(address)?;
            if has_sibling(&lease, seeker) {
                continue;
            }
            // An address that the pool no longer names is given up by an owner that is not running.
            if lease.holders.is_empty() && !set.pool().contains(address) {
                self.rest(address, lease)?;
                continue;
            }
            if homeless {
                return Err(self.moved(address, owner));
            }
            let same_interface = lease.interface == seeker.holder.attachment.interface;
            if best.is_none_or(|(_, same)| same_interface && !same) {
                best = Some((address, same_interface));
            }
        }
        Ok(best.map(|(address, _)| address))
    }

    /// Whether the same container has the address on another interface.
    fn taken_by_sibling(&self, address: Addr, seeker: &Seeker) -> Result<bool, AllocError> {
        Ok(match self.book.slot(address)? {
            Some(Slot::Leased(lease)) => has_sibling(&lease, seeker),
            _ => false,
        })
    }

    /// Whether an address that was asked for, or is reserved, can be given.
    fn may_take(&self, address: Addr, seeker: &Seeker) -> Result<(), AllocError> {
        match self.book.slot(address)? {
            None | Some(Slot::Resting { .. }) => Ok(()),
            Some(Slot::Quarantined { mac, .. }) => {
                if self.rules.probing {
                    Ok(())
                } else {
                    Err(AllocError::Conflict { address, mac })
                }
            }
            Some(Slot::Leased(lease)) => {
                // The owner's old sandbox may still be on its way out.
                let own = seeker.owner.is_some() && seeker.owner == lease.owner;
                if own && !has_sibling(&lease, seeker) {
                    return Ok(());
                }
                Err(AllocError::Held { address, holder: lease.holder_text() })
            }
        }
    }

    /// The next free address.
    fn pick(&mut self, set: &Set) -> Result<Addr, AllocError> {
        if self.rules.order == Order::Lowest {
            self.return_rested(set)?;
        }
        if let Some(address) = self.first_unused(set)? {
            // Two indices have to agree before an address is given: a damaged one alone gives none twice.
            return match self.book.slot(address)? {
                None => Ok(address),
                Some(_) => {
                    Err(StoreError::record(format!("{address} has a record and is not marked as used"))
                        .into())
                }
            };
        }
        if let Some(address) = self.longest_rested(set)? {
            return Ok(address);
        }
        // The sets may have been numbered differently when those that rest were released.
        let mut queue = 0;
        while let Some(found) = self.book.next_queue(set.family(), queue)? {
            if found != set.queue() {
                self.requeue(set, found)?;
            }
            match found.checked_add(1) {
                Some(next) => queue = next,
                None => break,
            }
        }
        if let Some(address) = self.longest_rested(set)? {
            return Ok(address);
        }
        let resting = self.book.oldest(set.family(), set.queue())?;
        let resting = resting.map(|(_, since)| since.after(self.rules.cooldown).0.saturating_sub(self.now.0));
        Err(AllocError::Exhausted { pool: set.pool().to_string(), resting, wanted: set.part().clone() })
    }

    /// The lowest address that nobody had, of the first range that has one, or of all of them.
    fn first_unused(&self, set: &Set) -> Result<Option<Addr>, AllocError> {
        if self.rules.order == Order::Lowest {
            return Ok(self.book.first_unused(set.open())?);
        }
        for open in set.open_by_range() {
            if let Some(address) = self.book.first_unused(open)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// The head of the set's queue, if it has rested; what the set does not hand out is dropped on the
    /// way.
    fn longest_rested(&mut self, set: &Set) -> Result<Option<Addr>, AllocError> {
        while let Some((address, since)) = self.book.oldest(set.family(), set.queue())? {
            if !self.has_rested(since) {
                return Ok(None);
            }
            if !set.open().contains(address) {
                self.move_to_its_set(address)?;
                continue;
            }
            return match self.book.slot(address)? {
                Some(Slot::Resting { .. }) => Ok(Some(address)),
                _ => Err(StoreError::record(format!("{address} is in a queue and does not rest")).into()),
            };
        }
        Ok(None)
    }

    fn has_rested(&self, since: Millis) -> bool {
        since.after(self.rules.cooldown) <= self.now
    }

    /// Moves what rests in another set's queue to where it belongs now, if that set is gone.
    fn requeue(&mut self, set: &Set, queue: u8) -> Result<(), AllocError> {
        let live = self.sets.iter().find(|other| other.queue() == queue && other.family() == set.family());
        while let Some((address, since)) = self.book.oldest(set.family(), queue)? {
            // Nobody could have it yet, and all behind it came later.
            if !self.has_rested(since) || live.is_some_and(|live| live.open().contains(address)) {
                break;
            }
            self.move_to_its_set(address)?;
        }
        Ok(())
    }

    /// Puts a resting address into the queue of the set that hands it out, or forgets it.
    fn move_to_its_set(&mut self, address: Addr) -> Result<(), AllocError> {
        let home = self.sets.iter().find(|set| set.open().contains(address));
        match (self.book.slot(address)?, home) {
            (Some(Slot::Resting { since, last, .. }), Some(set)) => {
                Ok(self.book.set_slot(address, &Slot::Resting { since, queue: set.queue(), last })?)
            }
            (Some(Slot::Resting { .. }), None) => Ok(self.book.clear_slot(address)?),
            _ => Err(StoreError::record(format!("{address} is in a queue and does not rest")).into()),
        }
    }

    /// Makes rested addresses of the set as good as never used.
    fn return_rested(&mut self, set: &Set) -> Result<(), AllocError> {
        for _ in 0..RETURNED_PER_CALL {
            match self.book.oldest(set.family(), set.queue())? {
                Some((address, since)) if self.has_rested(since) => {
                    self.book.clear_slot(address)?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Lets those rest whose quarantine is over.
    fn end_quarantines(&mut self) -> Result<(), AllocError> {
        for family in Family::BOTH {
            for _ in 0..RETURNED_PER_CALL {
                match self.book.first_quarantined(family)? {
                    Some((address, until)) if until <= self.now => match self.book.slot(address)? {
                        Some(Slot::Quarantined { since, queue, .. }) => {
                            self.book.set_slot(address, &Slot::Resting { since, queue, last: None })?;
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
    fn take(&mut self, set: &Set, address: Addr, seeker: &Seeker) -> Result<(), AllocError> {
        let mut lease = match self.book.slot(address)? {
            Some(Slot::Leased(lease)) => lease,
            _ => Lease {
                owner: seeker.owner.clone(),
                sticky: false,
                imported: false,
                interface: seeker.holder.attachment.interface.clone(),
                queue: set.queue(),
                holders: Vec::new(),
                since: self.now,
            },
        };
        lease.sticky |= seeker.sticky && seeker.owner.is_some();
        lease.interface.clone_from(&seeker.holder.attachment.interface);
        lease.holders.push(seeker.holder.clone());
        self.book.set_slot(address, &Slot::Leased(lease.clone()))?;
        self.book.add_held(&seeker.holder.attachment, address)?;
        if let (Some(owner), true) = (&lease.owner, lease.sticky) {
            self.book.add_owned(owner, address)?;
        }
        Ok(())
    }

    /// What was given to an owner without being kept is kept from now on, if that is wanted.
    fn keep_from_now_on(&mut self, seeker: &Seeker, address: Addr) -> Result<(), AllocError> {
        if seeker.sticky
            && let Some(Slot::Leased(mut lease)) = self.book.slot(address)?
            && !lease.sticky
            && let Some(owner) = lease.owner.clone().filter(|owner| seeker.owner.as_ref() == Some(owner))
        {
            lease.sticky = true;
            self.book.set_slot(address, &Slot::Leased(lease))?;
            self.book.add_owned(&owner, address)?;
        }
        Ok(())
    }

    fn lease(&self, address: Addr) -> Result<Lease, AllocError> {
        match self.book.slot(address)? {
            Some(Slot::Leased(lease)) => Ok(lease),
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
        let held = self.book.held_by(attachment)?;
        for address in &held {
            self.detach(attachment, *address)?;
        }
        Ok(held)
    }

    fn detach(&mut self, attachment: &Attachment, address: Addr) -> Result<(), AllocError> {
        let mut lease = self.lease(address)?;
        lease.holders.retain(|holder| holder.attachment != *attachment);
        self.book.remove_held(attachment, address)?;
        if lease.holders.is_empty() && !lease.sticky {
            self.rest(address, lease)
        } else {
            Ok(self.book.set_slot(address, &Slot::Leased(lease))?)
        }
    }

    /// Takes an address from everybody who has it.
    ///
    /// # Errors
    /// The store's.
    pub fn withdraw(&mut self, address: Addr) -> Result<bool, AllocError> {
        match self.book.slot(address)? {
            None => return Ok(false),
            Some(Slot::Leased(lease)) => self.rest(address, lease)?,
            Some(Slot::Quarantined { since, queue, .. }) => {
                self.book.set_slot(address, &Slot::Resting { since, queue, last: None })?;
            }
            Some(Slot::Resting { .. }) => self.book.clear_slot(address)?,
        }
        Ok(true)
    }

    /// Ends a lease with all that refers to it.
    fn rest(&mut self, address: Addr, lease: Lease) -> Result<(), AllocError> {
        for holder in &lease.holders {
            self.book.remove_held(&holder.attachment, address)?;
        }
        if let (Some(owner), true) = (&lease.owner, lease.sticky) {
            self.book.remove_owned(owner, address)?;
        }
        let last = lease.owner.map(|owner| owner.to_string());
        let slot = Slot::Resting { since: self.now, queue: lease.queue, last };
        Ok(self.book.set_slot(address, &slot)?)
    }

    /// The attachments of the network that hold something and that `is_valid` does not know.
    ///
    /// # Errors
    /// The store's.
    pub fn strangers(
        &self,
        network: &str,
        is_valid: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<Attachment>, AllocError> {
        self.held_where(|attachment| attachment.network == network && !is_valid(attachment))
    }

    /// The attachments that hold something and that `is_wanted` picks.
    ///
    /// # Errors
    /// The store's.
    pub fn held_where(&self, is_wanted: impl Fn(&Attachment) -> bool) -> Result<Vec<Attachment>, AllocError> {
        let mut all = Vec::new();
        for found in self.book.attachments() {
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
        for found in self.book.attachments() {
            let (attachment, addresses) = found?;
            if attachment.network == network {
                gone.extend(addresses.into_iter().map(|address| (attachment.clone(), address)));
            }
        }
        for (attachment, address) in gone {
            if !is_there(&attachment, address) && self.lease(address)?.imported {
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
    pub fn conflict(
        &mut self,
        attachment: &Attachment,
        address: Addr,
        mac: &str,
        quarantine: u64,
        fixed: bool,
    ) -> Result<Conflict, AllocError> {
        let Some(Slot::Leased(lease)) = self.book.slot(address)? else { return Ok(Conflict::NotHeld) };
        let Some(holder) = lease.holders.iter().find(|holder| holder.attachment == *attachment) else {
            return Ok(Conflict::NotHeld);
        };
        // An owner that had it before this attachment came, or has it elsewhere at the same time.
        let older = lease.since < holder.since || lease.holders.len() > 1;
        if fixed || older {
            return Ok(Conflict::Kept);
        }
        let queue = lease.queue;
        self.rest(address, lease)?;
        let until = self.now.after(quarantine);
        let slot = Slot::Quarantined { since: self.now, until, mac: mac.to_owned(), queue };
        self.book.set_slot(address, &slot)?;
        self.bound_quarantine(address)?;
        Ok(Conflict::Quarantined)
    }

    /// At most half of a set's addresses are in quarantine: one station that answers for everything must not take all of
    /// them from those that do not even ask. The oldest go to the end of those that rest.
    fn bound_quarantine(&mut self, latest: Addr) -> Result<(), AllocError> {
        let Some(set) = self.sets.iter().find(|set| set.pool().contains(latest)) else { return Ok(()) };
        let most = (set.open().len() / 2).max(1);
        let quarantined = self.book.quarantined(set.family())?;
        let of_set: Vec<Addr> =
            quarantined.into_iter().filter(|address| set.pool().contains(*address)).collect();
        let surplus = (of_set.len() as u128).saturating_sub(most);
        let surplus = usize::try_from(surplus).unwrap_or(of_set.len());
        for address in of_set.into_iter().filter(|address| *address != latest).take(surplus) {
            if let Some(Slot::Quarantined { queue, .. }) = self.book.slot(address)? {
                self.book.set_slot(address, &Slot::Resting { since: self.now, queue, last: None })?;
            }
        }
        Ok(())
    }

    /// Takes over a lease that another IPAM plugin gave. The address may lie anywhere.
    ///
    /// # Errors
    /// Somebody else has it here, or the store's.
    pub fn import(&mut self, address: Addr, queue: u8, holder: &Holder) -> Result<bool, AllocError> {
        match self.book.slot(address)? {
            Some(Slot::Leased(lease)) => {
                if lease.holders.iter().any(|other| other.attachment == holder.attachment) {
                    return Ok(false);
                }
                return Err(AllocError::Held { address, holder: lease.holder_text() });
            }
            Some(Slot::Resting { .. } | Slot::Quarantined { .. }) | None => {}
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
        self.book.set_slot(address, &Slot::Leased(lease))?;
        self.book.add_held(&holder.attachment, address)?;
        Ok(true)
    }
}

/// Whether the seeker's own container has this address on another interface.
fn has_sibling(lease: &Lease, seeker: &Seeker) -> bool {
    let own = &seeker.holder.attachment;
    lease.holders.iter().any(|holder| {
        holder.attachment.container == own.container && holder.attachment.interface != own.interface
    })
}
