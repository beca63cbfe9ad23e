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
const LONG: &[&str] = &[
    "pod_routes::a_gateway_outside_the_subnet_works_on_the_wire",
    "vm_multicast::two_router_vms_hear_each_other",
    "faults::the_daemon_killed_anywhere_while_it_builds",
    "guests::a_guest_is_known_whatever_its_interface_is_called",
    "any_input::documents_that_explode",
    "detach::del_beside_add_leaves_all_or_nothing",
    "protocol::del_takes_everything_whatever_is_wrong_with_the_rest",
    "faults::del_killed_anywhere",
    "faults::add_killed_anywhere",
    "vm_multicast::a_migrated_vm_still_hears_its_groups",
    "vm::a_vm_talks_to_a_pod_on_another_node",
];
