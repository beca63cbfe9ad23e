//! Which address is free: never used, or its cooldown is over.

use super::{AllocError, Allocator, Order};
use crate::store::StoreError;
use crate::{Addr, AddressState, Family, Millis, RangeSet};

/// How many addresses whose cooldown or quarantine is over one call moves: bounds the time of a call.
const MOVED_PER_CALL: usize = 64;

impl Allocator<'_> {
    pub(super) fn find_free(&mut self, set: &RangeSet) -> Result<Addr, AllocError> {
        if self.rules.order == Order::Lowest {
            self.forget_rested(set)?;
        }
        if let Some(address) = self.first_unused(set)? {
            // Two indices must agree, so that one damaged index never gives an address twice.
            return match self.table.read_state(address)? {
                None => Ok(address),
                Some(_) => {
                    Err(StoreError::record(format!("{address} has a record, but is not marked as used"))
                        .into())
                }
            };
        }
        if let Some(address) = self.find_longest_rested(set)? {
            return Ok(address);
        }
        // The sets may have had other numbers when these addresses were released.
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
        let kept = if self.rules.kept_gives_way { self.find_longest_away(set)? } else { None };
        if let Some((address, _)) = kept.filter(|(_, away)| self.has_rested(*away)) {
            let lease = self.read_lease(address)?;
            self.end_lease(address, lease)?;
            return Ok(address);
        }
        let resting = self.table.longest_resting(set.family(), set.queue())?;
        let resting = resting.into_iter().chain(kept).min_by_key(|(_, since)| *since);
        let resting = resting.map(|(_, since)| since.after(self.rules.cooldown).0.saturating_sub(self.now.0));
        Err(AllocError::Exhausted {
            pool: set.node_part().to_string(),
            resting,
            wanted: set.node_part().clone(),
        })
    }

    /// The lowest address that was never used: of the first range that has one, or, with [`Order::Lowest`], of all
    /// ranges.
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

    /// The first address of the set's queue, if its cooldown is over. Addresses that the set does not hand out are
    /// moved away.
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
                _ => Err(StoreError::record(format!(
                    "{address} is in the queue of resting addresses, but is not resting"
                ))
                .into()),
            };
        }
        Ok(None)
    }

    /// The address of the set whose sticky owner is away for the longest time, and since when. Called only when no
    /// address is free: it reads what all sticky owners keep.
    fn find_longest_away(&self, set: &RangeSet) -> Result<Option<(Addr, Millis)>, AllocError> {
        let mut longest: Option<(Addr, Millis)> = None;
        for entry in self.table.owners() {
            let (_, addresses) = entry?;
            for address in addresses.into_iter().filter(|address| set.allocatable().contains(*address)) {
                let lease = self.read_lease(address)?;
                let away = lease.away.unwrap_or_default();
                let longer = longest.is_none_or(|(other, since)| (away, address) < (since, other));
                if lease.holders.is_empty() && longer {
                    longest = Some((address, away));
                }
            }
        }
        Ok(longest)
    }

    fn has_rested(&self, since: Millis) -> bool {
        since.after(self.rules.cooldown) <= self.now
    }

    /// Moves the addresses in another set's queue to the queues of their current sets, if that set is gone.
    fn requeue(&mut self, set: &RangeSet, queue: u8) -> Result<(), AllocError> {
        let live = self.sets.iter().find(|other| other.queue() == queue && other.family() == set.family());
        while let Some((address, since)) = self.table.longest_resting(set.family(), queue)? {
            // Its cooldown is not over, and all later ones were released later.
            if !self.has_rested(since) || live.is_some_and(|live| live.allocatable().contains(address)) {
                break;
            }
            self.move_to_current_set(address)?;
        }
        Ok(())
    }

    /// Moves a resting address to the queue of the set that hands it out; without one, removes its state.
    fn move_to_current_set(&mut self, address: Addr) -> Result<(), AllocError> {
        let home = self.sets.iter().find(|set| set.allocatable().contains(address));
        match (self.table.read_state(address)?, home) {
            (Some(AddressState::Resting { since, last, cooldown, .. }), Some(set)) => {
                let state = AddressState::Resting { since, queue: set.queue(), last, cooldown };
                Ok(self.table.write_state(address, &state)?)
            }
            (Some(AddressState::Resting { .. }), None) => Ok(self.table.remove_state(address)?),
            _ => Err(StoreError::record(format!(
                "{address} is in the queue of resting addresses, but is not resting"
            ))
            .into()),
        }
    }

    /// Removes the state of addresses whose cooldown is over, so that they count as never used.
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

    /// Moves addresses whose quarantine is over to the queue of resting addresses.
    pub(super) fn end_quarantines(&mut self) -> Result<(), AllocError> {
        for family in Family::BOTH {
            for _ in 0..MOVED_PER_CALL {
                match self.table.first_quarantined(family)? {
                    Some((address, until)) if until <= self.now => match self.table.read_state(address)? {
                        Some(AddressState::Quarantined { since, queue, cooldown, .. }) => {
                            let state = AddressState::Resting { since, queue, last: None, cooldown };
                            self.table.write_state(address, &state)?;
                        }
                        _ => {
                            let what =
                                format!("{address} is in the quarantine queue, but is not quarantined");
                            return Err(StoreError::record(what).into());
                        }
                    },
                    _ => break,
                }
            }
        }
        Ok(())
    }
}
