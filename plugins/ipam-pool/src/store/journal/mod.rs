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

mod end;
mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Addr;
use crate::store::StoreError;
use crate::store::disk_space::{DiskSpace, FileId};
use crate::store::regular_file::{open_regular, remove_if_there, temporary_of};
use crate::store::version::{VERSION, Version};

pub(crate) use end::JournalEnd;
use format::{Header, parse};
pub(crate) use format::{Origin, line};

/// Reserved disk space for releasing addresses, in bytes: some hundred lines.
const RESERVE: u64 = 64 << 10;

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

#[derive(Debug)]
pub(crate) struct JournalContents<T> {
    /// The last state of each address.
    pub(crate) entries: BTreeMap<Addr, T>,
    /// The end; `None` if the last line is incomplete.
    pub(crate) journal_end: Option<JournalEnd>,
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
