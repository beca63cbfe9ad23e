//! The stores of leases: an ordered key-value table with transactions.

mod backup;
mod crash_handler;
mod dirs;
mod disk_space;
mod error;
mod host;
mod index_txn;
mod journal;
mod lmdb;
mod lock;
mod memory;
pub(crate) mod record;
mod regular_file;
mod unused;
mod version;

pub use backup::{BackupFile, BackupPart};
pub use crash_handler::CrashHandler;
pub use dirs::{PoolKey, StoreDirs};
pub use error::StoreError;
pub(crate) use error::remedy;
pub use host::HostStore;
pub(crate) use host::boot_id;
pub use memory::MemoryStore;

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A transaction of a pool's table, which becomes visible as a whole or not at all.
pub trait KvTxn {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The entry with the largest key that is at most `key`.
    fn last_at_or_before(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// The entry with the smallest key that is at least `key`.
    fn first_at_or_after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// Sets the value of a key.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes a key; an absent key is no error.
    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError>;
}

/// The number of releases in one transaction.
const RELEASES_PER_CHANGE: usize = 64;

/// Why a transaction was rolled back.
enum Cause<E> {
    Work(E),
    Store(StoreError),
}

impl<E> From<StoreError> for Cause<E> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<E: From<StoreError>> Cause<E> {
    fn into(self) -> E {
        match self {
            Self::Work(error) => error,
            Self::Store(error) => error.into(),
        }
    }
}

/// The store of one pool's leases, as the allocator needs it.
pub trait Store {
    /// Does `work` in a transaction, with exclusive access to the pool. Commits if it succeeds, else rolls back.
    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E>;

    /// Does `work` in a transaction and rolls it back in any case.
    fn dry_run<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        let outcome = self.change(|txn| Err::<std::convert::Infallible, _>(Cause::Work(work(txn))));
        match outcome {
            Err(Cause::Work(result)) => result,
            Err(Cause::Store(error)) => Err(error.into()),
            Ok(never) => match never {},
        }
    }

    /// Does `work` for each item, many of them in one transaction, or one of them if the disk is full: releasing
    /// thousands of addresses must need no more disk space than releasing one.
    ///
    /// # Errors
    /// The work's, or the store's. What was done before stays.
    fn change_in_batches<I, T, E: From<StoreError>>(
        &mut self,
        items: &[I],
        mut work: impl FnMut(&mut dyn KvTxn, &I) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let mut done = Vec::with_capacity(items.len());
        let mut change = |some: &[I]| {
            self.change(|txn| {
                let each = some.iter().map(|item| work(txn, item).map_err(Cause::Work));
                each.collect::<Result<Vec<T>, Cause<E>>>()
            })
        };
        for some in items.chunks(RELEASES_PER_CHANGE) {
            match change(some) {
                Err(Cause::Store(StoreError::Full { .. })) if some.len() > 1 => {
                    for one in some.chunks(1) {
                        done.extend(change(one).map_err(Cause::into)?);
                    }
                }
                changed => done.extend(changed.map_err(Cause::into)?),
            }
        }
        Ok(done)
    }
}
