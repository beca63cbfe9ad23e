//! What attachments have on this node outside their pods: found by links' marks and the plugins' records, and removed
//! by the plugins themselves.

mod find;
mod key;
mod live;
mod liveness;
mod programs;

pub use find::{Unseen, find_attachments};
pub use key::{AttachmentKey, Traces};
pub use live::find_live_attachments;
pub use liveness::is_live;
pub use programs::{Lease, Leases, PluginPrograms, StickyOwner, aside_name};
