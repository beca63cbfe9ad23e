//! The IPAM plugin `ipam-pool`: gives addresses from pools.
//!
//! The allocator ([`Allocator`]) decides without I/O, within a transaction of a key-value table ([`store::KvTxn`]).
//! What of a pool this node hands out, it gets as sets ([`RangeSet`]): all of it, the node's part, or the blocks that the node has.

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

mod address_state;
mod allocate;
mod allocator;
mod blocks;
mod cli;
mod error;
mod floating_owner;
mod identity;
mod lease_table;
mod listing;
mod namespaces;
mod network;
mod network_error;
mod network_scope;
mod node_parts;
mod node_settings;
mod options;
mod plugin;
mod pod_claim;
mod pool_document;
mod pool_file;
mod pool_file_error;
mod pool_folder;
mod pool_object;
mod pool_overlap;
mod range;
mod range_set;
mod replacement;
pub mod store;
mod unused_stores;
mod verify;

pub use address_state::{AddressState, Lease, StickyLease};
pub use allocator::{AllocError, Allocator, ConflictOutcome, Grant, LeaseRequest, Order, Rules};
pub use blocks::BlockError;
pub use error::Error;
pub use identity::{Attachment, LeaseHolder, Millis, Owner};
pub use lan::pool::{Range, RangeError};
pub use listing::{find_address, list_addresses, restore_address};
pub use namespaces::{AllowedNamespaces, NamespaceError, NamespaceRefusal};
pub use net_types::{Addr, AddrRange, AddrSet, Family};
pub use network::{Config, Network};
pub use network_error::{NetworkError, RequestedIpsError};
pub use network_scope::ReadBridgeError;
pub use options::{Reservations, Sticky};
pub use plugin::IpamPool;
pub use pod_claim::ClaimError;
pub use pool_file::PoolFile;
pub use pool_file_error::PoolFileError;
pub use range::RangeSpec;
pub use range_set::{RangeSet, RangeSetError, Refusal, Restrictions};
pub use store::Store;
pub use verify::verify;
