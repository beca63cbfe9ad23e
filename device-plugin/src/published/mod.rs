//! What the node's part and the cluster's part publish for each other and for people: the shapes of the files between
//! them, and reading and writing those files.

pub(crate) mod live_pods;
mod mirror_annotations;
mod node_status;
pub(crate) mod status_file;
pub(crate) mod sticky_vms;

pub(crate) use mirror_annotations::MirrorAnnotations;
pub(crate) use node_status::{Condition, LanStatus, NodeStatus, RemovedSpoke, STATUS_FILE, SpokeStatus};
