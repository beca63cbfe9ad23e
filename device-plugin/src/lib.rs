//! The node daemon: LANs from a cluster or a folder, built on this node and handed to its pods.

pub mod cli;
