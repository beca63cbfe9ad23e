//! The records of one pool in a [`KvTxn`], and the indices that find them.
//!
//! | key | value |
//! |---|---|
//! | `a` address | [`AddressState`]: what is known about an address that is or was in use |
//! | `h` container, interface, network | the addresses that this attachment holds |
//! | `o` owner | the addresses that this owner keeps |
//! | `q` family, queue, since, address | nothing: who rests, oldest first |
//! | `k` family, until, address | nothing: who is quarantined, earliest end first |
//! | `u` address | the last of the used addresses that begin here: neighbours are one entry |
//!
//! An address has a state exactly if it is in a `u` range, so that the next unused address is found without reading
//! the used ones.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::AddressState;
use crate::store::record::{self, RecordError};
use crate::store::{KvTxn, StoreError};
use crate::{Addr, AddrRange, AddrSet, Attachment, Family, Millis, Owner};

const STATE: u8 = b'a';
const HELD: u8 = b'h';
const OWNED: u8 = b'o';
const QUEUE: u8 = b'q';
const QUARANTINE: u8 = b'k';
const USED: u8 = b'u';

/// LMDB's limit is 511 bytes.
const MAX_KEY: usize = 500;

/// An entry of an index: the addresses of one attachment or owner.
#[derive(Serialize, Deserialize)]
struct Addresses<T> {
    of: T,
    addresses: Vec<IpAddr>,
}

/// What addresses are found by: the attachment that holds them, or the sticky owner that keeps them.
pub(crate) trait Indexed: Clone + Serialize + DeserializeOwned {
    /// The first byte of the keys of the index.
    const PREFIX: u8;

    fn key(&self) -> Vec<u8>;
}

impl Indexed for Attachment {
    const PREFIX: u8 = HELD;

    fn key(&self) -> Vec<u8> {
        let Self { container, interface, network } = self;
        hashed_key(HELD, format!("{container}\0{interface}\0{network}").as_bytes())
    }
}

impl Indexed for Owner {
    const PREFIX: u8 = OWNED;

    fn key(&self) -> Vec<u8> {
        hashed_key(OWNED, self.as_str().as_bytes())
    }
}

/// The leases of one pool, as records and indices.
pub(crate) struct LeaseTable<'a> {
    txn: &'a mut dyn KvTxn,
}

impl<'a> LeaseTable<'a> {
    pub(crate) fn new(txn: &'a mut dyn KvTxn) -> Self {
        Self { txn }
    }

    /// The state of an address; `None` if it was never used.
    pub(crate) fn read_state(&self, address: Addr) -> Result<Option<AddressState>, StoreError> {
        let key = state_key(address);
        self.read(&key)
    }

    /// Writes the state of an address and its queue entry.
    pub(crate) fn write_state(&mut self, address: Addr, state: &AddressState) -> Result<(), StoreError> {
        let old = self.read_state(address)?;
        self.remove_from_queue(address, old.as_ref())?;
        if old.is_none() {
            self.mark_used(address)?;
        }
        match state {
            AddressState::Leased(_) => {}
            AddressState::Resting { since, queue, .. } => {
                self.txn.put(&queue_key(address, *queue, *since), &[])?;
            }
            AddressState::Quarantined { until, .. } => self.txn.put(&quarantine_key(address, *until), &[])?,
        }
        let key = state_key(address);
        self.write(&key, state)
    }

    /// Writes the state of an unused address and all index entries.
    pub(crate) fn restore(&mut self, address: Addr, state: &AddressState) -> Result<(), StoreError> {
        self.write_state(address, state)?;
        let AddressState::Leased(lease) = state else { return Ok(()) };
        for holder in &lease.holders {
            self.add_to_index(&holder.attachment, address)?;
        }
        match (&lease.owner, lease.sticky) {
            (Some(owner), true) => self.add_to_index(owner, address),
            _ => Ok(()),
        }
    }

    /// Removes the state of an address, so that it counts as never used.
    pub(crate) fn remove_state(&mut self, address: Addr) -> Result<(), StoreError> {
        let Some(old) = self.read_state(address)? else { return Ok(()) };
        self.remove_from_queue(address, Some(&old))?;
        self.txn.remove(&state_key(address))?;
        self.mark_unused(address)
    }

