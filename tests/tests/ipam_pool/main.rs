//! Pools of addresses.

mod bad_input;
mod faults;
mod pools;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(testnet::files![faults, pools, bad_input], LONG)
}

/// The trials that take longest.
const LONG: &[&str] = &[];
