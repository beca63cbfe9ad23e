use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::environment::{COMMAND, Environment};
use crate::error::STARTING;
use crate::{Error, MAX_STDIN, Verb};

/// What a finished program wrote, and how it ended.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
}

const TALKING: &str = "talking to";

/// How often to check whether a program that has closed none of its pipes has ended, where there is a time limit.
const SLICE: Duration = Duration::from_millis(50);

/// A plugin's process and its pipes.
pub(crate) struct Running<'a> {
    program: &'a Path,
    verb: Verb,
    child: Child,
    stdin: Option<ChildStdin>,
    /// The rest of the input, which the process has not read yet.
    input: &'a [u8],
    stdout: ChildStdout,
    /// Whether the process may write more output.
    open: bool,
    output: Vec<u8>,
}

/// Starts a plugin: no shell, no thread, one process (std uses `posix_spawn` here).
pub(crate) fn start<'a>(
    program: &'a Path,
    verb: Verb,
    environment: &Environment,
    extra: Option<(&str, &str)>,
    input: &'a [u8],
) -> Result<Running<'a>, Error> {
    let failed = |what, source| Error::DelegateIo { what, program: program.to_owned(), verb, source };
    let mut command = Command::new(program);
    command
        .envs(environment.iter())
        .envs(extra)
        .env(COMMAND, verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = spawn(&mut command).map_err(|error| failed(STARTING, error))?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        end(&mut child);
        return Err(failed(TALKING, ErrorKind::BrokenPipe.into()));
    };
    if let Err(errno) = fcntl(stdin.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
        end(&mut child);
        return Err(failed(TALKING, errno.into()));
    }
    // Large enough for a result, so that one read takes it all.
    let output = Vec::with_capacity(4 << 10);
    Ok(Running { program, verb, child, stdin: Some(stdin), input, stdout, open: true, output })
}

impl Running<'_> {
    /// Waits until the process ends or until a moment; true if it ended.
    ///
    /// # Errors
    /// A pipe failed, or the process writes too much; it is killed then.
    pub(crate) fn wait(&mut self, until: Option<Instant>) -> Result<bool, Error> {
        match self.talk(until) {
            Ok(_) if self.output.len() as u64 > MAX_STDIN => {
                end(&mut self.child);
                Err(Error::DelegateTooLong(self.program.to_owned()))
            }
            Ok(ended) => Ok(ended),
            Err(source) => {
                end(&mut self.child);
                Err(self.failed(TALKING, source))
            }
        }
    }

    /// Kills the process if it is still running.
    pub(crate) fn kill(&mut self) {
        end(&mut self.child);
    }

    /// What the process left; called after it has ended.
    ///
    /// # Errors
    /// The kernel refuses the wait.
    pub(crate) fn output(mut self) -> Result<Output, Error> {
        let status = self.child.wait().map_err(|source| self.failed("waiting for", source))?;
        Ok(Output { status, stdout: self.output })
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::DelegateIo { what, program: self.program.to_owned(), verb: self.verb, source }
    }

    /// Writes its input and reads its output, at most one byte more than is permitted.
    fn talk(&mut self, until: Option<Instant>) -> io::Result<bool> {
        while self.open || self.stdin.is_some() {
            if self.output.len() as u64 > MAX_STDIN {
                return Ok(true);
            }
            self.write()?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if self.readable(left.map(|left| left.min(SLICE)))? {
                self.read()?;
            } else if left.is_some()
                && self.child.try_wait()?.is_some()
                && !self.readable(Some(Duration::ZERO))?
            {
                // The process has ended, but a child of its own still holds the output open.
                return Ok(true);
            } else if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
        let Some(until) = until else { return Ok(true) };
        let mut pause = Duration::from_millis(1);
        while self.child.try_wait()?.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(SLICE);
        }
        Ok(true)
    }

    /// Writes as much of the input as the pipe takes: 64 KiB at once, so normally all of it.
    fn write(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        while !self.input.is_empty() {
            match stdin.write(self.input) {
                Ok(count) => self.input = self.input.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // It closed its input unread: its answer counts.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error),
            }
        }
        self.stdin = None;
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        match self.stdout.read(&mut chunk) {
            Ok(0) => self.open = false,
            Ok(count) => self.output.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits until there is output to read (true) or the rest of the input can be written (false). `None`: without a
    /// limit.
    fn readable(&self, at_most: Option<Duration>) -> io::Result<bool> {
        let timeout = match at_most {
            Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let output = self.open.then(|| PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN));
        let input = self.stdin.as_ref().map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        let mut watched: Vec<PollFd<'_>> = output.into_iter().chain(input).collect();
        if watched.is_empty() {
            return Ok(false);
        }
        match poll(&mut watched, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(self.open && watched.first().and_then(PollFd::any).unwrap_or(false))
    }
}

/// Starts the process; waits up to a second for an executable that is just being installed.
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
    // It may have ended already; then there is nothing to kill.
    let _ = child.kill();
    let _ = child.wait();
}
