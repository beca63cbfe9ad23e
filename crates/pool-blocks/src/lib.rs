//! How the nodes of a cluster share pools without a lock: the protocol, pure. Nothing here does I/O, reads a clock or knows Kubernetes.
//!
//! - [`Geometry`] cuts a pool into blocks and says in which order a node claims them; [`Key`] names the objects.
//! - [`Node`] is the state machine of one node: it claims blocks and floating addresses, says what may be allocated from them
//!   ([`Node::may_use`]), and returns them.
//! - [`Leader`] frees what nodes have that are gone, and addresses whose owners are.
//! - [`decide_pools`] accepts pools that do not overlap.
//!
//! Every write to the API server is a create, or has the UID and resourceVersion that it was decided for. What is safe and why
//! stands in `docs/decisions/0155-blocks-without-a-lock.md`; the module `simulation` tries it.

mod block_length;
mod clock;
mod disk;
mod geometry;
mod hash;
mod leader;
mod name;
mod node;
mod object;
mod prefix;
mod request;
#[cfg(test)]
mod simulation;
mod weakness;

pub use block_length::{BlockLengths, block_length};
pub use clock::{BootTime, Horizon};
pub use disk::{Disk, DiskVersion, Phase, Record, Run};
pub use geometry::Geometry;
pub use leader::{Leader, PoolClaim, PoolSnapshot, PoolStage, PoolStep, decide_pools};
pub use name::{Key, NodeName, Owner, Place, PoolName};
pub use node::{Conflict, Input, Leases, Node, Output, Progress, Refusal, Want};
pub use object::{Holder, NodeState, Object, ResourceVersion, Spec, Uid};
pub use prefix::{Prefix, PrefixError};
pub use request::{Answer, ClaimUser, CurrentPool, Float, Request, RequestId};