    fn remove_from_queue(&mut self, address: Addr, state: Option<&AddressState>) -> Result<(), StoreError> {
        match state {
            Some(AddressState::Resting { since, queue, .. }) => {
                self.txn.remove(&queue_key(address, *queue, *since))
            }
            Some(AddressState::Quarantined { until, .. }) => {
                self.txn.remove(&quarantine_key(address, *until))
            }
            Some(AddressState::Leased(_)) | None => Ok(()),
        }
    }

    /// The addresses that an attachment holds, or that are kept for an owner.
    pub(crate) fn addresses_of<T: Indexed>(&self, of: &T) -> Result<Vec<Addr>, StoreError> {
        let found: Option<Addresses<T>> = self.read(&of.key())?;
        Ok(found.map(|found| found.addresses.into_iter().map(Addr::from).collect()).unwrap_or_default())
    }

    pub(crate) fn add_to_index<T: Indexed>(&mut self, of: &T, address: Addr) -> Result<(), StoreError> {
        self.edit_addresses(of, |addresses| {
            if !addresses.contains(&address.ip()) {
                addresses.push(address.ip());
            }
        })
    }

    pub(crate) fn remove_from_index<T: Indexed>(&mut self, of: &T, address: Addr) -> Result<(), StoreError> {
        self.edit_addresses(of, |addresses| addresses.retain(|ip| *ip != address.ip()))
    }

    fn edit_addresses<T: Indexed>(
        &mut self,
        of: &T,
        edit: impl FnOnce(&mut Vec<IpAddr>),
    ) -> Result<(), StoreError> {
        let key = of.key();
        let mut entry: Addresses<T> =
            self.read(&key)?.unwrap_or_else(|| Addresses { of: of.clone(), addresses: Vec::new() });
        edit(&mut entry.addresses);
        if entry.addresses.is_empty() { self.txn.remove(&key) } else { self.write(&key, &entry) }
    }

    /// The address of a queue that was released first, and when.
    pub(crate) fn longest_resting(
        &self,
        family: Family,
        queue: u8,
    ) -> Result<Option<(Addr, Millis)>, StoreError> {
        let prefix = [QUEUE, family.tag(), queue];
        let Some((key, _)) = self.txn.first_at_or_after(&prefix)? else { return Ok(None) };
        key.strip_prefix(&prefix).map(parse_queue_key).transpose()
    }

    /// The first queue from `queue` on that is not empty.
    pub(crate) fn next_queue(&self, family: Family, queue: u8) -> Result<Option<u8>, StoreError> {
        let prefix = [QUEUE, family.tag()];
        let Some((key, _)) = self.txn.first_at_or_after(&[QUEUE, family.tag(), queue])? else {
            return Ok(None);
        };
        Ok(key.strip_prefix(&prefix).and_then(|rest| rest.first().copied()))
    }

    /// The quarantined address whose time ends first, and when.
    pub(crate) fn first_quarantined(&self, family: Family) -> Result<Option<(Addr, Millis)>, StoreError> {
        let prefix = [QUARANTINE, family.tag()];
        let Some((key, _)) = self.txn.first_at_or_after(&prefix)? else { return Ok(None) };
        key.strip_prefix(&prefix).map(parse_queue_key).transpose()
    }

    /// The quarantined addresses of a family, whose time ends first ahead.
    pub(crate) fn quarantined(&self, family: Family) -> Result<Vec<Addr>, StoreError> {
        let prefix = [QUARANTINE, family.tag()];
        let entries = self.entries(QUARANTINE);
        let of_family = entries.filter_map(|entry| {
            let key = entry.map(|(key, _)| key.strip_prefix(&prefix).map(parse_queue_key));
            key.transpose().map(|parsed| parsed.and_then(|parsed| Ok(parsed?.0)))
        });
        of_family.collect()
    }

    /// The lowest address of `set` that was never used.
    pub(crate) fn first_unused(&self, set: &AddrSet) -> Result<Option<Addr>, StoreError> {
        for range in set.iter() {
            let mut next = Some(range.first());
            while let Some(address) = next.filter(|address| *address <= range.last()) {
                match self.used_range(address)? {
                    Some(used) => next = used.last().next(),
                    None => return Ok(Some(address)),
                }
            }
        }
        Ok(None)
    }

