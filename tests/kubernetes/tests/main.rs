//! k8slan's image and manifests on a real Kubernetes.
//!
//! One cluster is for all: those that only add pods and LANs of their own run beside one another, those that end something
//! have it for themselves.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod by_hand;
mod changes;
mod chart;
mod clocks;
mod floating;
mod import;
mod install;
mod lans;
mod migration;
mod mistakes;
mod nodes;
mod plugin;
mod pods;
mod pool_files;
mod pools;
mod rbac;
mod readme;
mod removal;
mod reports;
mod restarts;
mod scale;
mod shared;
mod site;
mod upgrade;
mod version_before;
mod vm;

use std::process::ExitCode;

use testnet::Group;

/// So many trials that leave each other alone run at a time: they wait for kubelets, and hardly work themselves.
const BESIDE: usize = 5;
/// Those that have the cluster for themselves: a second one beside it would need more inotify instances than a user has (128,
/// `fs.inotify.max_user_instances`).
const ALONE: usize = 1;

fn main() -> ExitCode {
    let modules = [
        // The longest first.
        scale::trials(),
        chart::trials(),
        install::trials(),
        plugin::trials(),
        readme::trials(),
        changes::trials(),
        mistakes::trials(),
        vm::trials(),
        pods::trials(),
        lans::trials(),
        pools::trials(),
        pool_files::trials(),
        floating::trials(),
        import::trials(),
        by_hand::trials(),
    ];
    let beside = modules.into_iter().flatten().collect();
    let modules = [
        by_hand::alone_trials(),
        mistakes::alone_trials(),
        reports::trials(),
        clocks::trials(),
        restarts::trials(),
        upgrade::trials(),
        nodes::trials(),
        removal::trials(),
        migration::trials(),
        version_before::trials(),
    ];
    let alone = modules.into_iter().flatten().collect();
    testnet::main_of_groups(vec![
        Group { at_once: BESIDE, trials: beside },
        Group { at_once: ALONE, trials: alone },
        Group { at_once: 1, trials: rbac::trials() },
    ])
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
