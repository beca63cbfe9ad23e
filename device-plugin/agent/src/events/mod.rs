//! How the daemon hears of changes in the kernel: it tells, nobody asks now and then. Files are watched by
//! [`proto::events`], which has the wake that all sources mark.

mod links;
mod mounts;

pub(crate) use links::{LanLinkMonitors, watch_underlays};
pub(crate) use mounts::watch_mounts;
