//! The LANs of this node: the declared state, the observed state, and the steps from one to the other.
//!
//! This module does not know where LANs come from (a folder, an API server) or who uses their status (the status
//! file, the kubelet). [`Reconciler::reconcile`] observes what changed, decides, and applies the steps; it is called
//! after every change.

mod apply;
mod decision;
mod declared;
mod desired_records;
mod multicast_groups;
mod namespaces;
pub mod observe;
mod reconcile;
mod records;
mod repair_log;
mod status_builder;
mod taps;
mod underlay;

pub use declared::{Declaration, Declared, Mistaken};
pub use reconcile::{Outcome, Reconciler};
