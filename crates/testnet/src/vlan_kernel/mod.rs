//! A kernel that can filter VLANs: Debian's `user-mode-linux`, with the test binary as its first process.
//!
//! The machine's own kernel may lack bridge VLAN filtering, 802.1q and the rest. A test binary whose `main` is
//! [`main`] therefore starts a user-mode kernel on the machine's own root (read-only), becomes its first
//! process, and runs its trials there as [`crate::main`] does. What the trials print comes out here, line by
//! line, and so does their exit code.

mod boot;
mod init;

use std::process::ExitCode;

use libtest_mimic::Arguments;

use crate::{Stop, Trial, isolated, test};

/// The environment variable that says which part of the job a process has.
const ROLE: &str = "K8SLAN_VLAN_KERNEL";
/// The line by which the first process reports how the trials ended.
const END: &str = "k8slan-vlan-kernel-exit:";

/// Whether this process runs in the user-mode kernel.
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// The `main` of a test binary whose trials need VLANs; as [`crate::main`], inside a kernel that has them.
///
/// Without root or without `user-mode-linux` every trial is skipped by name, or fails where `CI` is set.
#[must_use]
pub fn main(trials: Vec<Trial>) -> ExitCode {
    if inside() {
        return run(|| crate::main(trials));
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if let Some(missing) = boot::missing() {
        let skipped = trials.iter().map(|trial| {
            let missing = missing.clone();
            test(trial.name(), move || match std::env::var_os("CI") {
                None => Err(Stop::Skipped(missing)),
                Some(_) => Err(Stop::Failed(format!("{missing}, and CI is set"))),
            })
        });
        return libtest_mimic::run(&arguments, skipped.collect()).exit_code();
    }
    run(|| crate::main(trials))
}

/// Boots the kernel with this very program and its arguments inside, where the same call runs `body`, and ends with
/// the code that it ends with there; for programs that bring no trials.
#[must_use]
pub fn run(body: impl FnOnce() -> ExitCode) -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok(init::ROLE) => return init::run(),
        Ok(_) => return body(),
        Err(_) => {}
    }
    isolated(|| {
        boot::boot().unwrap_or_else(|error| {
            eprintln!("testnet: {}", crate::isolate::chain(&error));
            ExitCode::from(101)
        })
    })
}
