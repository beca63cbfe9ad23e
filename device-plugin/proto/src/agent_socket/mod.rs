//! The agent socket, `/run/k8slan/agent.sock`: what the node's part tells the programs of this node, over
//! HTTP/1.1. `/status` is what `status.json` says, `/metrics` is Prometheus' text, `/readyz` and `/livez` are
//! what they are everywhere. It answers root only.
//!
//! The cluster's part has a socket of its own, `/run/k8slan/told/agent.sock`, with the same answers: whoever takes that
//! part over can hold its connections, and not those of the node's own probe.

mod client;
mod server;

pub use client::{Agent, Presence, get_once};
pub use server::{Callers, serve};

/// The sockets' name in the run folder and in the folder of what is told.
pub const SOCKET: &str = "agent.sock";
