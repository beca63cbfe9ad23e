use std::collections::{BTreeMap, BTreeSet};

use crate::book::{Book, waiting_key};
use crate::store::{Ledger, StoreError};
use crate::{Addr, Attachment, Owner, Slot, Span, Spans};

/// Compares all records of a pool with one another; returns what does not fit, for people.
///
/// # Errors
/// A record that cannot be read at all.
pub fn verify(ledger: &mut dyn Ledger) -> Result<Vec<String>, StoreError> {
    let book = Book::new(ledger);
    let mut problems = Vec::new();
    let mut used = Vec::new();
    let mut held: BTreeMap<Attachment, BTreeSet<Addr>> = BTreeMap::new();
    let mut owned: BTreeMap<Owner, BTreeSet<Addr>> = BTreeMap::new();
    let mut waiting = BTreeSet::new();
    for entry in book.slots() {
        let (address, slot) = entry?;
        used.push(Span::single(address));
        waiting.extend(waiting_key(address, &slot).map(|key| (address, key)));
        let Slot::Leased(lease) = slot else { continue };
        if lease.holders.is_empty() && !lease.sticky {
            problems.push(format!("{address} is leased to nobody"));
        }
        for holder in &lease.holders {
            if !held.entry(holder.attachment.clone()).or_default().insert(address) {
                problems.push(format!("{address} is leased twice to {}", holder.attachment));
            }
        }
        match (&lease.owner, lease.sticky) {
            (Some(owner), true) => {
                owned.entry(owner.clone()).or_default().insert(address);
            }
            (None, true) => problems.push(format!("{address} is kept for no owner")),
            (_, false) => {}
        }
    }
    compare("attachment", &held, book.attachments(), &mut problems)?;
    compare("owner", &owned, book.owners(), &mut problems)?;
    let queued = book.waiting().collect::<Result<BTreeSet<_>, _>>()?;
    for (address, _) in waiting.symmetric_difference(&queued) {
        problems.push(format!("{address} and the queue of released addresses disagree"));
    }
    let spans = book.used().collect::<Result<Vec<_>, _>>()?;
    if !Spans::union(used).iter().eq(spans) {
        problems.push("the spans of used addresses do not fit the addresses".to_owned());
    }
    Ok(problems)
}

fn compare<T: Ord + std::fmt::Display>(
    what: &str,
    expected: &BTreeMap<T, BTreeSet<Addr>>,
    index: impl Iterator<Item = Result<(T, Vec<Addr>), StoreError>>,
    problems: &mut Vec<String>,
) -> Result<(), StoreError> {
    let mut seen = 0;
    for entry in index {
        let (of, addresses) = entry?;
        seen += 1;
        let found: BTreeSet<Addr> = addresses.iter().copied().collect();
        if found.len() != addresses.len() || expected.get(&of) != Some(&found) {
            problems.push(format!("the {what} {of} and its addresses disagree"));
        }
    }
    if seen != expected.len() {
        problems.push(format!("the index has {seen} of {} {what}s", expected.len()));
    }
    Ok(())
}
