//! Pools of addresses.

mod bad_input;
mod blocks;
mod faults;
mod owners;
mod pools;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(testnet::files![faults, pools, blocks, owners, bad_input], LONG)
}

/// The trials that take longest.
const LONG: &[&str] = &[
    "faults::many_at_once_from_other_pid_namespaces",
    "faults::many_at_once",
    "faults::add_killed_anywhere",
    "faults::a_full_disk_loses_nothing",
    "faults::copies_beside_writers",
];
