//! What the daemon's two parts say to each other: one connection on `/run/k8slan/controller/link.sock`.
//!
//! The node's part listens and speaks first ([`FromNode::Hello`]), the cluster's part answers ([`FromCluster::Hello`]). Then
//! both send when something changes. The cluster's part sends objects of the API server: first all that it has, one after
//! the other, and when a kind is complete [`Change::Complete`], after which the node's part removes what it has of that
//! kind and was not sent; then changes. Each is acknowledged when it is on disk where it belongs there, or refused with a
//! reason. The node's part sends its status, the virtual machines that it keeps addresses for and what it has to say of
//! pools, and what is to be asked of the API server about blocks of pools ([`FromNode::PoolRequest`]). An answer of many
//! objects comes in several messages.
//!
//! A message is its length (four bytes, big-endian) and the JSON of a Rust type; the types' own parsers check what
//! arrives. The node's part is privileged and its peer is not: it takes one connection, limits the length of messages,
//! their rate and the number of objects, and acts on one message after the other.
//!
//! Where both parts are one process, the same code runs over a pair of streams in memory.

mod answer_parts;
mod client;
mod frame;
mod lan_file;
mod limits;
mod message;
mod queue;
mod rate;
mod server;
mod snapshot_cache;

pub use client::{Answer, Link, PoolRequest, Presence};
pub use lan_file::{MAX_LAN_FILE, lan_file_name, lan_of_file, with_hostname};
pub use message::{Change, FromCluster, FromNode, Kind, LanObject, Object, ObjectKey};
pub use queue::Queue;
pub use server::{ClusterObjects, LinkServer, Published};
pub use snapshot_cache::SnapshotCache;

/// The socket's file name, in a folder of its own.
pub const SOCKET: &str = "link.sock";
