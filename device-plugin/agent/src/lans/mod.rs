//! The LANs of this node: what is asked for, what stands, and how the one becomes the other.
//!
//! Nothing here knows where LANs come from (a folder, an API server) and who wants to know of them (the
//! status file, the kubelet). [`Reconciler::reconcile`] observes what changed, decides, and applies the
//! steps; whoever hears of a change calls it.

mod apply;
mod decision;
mod declared;
mod multicast_groups;
mod namespaces;
pub mod observe;
mod reconcile;
mod record_set;
mod records;
mod repair_log;
mod status_builder;
mod taps;
mod underlay;

pub use declared::{Declaration, Declared, Mistaken};
pub use reconcile::{Outcome, Reconciler};
