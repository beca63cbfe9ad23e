//! How a process learns of changed files: by events of the kernel, without polling.
//!
//! Each source marks in [`Wake`] what may have changed; the loop that waits there wakes up once for all changes since
//! then.

mod dirty;
mod files;
mod wake;

pub use dirty::Dirty;
pub use files::{FileWatch, WatchedFolder};
pub use wake::Wake;
