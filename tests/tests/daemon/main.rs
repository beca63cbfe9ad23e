//! The node's daemon: LANs, kubelet, API server.

mod cluster;
mod convergence;
mod daemon;
mod isolation;
mod kubelet;
mod lans;
mod no_multicast;
mod soak;
mod traffic;
mod upgrade;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(exit) = cluster::child().or_else(kubelet::child) {
        return exit;
    }
    testnet::run_waiting_files(
        testnet::files![
            cluster,
            convergence,
            daemon,
            isolation,
            kubelet,
            lans,
            no_multicast,
            soak,
            traffic,
            upgrade
        ],
        LONG,
    )
}

/// The trials that take longest.
const LONG: &[&str] = &[
    "cluster::two_hundred_nodes_leave_each_other_alone",
    "daemon::killed_anywhere_while_it_takes_down",
    "convergence::a_thousand_edits_end_as_a_fresh_start",
    "soak::pods_come_and_go_while_the_daemon_dies",
    "cluster::the_daemon_does_with_its_role_all_that_it_does_and_needs_all_of_it",
];
