//! The node daemon; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    k8slan_device_plugin::cli::main()
}
