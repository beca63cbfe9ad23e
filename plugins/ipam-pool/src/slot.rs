use serde::{Deserialize, Serialize};

use crate::{Holder, Millis, Owner};

/// What is known about one address that is or was in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Slot {
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
    pub holders: Vec<Holder>,
    /// When the owner got it.
    pub since: Millis,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What is kept over a reboot about one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose it is.
    pub owner: Owner,
    /// On which interface.
    pub interface: String,
    /// In which queue it will rest.
    pub queue: u8,
}

impl Kept {
    /// What outlives a reboot of what is known about an address.
    pub(crate) fn of(slot: &Slot) -> Option<Self> {
        match slot {
            Slot::Leased(Lease { owner: Some(owner), sticky: true, interface, queue, .. }) => {
                Some(Self { owner: owner.clone(), interface: interface.clone(), queue: *queue })
            }
            _ => None,
        }
    }

    /// What is known about the address after a reboot.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::Leased(Lease {
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

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record's checksum does not fit its bytes")]
    Checksum,
    #[error("the record is no valid text: {0}")]
    Syntax(String),
}

/// A record as bytes: a checksum over the key and the text, then JSON.
pub(crate) fn encode<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![0; 8];
    serde_json::to_writer(&mut bytes, value).map_err(|e| RecordError::Syntax(e.to_string()))?;
    let sum = checksum(key, bytes.get(8..).unwrap_or_default());
    if let Some(head) = bytes.get_mut(..8) {
        head.copy_from_slice(&sum.to_be_bytes());
    }
    Ok(bytes)
}

/// Reads [`encode`] back.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(key: &[u8], bytes: &[u8]) -> Result<T, RecordError> {
    let (sum, text) = bytes.split_first_chunk::<8>().ok_or(RecordError::Checksum)?;
    if *sum != checksum(key, text).to_be_bytes() {
        return Err(RecordError::Checksum);
    }
    serde_json::from_slice(text).map_err(|e| RecordError::Syntax(e.to_string()))
}

/// The JSON of a record.
pub(crate) fn text(record: &[u8]) -> Option<&[u8]> {
    record.get(8..)
}

/// FNV-1a of 64 bits: against accidents, not against attackers (the folder is root's own).
pub(crate) fn checksum(key: &[u8], text: &[u8]) -> u64 {
    key.iter().chain(text).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_is_seen() {
        let slot = Slot::Resting { since: Millis(7), queue: 1, last: Some("a/b/c".to_owned()) };
        let bytes = encode(b"key", &slot).unwrap();
        assert_eq!(decode::<Slot>(b"key", &bytes).unwrap(), slot);
        assert!(decode::<Slot>(b"kez", &bytes).is_err());
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[i] ^= 1 << bit;
                assert!(decode::<Slot>(b"key", &damaged).is_err());
            }
        }
        assert!(decode::<Slot>(b"key", &[]).is_err());
    }
}
