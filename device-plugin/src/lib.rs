//! The node daemon: LANs from a cluster or a folder, built on this node and handed to its pods.

mod attachments;
mod capture;
pub mod check_host;
pub mod cli;
mod daemon;
mod device_catalog;
mod events;
mod handed_out;
mod health_sources;
pub mod inspect;
mod installer;
pub mod kubelet;
mod lan_files;
mod lans;
mod leftovers;
mod node_loop;
mod overview;
mod readiness;
mod status_views;
mod sweep;
mod udp_port;
mod why;
