//! What one process of the cluster does for all: which pools are accepted, and what comes back from nodes and owners that are gone.

mod floating;
mod free;
mod pools;

pub use free::{Leader, PoolSnapshot};
pub use pools::{PoolClaim, PoolStage, PoolStep, decide_pools};
