//! What a person asks of a node or a cluster.

mod capture;
mod check_host;
mod command_line;
mod inspect;
mod kubectl_import;
mod kubectl_plugin;
mod leases;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(
        testnet::files![capture, check_host, command_line, inspect, kubectl_import, kubectl_plugin, leases],
        LONG,
    )
}

/// The trials that take longest.
const LONG: &[&str] = &[];
