//! The LANs of this node: what is asked for, what stands, and how the one becomes the other.
//!
//! Nothing here knows where LANs come from (a folder, an API server) and who wants to know of them (the
//! status file, the kubelet). [`NodeLans::pass`] is one look at everything, and does what is to be done;
//! whoever hears of a change calls it.

mod apply;
mod decision;
mod declared;
mod groups;
mod namespaces;
pub(crate) mod observe;
mod pass;
mod put_right;
mod record_set;
mod records;
mod report;
mod taps;
mod underlay;

pub(crate) use declared::{Declaration, Declared, Mistaken, Note};
pub(crate) use namespaces::NETNS_DIR;
pub(crate) use pass::{Dirty, NodeLans, Outcome};
