use serde::{Deserialize, Serialize};

use super::format::line;
use crate::Addr;
use crate::store::disk_space::FileId;

/// A journal with more lines than twice its entries and this many is written again.
const HISTORY: u64 = 1024;

/// The end of a journal, as its index knows it: the last line and its position. If a process was killed after it
/// changed the index and before it appended the line, the next one appends it ([`super::Journal::append_missing`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalEnd {
    pub(super) file: FileId,
    /// The position of the last line, in bytes.
    pub(super) at: u64,
    pub(super) number: u64,
    /// The number of lines that the journal had when it was last written as a whole.
    pub(super) whole: u64,
    /// The last line; empty if the journal was just written as a whole.
    pub(super) line: String,
}

impl JournalEnd {
    /// The end of a journal that could not be written: matches no file.
    pub(crate) fn none() -> Self {
        Self { file: FileId::NONE, at: 0, number: 0, whole: 0, line: String::new() }
    }

    /// The position after the last line, in bytes.
    pub(super) fn end_offset(&self) -> u64 {
        self.at + self.line.len() as u64
    }

    /// Whether most lines of the journal are obsolete.
    pub(crate) fn needs_compaction(&self) -> bool {
        self.number > 2 * self.whole + HISTORY
    }

    /// The end after one more line; `changes` are the new states of the changed addresses, as JSON.
    pub(crate) fn append_line<'a>(&self, changes: impl Iterator<Item = (Addr, Option<&'a [u8]>)>) -> Self {
        let mut text = vec![b'{'];
        for (address, change) in changes {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(format!("\"{address}\":").as_bytes());
            text.extend_from_slice(change.unwrap_or(b"null"));
        }
        text.push(b'}');
        let number = self.number + 1;
        Self {
            file: self.file,
            at: self.end_offset(),
            number,
            whole: self.whole,
            line: line(number, &String::from_utf8_lossy(&text)),
        }
    }
}
