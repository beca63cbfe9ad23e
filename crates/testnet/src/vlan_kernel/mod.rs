//! A kernel that can filter VLANs: Debian's `user-mode-linux`, with the test binary as its first process.
//!
//! The machine's own kernel may lack bridge VLAN filtering, 802.1q and the rest. A test binary whose `main` is
//! [`main`] therefore starts a user-mode kernel on the machine's own root (read-only), becomes its first
//! process, and runs its trials there as [`crate::main`] does. What the trials print comes out here, line by
//! line, and so does their exit code. A trial of [`trials`] does the same beside others that need no such kernel.

mod boot;
mod init;

use std::process::ExitCode;

use libtest_mimic::Arguments;

use crate::run::{self, Kernel};
use crate::{Trial, isolated};

pub(crate) use boot::missing;

/// The environment variable that says which part of the job a process has.
const ROLE: &str = "K8SLAN_VLAN_KERNEL";
/// The line by which the first process reports how the trials ended.
const END: &str = "k8slan-vlan-kernel-exit:";

/// Whether this process runs in the user-mode kernel.
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// The same trials, each to run inside such a kernel: [`crate::run_files`] boots one for a few of them.
#[must_use]
pub fn trials(trials: Vec<Trial>) -> Vec<Trial> {
    trials.into_iter().map(|trial| trial.on(Kernel::Vlan)).collect()
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
        return crate::main(trials);
    }
    if let Some(missing) = missing() {
        return run::conclude(&arguments, trials.iter().map(|trial| run::refused(trial.name(), &missing)));
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
