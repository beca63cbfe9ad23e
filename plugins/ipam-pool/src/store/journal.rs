//! An append-only file: each change appends one line with the new states of the addresses that it changed.
//!
//! ```text
//! 0 <sum> {"version":1,"of":{"boot":"…","index":[26,1234]},"lines":1}
//! 1 <sum> {"10.0.0.2":{"leased":{…}}}
//! 2 <sum> {"10.0.0.2":{"resting":{…}},"10.0.0.3":null}
//! ```
//!
//! Each line begins with its number and a checksum. Written lines never change, so a copy, however slow, is the state
//! after one of the changes: a last line without its end was never answered. A journal is written again, by rename,
//! when most of its lines are obsolete.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Addr;
use crate::store::StoreError;
use crate::store::disk_space::{DiskSpace, FileId};
use crate::store::record;
use crate::store::regular_file::{open_regular, remove_if_there, temporary_of};
use crate::store::version::{VERSION, Version};

/// Reserved disk space for releasing addresses, in bytes: some hundred lines.
const RESERVE: u64 = 64 << 10;

/// A journal with more lines than twice its entries and this many is written again.
const HISTORY: u64 = 1024;

/// Whether a change has to survive a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPolicy {
    /// For files under `/run`.
    Never,
    /// Every change is synced before it is answered.
    Always,
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    sync: SyncPolicy,
    writable: bool,
    /// Whether all of it was synced.
    synced: bool,
    identity: FileId,
    space: DiskSpace,
}

/// The end of a journal, as its index knows it: the last line and its position. If a process was killed after it
/// changed the index and before it appended the line, the next one appends it ([`Journal::append_missing`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalEnd {
    file: FileId,
    /// The position of the last line, in bytes.
    at: u64,
    number: u64,
    /// The number of lines that the journal had when it was last written as a whole.
    whole: u64,
    /// The last line; empty if the journal was just written as a whole.
    line: String,
}

/// The boot and the index that a journal of leases belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) boot: String,
    pub(crate) index: FileId,
}

#[derive(Debug)]
pub(crate) struct JournalContents<T> {
    /// The last state of each address.
    pub(crate) entries: BTreeMap<Addr, T>,
    /// The end; `None` if the last line is incomplete.
    pub(crate) journal_end: Option<JournalEnd>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    /// `None` in the journal of what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<Origin>,
    /// The number of lines that were written together with this one.
    lines: u64,
}

impl JournalEnd {
    /// The end of a journal that could not be written: matches no file.
    pub(crate) fn none() -> Self {
        Self { file: FileId::NONE, at: 0, number: 0, whole: 0, line: String::new() }
    }

