//! Addresses that another host has: they go into quarantine.

use super::{AllocError, Allocator};
use crate::{Addr, AddressState, Attachment, Lease};

/// What [`Allocator::report_conflict`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictOutcome {
    /// The address is quarantined; another one can be requested.
    Quarantined,
    /// The address stays leased to its owner.
    Kept,
    /// The attachment does not hold the address.
    NotHeld,
}

impl Allocator<'_> {
    /// Records that another host answered a probe for an address that was just given to this attachment.
    ///
    /// `fixed`: no other address may replace it, since it was requested by name or is reserved.
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
        // The owner had it before this attachment did, or has it in another attachment.
        let older = lease.since < holder.since || lease.holders.len() > 1;
        if fixed || older {
            return Ok(ConflictOutcome::Kept);
        }
        let Lease { queue, cooldown, .. } = lease;
        self.end_lease(address, lease)?;
        let until = self.now.after(quarantine);
        let mac = mac.to_owned();
        let state = AddressState::Quarantined { since: self.now, until, mac, queue, cooldown };
        self.table.write_state(address, &state)?;
        self.limit_quarantine(address)?;
        Ok(ConflictOutcome::Quarantined)
    }

    /// Keeps at most half of a set's addresses in quarantine: a host that answers for every address must not take all
    /// of them from networks that do not probe. The earliest are released first.
    fn limit_quarantine(&mut self, latest: Addr) -> Result<(), AllocError> {
        let Some(set) = self.sets.iter().find(|set| set.pool().contains(latest)) else { return Ok(()) };
        let most = (set.allocatable().len() / 2).max(1);
        let quarantined = self.table.quarantined(set.family())?;
        let of_set: Vec<Addr> =
            quarantined.into_iter().filter(|address| set.pool().contains(*address)).collect();
        let surplus = (of_set.len() as u128).saturating_sub(most);
        let surplus = usize::try_from(surplus).unwrap_or(of_set.len());
        for address in of_set.into_iter().filter(|address| *address != latest).take(surplus) {
            if let Some(AddressState::Quarantined { queue, cooldown, .. }) = self.table.read_state(address)? {
                let state = AddressState::Resting { since: self.now, queue, last: None, cooldown };
                self.table.write_state(address, &state)?;
            }
        }
        Ok(())
    }
}
