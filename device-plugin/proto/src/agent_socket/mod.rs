//! The agent socket, `/run/k8slan/agent.sock`: the node's part answers the programs of this node over HTTP/1.1.
//! `/status` is the text of `status.json`, `/metrics` is Prometheus' text, `/readyz` and `/livez` have the usual
//! meaning. It answers root only.
//!
//! The cluster's part has a socket of its own, `/run/k8slan/told/agent.sock`, with the same answers: an attacker who
//! controls that part can use up its connections, and not those of the node's probe.

mod client;
mod server;

pub use client::{Agent, Presence, get_once};
pub use server::{Callers, serve};

/// The socket's file name in both folders.
pub const SOCKET: &str = "agent.sock";
