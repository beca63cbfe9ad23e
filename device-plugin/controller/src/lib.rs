//! The cluster's part of the daemon: it watches the API server and tells the node's part what that needs ([`Mirror`],
//! [`Pods`], [`DeletedVms`]), and it hears that part's status and writes it to the API server. It has a Kubernetes client
//! and does not use netlink.
//!
//! Each node writes its report into an object of its own per LAN ([`LanNodeWriter`]), on change only. One node, the
//! leader ([`Election`]), aggregates them in the LANs' status and removes the finalizer of deleted LANs ([`Leader`]).

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

mod aggregate_status;
mod claim_references;
mod deleted_vms;
mod election;
mod event_dedup;
mod event_publisher;
mod guarded;
mod guest_bindings;
mod lan_node_writer;
mod lan_object;
mod leader;
mod list_lans;
mod mirror;
mod mtu;
mod net_attach_defs;
mod pending_pods;
mod pods;
mod pools;
mod reports;
mod stores;
mod uninstall;

pub use aggregate_status::{AggregateInput, AggregatedStatus, FINALIZER, aggregate_status};
pub use deleted_vms::DeletedVms;
pub use election::{Election, LEASE, Timing};
pub use lan_node_writer::{LanNodeWriter, LanReport, Reports, object_name};
pub use lan_object::MirroredLan;
pub use leader::Leader;
pub use list_lans::list_lan_files;
pub use mirror::{MIRROR, Mirror, MirrorState};
pub use pods::Pods;
pub use pools::{NodeReader, PoolApi, PoolLeader, PoolMirror, PoolNodeWriter, Rights, answer_pool_requests};
pub use reports::reports;
pub use uninstall::{ClusterUninstallOptions, UninstallError, uninstall};

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let words = inner.to_string();
        // The errors of `kube` repeat their sources in their own text.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = inner.source();
    }
    text
}

/// An object that was deleted meanwhile needs nothing more, and one that changed is seen again.
pub(crate) fn ignore_not_found_or_conflict<T>(answer: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
