//! Killing a program at every system call with which it changes something.

use testnet::Stop;

/// The system calls with which a program changes something outside itself. Before one is after the one before.
pub const CHANGING: &[&str] = &[
    "chmod",
    "chown",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "ioctl",
    "lchown",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "openat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendmsg",
    "sendto",
    "setns",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "write",
];

/// The tracer that kills a program before its `number`th system call of this name: to be put before its command line.
#[must_use]
pub fn strace(name: &str, number: u32) -> Vec<String> {
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:signal=KILL:when={number}"));
    ["strace", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(str::to_owned).to_vec()
}

/// Runs `attempt` for the first, second, third … call of each name until it says that the plugin lived; it is told
/// where the plugin dies. Answers how often it died.
///
/// # Errors
/// The first that `attempt` answers, with the place.
pub fn everywhere(
    calls: &[&str],
    mut attempt: impl FnMut(&str, u32) -> Result<bool, Stop>,
) -> Result<u32, Stop> {
    let mut deaths = 0;
    for name in calls {
        let mut number = 1;
        while !attempt(name, number)
            .map_err(|stop| Stop::Failed(format!("killed at {name} number {number}: {stop:?}")))?
        {
            (number, deaths) = (number + 1, deaths + 1);
        }
    }
    Ok(deaths)
}
