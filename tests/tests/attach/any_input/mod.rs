//! Documents from outside, broken in any way: no panic, no hang, and an error that has something to say.
//!
//! What comes from a program that is trusted more than ourselves, the kernel, is left out.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod documents;
mod mutate;
mod plugins;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use testnet::{Outcome, Stop};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let mut trials = documents::trials();
    trials.extend(plugins::trials());
    trials
}

/// Runs a property; the failure is the smallest case found.
fn hold<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value) -> TestCaseResult) -> Outcome {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    TestRunner::new(config).run(strategy, property).map_err(|error| Stop::Failed(error.to_string()))
}
