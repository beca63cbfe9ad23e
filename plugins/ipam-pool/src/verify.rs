use std::collections::{BTreeMap, BTreeSet};

use crate::lease_table::{LeaseTable, queue_key_of};
use crate::store::{KvTxn, StoreError};
use crate::{Addr, AddrRange, AddrSet, AddressState, Attachment, Owner};

/// Compares all records of a pool and describes inconsistencies.
///
/// # Errors
/// A record cannot be parsed.
pub fn verify(txn: &mut dyn KvTxn) -> Result<Vec<String>, StoreError> {
    let table = LeaseTable::new(txn);
    let mut problems = Vec::new();
    let mut used = Vec::new();
    let mut held: BTreeMap<Attachment, BTreeSet<Addr>> = BTreeMap::new();
    let mut owned: BTreeMap<Owner, BTreeSet<Addr>> = BTreeMap::new();
    let mut queued = BTreeSet::new();
    for entry in table.states() {
        let (address, state) = entry?;
        used.push(AddrRange::single(address));
        queued.extend(queue_key_of(address, &state).map(|key| (address, key)));
        let AddressState::Leased(lease) = state else { continue };
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
            (None, true) => problems.push(format!("{address} is sticky, but has no owner")),
            (_, false) => {}
        }
    }
    compare("attachment", &held, table.indexed(), &mut problems)?;
    compare("owner", &owned, table.indexed(), &mut problems)?;
    let found = table.queued().collect::<Result<BTreeSet<_>, _>>()?;
    for (address, _) in queued.symmetric_difference(&found) {
        problems.push(format!("{address} and its entry in the queue of released addresses differ"));
    }
    let indexed = table.used_ranges().collect::<Result<Vec<_>, _>>()?;
    if !AddrSet::union(used).iter().eq(indexed) {
        problems.push("the index of used addresses differs from the addresses".to_owned());
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
            problems.push(format!("the index entry of {what} {of} differs from its addresses"));
        }
    }
    if seen != expected.len() {
        problems.push(format!("the index has {seen} of {} {what}s", expected.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;
    use crate::store::MemoryStore;

    /// A store in which one address rests.
    fn store(address: Addr, since: Millis) -> MemoryStore {
        let mut store = MemoryStore::default();
        let state = AddressState::Resting { since, queue: 0, last: None, cooldown: None };
        LeaseTable::new(&mut store).write_state(address, &state).unwrap();
        store
    }

    #[test]
    fn an_address_and_its_place_in_the_queue_are_compared() {
        let address = Addr::from(std::net::IpAddr::from([10, 0, 0, 2]));
        let since = Millis(5);
        assert_eq!(verify(&mut store(address, since)).unwrap(), [""; 0]);
        let state = AddressState::Resting { since, queue: 0, last: None, cooldown: None };
        let key = queue_key_of(address, &state).unwrap();
        let mut lost = store(address, since);
        lost.remove(&key).unwrap();
        let mut other = store(address, since);
        other
            .put(
                &queue_key_of(
                    address,
                    &AddressState::Resting { since, queue: 1, last: None, cooldown: None },
                )
                .unwrap(),
                &[],
            )
            .unwrap();
        for mut store in [lost, other] {
            let problems = verify(&mut store).unwrap();
            assert!(
                problems.iter().any(|problem| problem.contains("10.0.0.2 and its entry in the queue")),
                "{problems:?}"
            );
        }
    }
}
