//! Ports of VLAN bridges, most of them in a kernel that filters VLANs.

mod faults;
mod fields;
mod guards;
mod guests;
mod netlink;
mod networks;
mod ports;
mod untagged;
mod uplinks;
mod zones;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(
        testnet::files![faults, ports, zones, fields, networks, guests, uplinks, netlink, guards, untagged],
        LONG,
    )
}

/// The trials that take longest.
const LONG: &[&str] = &[];
