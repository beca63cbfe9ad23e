//! Which address is free: never used, or its cooldown is over.

use super::{AllocError, Allocator, Order};
use crate::store::StoreError;
use crate::{Addr, AddressState, Family, Millis, Owner, RangeSet};

/// How many addresses whose cooldown or quarantine is over one call moves: bounds the time of a call.
const MOVED_PER_CALL: usize = 64;

/// How long it is remembered when an address was released, in milliseconds, where others were never used: a day. In a
/// large range each pod gets such a one, and what is remembered of it would stay until the next boot.
const REMEMBERED: u64 = 24 * 60 * 60 * 1000;

/// How many of them one call forgets: more than it can add.
const FORGOTTEN_PER_CALL: usize = 2;

impl Allocator<'_> {
    pub(super) fn find_free(&mut self, set: &RangeSet) -> Result<Addr, AllocError> {
        if self.rules.order == Order::Lowest {
            self.forget_rested(set, self.rules.cooldown, MOVED_PER_CALL)?;
        }
        if let Some(address) = self.first_unused(set)? {
            self.forget_rested(set, self.rules.cooldown.max(REMEMBERED), FORGOTTEN_PER_CALL)?;
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
        for entry in self.table.indexed::<Owner>() {
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

    /// Removes the state of addresses that have rested for so long, so that they count as never used.
    fn forget_rested(&mut self, set: &RangeSet, rest: u64, most: usize) -> Result<(), AllocError> {
        for _ in 0..most {
            match self.table.longest_resting(set.family(), set.queue())? {
                Some((address, since)) if since.after(rest) <= self.now => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use crate::{Attachment, LeaseHolder, LeaseRequest, RangeSpec, Rules, list_addresses, verify};

    const MINUTE: u64 = 60_000;

    /// Gives an address at a minute of the clock, and takes it back half a minute later.
    fn come_and_go(store: &mut MemoryStore, sets: &[RangeSet], rules: Rules, minute: u64) -> Addr {
        let now = Millis(minute * MINUTE);
        let [container, interface, network] = [format!("c{minute}"), "net1".to_owned(), "six".to_owned()];
        let attachment = Attachment { container, interface, network };
        let holder = LeaseHolder {
            attachment: attachment.clone(),
            pod: None,
            uid: None,
            netns: None,
            launcher: None,
            since: now,
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
        let given = Allocator::new(store, sets, rules, now).allocate(&request, &[None]).unwrap();
        Allocator::new(store, &[], Rules::default(), now.after(MINUTE / 2)).release(&attachment).unwrap();
        given[0].address
    }

    fn sets(subnet: &str) -> [RangeSet; 1] {
        let spec = RangeSpec { subnet: subnet.to_owned(), ..RangeSpec::default() };
        [RangeSet::new(0, vec![spec.parse().unwrap()]).unwrap()]
    }

    #[test]
    fn a_large_range_remembers_no_more_than_a_day() {
        let sets = sets("fd00::/64");
        let mut store = MemoryStore::default();
        let mut last = std::collections::BTreeMap::new();
        for minute in 1..4000 {
            let address = come_and_go(&mut store, &sets, Rules::default(), minute);
            let before = last.insert(address, minute);
            assert!(
                before.is_none_or(|before| minute - before >= 24 * 60),
                "{address} after {before:?}, at {minute}"
            );
            let count = list_addresses(&mut store).unwrap().len();
            assert!(count <= 24 * 60 + 1, "{count} at {minute}");
        }
        assert_eq!(verify(&mut store).unwrap(), [""; 0]);
    }

    #[test]
    fn a_cooldown_that_is_longer_counts() {
        let sets = sets("fd00::/64");
        let mut store = MemoryStore::default();
        let rules = Rules { cooldown: 2 * REMEMBERED, ..Rules::default() };
        let mut seen = std::collections::BTreeSet::new();
        for minute in 1..2 * 24 * 60 {
            let address = come_and_go(&mut store, &sets, rules, minute);
            assert!(seen.insert(address), "{address} at {minute}");
        }
    }

    #[test]
    fn a_small_range_is_used_in_turn_however_old() {
        let sets = sets("10.0.0.0/29");
        let mut store = MemoryStore::default();
        let turn: Vec<Addr> =
            (1..6).map(|day| come_and_go(&mut store, &sets, Rules::default(), day)).collect();
        for day in 2..12 {
            let address = come_and_go(&mut store, &sets, Rules::default(), day * 24 * 60);
            assert_eq!(address, turn[usize::try_from(day - 2).unwrap() % turn.len()]);
        }
    }
}
