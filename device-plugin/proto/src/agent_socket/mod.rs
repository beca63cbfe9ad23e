//! The agent socket, `/run/k8slan/agent.sock`: the node's part answers the programs of this node over HTTP/1.1.
//! `/status` is the text of `status.json`, `/metrics` is Prometheus' text, `/readyz` and `/livez` have the usual
//! meaning. It answers root only. The cluster's part cannot reach it, and so cannot keep the node's probe from it.

mod client;
mod server;

pub use client::get_once;
pub use server::serve;

/// The socket's file name in the run folder.
pub const SOCKET: &str = "agent.sock";