    /// The position after the last line, in bytes.
    fn end_offset(&self) -> u64 {
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

impl Journal {
    /// Opens a journal without reading it; `None` if it does not exist.
    pub(crate) fn find(path: &Path, sync: SyncPolicy) -> Result<Option<Self>, StoreError> {
        let open = |append| open_regular(OpenOptions::new().read(true).append(append), path);
        // Most calls only read, which works on a read-only file system.
        let (opened, writable) = match open(true) {
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => (open(false), false),
            opened => (opened, true),
        };
        match opened {
            Ok((file, metadata)) => Ok(Some(Self { writable, ..Self::from(file, &metadata, path, sync) })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::io("open", path, source)),
        }
    }

    fn from(file: File, metadata: &Metadata, path: &Path, sync: SyncPolicy) -> Self {
        Self {
            file,
            path: path.to_owned(),
            sync,
            writable: true,
            synced: false,
            identity: FileId::of(metadata),
            space: DiskSpace::of(metadata),
        }
    }

    /// Writes a whole journal, by rename.
    pub(crate) fn write<'a>(
        path: &Path,
        sync: SyncPolicy,
        of: Option<&Origin>,
        entries: impl Iterator<Item = (Addr, &'a [u8])>,
    ) -> Result<(Self, JournalEnd), StoreError> {
        let (mut body, mut number) = (String::new(), 0);
        for (address, value) in entries {
            number += 1;
            body.push_str(&line(number, &format!("{{\"{address}\":{}}}", String::from_utf8_lossy(value))));
        }
        let header = Header { version: VERSION, of: of.cloned(), lines: number };
        let header =
            serde_json::to_string(&header).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        let text = line(0, &header) + &body;
        let temporary = temporary_of(path);
        let made = (|| {
            // A killed process may have left one: this process has the lock.
            remove_if_there(&temporary)?;
            let mut file =
                OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            if sync == SyncPolicy::Always {
                file.sync_all()?;
            }
            std::fs::rename(&temporary, path)?;
            if sync == SyncPolicy::Always {
                sync_folder(path)?;
            }
            Ok(file)
        })();
        let file = made.map_err(|source| {
            // The first error is reported; the next process removes a file that is left.
            let _ = std::fs::remove_file(&temporary);
            StoreError::io("write", path, source)
        })?;
        let metadata = file.metadata().map_err(|source| StoreError::io("stat", path, source))?;
        let journal = Self { synced: true, ..Self::from(file, &metadata, path, sync) };
        let journal_end = JournalEnd {
            file: journal.identity,
            at: text.len() as u64,
            number,
            whole: number,
            line: String::new(),
        };
        Ok((journal, journal_end))
    }

    /// Whether this is the file of that end, and not a copy or a replacement.
    pub(crate) fn is_of(&self, journal_end: &JournalEnd) -> bool {
        self.identity == journal_end.file
    }

    /// Whether it has the length of that end, except for the last line.
    pub(crate) fn fits(&self, journal_end: &JournalEnd) -> bool {
        (journal_end.at..=journal_end.end_offset()).contains(&self.space.len)
    }

    /// Describes the damage if it is longer than that end.
    pub(crate) fn is_ahead_of(&self, journal_end: &JournalEnd) -> Option<String> {
        let (len, end) = (self.space.len, journal_end.end_offset());
        (len > end).then(|| format!("it is older than its journal, which has {len} bytes instead of {end}"))
    }

    /// Appends what is missing of the last line that the index knows.
    ///
    /// # Errors
    /// The journal is shorter or longer than the index knows, or a system call failed.
    pub(crate) fn append_missing(&mut self, journal_end: &JournalEnd) -> Result<(), StoreError> {
        let end = journal_end.end_offset();
        let len = self.space.len;
        let missing = usize::try_from(len.wrapping_sub(journal_end.at))
            .ok()
            .and_then(|have| journal_end.line.get(have..));
        let Some(missing) = missing.filter(|_| len <= end) else {
            return Err(StoreError::damaged(
                &self.path,
                &format!("it has {len} bytes, its index expects {end}"),
            ));
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.check_writable()?;
        let written = self.file.write_all(missing.as_bytes()).and_then(|()| match self.sync {
            SyncPolicy::Never => Ok(()),
            SyncPolicy::Always => self.file.sync_data(),
        });
        (self.space.len, self.synced) = (end, written.is_ok());
        written.map_err(|source| {
            // Part of the line may have been written.
            self.space.len = self.file.metadata().map_or(len, |metadata| metadata.len());
            StoreError::io("write", &self.path, source)
        })
    }

    /// Checks that lines can be appended.
    ///
    /// # Errors
    /// The file system is read-only.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        if self.writable {
            return Ok(());
        }
        Err(StoreError::io("write", &self.path, nix::errno::Errno::EROFS.into()))
    }

    /// Syncs the lines, if they are not synced.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if !self.synced {
            self.file.sync_data().map_err(|source| StoreError::io("write", &self.path, source))?;
            self.synced = true;
        }
        Ok(())
    }

    /// Syncs the file and its name.
    pub(crate) fn sync_all(&self) -> Result<(), StoreError> {
        let synced = self.file.sync_all().and_then(|()| sync_folder(&self.path));
        synced.map_err(|source| StoreError::io("write", &self.path, source))
    }

    /// Reserves disk space for the last line of this end.
    pub(crate) fn reserve_line(&self, journal_end: &JournalEnd) -> Result<(), StoreError> {
        self.space.reserve(&self.file, &self.path, journal_end.line.len() as u64)
    }

    /// Reserves disk space for later lines.
    pub(crate) fn reserve(&self) -> Result<(), StoreError> {
        self.space.reserve(&self.file, &self.path, RESERVE)
    }

    /// The inverse of [`Journal::reserve`].
    pub(crate) fn give_back_reserve(&self) -> std::io::Result<()> {
        DiskSpace::give_back(&self.file)
    }

    /// The boot and the index that it belongs to.
    ///
    /// # Errors
    /// The first line is damaged, or a system call failed.
    pub(crate) fn origin(&self) -> Result<Option<Origin>, StoreError> {
        let mut bytes = [0; 512];
        let len = self.file.read_at(&mut bytes, 0);
        let len = len.map_err(|source| StoreError::io("read", &self.path, source))?;
        let line = bytes.get(..len).and_then(|bytes| bytes.split_inclusive(|byte| *byte == b'\n').next());
        let line = line.filter(|line| line.ends_with(b"\n")).unwrap_or_default();
        let text =
            parse(0, line).map_err(|what| StoreError::damaged(&self.path, &format!("line 1: {what}")))?;
        Ok(self.header(text)?.of)
    }

    /// Reads the whole journal.
    ///
    /// # Errors
    /// A line is damaged, or a system call failed.
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(&self) -> Result<JournalContents<T>, StoreError> {
        let mut bytes = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(|source| StoreError::io("read", &self.path, source))?;
        let damaged = |number: u64, what: &str| {
            StoreError::damaged(&self.path, &format!("line {}: {what}", number + 1))
        };
        let mut rest = bytes.as_slice();
        let (mut header, mut number, mut entries) = (None, 0, BTreeMap::new());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            let text = parse(number, line).map_err(|what| damaged(number, what))?;
            if header.is_none() {
                header = Some(self.header(text)?);
            } else {
                let changes: BTreeMap<IpAddr, Option<T>> =
                    serde_json::from_slice(text).map_err(|error| damaged(number, &error.to_string()))?;
                for (address, change) in changes {
                    match change {
                        Some(value) => entries.insert(Addr::from(address), value),
                        None => entries.remove(&Addr::from(address)),
                    };
                }
            }
            (number, rest) = (number + 1, after);
        }
        let Header { lines, .. } = header.ok_or_else(|| damaged(0, "its header is missing"))?;
        let last = number - 1;
        if last < lines {
            return Err(damaged(last, &format!("{} lines are missing after it", lines - last)));
        }
        let journal_end = rest.is_empty().then(|| JournalEnd {
            file: self.identity,
            at: bytes.len() as u64,
            number: last,
            whole: lines,
            line: String::new(),
        });
        Ok(JournalContents { entries, journal_end })
    }

    fn header(&self, text: &[u8]) -> Result<Header, StoreError> {
        let damaged = |error: serde_json::Error| StoreError::damaged(&self.path, &format!("line 1: {error}"));
        // Checks the version first: a newer version may have another format.
        let version: Version = serde_json::from_slice(text).map_err(damaged)?;
        version.check(&self.path)?;
        serde_json::from_slice(text).map_err(damaged)
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

pub(crate) fn line(number: u64, text: &str) -> String {
    let sum = record::checksum(&number.to_be_bytes(), text.as_bytes());
    format!("{number} {sum:016x} {text}\n")
}

/// The text of a line, which must have this number.
fn parse(number: u64, line: &[u8]) -> Result<&[u8], &'static str> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> Addr {
        IpAddr::from([10, 0, 0, last]).into()
    }

    /// A journal of a few changes: its path, and what was in it after each of them.
    fn journal(folder: &Path) -> (PathBuf, Vec<BTreeMap<Addr, u32>>) {
        let path = folder.join("p.journal");
        let entries = [(address(1), b"1".as_slice()), (address(2), b"2")];
        let (mut journal, mut journal_end) =
            Journal::write(&path, SyncPolicy::Never, None, entries.into_iter()).unwrap();
        let mut states = vec![BTreeMap::from([(address(1), 1), (address(2), 2)])];
        for i in 3..9u8 {
            let text = i.to_string();
            let changes = [(address(i), Some(text.as_bytes())), (address(i - 2), None)];
            journal_end = journal_end.append_line(changes.into_iter());
            journal.append_missing(&journal_end).unwrap();
            let mut state = states.last().unwrap().clone();
            state.insert(address(i), i.into());
            state.remove(&address(i - 2));
            states.push(state);
        }
        (path, states)
    }

    fn read(path: &Path) -> Result<JournalContents<u32>, StoreError> {
        Journal::find(path, SyncPolicy::Never).unwrap().unwrap().read()
    }

    #[test]
    fn every_beginning_is_the_state_after_a_change() {
        let temp = tempfile::tempdir().unwrap();
        let (path, states) = journal(temp.path());
        let bytes = std::fs::read(&path).unwrap();
        let copy = temp.path().join("copy");
        // The lines that were written as a whole are required: a shorter beginning is damaged.
        let whole = bytes.split_inclusive(|byte| *byte == b'\n').take(3).map(<[u8]>::len).sum();
        let mut seen = 0;
        for len in 0..=bytes.len() {
            std::fs::write(&copy, &bytes[..len]).unwrap();
            match read(&copy) {
                Ok(contents) => {
                    assert!(len >= whole);
                    seen += usize::from(contents.entries != states[seen]);
                    assert_eq!(contents.entries, states[seen]);
                    assert_eq!(contents.journal_end.is_some(), bytes[..len].ends_with(b"\n"));
                }
                Err(error) => {
                    assert!(len < whole && matches!(error, StoreError::Damaged { .. }), "{len}: {error}");
                }
            }
        }
        assert_eq!(seen + 1, states.len());
    }

    #[test]
    fn an_unfinished_line_is_finished() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("p.journal");
        for cut in 0..40 {
            let (journal, journal_end) =
                Journal::write(&path, SyncPolicy::Never, None, std::iter::empty()).unwrap();
            drop(journal);
            let journal_end = journal_end.append_line([(address(1), Some(b"1".as_slice()))].into_iter());
            let cut = cut.min(journal_end.line.len());
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(&journal_end.line.as_bytes()[..cut]).unwrap();
            let mut journal = Journal::find(&path, SyncPolicy::Never).unwrap().unwrap();
            assert!(journal.is_of(&journal_end));
            journal.append_missing(&journal_end).unwrap();
            journal.append_missing(&journal_end).unwrap();
            assert_eq!(read(&path).unwrap().entries, BTreeMap::from([(address(1), 1)]));
        }
    }

    #[test]
    fn what_its_index_does_not_know_is_damage() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("p.journal");
        let (mut journal, first) =
            Journal::write(&path, SyncPolicy::Never, None, std::iter::empty()).unwrap();
        let second = first.append_line([(address(1), Some(b"1".as_slice()))].into_iter());
        journal.append_missing(&second).unwrap();
        assert!(matches!(journal.append_missing(&first), Err(StoreError::Damaged { .. })));
        let third = second.append_line(std::iter::empty()).append_line(std::iter::empty());
        assert!(matches!(journal.append_missing(&third), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_newer_journal_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("p.journal");
        for header in [r#"{"version":9,"lines":0,"more":true}"#, r#"{"version":9,"of":"nothing known"}"#] {
            std::fs::write(&path, line(0, header)).unwrap();
            assert!(matches!(read(&path), Err(StoreError::Newer { found: 9, .. })));
        }
    }

    proptest! {
        #[test]
        fn every_address_comes_back(addresses: Vec<IpAddr>, mapped: [u8; 4]) {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("p.journal");
            let mapped = IpAddr::from(std::net::Ipv4Addr::from(mapped).to_ipv6_mapped());
            let all: BTreeMap<Addr, u32> = addresses.into_iter().chain([mapped]).map(Addr::from).zip(0..).collect();
            let texts: Vec<_> = all.iter().map(|(address, i)| (*address, i.to_string().into_bytes())).collect();
            let (mut journal, journal_end) = Journal::write(&path, SyncPolicy::Never, None, std::iter::empty()).unwrap();
            let journal_end = journal_end.append_line(texts.iter().map(|(address, text)| (*address, Some(text.as_slice()))));
            journal.append_missing(&journal_end).unwrap();
            prop_assert_eq!(read(&path).unwrap().entries, all);
        }

        #[test]
        fn a_changed_byte_is_seen(at in 0usize..4096, bit in 0u8..8) {
            let temp = tempfile::tempdir().unwrap();
            let (path, states) = journal(temp.path());
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            match read(&path) {
                Err(StoreError::Damaged { .. }) => {}
                Ok(contents) => {
                    prop_assert_eq!(at, bytes.len() - 1);
                    prop_assert!(contents.journal_end.is_none());
                    prop_assert_eq!(&contents.entries, &states[states.len() - 2]);
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
    }
}
