//! The records of one pool in a [`Ledger`], and the indices that find them.
//!
//! | key | value |
//! |---|---|
//! | `a` address | [`Slot`]: what is known about an address that is or was in use |
//! | `h` container, interface, network | the addresses that this attachment holds |
//! | `o` owner | the addresses that this owner keeps |
//! | `q` family, queue, since, address | nothing: who rests, oldest first |
//! | `k` family, until, address | nothing: who is quarantined, earliest end first |
//! | `u` address | the last of the used addresses that begin here: neighbours are one entry |
//!
//! An address has a slot exactly if it lies in a `u` span, so that the next unused address is found
//! without looking at the used ones.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::slot::{self, RecordError, Slot};
use crate::store::{Ledger, StoreError};
use crate::{Addr, Attachment, Family, Millis, Owner, Span, Spans};

const SLOT: u8 = b'a';
const HELD: u8 = b'h';
const OWNED: u8 = b'o';
const QUEUE: u8 = b'q';
const QUARANTINE: u8 = b'k';
const USED: u8 = b'u';

/// LMDB takes 511 bytes.
const MAX_KEY: usize = 500;

#[derive(Serialize, Deserialize)]
struct Addresses<T> {
    of: T,
    addresses: Vec<IpAddr>,
}

/// Reads and changes the records of one pool.
pub(crate) struct Book<'a> {
    ledger: &'a mut dyn Ledger,
}

impl<'a> Book<'a> {
    pub(crate) fn new(ledger: &'a mut dyn Ledger) -> Self {
        Self { ledger }
    }

    /// What is known about an address; `None` where it was never used.
    pub(crate) fn slot(&self, address: Addr) -> Result<Option<Slot>, StoreError> {
        let key = slot_key(address);
        self.read(&key)
    }

    /// Sets what is known about an address.
    pub(crate) fn set_slot(&mut self, address: Addr, slot: &Slot) -> Result<(), StoreError> {
        let old = self.slot(address)?;
        self.unqueue(address, old.as_ref())?;
        if old.is_none() {
            self.mark_used(address)?;
        }
        match slot {
            Slot::Leased(_) => {}
            Slot::Resting { since, queue, .. } => {
                self.ledger.put(&queue_key(address, *queue, *since), &[])?;
            }
            Slot::Quarantined { until, .. } => self.ledger.put(&quarantine_key(address, *until), &[])?,
        }
        let key = slot_key(address);
        self.write(&key, slot)
    }

    /// Sets what is known about an address that nothing is known about, with all that refers to it.
    pub(crate) fn put_back(&mut self, address: Addr, slot: &Slot) -> Result<(), StoreError> {
        self.set_slot(address, slot)?;
        let Slot::Leased(lease) = slot else { return Ok(()) };
        for holder in &lease.holders {
            self.add_held(&holder.attachment, address)?;
        }
        match (&lease.owner, lease.sticky) {
            (Some(owner), true) => self.add_owned(owner, address),
            _ => Ok(()),
        }
    }

    /// Forgets an address: it is as if it had never been used.
    pub(crate) fn clear_slot(&mut self, address: Addr) -> Result<(), StoreError> {
        let Some(old) = self.slot(address)? else { return Ok(()) };
        self.unqueue(address, Some(&old))?;
        self.ledger.remove(&slot_key(address))?;
        self.mark_unused(address)
    }

    fn unqueue(&mut self, address: Addr, slot: Option<&Slot>) -> Result<(), StoreError> {
        match slot {
            Some(Slot::Resting { since, queue, .. }) => {
                self.ledger.remove(&queue_key(address, *queue, *since))
            }
            Some(Slot::Quarantined { until, .. }) => self.ledger.remove(&quarantine_key(address, *until)),
            Some(Slot::Leased(_)) | None => Ok(()),
        }
    }

    /// The addresses that an attachment holds.
    pub(crate) fn held_by(&self, attachment: &Attachment) -> Result<Vec<Addr>, StoreError> {
        let found: Option<Addresses<Attachment>> = self.read(&held_key(attachment))?;
        Ok(found.map(|held| held.addresses.into_iter().map(Addr::from).collect()).unwrap_or_default())
    }

