use serde::{Deserialize, Serialize};

use crate::{LeaseHolder, Millis, Owner};

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
    },
}

/// The lease of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The owner, if the runtime passed a pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether the owner keeps it while no attachment holds it, and over a reboot.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sticky: bool,
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
}

impl StickyLease {
    /// The part of a state that survives a reboot.
    pub(crate) fn from_state(state: &AddressState) -> Option<Self> {
        match state {
            AddressState::Leased(Lease { owner: Some(owner), sticky: true, interface, queue, .. }) => {
                Some(Self { owner: owner.clone(), interface: interface.clone(), queue: *queue })
            }
            _ => None,
        }
    }

    /// The state of the address after a reboot.
    #[must_use]
    pub fn state(&self) -> AddressState {
        AddressState::Leased(Lease {
            owner: Some(self.owner.clone()),
            sticky: true,
            imported: false,
            interface: self.interface.clone(),
            queue: self.queue,
            holders: Vec::new(),
            // Earlier than every lease of this boot.
            since: Millis(0),
            away: None,
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
