//! Image, manifests, release, installation and removal.

mod image;
mod install;
mod manifests;
mod release;
mod uninstall;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(testnet::files![image, install, manifests, release, uninstall], LONG)
}

/// The trials that take longest.
const LONG: &[&str] = &[];