    /// Notes that an attachment holds an address.
    pub(crate) fn add_held(&mut self, attachment: &Attachment, address: Addr) -> Result<(), StoreError> {
        let key = held_key(attachment);
        self.edit(&key, || attachment.clone(), |addresses| addresses.push(address.ip()))
    }

    /// Takes [`Book::add_held`] back.
    pub(crate) fn remove_held(&mut self, attachment: &Attachment, address: Addr) -> Result<(), StoreError> {
        let key = held_key(attachment);
        self.edit(&key, || attachment.clone(), |addresses| addresses.retain(|ip| *ip != address.ip()))
    }

    /// The addresses that an owner keeps.
    pub(crate) fn owned_by(&self, owner: &Owner) -> Result<Vec<Addr>, StoreError> {
        let found: Option<Addresses<Owner>> = self.read(&owned_key(owner))?;
        Ok(found.map(|owned| owned.addresses.into_iter().map(Addr::from).collect()).unwrap_or_default())
    }

    /// Notes that an owner keeps an address.
    pub(crate) fn add_owned(&mut self, owner: &Owner, address: Addr) -> Result<(), StoreError> {
        let key = owned_key(owner);
        self.edit(
            &key,
            || owner.clone(),
            |addresses| {
                if !addresses.contains(&address.ip()) {
                    addresses.push(address.ip());
                }
            },
        )
    }

    /// Takes [`Book::add_owned`] back.
    pub(crate) fn remove_owned(&mut self, owner: &Owner, address: Addr) -> Result<(), StoreError> {
        let key = owned_key(owner);
        self.edit(&key, || owner.clone(), |addresses| addresses.retain(|ip| *ip != address.ip()))
    }

    fn edit<T: Serialize + for<'de> Deserialize<'de>>(
        &mut self,
        key: &[u8],
        of: impl FnOnce() -> T,
        edit: impl FnOnce(&mut Vec<IpAddr>),
    ) -> Result<(), StoreError> {
        let mut entry: Addresses<T> =
            self.read(key)?.unwrap_or_else(|| Addresses { of: of(), addresses: Vec::new() });
        edit(&mut entry.addresses);
        if entry.addresses.is_empty() { self.ledger.remove(key) } else { self.write(key, &entry) }
    }

    /// The longest-resting address of a queue, and since when it rests.
    pub(crate) fn oldest(&self, family: Family, queue: u8) -> Result<Option<(Addr, Millis)>, StoreError> {
        let prefix = [QUEUE, family.tag(), queue];
        let Some((key, _)) = self.ledger.first_from(&prefix)? else { return Ok(None) };
        key.strip_prefix(&prefix).map(timed).transpose()
    }

    /// The next queue of the family, from `queue` on, that anybody rests in.
    pub(crate) fn next_queue(&self, family: Family, queue: u8) -> Result<Option<u8>, StoreError> {
        let prefix = [QUEUE, family.tag()];
        let Some((key, _)) = self.ledger.first_from(&[QUEUE, family.tag(), queue])? else { return Ok(None) };
        Ok(key.strip_prefix(&prefix).and_then(|rest| rest.first().copied()))
    }

    /// The quarantined address whose time ends first, and when.
    pub(crate) fn first_quarantined(&self, family: Family) -> Result<Option<(Addr, Millis)>, StoreError> {
        let prefix = [QUARANTINE, family.tag()];
        let Some((key, _)) = self.ledger.first_from(&prefix)? else { return Ok(None) };
        key.strip_prefix(&prefix).map(timed).transpose()
    }

    /// The quarantined addresses of a family, whose time ends first ahead.
    pub(crate) fn quarantined(&self, family: Family) -> Result<Vec<Addr>, StoreError> {
        let prefix = [QUARANTINE, family.tag()];
        let entries = self.entries(QUARANTINE);
        let of_family = entries.filter_map(|entry| {
            let key = entry.map(|(key, _)| key.strip_prefix(&prefix).map(timed));
            key.transpose().map(|timed| timed.and_then(|timed| Ok(timed?.0)))
        });
        of_family.collect()
    }

