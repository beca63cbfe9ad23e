//! What attachments have on this node outside their pods: found by links' marks and the plugins' records, and taken down by
//! the plugins themselves.

mod find;
mod key;
mod live;
mod liveness;
mod programs;

pub(crate) use find::{Unseen, find_attachments};
pub(crate) use key::{AttachmentKey, Traces};
pub(crate) use live::find_live_attachments;
pub(crate) use liveness::{NETNS_DIR, is_live};
pub(crate) use programs::{Lease, Leases, PluginPrograms, StickyOwner, aside_name};
