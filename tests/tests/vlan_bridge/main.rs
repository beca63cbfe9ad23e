//! Ports of VLAN bridges, most of them in a kernel that filters VLANs.

mod faults;
mod fields;
mod guards;
mod guests;
mod leaving;
mod netlink;
mod networks;
mod ports;
mod untagged;
mod uplinks;
mod zones;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(
        testnet::files![
            faults, ports, zones, fields, networks, guests, uplinks, netlink, guards, untagged, leaving
        ],
        LONG,
    )
}

/// The trials that take longest.
const LONG: &[&str] = &[
    "faults::an_add_killed_anywhere_is_cleaned_up",
    "faults::the_first_add_killed_anywhere_leaves_nothing",
    "faults::a_del_killed_anywhere_is_finished",
    "faults::a_trunk_change_killed_anywhere_is_mended",
    "zones::the_zones_network_works_as_its_document_says",
    "ports::many_at_once",
];
