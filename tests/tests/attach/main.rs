//! Pods attached to LANs and masters by the plugin macvtap, on simulated nodes.

mod any_input;
mod attachments;
mod bad_input;
mod detach;
mod faults;
mod guest_addresses;
mod guests;
mod k8slan_go;
mod masters;
mod node_use;
mod pod_routes;
mod protocol;
mod router_advertisements;
mod runtime;
mod vm;
mod vm_multicast;

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::run_files(
        testnet::files![
            any_input,
            attachments,
            bad_input,
            detach,
            faults,
            guest_addresses,
            guests,
            k8slan_go,
            masters,
            node_use,
            pod_routes,
            protocol,
            router_advertisements,
            runtime,
            vm,
            vm_multicast
        ],
        LONG,
    )
}

/// The trials that take longest.
const LONG: &[&str] = &[];
