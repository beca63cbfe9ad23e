//! The files that the node's part and the cluster's part publish for each other and for people: their contents, and
//! how they are read and written.

pub mod live_pods;
mod mirror_annotations;
mod node_status;
mod note;
mod queries;
pub mod status_file;
pub mod sticky_vms;

pub use mirror_annotations::MirrorAnnotations;
pub use node_status::{LanStatus, NodeStatus, RemovedSpoke, STATUS_FILE, SpokeStatus};
pub use note::Note;
pub use queries::{condition, holds, users};
