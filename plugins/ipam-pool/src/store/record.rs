//! How one record of a store is written: a checksum, then JSON.

use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("wrong checksum")]
    Checksum,
    #[error("invalid JSON: {0}")]
    Syntax(String),
}

/// Encodes a record: a checksum over the key and the text, then JSON.
pub(crate) fn encode<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![0; 8];
    serde_json::to_writer(&mut bytes, value).map_err(|e| RecordError::Syntax(e.to_string()))?;
    let sum = checksum(key, bytes.get(8..).unwrap_or_default());
    if let Some(head) = bytes.get_mut(..8) {
        head.copy_from_slice(&sum.to_be_bytes());
    }
    Ok(bytes)
}

/// The inverse of [`encode`].
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

/// FNV-1a of 64 bits: detects accidents, not attackers (only root may write the folder).
pub(crate) fn checksum(key: &[u8], text: &[u8]) -> u64 {
    key.iter().chain(text).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressState, Millis};

    #[test]
    fn a_changed_bit_is_seen() {
        let state = AddressState::Resting {
            since: Millis(7),
            queue: 1,
            last: Some("a/b/c".to_owned()),
            cooldown: None,
        };
        let bytes = encode(b"key", &state).unwrap();
        assert_eq!(decode::<AddressState>(b"key", &bytes).unwrap(), state);
        assert!(decode::<AddressState>(b"kez", &bytes).is_err());
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[i] ^= 1 << bit;
                assert!(decode::<AddressState>(b"key", &damaged).is_err());
            }
        }
        assert!(decode::<AddressState>(b"key", &[]).is_err());
    }
}
