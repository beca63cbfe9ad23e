//! Where leases are kept: an ordered table that changes as a whole.

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
mod version;

pub use backup::{BackupFile, BackupPart};
pub use crash_handler::CrashHandler;
pub use dirs::{PoolKey, StoreDirs};
pub use error::StoreError;
pub(crate) use error::remedy;
pub use host::HostStore;
pub use memory::MemoryStore;

use crate::AddrSet;

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// One pool's table, inside a change that becomes visible as a whole or not at all.
pub trait KvTxn {
    /// The value of a key.
    ///
    /// # Errors
    /// The store's.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The entry with the largest key that is not above `key`.
    ///
    /// # Errors
    /// The store's.
    fn last_at_or_before(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// The entry with the smallest key that is not below `key`.
    ///
    /// # Errors
    /// The store's.
    fn first_at_or_after(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// Sets the value of a key.
    ///
    /// # Errors
    /// The store's.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes a key; one that is absent is success.
    ///
    /// # Errors
    /// The store's.
    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError>;
}

/// How many of many releases are one change.
const RELEASES_PER_CHANGE: usize = 64;

/// Why a change was not made.
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

/// What the allocator needs of the place where one pool's leases are.
///
/// Nothing above this trait knows whether the node holds the whole pool, as on a single host, or
/// blocks of it that it claimed from a cluster.
pub trait Store {
    /// Which of `wanted` this node may hand out without asking anybody.
    ///
    /// # Errors
    /// The store's.
    fn held(&self, wanted: &AddrSet) -> Result<AddrSet, StoreError>;

    /// Asks for more of `wanted`, and says whether there is more now. A single host holds everything
    /// from the start.
    ///
    /// # Errors
    /// The store's.
    fn claim(&mut self, wanted: &AddrSet) -> Result<bool, StoreError>;

    /// Does `work` alone on the pool: nobody else reads or changes it meanwhile. Its changes are kept
    /// if it succeeds, and none of them if it does not.
    ///
    /// # Errors
    /// The work's, or the store's.
    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E>;

    /// Does `work` and takes its changes back, whatever it says.
    ///
    /// # Errors
    /// The work's, or the store's.
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

    /// Does `work` for each item, some of them in one change, and less where the disk is full: to give thousands of
    /// addresses back must need no more room than to give one back.
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
