//! Pods as a cluster has them: a kubelet hands the spokes out, Debian's containerd runs sandboxes and containers
//! and calls the plugins by its own CNI configuration.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod host;
mod lists;
mod pods;
mod restarts;

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let mut trials = pods::trials();
    trials.extend(restarts::trials());
    trials.extend(lists::trials());
    trials
}

/// Makes a check of a trial: what is not so is its failure.
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(testnet::Stop::Failed(format!($($text)+)));
        }
    };
}
pub(crate) use check;

/// A failure from a text.
pub(crate) fn failed(text: impl ToString) -> testnet::Stop {
    testnet::Stop::Failed(text.to_string())
}
