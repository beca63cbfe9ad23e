use serde::{Deserialize, Serialize};

use crate::{LeaseHolder, Millis, Owner};

/// What is known about one address that is or was in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressState {
    /// Somebody has it.
    Leased(Lease),
    /// It was given back and rests until it is used again.
    Resting {
        /// When it was given back.
        since: Millis,
        /// In which queue it stands.
        queue: u8,
        /// Who had it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
    },
    /// Somebody else answered for it on the wire.
    Quarantined {
        /// When that was noticed.
        since: Millis,
        /// When it may be tried again.
        until: Millis,
        /// The MAC address that answered.
        mac: String,
        /// In which queue it will stand.
        queue: u8,
    },
}

/// An address in somebody's hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The owner, where the runtime stated one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether the owner keeps it without any attachment, and over a reboot.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sticky: bool,
    /// Whether another IPAM plugin gave it, and it was taken over.
    #[serde(default, skip_serializing_if = "is_false")]
    pub imported: bool,
    /// The interface that the owner had it on: one pod may be in a network twice.
    pub interface: String,
    /// In which queue it will rest.
    pub queue: u8,
    /// The attachments that hold it now: none while a sticky owner is away, two while a VM migrates.
    pub holders: Vec<LeaseHolder>,
    /// When the owner got it.
    pub since: Millis,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What is kept over a reboot about one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyLease {
    /// Whose it is.
    pub owner: Owner,
    /// On which interface.
    pub interface: String,
    /// In which queue it will rest.
    pub queue: u8,
}

impl StickyLease {
    /// What outlives a reboot of what is known about an address.
    pub(crate) fn from_state(state: &AddressState) -> Option<Self> {
        match state {
            AddressState::Leased(Lease { owner: Some(owner), sticky: true, interface, queue, .. }) => {
                Some(Self { owner: owner.clone(), interface: interface.clone(), queue: *queue })
            }
            _ => None,
        }
    }

    /// What is known about the address after a reboot.
    #[must_use]
    pub fn state(&self) -> AddressState {
        AddressState::Leased(Lease {
            owner: Some(self.owner.clone()),
            sticky: true,
            imported: false,
            interface: self.interface.clone(),
            queue: self.queue,
            holders: Vec::new(),
            // Before anything of this boot.
            since: Millis(0),
        })
    }
}

impl Lease {
    /// Who has it, for people.
    #[must_use]
    pub fn holder_text(&self) -> String {
        match (&self.owner, self.holders.first()) {
            (Some(owner), Some(holder)) => format!("{owner} ({})", holder.attachment),
            (Some(owner), None) => format!("{owner} (not running, keeps it)"),
            (None, Some(holder)) => holder.to_string(),
            (None, None) => "nobody".to_owned(),
        }
    }
}