    /// The lowest address of `spans` that was never used.
    pub(crate) fn first_unused(&self, spans: &Spans) -> Result<Option<Addr>, StoreError> {
        for span in spans.iter() {
            let mut next = Some(span.first());
            while let Some(address) = next.filter(|address| *address <= span.last()) {
                match self.used_span(address)? {
                    Some(used) => next = used.last().next(),
                    None => return Ok(Some(address)),
                }
            }
        }
        Ok(None)
    }

    /// The used addresses around this one.
    fn used_span(&self, address: Addr) -> Result<Option<Span>, StoreError> {
        let Some((key, value)) = self.ledger.last_until(&with_address(&[USED], address))? else {
            return Ok(None);
        };
        let Some(first) = key.strip_prefix(&[USED]) else { return Ok(None) };
        let span = Addr::from_key(first).zip(Addr::from_key(&value)).and_then(|(a, b)| Span::new(a, b));
        let span = span.ok_or_else(|| StoreError::record("a span of used addresses is none"))?;
        Ok(Some(span).filter(|span| span.contains(address)))
    }

    fn mark_used(&mut self, address: Addr) -> Result<(), StoreError> {
        if self.used_span(address)?.is_some() {
            return Err(StoreError::record(format!("{address} is marked as used and has no record")));
        }
        let before = address.prev().map(|prev| self.used_span(prev)).transpose()?.flatten();
        let after = address.next().map(|next| self.used_span(next)).transpose()?.flatten();
        if let Some(after) = after {
            self.ledger.remove(&with_address(&[USED], after.first()))?;
        }
        let first = before.map_or(address, Span::first);
        let last = after.map_or(address, Span::last);
        self.ledger.put(&with_address(&[USED], first), &last.key())
    }

    fn mark_unused(&mut self, address: Addr) -> Result<(), StoreError> {
        let Some(span) = self.used_span(address)? else {
            return Err(StoreError::record(format!("{address} has a record and is not marked as used")));
        };
        match address.prev().and_then(|prev| Span::new(span.first(), prev)) {
            Some(before) => self.ledger.put(&with_address(&[USED], before.first()), &before.last().key())?,
            None => self.ledger.remove(&with_address(&[USED], span.first()))?,
        }
        match address.next().and_then(|next| Span::new(next, span.last())) {
            Some(after) => self.ledger.put(&with_address(&[USED], after.first()), &after.last().key()),
            None => Ok(()),
        }
    }

    /// The next used address from this one on, with its slot.
    pub(crate) fn next_slot(&self, from: Option<Addr>) -> Result<Option<(Addr, Slot)>, StoreError> {
        let start = from.map_or_else(|| vec![SLOT], slot_key);
        let Some((key, value)) = self.ledger.first_from(&start)? else { return Ok(None) };
        let Some(address) = key.strip_prefix(&[SLOT]) else { return Ok(None) };
        let address =
            Addr::from_key(address).ok_or_else(|| StoreError::record("a record's key is no address"))?;
        Ok(Some((address, parse(&key, &value)?)))
    }

