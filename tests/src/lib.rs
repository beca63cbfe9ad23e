//! What the end-to-end tests and the demo share: simulated nodes with the daemon on each, LANs as files, and
//! pods attached by the plugin as a container runtime does it; and doubles of what the daemon talks to.

pub mod access;
pub mod apiserver;
mod arp;
mod at_once;
mod attach;
mod broadcast;
pub mod containerd;
mod example;
pub mod go_programs;
pub mod kills;
pub mod kubelet;
mod lan_file;
mod metric;
pub mod ndp;
mod network;
pub mod pcap;
pub mod real_server;
pub mod registry;
mod responder;
mod router;
mod service;
mod traces;
mod underlay;
pub mod vlan_ports;
mod worker;

pub use arp::{announcement, mac_of};
pub use at_once::at_once;
pub use attach::{addresses, asked_again, call_in, joined, on_spoke};
pub use broadcast::is_seen;
pub use example::Example;
pub use lan_file::LanFile;
pub use metric::metric;
pub use network::Network;
pub use responder::TaggedHost;
pub use router::route;
pub use service::{Heard, Session, call, hears, serve};
pub use traces::Traces;
pub use underlay::underlay;
pub use worker::Worker;
