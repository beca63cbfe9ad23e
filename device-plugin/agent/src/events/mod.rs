//! Sources of events in the kernel, which the daemon waits for instead of polling. [`proto::events`] watches files,
//! and has the wake that all sources mark.

mod links;
mod mounts;

pub(crate) use links::{LanLinkMonitors, watch_underlays};
pub(crate) use mounts::watch_mounts;
