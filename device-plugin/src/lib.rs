//! The node daemon: LANs from a cluster or a folder, built on this node and handed to its pods.

mod agent;
pub mod check_host;
pub mod cli;
pub mod cluster;
mod daemon;
mod events;
mod folder;
pub mod health;
pub mod inspect;
mod install;
mod kept_vms;
pub mod kubelet;
mod lans;
mod leftovers;
mod live_pods;
mod mirrored;
mod node_spokes;
mod readiness;
mod root_socket;
mod standalone;
mod status;
mod status_file;
mod sweep;
mod told;
mod udp_port;
