//! Pools of the cluster at the API server: what the node asks about blocks is carried out ([`answer_pool_requests`]), and it is
//! told of the pools ([`PoolMirror`]). One node, the leader, accepts them and frees what nodes have that are gone ([`PoolLeader`]).

mod acceptance;
mod api;
mod claim_api;
mod conditions;
mod convert;
mod events;
mod executor;
mod files;
mod floating;
mod for_node;
mod foreign;
mod held;
mod ip_claims;
mod leader;
mod leader_cache;
mod mirror;
mod namespaces;
mod node_writer;
mod owners;
mod reservations;
mod status;
mod watched;

pub use api::{NodeReader, PoolApi, Rights};
pub use executor::answer_pool_requests;
pub use leader::PoolLeader;
pub use mirror::PoolMirror;
pub use node_writer::PoolNodeWriter;
