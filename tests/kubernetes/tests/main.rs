//! k8slan's image and manifests on a real Kubernetes, in the order in which the trials stand here.
//!
//! One cluster is for all: those that only add pods and LANs of their own run beside one another, those that end something
//! have it for themselves.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod changes;
mod chart;
mod install;
mod lans;
mod migration;
mod mistakes;
mod nodes;
mod plugin;
mod pods;
mod rbac;
mod readme;
mod removal;
mod reports;
mod restarts;
mod scale;
mod shared;
mod site;
mod upgrade;
mod vm;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut trials = install::trials();
    trials.extend(readme::trials());
    trials.extend(pods::trials());
    trials.extend(lans::trials());
    trials.extend(mistakes::trials());
    trials.extend(plugin::trials());
    trials.extend(vm::trials());
    trials.extend(changes::trials());
    trials.extend(reports::trials());
    trials.extend(restarts::trials());
    trials.extend(upgrade::trials());
    trials.extend(nodes::trials());
    trials.extend(scale::trials());
    trials.extend(removal::trials());
    trials.extend(chart::trials());
    trials.extend(migration::trials());
    trials.extend(rbac::trials());
    testnet::main(trials)
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
