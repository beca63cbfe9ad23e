use std::fs::{self, File};
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::bin::unpacked_first;
use crate::error::During;
use crate::leaks::{Ledger, MARK, Snapshot};
use crate::{Error, mounts, report};

/// Runs `body` as the first process of a PID, network and mount namespace of its own, with an empty `/run`
/// and `/tmp`, and ends with its exit code; 101 if it was killed or if something of it is left afterwards.
///
/// When that process ends, the kernel kills all others in it, and their namespaces and mounts go with them.
/// It is itself killed when the caller's process dies. This returns in both processes, so `main` should do no
/// more than return the code.
///
/// # Panics
/// If the process has a second thread already, which would be lost.
#[must_use]
pub fn isolated(body: impl FnOnce() -> ExitCode) -> ExitCode {
    match enter_and_run(body) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testnet: {}", chain(&error));
            ExitCode::from(101)
        }
    }
}

fn enter_and_run(body: impl FnOnce() -> ExitCode) -> Result<ExitCode, Error> {
    let threads = fs::read_dir("/proc/self/task").during(|| "reading /proc/self/task".to_owned())?.count();
    assert_eq!(threads, 1, "testnet must be entered before the first thread is started");
    let ledger = Ledger::create()?;
    let before = Snapshot::read()?;
    let mark = format!("{}", std::process::id());
    let outside = File::open("/proc/self/ns/pid").during(|| "opening /proc/self/ns/pid".to_owned())?;
    isolate_children()?;
    // SAFETY: there is one thread, so the child holds no lock of another.
    #[expect(unsafe_code, reason = "fork is the only way into a new PID namespace")]
    let forked = unsafe { fork() }.during(|| "starting the isolated process".to_owned())?;
    match forked {
        ForkResult::Child => {
            inside(&mark)?;
            Ok(body())
        }
        ForkResult::Parent { child } => {
            // Threads can only be started if the next child would be in the same PID namespace.
            #[expect(clippy::disallowed_methods, reason = "back to where this process is")]
            setns(&outside, CloneFlags::CLONE_NEWPID).during(|| "leaving the PID namespace".to_owned())?;
            let status = waitpid(child, None).during(|| "waiting for the isolated process".to_owned())?;
            let left = before.what_is_left(&mark, &ledger)?;
            for thing in &left {
                eprintln!("testnet: left behind: {thing}");
            }
            let what = match status {
                WaitStatus::Exited(_, code) if left.is_empty() => {
                    return Ok(ExitCode::from(u8::try_from(code).unwrap_or(101)));
                }
                WaitStatus::Exited(..) => format!("left behind: {}", left.join(", ")),
                other => format!("the isolated process ended with {other:?}"),
            };
            report::broken(&what);
            Ok(ExitCode::from(101))
        }
    }
}

/// The next child becomes the first process of a PID namespace; the caller stays outside.
fn isolate_children() -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "the test process's own namespaces")]
    unshare(CloneFlags::CLONE_NEWPID).during(|| "making a PID namespace".to_owned())
}

fn inside(mark: &str) -> Result<(), Error> {
    #[expect(unsafe_code, reason = "no safe wrapper for it in the features of nix used here")]
    // SAFETY: prctl with these arguments touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    #[expect(unsafe_code, reason = "children inherit the environment")]
    // SAFETY: there is one thread.
    unsafe {
        std::env::set_var(MARK, mark);
        std::env::set_var("PATH", unpacked_first(&std::env::var("PATH").unwrap_or_default()));
    }
    #[expect(clippy::disallowed_methods, reason = "the test process's own namespaces")]
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .during(|| "making a network and a mount namespace".to_owned())?;
    mounts::make_private()?;
    mounts::own_proc()?;
    mounts::own_sysfs()?;
    mounts::empty("/run")?;
    mounts::empty("/tmp")?;
    crate::namespaces::loopback_up()
}

pub(crate) fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
