//! How the daemon hears of changes: the kernel tells, nobody asks now and then.
//!
//! Each source marks in [`Wake`] what may have changed; whoever waits there is woken once for all that
//! came meanwhile.

mod dirty;
mod files;
mod links;
mod mounts;
mod wake;

pub(crate) use dirty::Dirty;
pub(crate) use files::{FileWatch, WatchedFolder};
pub(crate) use links::{LanLinkMonitors, watch_underlays};
pub(crate) use mounts::watch_mounts;
pub(crate) use wake::Wake;