    /// The range of used addresses that contains this one.
    fn used_range(&self, address: Addr) -> Result<Option<AddrRange>, StoreError> {
        let Some((key, value)) = self.txn.last_at_or_before(&append_address(&[USED], address))? else {
            return Ok(None);
        };
        let Some(first) = key.strip_prefix(&[USED]) else { return Ok(None) };
        let range = Addr::from_key(first).zip(Addr::from_key(&value)).and_then(|(a, b)| AddrRange::new(a, b));
        let range = range.ok_or_else(|| StoreError::record("invalid range of used addresses"))?;
        Ok(Some(range).filter(|range| range.contains(address)))
    }

    fn mark_used(&mut self, address: Addr) -> Result<(), StoreError> {
        if self.used_range(address)?.is_some() {
            return Err(StoreError::record(format!("{address} is marked as used, but has no record")));
        }
        let before = address.prev().map(|prev| self.used_range(prev)).transpose()?.flatten();
        let after = address.next().map(|next| self.used_range(next)).transpose()?.flatten();
        if let Some(after) = after {
            self.txn.remove(&append_address(&[USED], after.first()))?;
        }
        let first = before.map_or(address, AddrRange::first);
        let last = after.map_or(address, AddrRange::last);
        self.txn.put(&append_address(&[USED], first), &last.key())
    }

    fn mark_unused(&mut self, address: Addr) -> Result<(), StoreError> {
        let Some(range) = self.used_range(address)? else {
            return Err(StoreError::record(format!("{address} has a record, but is not marked as used")));
        };
        match address.prev().and_then(|prev| AddrRange::new(range.first(), prev)) {
            Some(before) => self.txn.put(&append_address(&[USED], before.first()), &before.last().key())?,
            None => self.txn.remove(&append_address(&[USED], range.first()))?,
        }
        match address.next().and_then(|next| AddrRange::new(next, range.last())) {
            Some(after) => self.txn.put(&append_address(&[USED], after.first()), &after.last().key()),
            None => Ok(()),
        }
    }

    /// The first address with a state from `from` on.
    pub(crate) fn next_state(&self, from: Option<Addr>) -> Result<Option<(Addr, AddressState)>, StoreError> {
        let start = from.map_or_else(|| vec![STATE], state_key);
        let Some((key, value)) = self.txn.first_at_or_after(&start)? else { return Ok(None) };
        let Some(address) = key.strip_prefix(&[STATE]) else { return Ok(None) };
        let address = Addr::from_key(address)
            .ok_or_else(|| StoreError::record("invalid address in the key of a record"))?;
        Ok(Some((address, parse(&key, &value)?)))
    }

