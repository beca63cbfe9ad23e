use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::slot;
use crate::store::lmdb::{Change, Table};
use crate::store::{Entry, StoreError};

/// What this program writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// The record that says what the others are.
pub(crate) const META: &[u8] = b"m";

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    pub(crate) version: u32,
    /// The boot that ephemeral leases are of; `None` for what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    pub(crate) tally: Tally,
}

/// How many records there are, and the sum of their hashes. A change brings it up to date with the
/// records that it writes, and reading all of them shows whether they are those of one moment: a copy
/// that others wrote to meanwhile, or a page that leads to a wrong one, may look sound and does not add
/// up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    records: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(slot::checksum(key, value));
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(slot::checksum(key, value));
    }
}

/// The records of one file within a change.
pub(crate) struct Records<'a> {
    change: Change<'a>,
    path: &'a Path,
    meta: Meta,
    changed: bool,
}

impl<'a> Records<'a> {
    /// Begins a change of a file that says what it is.
    pub(crate) fn of(table: &'a Table) -> Result<Self, StoreError> {
        let (change, path) = (table.change()?, table.path());
        let bytes =
            change.get(META)?.ok_or_else(|| StoreError::damaged(path, "it does not say what it is"))?;
        let meta: Meta =
            slot::decode(META, &bytes).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        if meta.version > VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found: meta.version, known: VERSION });
        }
        Ok(Self { change, path, meta, changed: false })
    }

    /// Begins the first change of a file.
    pub(crate) fn new(table: &'a Table, boot: Option<String>) -> Result<Self, StoreError> {
        let meta = Meta { version: VERSION, boot, tally: Tally::default() };
        Ok(Self { change: table.change()?, path: table.path(), meta, changed: true })
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    #[cfg(test)]
    pub(crate) fn say(&mut self, edit: impl FnOnce(&mut Meta)) {
        edit(&mut self.meta);
        self.changed = true;
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.change.get(key)
    }

    pub(crate) fn last_until(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.change.last_until(key)
    }

    pub(crate) fn first_from(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.change.first_from(key)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        match self.change.get(key)? {
            Some(old) if old == value => return Ok(()),
            Some(old) => self.meta.tally.take(key, &old),
            None => {}
        }
        self.meta.tally.add(key, value);
        self.changed = true;
        self.change.put(key, value)
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some(old) = self.change.get(key)? else { return Ok(()) };
        self.meta.tally.take(key, &old);
        self.changed = true;
        self.change.remove(key)
    }

    /// Makes the change visible, if there is any.
    pub(crate) fn commit(mut self) -> Result<(), StoreError> {
        if !self.changed {
            return Ok(());
        }
        let meta = slot::encode(META, &self.meta)
            .map_err(|error| StoreError::damaged(self.path, &error.to_string()))?;
        self.change.put(META, &meta)?;
        self.change.commit()
    }

    /// Reads every record: whether they are those of one moment.
    ///
    /// # Errors
    /// They are not.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        let mut tally = Tally::default();
        // LMDB takes no empty key, and no record begins with a zero.
        let mut next = vec![0];
        while let Some((key, value)) = self.first_from(&next)? {
            if key != META {
                tally.add(&key, &value);
            }
            next = key;
            next.push(0);
        }
        let Tally { records, .. } = self.meta.tally;
        if tally == self.meta.tally {
            return Ok(());
        }
        let found = tally.records;
        Err(StoreError::damaged(
            self.path,
            &format!(
                "its records do not add up: {found} were found, {records} were written; if this is a copy, it was made \
                 while others wrote"
            ),
        ))
    }
}
