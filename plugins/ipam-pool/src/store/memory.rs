use std::collections::BTreeMap;
use std::ops::Bound;

use crate::Addr;
use crate::StickyLease;
use crate::store::{Entry, KvTxn, Store, StoreError};

/// A store in memory, for tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    table: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    /// The kept leases: what a reboot leaves.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn kept(&self) -> Result<BTreeMap<Addr, StickyLease>, StoreError> {
        let states = crate::list_addresses(&mut self.clone())?;
        Ok(states
            .iter()
            .filter_map(|(address, state)| Some((*address, StickyLease::from_state(state)?)))
            .collect())
    }
}

impl Store for MemoryStore {
    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.clone();
        work(self).inspect_err(|_| *self = before)
    }
}

impl KvTxn for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.table.get(key).cloned())
    }

    fn last_at_or_before(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let range = (Bound::Unbounded, Bound::Included(key));
        Ok(self.table.range::<[u8], _>(range).next_back().map(|(k, v)| (k.clone(), v.clone())))
    }

    fn first_at_or_after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let range = (Bound::Included(key), Bound::Unbounded);
        Ok(self.table.range::<[u8], _>(range).next().map(|(k, v)| (k.clone(), v.clone())))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.table.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.table.remove(key);
        Ok(())
    }
}