    /// All states, in the order of their addresses.
    pub(crate) fn states(&self) -> impl Iterator<Item = Result<(Addr, AddressState), StoreError>> + '_ {
        let mut state = Some(None);
        std::iter::from_fn(move || {
            let found = self.next_state(state?);
            state = match &found {
                Ok(Some((address, _))) => next_in_order(*address).map(Some),
                Ok(None) | Err(_) => None,
            };
            found.transpose()
        })
    }

    /// All attachments that hold addresses, or owners that addresses are kept for.
    pub(crate) fn indexed<T: Indexed>(
        &self,
    ) -> impl Iterator<Item = Result<(T, Vec<Addr>), StoreError>> + '_ {
        self.entries(T::PREFIX).map(|entry| {
            let (key, value) = entry?;
            let found: Addresses<T> = parse(&key, &value)?;
            Ok((found.of, found.addresses.into_iter().map(Addr::from).collect()))
        })
    }

    /// All ranges of used addresses.
    pub(crate) fn used_ranges(&self) -> impl Iterator<Item = Result<AddrRange, StoreError>> + '_ {
        self.entries(USED).map(|entry| {
            let (key, value) = entry?;
            let ends = key.get(1..).and_then(Addr::from_key).zip(Addr::from_key(&value));
            ends.and_then(|(first, last)| AddrRange::new(first, last))
                .ok_or_else(|| StoreError::record("invalid range of used addresses"))
        })
    }

    /// All resting and quarantined addresses, each with the key of its queue entry.
    pub(crate) fn queued(&self) -> impl Iterator<Item = Result<(Addr, Vec<u8>), StoreError>> + '_ {
        self.entries(QUEUE).chain(self.entries(QUARANTINE)).map(|entry| {
            let (key, _) = entry?;
            let at = key.len().checked_sub(Addr::KEY_LEN);
            let address = at.and_then(|at| key.get(at..)).and_then(Addr::from_key);
            let address = address.ok_or_else(|| StoreError::record("queue entry without an address"))?;
            Ok((address, key))
        })
    }

    fn entries(&self, prefix: u8) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + '_ {
        let mut next = Some(vec![prefix]);
        std::iter::from_fn(move || {
            let found = self.txn.first_at_or_after(&next.take()?);
            let found = found.map(|entry| entry.filter(|(key, _)| key.first() == Some(&prefix)));
            if let Ok(Some((key, _))) = &found {
                let mut after = key.clone();
                after.push(0);
                next = Some(after);
            }
            found.transpose()
        })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.txn.get(key)?.map(|value| parse(key, &value)).transpose()
    }

    fn write<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), StoreError> {
        let bytes = record::encode(key, value).map_err(|error| damaged(key, &error))?;
        self.txn.put(key, &bytes)
    }
}

/// The key of an address's state.
pub(crate) fn state_key(address: Addr) -> Vec<u8> {
    append_address(&[STATE], address)
}

/// What every key of a state begins with.
pub(crate) fn state_prefix() -> Vec<u8> {
    vec![STATE]
}

/// The address whose state has this key; `None` for other keys.
pub(crate) fn address_of_state_key(key: &[u8]) -> Option<Addr> {
    key.strip_prefix(&[STATE]).and_then(Addr::from_key)
}

/// The key of the queue entry that a state must have, if it must have one.
pub(crate) fn queue_key_of(address: Addr, state: &AddressState) -> Option<Vec<u8>> {
    match state {
        AddressState::Leased(_) => None,
        AddressState::Resting { since, queue, .. } => Some(queue_key(address, *queue, *since)),
        AddressState::Quarantined { until, .. } => Some(quarantine_key(address, *until)),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    record::decode(key, value).map_err(|error| damaged(key, &error))
}

fn damaged(key: &[u8], error: &RecordError) -> StoreError {
    StoreError::record(format!("record {}: {error}", key.escape_ascii()))
}

fn next_in_order(address: Addr) -> Option<Addr> {
    match (address.next(), address.family()) {
        (None, Family::V4) => Addr::new(Family::V6, 0),
        (next, _) => next,
    }
}

fn append_address(prefix: &[u8], address: Addr) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + Addr::KEY_LEN);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&address.key());
    key
}

fn queue_key(address: Addr, queue: u8, since: Millis) -> Vec<u8> {
    let mut prefix = vec![QUEUE, address.family().tag(), queue];
    prefix.extend_from_slice(&since.0.to_be_bytes());
    append_address(&prefix, address)
}

fn quarantine_key(address: Addr, until: Millis) -> Vec<u8> {
    let mut prefix = vec![QUARANTINE, address.family().tag()];
    prefix.extend_from_slice(&until.0.to_be_bytes());
    append_address(&prefix, address)
}

/// Parses the time and the address at the end of a queue entry's key.
fn parse_queue_key(rest: &[u8]) -> Result<(Addr, Millis), StoreError> {
    rest.split_first_chunk::<8>()
        .and_then(|(time, address)| Some((Addr::from_key(address)?, Millis(u64::from_be_bytes(*time)))))
        .ok_or_else(|| StoreError::record("queue entry without a time and an address"))
}

fn hashed_key(prefix: u8, name: &[u8]) -> Vec<u8> {
    let mut key = vec![prefix];
    if name.len() < MAX_KEY {
        key.extend_from_slice(name);
    } else {
        key.extend_from_slice(name.get(..MAX_KEY / 2).unwrap_or(name));
        key.push(0xff);
        key.extend_from_slice(&Sha256::digest(name));
    }
    key
}
