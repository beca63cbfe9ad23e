//! The agent socket, `/run/k8slan/agent.sock`: what the node's part tells the programs of this node, over
//! HTTP/1.1. `/status` is what `status.json` says, `/metrics` is Prometheus' text, `/readyz` and `/livez` are
//! what they are everywhere. It answers root only.

mod client;
mod server;

pub(crate) use client::{Agent, Presence, ask_once};
pub(crate) use server::serve;

/// The socket's name in the run folder.
pub(crate) const SOCKET: &str = "agent.sock";
