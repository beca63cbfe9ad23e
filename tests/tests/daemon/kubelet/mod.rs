//! The kubelet's side of the daemon against a kubelet that behaves as the real one does.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod bad_calls;
mod lifecycle;
mod plugins;
mod restarts;
mod scale;

use std::process::ExitCode;

/// What this program does for a trial that started it again.
pub(crate) fn child() -> Option<ExitCode> {
    scale::child().or_else(bad_calls::child)
}

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let mut trials = lifecycle::trials();
    trials.extend(restarts::trials());
    trials.extend(bad_calls::trials());
    trials.extend(scale::trials());
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
