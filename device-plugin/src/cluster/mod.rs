//! The cluster's side of the daemon.
//!
//! A node must build its LANs while the API server is away, above all after a reboot. So the objects
//! are mirrored as files into a folder of the node's state ([`Mirror`]), and LANs are built from that
//! folder by the very code that builds them from a folder of one's own.

mod mirror;
mod object;

pub use mirror::{Hearing, Mirror, MirrorError};
pub use object::{FoundLan, file_name};
