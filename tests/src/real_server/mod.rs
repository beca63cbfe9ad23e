//! Kubernetes' own API server for tests, and a client of it.

mod client;
mod server;

pub use client::{ClusterClient, definitions_of_multus};
pub use server::{ADMIN, DAEMON, Place, Program, RealServer, User};
