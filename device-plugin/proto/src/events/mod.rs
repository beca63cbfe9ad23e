//! How a process hears of files that change: the kernel tells, nobody asks now and then.
//!
//! Each source marks in [`Wake`] what may have changed; whoever waits there is woken once for all that came meanwhile.

mod dirty;
mod files;
mod wake;

pub use dirty::Dirty;
pub use files::{FileWatch, WatchedFolder};
pub use wake::Wake;
