//! The node daemon: LANs from a cluster or a folder, built on this node and handed to its pods.

mod agent;
mod attachments;
mod capture;
pub mod check_host;
pub mod cli;
pub mod cluster;
mod daemon;
mod device_catalog;
mod events;
pub mod health;
mod health_sources;
pub mod inspect;
mod installer;
mod k8slan_go;
pub mod kubelet;
mod lan_files;
mod lans;
mod leftovers;
mod node_loop;
mod overview;
mod published;
mod readiness;
mod root_socket;
mod status_views;
mod sweep;
mod udp_port;
mod why;
