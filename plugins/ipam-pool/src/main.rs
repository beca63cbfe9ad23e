//! The program `ipam-pool`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::run(&ipam_pool::IpamPool)
}
