//! The executable `vlan-bridge`: a doorway.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::run(&vlan_bridge::VlanBridge)
}
