//! The agent socket, `/run/k8slan/agent.sock`: the node's part answers the programs of this node over HTTP/1.1.
//! `/status` is the text of `status.json`, `/metrics` is Prometheus' text, `/readyz` and `/livez` have the usual
//! meaning; `POST /pools/<name>/claim` waits for addresses of a pool of the cluster. It answers root only. The cluster's part
//! cannot reach it, and so cannot keep the node's probe from it.

mod claims;
mod client;
mod server;

pub use claims::{ClaimAnswer, FloatingOwner, MAX_CLAIMS, NoCluster, PoolClaim, PoolClaims};
pub use client::get_once;
pub use server::serve;

/// The socket's file name in the run folder.
pub const SOCKET: &str = "agent.sock";
/// How long a client may be silent.
const IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
