use std::panic;
use std::thread;

use testnet::Outcome;

/// Tries all of these at once, each in a thread: for what waits longer than it works, with a node of its own each.
///
/// # Errors
/// The first that failed, in the order of the items, when all have ended.
///
/// # Panics
/// If one of them did.
pub fn at_once<T: Send>(items: impl IntoIterator<Item = T>, body: impl Fn(T) -> Outcome + Sync) -> Outcome {
    thread::scope(|scope| {
        let body = &body;
        let running: Vec<_> = items.into_iter().map(|item| scope.spawn(move || body(item))).collect();
        let ended: Vec<_> = running.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ended.into_iter().try_for_each(|end| end.unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}
