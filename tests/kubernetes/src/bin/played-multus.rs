//! Multus, played: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    k8slan_kubernetes_tests::multus::main()
}
