//! What the end-to-end tests and the demo share: simulated nodes with the daemon on each, LANs as files, and
//! pods attached by the plugin as a container runtime does it; and doubles of what the daemon talks to.

pub mod apiserver;
mod attach;
pub mod kubelet;
mod lan_file;
mod network;
mod responder;
mod traces;
mod underlay;
mod worker;

pub use attach::{joined, on_spoke};
pub use lan_file::LanFile;
pub use network::Network;
pub use responder::TaggedHost;
pub use traces::Traces;
pub use underlay::underlay;
pub use worker::Worker;
