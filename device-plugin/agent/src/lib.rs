//! The node's part of the daemon: builds LANs, offers spokes to the kubelet, repairs drift and sweeps what dead pods
//! left. It makes links and mounts, and has no Kubernetes client.

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

pub mod attachments;
pub mod blocks;
pub mod cluster_objects;
pub mod device_catalog;
mod events;
pub mod handed_out;
pub mod kubelet;
pub mod lan_files;
pub mod lans;
pub mod leftovers;
pub mod node_loop;
pub mod readiness;
pub mod status_views;
pub mod sweep;
pub mod udp_port;
