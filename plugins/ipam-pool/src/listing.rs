use crate::book::Book;
use crate::store::{Ledger, StoreError};
use crate::{Addr, Slot};

/// All addresses of a pool that are or were in use, in order.
///
/// # Errors
/// The store's.
pub fn list(ledger: &mut dyn Ledger) -> Result<Vec<(Addr, Slot)>, StoreError> {
    Book::new(ledger).slots().collect()
}

/// What is known about one address; `None` where it was never used.
///
/// # Errors
/// The store's.
pub fn look_up(ledger: &mut dyn Ledger, address: Addr) -> Result<Option<Slot>, StoreError> {
    Book::new(ledger).slot(address)
}

/// Sets what is known about an address that nothing is known about, with all that refers to it.
///
/// # Errors
/// The store's.
pub fn put_back(ledger: &mut dyn Ledger, address: Addr, slot: &Slot) -> Result<(), StoreError> {
    Book::new(ledger).put_back(address, slot)
}
