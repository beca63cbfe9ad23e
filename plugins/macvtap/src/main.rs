//! The executable `macvtap`: a doorway.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::run(&macvtap::Macvtap)
}
