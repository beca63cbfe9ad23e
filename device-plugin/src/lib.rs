//! The node daemon: LANs from a cluster or a folder, built on this node and handed to its pods.

pub mod cluster;
pub mod health;
pub mod kubelet;
