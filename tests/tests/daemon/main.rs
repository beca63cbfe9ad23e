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

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(exit) = cluster::child().or_else(kubelet::child) {
        return exit;
    }
    testnet::run_files(
        testnet::files![cluster, convergence, daemon, isolation, kubelet, lans, no_multicast, soak, traffic],
        LONG,
    )
}

/// The trials that take longest.
const LONG: &[&str] = &[];
