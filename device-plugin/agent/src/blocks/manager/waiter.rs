//! Who waits for addresses.

use net_types::{Addr, Family};
use pool_blocks::{BootTime, ClaimUser, Owner, PoolName};
use proto::agent_socket::FloatingOwner;

/// An owner of a pool's address, of one family.
pub(super) type Wanted = (PoolName, Family, Owner);

/// A claim that waits.
pub(super) struct Waiter {
    pub(super) pool: PoolName,
    pub(super) family: Family,
    pub(super) address: Option<Addr>,
    pub(super) owner: Option<FloatingOwner>,
    pub(super) pod: Option<String>,
    pub(super) since: BootTime,
    pub(super) deadline: BootTime,
    /// As [`super::Manager::usage_reads`], when it came.
    pub(super) usage_reads: u64,
}

/// An address that is handed out is for somebody.
pub(super) struct Promise {
    pub(super) pool: PoolName,
    pub(super) family: Family,
    pub(super) until: BootTime,
}

impl Waiter {
    /// The owner's address that it waits for; `None`: any address does, or one of a block.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let owner = self.owner.as_ref()?;
        Some((self.pool.clone(), self.family, Owner::from(owner.name.as_str())))
    }

    /// Whether the owner gets an address if it has none.
    pub(super) fn creates(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.create)
    }

    /// Whether the owner may be on another node as well.
    pub(super) fn shares(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.shared)
    }

    /// Who asks by a claim.
    pub(super) fn user(&self) -> Option<ClaimUser> {
        self.owner.as_ref().and_then(|owner| owner.user.clone())
    }

    /// Whether any address does.
    pub(super) const fn needs_any(&self) -> bool {
        self.owner.is_none() && self.address.is_none()
    }

    /// Whether more blocks serve it.
    pub(super) const fn is_served_by_blocks(&self) -> bool {
        self.owner.is_none()
    }
}
