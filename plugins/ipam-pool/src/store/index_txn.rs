use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::StickyLease;
use crate::lease_table::{address_of_state_key, state_key, state_prefix};
use crate::store::journal::JournalEnd;
use crate::store::lmdb::{Lmdb, LmdbTxn};
use crate::store::record;
use crate::store::version::{VERSION, Version};
use crate::store::{Entry, KvTxn, StoreError};
use crate::{Addr, AddressState};

/// The key of the record about all others.
pub(crate) const META: &[u8] = b"m";

/// The index's version, boot, checksum and journals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexMeta {
    pub(crate) version: u32,
    /// The boot that the leases are of.
    pub(crate) boot: String,
    pub(crate) tally: Tally,
    /// The end of the journal of this boot; `None` while the disk is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal: Option<JournalEnd>,
    /// The end of the journal of what is kept; `None` if nothing was ever kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<JournalEnd>,
}

/// The number of records and the sum of their hashes. Every change updates it. Reading all records shows whether they
/// are of the same moment: a copy made during a write, or a page with a wrong pointer, may look valid, but has
/// another sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    records: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(record::checksum(key, value));
    }

    fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(record::checksum(key, value));
    }
}

/// A transaction of an index.
pub(crate) struct IndexTxn<'a> {
    change: LmdbTxn<'a>,
    path: &'a Path,
    meta: IndexMeta,
    changed: bool,
    /// The states that the transaction changed, before and after.
    states: BTreeMap<Addr, Transition>,
}

#[derive(Default)]
struct Transition {
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

impl<'a> IndexTxn<'a> {
    /// Begins a transaction of an existing index.
    pub(crate) fn begin(table: &'a Lmdb) -> Result<Self, StoreError> {
        let (change, path) = (table.begin()?, table.path());
        let bytes = change.get(META)?.ok_or_else(|| StoreError::damaged(path, "its header is missing"))?;
        // Checks the version first: a newer version may have another format.
        let version: Version =
            record::decode(META, &bytes).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        version.check(path)?;
        let meta =
            record::decode(META, &bytes).map_err(|error| StoreError::damaged(path, &error.to_string()))?;
        Ok(Self { change, path, meta, changed: false, states: BTreeMap::new() })
    }

    /// Begins the first transaction of a new index.
    pub(crate) fn begin_first(table: &'a Lmdb, boot: String) -> Result<Self, StoreError> {
        let meta = IndexMeta { version: VERSION, boot, tally: Tally::default(), journal: None, kept: None };
        let (change, path) = (table.begin()?, table.path());
        Ok(Self { change, path, meta, changed: true, states: BTreeMap::new() })
    }

    pub(crate) fn meta(&self) -> &IndexMeta {
        &self.meta
    }

    pub(crate) fn edit_meta(&mut self, edit: impl FnOnce(&mut IndexMeta)) {
        edit(&mut self.meta);
        self.changed = true;
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// The states after the transaction, as JSON, of the addresses that it changed.
    pub(crate) fn state_changes(&self) -> impl Iterator<Item = (Addr, Option<&[u8]>)> {
        self.states.iter().map(|(address, state)| (*address, state.after.as_deref().and_then(record::text)))
    }

    /// All states, as JSON.
    pub(crate) fn states(&self) -> Result<Vec<(Addr, Vec<u8>)>, StoreError> {
        let mut all = Vec::new();
        let mut next = state_prefix();
        while let Some((mut key, value)) = self.change.first_at_or_after(&next)? {
            let Some(address) = address_of_state_key(&key) else { break };
            all.push((address, record::text(&value).unwrap_or_default().to_vec()));
            key.push(0);
            next = key;
        }
        Ok(all)
    }

    /// The changes of sticky leases in this transaction.
    pub(crate) fn sticky_changes(&self) -> Result<BTreeMap<Addr, Option<StickyLease>>, StoreError> {
        let mut changes = BTreeMap::new();
        for (address, Transition { before, after }) in &self.states {
            let [before, after] = [before, after].map(|bytes| {
                bytes.as_deref().map_or(Ok(None), |bytes| {
                    let state: AddressState = record::decode(&state_key(*address), bytes)
                        .map_err(|error| StoreError::damaged(self.path, &format!("{address}: {error}")))?;
                    Ok::<_, StoreError>(StickyLease::from_state(&state))
                })
            });
            let (before, after) = (before?, after?);
            if before != after {
                changes.insert(*address, after);
            }
        }
        Ok(changes)
    }

    /// Commits the transaction, if it changed anything.
    pub(crate) fn commit(mut self) -> Result<(), StoreError> {
        if !self.changed {
            return Ok(());
        }
        let meta = record::encode(META, &self.meta)
            .map_err(|error| StoreError::damaged(self.path, &error.to_string()))?;
        self.change.put(META, &meta)?;
        self.change.commit()
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let old = self.change.get(key)?;
        if old.as_deref() == value {
            return Ok(());
        }
        if let Some(old) = &old {
            self.meta.tally.subtract(key, old);
        }
        if let Some(value) = value {
            self.meta.tally.add(key, value);
        }
        self.changed = true;
        if let Some(address) = address_of_state_key(key) {
            let first = || Transition { before: old, after: None };
            self.states.entry(address).or_insert_with(first).after = value.map(<[u8]>::to_vec);
        }
        match value {
            Some(value) => self.change.put(key, value),
            None => self.change.remove(key),
        }
    }

    /// Checks the sum over all records.
    ///
    /// # Errors
    /// It is wrong.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        let mut tally = Tally::default();
        // LMDB refuses an empty key; no record's key begins with a zero.
        let mut next = vec![0];
        while let Some((key, value)) = self.change.first_at_or_after(&next)? {
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
            &format!("its records do not match their checksum: {found} were found, {records} were written"),
        ))
    }
}

impl KvTxn for IndexTxn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.change.get(key)
    }

    fn last_at_or_before(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.change.last_at_or_before(key)
    }

    fn first_at_or_after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.change.first_at_or_after(key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.set(key, Some(value))
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.set(key, None)
    }
}
