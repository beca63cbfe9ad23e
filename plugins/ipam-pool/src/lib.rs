//! Addresses from pools: the IPAM plugin `ipam-pool`.
//!
//! A pure allocator ([`Allocator`]) decides over a table ([`store::Ledger`]) that changes as a whole;
//! what stands above [`Store`] does not know whether this node holds the whole pool or blocks of it.

mod addr;
mod allocator;
mod book;
mod identity;
mod listing;
mod range;
mod set;
mod slot;
mod spans;
pub mod store;
mod verify;

pub use addr::{Addr, Family};
pub use allocator::{AllocError, Allocator, Conflict, Grant, Order, Rules, Seeker};
pub use identity::{Attachment, Holder, Millis, Owner};
pub use listing::{list, look_up};
pub use range::{Range, RangeError, RangeSpec};
pub use set::{Limits, Refusal, Set, SetError};
pub use slot::{Kept, Lease, Slot};
pub use spans::{Span, Spans};
pub use store::Store;
pub use verify::verify;
