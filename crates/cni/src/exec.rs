use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::environment::{COMMAND, Environment};
use crate::{Error, MAX_STDIN, Verb};

/// What a finished program leaves.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
}

/// Nothing has run yet when this failed.
pub(crate) const STARTING: &str = "starting";

/// Runs a plugin: no shell, no thread, one process (std uses `posix_spawn` here).
pub(crate) fn run(
    program: &Path,
    verb: Verb,
    environment: &Environment,
    extra: Option<(&str, &str)>,
    stdin: &[u8],
) -> Result<Output, Error> {
    let failed = |what| move |source| Error::DelegateIo { what, program: program.to_owned(), verb, source };

    let mut command = Command::new(program);
    command
        .envs(environment.iter())
        .envs(extra)
        .env(COMMAND, verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = spawn(&mut command).map_err(failed(STARTING))?;
    let stdout = match talk(&mut child, stdin) {
        Ok(stdout) => stdout,
        Err(error) => {
            end(&mut child);
            return Err(failed("talking to")(error));
        }
    };
    if stdout.len() as u64 > MAX_STDIN {
        end(&mut child);
        return Err(Error::DelegateTooLong(program.to_owned()));
    }
    let status = child.wait().map_err(failed("waiting for"))?;
    Ok(Output { status, stdout })
}

/// Starts it; waits up to a second for one that is just being installed.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 10;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            spawned => return spawned,
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself; nothing is lost by trying.
    let _ = child.kill();
    let _ = child.wait();
}

/// Gives it its input and takes its output, at most one byte more than is permitted.
fn talk(child: &mut Child, input: &[u8]) -> io::Result<Vec<u8>> {
    let (Some(stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(ErrorKind::BrokenPipe.into());
    };
    // Large enough for a result, so that one read takes it all.
    let mut output = Vec::with_capacity(4 << 10);
    feed(stdin, input, &mut stdout, &mut output)?;
    let room = (MAX_STDIN + 1).saturating_sub(output.len() as u64);
    stdout.take(room).read_to_end(&mut output)?;
    Ok(output)
}

/// Writes the input. A pipe takes 64 KiB at once, so normally that is one write; only a longer input
/// needs the output read in between, since both sides would otherwise wait for each other.
fn feed(
    mut stdin: ChildStdin,
    mut input: &[u8],
    stdout: &mut ChildStdout,
    output: &mut Vec<u8>,
) -> io::Result<()> {
    fcntl(stdin.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut open = true;
    while !input.is_empty() {
        match stdin.write(input) {
            Ok(count) => input = input.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // It does not want to know: what it answers counts.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let readable = wait(&stdin, stdout, open)?;
                if readable && output.len() as u64 <= MAX_STDIN {
                    let mut chunk = [0; 16 << 10];
                    let count = stdout.read(&mut chunk)?;
                    output.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    open = count > 0;
                } else if readable {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the input can be written or the output read, and says whether the latter.
fn wait(stdin: &ChildStdin, stdout: &ChildStdout, open: bool) -> io::Result<bool> {
    let mut fds =
        [PollFd::new(stdin.as_fd(), PollFlags::POLLOUT), PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let watched = if open { &mut fds[..] } else { &mut fds[..1] };
    match poll(watched, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(open && fds[1].any().unwrap_or(false))
}