    /// All slots in the order of their addresses.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Result<(Addr, Slot), StoreError>> + '_ {
        let mut state = Some(None);
        std::iter::from_fn(move || {
            let found = self.next_slot(state?);
            state = match &found {
                Ok(Some((address, _))) => next_in_order(*address).map(Some),
                Ok(None) | Err(_) => None,
            };
            found.transpose()
        })
    }

    /// All attachments that hold something.
    pub(crate) fn attachments(
        &self,
    ) -> impl Iterator<Item = Result<(Attachment, Vec<Addr>), StoreError>> + '_ {
        self.entries(HELD).map(|entry| {
            let (key, value) = entry?;
            let held: Addresses<Attachment> = parse(&key, &value)?;
            Ok((held.of, held.addresses.into_iter().map(Addr::from).collect()))
        })
    }

    /// All owners that keep something.
    pub(crate) fn owners(&self) -> impl Iterator<Item = Result<(Owner, Vec<Addr>), StoreError>> + '_ {
        self.entries(OWNED).map(|entry| {
            let (key, value) = entry?;
            let owned: Addresses<Owner> = parse(&key, &value)?;
            Ok((owned.of, owned.addresses.into_iter().map(Addr::from).collect()))
        })
    }

    /// All spans of used addresses.
    pub(crate) fn used(&self) -> impl Iterator<Item = Result<Span, StoreError>> + '_ {
        self.entries(USED).map(|entry| {
            let (key, value) = entry?;
            let ends = key.get(1..).and_then(Addr::from_key).zip(Addr::from_key(&value));
            ends.and_then(|(first, last)| Span::new(first, last))
                .ok_or_else(|| StoreError::record("a span of used addresses is none"))
        })
    }

    /// All that rest or are quarantined: the address and the key's prefix that finds it.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Result<(Addr, Vec<u8>), StoreError>> + '_ {
        self.entries(QUEUE).chain(self.entries(QUARANTINE)).map(|entry| {
            let (key, _) = entry?;
            let at = key.len().checked_sub(Addr::KEY_LEN);
            let address = at.and_then(|at| key.get(at..)).and_then(Addr::from_key);
            let address = address.ok_or_else(|| StoreError::record("a queue's entry has no address"))?;
            Ok((address, key))
        })
    }

    fn entries(&self, prefix: u8) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + '_ {
        let mut next = Some(vec![prefix]);
        std::iter::from_fn(move || {
            let found = self.ledger.first_from(&next.take()?);
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
        self.ledger.get(key)?.map(|value| parse(key, &value)).transpose()
    }

    fn write<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), StoreError> {
        let bytes = slot::encode(key, value).map_err(|error| damaged(key, &error))?;
        self.ledger.put(key, &bytes)
    }
}

/// The key of an address's record.
pub(crate) fn slot_key(address: Addr) -> Vec<u8> {
    with_address(&[SLOT], address)
}

/// What every key of an address's record begins with.
pub(crate) fn slot_prefix() -> Vec<u8> {
    vec![SLOT]
}

/// The address whose record has this key, if it is one.
pub(crate) fn slot_address(key: &[u8]) -> Option<Addr> {
    key.strip_prefix(&[SLOT]).and_then(Addr::from_key)
}

/// The key under which a slot has to stand in a queue, if it has to.
pub(crate) fn waiting_key(address: Addr, slot: &Slot) -> Option<Vec<u8>> {
    match slot {
        Slot::Leased(_) => None,
        Slot::Resting { since, queue, .. } => Some(queue_key(address, *queue, *since)),
        Slot::Quarantined { until, .. } => Some(quarantine_key(address, *until)),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    slot::decode(key, value).map_err(|error| damaged(key, &error))
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

fn with_address(prefix: &[u8], address: Addr) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + Addr::KEY_LEN);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&address.key());
    key
}

fn queue_key(address: Addr, queue: u8, since: Millis) -> Vec<u8> {
    let mut prefix = vec![QUEUE, address.family().tag(), queue];
    prefix.extend_from_slice(&since.0.to_be_bytes());
    with_address(&prefix, address)
}

fn quarantine_key(address: Addr, until: Millis) -> Vec<u8> {
    let mut prefix = vec![QUARANTINE, address.family().tag()];
    prefix.extend_from_slice(&until.0.to_be_bytes());
    with_address(&prefix, address)
}

/// Reads the end of a queue's key.
fn timed(rest: &[u8]) -> Result<(Addr, Millis), StoreError> {
    rest.split_first_chunk::<8>()
        .and_then(|(time, address)| Some((Addr::from_key(address)?, Millis(u64::from_be_bytes(*time)))))
        .ok_or_else(|| StoreError::record("a queue's entry has no time and address"))
}

fn held_key(attachment: &Attachment) -> Vec<u8> {
    let Attachment { container, interface, network } = attachment;
    named_key(HELD, format!("{container}\0{interface}\0{network}").as_bytes())
}

fn owned_key(owner: &Owner) -> Vec<u8> {
    named_key(OWNED, owner.as_str().as_bytes())
}

/// Names of any length: the end of a long one is replaced by its hash.
fn named_key(prefix: u8, name: &[u8]) -> Vec<u8> {
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
