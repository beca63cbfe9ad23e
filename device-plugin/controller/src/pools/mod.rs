//! Pools of the cluster at the API server: what the node asks about blocks is carried out ([`answer_pool_requests`]), and it is
//! told of the pools ([`PoolMirror`]).

mod api;
mod convert;
mod executor;
mod for_node;
mod mirror;

pub use api::{NodeReader, PoolApi, Rights};
pub use executor::answer_pool_requests;
pub use mirror::PoolMirror;
