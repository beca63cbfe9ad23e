//! What a LAN is, as data: nothing here does I/O.
//!
//! [`SpokeRecord`] is what the node's daemon tells the plugin about a spoke; [`TapIndices`] keeps
//! which spoke has which `/dev/tapN` on a node.

mod key;
mod record;
mod tap_index;

pub use key::{LanKey, LanKeyError};
pub use record::{RecordError, SpokeRecord, SpokeState};
pub use tap_index::{SharedTapIndex, TapIndex, TapIndexError, TapIndices};
