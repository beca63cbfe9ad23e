//! The documents of nad-examples, built as they say, and the demo.

mod addresses;
mod demo;
mod homelab;
mod k8slan;
mod kube_dc;
mod kube_vip;
mod zones;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(testnet::files![kube_dc, kube_vip, zones, homelab, k8slan, addresses, demo], LONG)
}

/// The trials that take longest.
const LONG: &[&str] = &[];
