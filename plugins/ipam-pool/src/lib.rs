//! Addresses from pools: the IPAM plugin `ipam-pool`.
//!
//! A pure allocator ([`Allocator`]) decides over a table ([`store::Ledger`]) that changes as a whole;
//! what stands above [`Store`] does not know whether this node holds the whole pool or blocks of it.

mod addr;
mod allocator;
mod beside;
mod blocks;
mod book;
mod cli;
mod error;
mod identity;
mod listing;
mod network;
mod options;
mod plugin;
mod pool_file;
mod range;
mod reach;
mod set;
mod slot;
mod spans;
pub mod store;
mod verify;

pub use addr::{Addr, Family};
pub use allocator::{AllocError, Allocator, Conflict, Grant, Order, Rules, Seeker};
pub use blocks::within_blocks;
pub use error::Error;
pub use identity::{Attachment, Holder, Millis, Owner};
pub use listing::{list, look_up, put_back};
pub use network::{AskError, Config, Network, NetworkError};
pub use options::{Probe, Reservations, Sticky};
pub use plugin::{CONFLICTS, IpamPool, now, place};
pub use pool_file::{PoolFile, PoolFileError};
pub use range::{Range, RangeError, RangeSpec};
pub use set::{Limits, Refusal, Set, SetError};
pub use slot::{Kept, Lease, Slot};
pub use spans::{Span, Spans};
pub use store::Store;
pub use verify::verify;
