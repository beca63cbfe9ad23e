use crate::lease_table::LeaseTable;
use crate::store::{KvTxn, StoreError};
use crate::{Addr, AddressState};

/// All addresses of a pool that are or were in use, in order.
///
/// # Errors
/// The store's.
pub fn list_addresses(txn: &mut dyn KvTxn) -> Result<Vec<(Addr, AddressState)>, StoreError> {
    LeaseTable::new(txn).states().collect()
}

/// What is known about one address; `None` where it was never used.
///
/// # Errors
/// The store's.
pub fn find_address(txn: &mut dyn KvTxn, address: Addr) -> Result<Option<AddressState>, StoreError> {
    LeaseTable::new(txn).read_state(address)
}

/// Sets what is known about an address that nothing is known about, with all that refers to it.
///
/// # Errors
/// The store's.
pub fn restore_address(txn: &mut dyn KvTxn, address: Addr, state: &AddressState) -> Result<(), StoreError> {
    LeaseTable::new(txn).restore(address, state)
}
