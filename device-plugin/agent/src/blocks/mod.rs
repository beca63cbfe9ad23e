//! What this node has of the cluster's pools. `ipam-pool` hands out addresses of what is granted here, and asks no one.
//!
//! [`Manager`] decides, with [`pool_blocks::Node`] inside; [`BlockManager`] does what it says: requests go to the API server by
//! the link, what must survive goes to disk, and grants to `ipam-pool`.

mod checks;
mod geometry;
mod manager;
mod pool_folder;
mod runner;
mod stored;
mod usage;

pub use pool_folder::{KnownPools, PoolFolder, Pools};
pub use runner::{BlockManager, Claims, LinkEvent, LinkEvents};
