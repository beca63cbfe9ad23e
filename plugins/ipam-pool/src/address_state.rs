use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{LeaseHolder, Millis, Owner};

/// The longest cooldown that a network may set.
pub(crate) const MAX_COOLDOWN: Duration = Duration::from_secs(30 * 24 * 3600);

/// The state of one address that is or was in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressState {
    Leased(Lease),
    /// Released; it is not handed out again before the pool's cooldown.
    Resting {
        /// When it was released.
        since: Millis,
        /// The queue of resting addresses that it is in.
        queue: u8,
        /// The last owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
        /// [`Lease::cooldown`] of the lease that ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cooldown: Option<u64>,
    },
    /// Another host answered a probe for it.
    Quarantined {
        /// When the answer was received.
        since: Millis,
        /// When the quarantine ends.
        until: Millis,
        /// The MAC address of the host that answered.
        mac: String,
        /// The queue that it enters after the quarantine.
        queue: u8,
        /// [`Lease::cooldown`] of the lease that ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cooldown: Option<u64>,
    },
}

impl AddressState {
    /// Whether nothing is lost if the address counts as never used: nobody holds or keeps it, and neither cooldown nor
    /// quarantine lasts.
    #[must_use]
    pub fn is_over(&self, now: Millis) -> bool {
        match self {
            Self::Leased(_) => false,
            Self::Resting { since, cooldown, .. } => rest_ends(*since, *cooldown) <= now,
            Self::Quarantined { since, until, cooldown, .. } => {
                (*until).max(rest_ends(*since, *cooldown)) <= now
            }
        }
    }
}

/// The latest end of a rest: of the longest one that a network may ask for, where it is not known.
fn rest_ends(since: Millis, cooldown: Option<u64>) -> Millis {
    let longest = || u64::try_from(MAX_COOLDOWN.as_millis()).unwrap_or(u64::MAX);
    since.after(cooldown.unwrap_or_else(longest))
}

/// The lease of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The owner, if the runtime passed a pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether the owner keeps it while no attachment holds it, and over a reboot.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sticky: bool,
    /// Whose address it is on every node, as [`node::FloatingGrant`] says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating: Option<String>,
    /// Whether it was imported from another IPAM plugin.
    #[serde(default, skip_serializing_if = "is_false")]
    pub imported: bool,
    /// The interface that the owner had it on: a pod may have two interfaces in a network.
    pub interface: String,
    /// The queue that it enters when it is released.
    pub queue: u8,
    /// The attachments that hold it: none while a sticky owner is away, two while a VM migrates.
    pub holders: Vec<LeaseHolder>,
    /// When the owner was given it.
    pub since: Millis,
    /// Since when no attachment of the sticky owner holds it; absent while one does, and for one that was away before the
    /// boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Millis>,
    /// How long the address rests when it is released, in milliseconds: as its last ADD was told, since a DEL is told
    /// nothing, and the configuration may be gone by then. Absent where no ADD of this version gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What survives a reboot of the lease of a sticky owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyLease {
    pub owner: Owner,
    pub interface: String,
    /// The queue that it enters when it is released.
    pub queue: u8,
    /// [`Lease::cooldown`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<u64>,
}

impl StickyLease {
    /// The part of a state that survives a reboot.
    pub(crate) fn from_state(state: &AddressState) -> Option<Self> {
        match state {
            AddressState::Leased(Lease {
                owner: Some(owner),
                sticky: true,
                interface,
                queue,
                cooldown,
                ..
            }) => Some(Self {
                owner: owner.clone(),
                interface: interface.clone(),
                queue: *queue,
                cooldown: *cooldown,
            }),
            _ => None,
        }
    }

    /// The state of the address after a reboot.
    #[must_use]
    pub fn state(&self) -> AddressState {
        AddressState::Leased(Lease {
            owner: Some(self.owner.clone()),
            sticky: true,
            interface: self.interface.clone(),
            queue: self.queue,
            // Earlier than every lease of this boot.
            since: Millis(0),
            cooldown: self.cooldown,
            ..Lease::default()
        })
    }
}

impl Lease {
    /// The holder, for messages.
    #[must_use]
    pub fn holder_text(&self) -> String {
        match (&self.owner, self.holders.first()) {
            (Some(owner), Some(holder)) => format!("{owner} ({})", holder.attachment),
            (Some(owner), None) => format!("{owner} (not running; the address is kept)"),
            (None, Some(holder)) => holder.to_string(),
            (None, None) => "nobody".to_owned(),
        }
    }
}
