use std::fs::File;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use proto::events::{Dirty, Wake};

/// Watches for mounts and unmounts: `ip netns` and `umount` remove a namespace's name without any other event. The
/// kernel reports them through `poll(2)` of the file (proc_pid_mountinfo(5)), here in a thread of its own.
///
/// # Errors
/// `/proc` is not mounted, or no thread can be started.
pub(crate) fn watch_mounts(wake: Wake) -> Result<()> {
    const FILE: &str = "/proc/self/mountinfo";
    let file = File::open(FILE).with_context(|| format!("open {FILE}"))?;
    let listen = move || {
        loop {
            match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], PollTimeout::NONE) {
                Ok(_) => wake.mark(Dirty { names: true, ..Dirty::default() }),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::error!("cannot listen for mounts any more: {errno}");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("mounts".into()).spawn(listen).context("start a thread")?;
    Ok(())
}
