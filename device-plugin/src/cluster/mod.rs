//! The cluster's side of the daemon.
//!
//! A node must build its LANs while the API server is away, above all after a reboot. So the objects
//! are mirrored as files into a folder of the node's state ([`Mirror`]), and LANs are built from that
//! folder by the very code that builds them from a folder of one's own.

//!
//! Each node writes what it sees into an object of its own per LAN ([`Reporter`]), on change only. One node, the
//! leader ([`Election`]), sums them up in the LANs' status and lets go of deleted LANs ([`Leader`]).

mod announce;
mod as_k8slan_go;
mod definitions;
mod election;
mod guest_bindings;
mod leader;
mod machines;
mod mirror;
mod mtu;
mod object;
mod once;
mod pods;
mod publisher;
mod report;
mod summary;
mod uninstall;
mod unplaced;

pub use election::{Election, LEASE, Timing};
pub use leader::Leader;
pub(crate) use machines::Machines;
pub use mirror::{Hearing, Mirror, MirrorError};
pub use object::{FoundLan, file_name};
pub(crate) use once::lans as lans_once;
pub(crate) use pods::Pods;
pub use report::{LanReport, Reporter, Reports, object_name};
pub use summary::{FINALIZER, Seen, Summary, summarize};
pub use uninstall::{Leftovers, UninstallError, uninstall};

/// An error and everything that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let words = inner.to_string();
        // kube's errors state their sources themselves.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = inner.source();
    }
    text
}
