//! What the node's part publishes: its status, in a file for people and to the cluster's part; and how a LAN's file says
//! what only the API server knows.

mod mirror_annotations;
mod node_status;
mod note;
mod pool_note;
mod queries;
pub mod status_file;

use std::collections::BTreeSet;

pub use mirror_annotations::MirrorAnnotations;
pub use node_status::{LanStatus, NodeStatus, RemovedSpoke, STATUS_FILE, SpokeStatus};
pub use note::Note;
pub use pool_note::{PoolNote, PoolNotes};
pub use queries::{condition, holds, users};

/// Virtual machines, each `<namespace>/<name>`.
pub type VmNames = BTreeSet<String>;
