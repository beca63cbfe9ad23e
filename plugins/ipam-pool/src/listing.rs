use crate::lease_table::LeaseTable;
use crate::store::{KvTxn, StoreError};
use crate::{Addr, AddressState};

/// The states of all addresses of a pool that are or were in use, in order.
pub fn list_addresses(txn: &mut dyn KvTxn) -> Result<Vec<(Addr, AddressState)>, StoreError> {
    LeaseTable::new(txn).states().collect()
}

/// The state of one address; `None` if it was never used.
pub fn find_address(txn: &mut dyn KvTxn, address: Addr) -> Result<Option<AddressState>, StoreError> {
    LeaseTable::new(txn).read_state(address)
}

/// Writes the state of an unused address and all index entries.
pub fn restore_address(txn: &mut dyn KvTxn, address: Addr, state: &AddressState) -> Result<(), StoreError> {
    LeaseTable::new(txn).restore(address, state)
}
