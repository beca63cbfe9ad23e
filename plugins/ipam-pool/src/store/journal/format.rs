//! The lines of a journal.

use serde::{Deserialize, Serialize};

use crate::store::disk_space::FileId;
use crate::store::record;

/// The boot and the index that a journal of leases belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) boot: String,
    pub(crate) index: FileId,
}

/// The first line.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u32,
    /// `None` in the journal of what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) of: Option<Origin>,
    /// The number of lines that were written together with this one.
    pub(super) lines: u64,
}

/// A line as it is written.
pub(crate) fn line(number: u64, text: &str) -> String {
    let sum = record::checksum(&number.to_be_bytes(), text.as_bytes());
    format!("{number} {sum:016x} {text}\n")
}

/// The text of a line, which must have this number.
pub(super) fn parse(number: u64, line: &[u8]) -> Result<&[u8], &'static str> {
    let mut parts = line.strip_suffix(b"\n").unwrap_or(line).splitn(3, |byte| *byte == b' ');
    let (Some(found), Some(sum), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("it is not a line of a journal");
    };
    if found != number.to_string().as_bytes() {
        return Err("lines are missing before it");
    }
    if sum != format!("{:016x}", record::checksum(&number.to_be_bytes(), text)).as_bytes() {
        return Err("wrong checksum");
    }
    Ok(text)
}
