//! Programs that should end by themselves: one that hangs is killed and reported, instead of blocking the run.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Error;
use crate::error::During;

/// How long a program may run: much longer than any needs, also in a user-mode kernel.
const LIMIT: Duration = Duration::from_secs(120);

/// How often it is asked whether a process that has closed its output has ended.
const INTERVAL: Duration = Duration::from_millis(1);

/// Runs a command, without a stdin, to its end and returns what it wrote.
///
/// # Errors
/// It cannot be started, or it hangs: [`Error::Hangs`] with what it wrote so far.
pub fn finish(command: &mut Command) -> Result<Output, Error> {
    finish_with(command.stdin(Stdio::null()), &[], LIMIT)
}

/// The same with a text on stdin.
///
/// # Errors
/// As [`finish`].
pub fn finish_reading(command: &mut Command, input: &[u8]) -> Result<Output, Error> {
    command.stdin(Stdio::piped());
    finish_with(command, input, LIMIT)
}

fn finish_with(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    // A process group of its own, so that what it started ends with it.
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().during(|| format!("running {program}"))?;
    let end = Instant::now() + limit;
    let mut written = [Vec::new(), Vec::new()];
    // A child of its own that holds the pipes open counts as hanging, too.
    let ended = talk(&mut child, input, end, &mut written).and_then(|closed| match closed {
        true => ended(&mut child, end),
        false => Ok(None),
    });
    let [stdout, stderr] = written;
    match ended {
        Ok(Some(status)) => Ok(Output { status, stdout, stderr }),
        Ok(None) => {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
            let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
            let output = String::from_utf8_lossy(&[stdout, stderr].concat()).trim().to_owned();
            let command = format!("{program} {}", arguments.join(" ")).trim_end().to_owned();
            Err(Error::Hangs { command, seconds: limit.as_secs_f32(), output })
        }
        Err(error) => Err(error).during(|| format!("waiting for {program}")),
    }
}

/// Writes to the process and reads its output; true if it closed both ends in time.
fn talk(child: &mut Child, mut input: &[u8], end: Instant, written: &mut [Vec<u8>; 2]) -> io::Result<bool> {
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    for fd in [as_fd(&stdin), as_fd(&stdout), as_fd(&stderr)].into_iter().flatten() {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    loop {
        if input.is_empty() {
            stdin = None;
        }
        let fds = [as_fd(&stdin), as_fd(&stdout), as_fd(&stderr)];
        let flags = [PollFlags::POLLOUT, PollFlags::POLLIN, PollFlags::POLLIN];
        let mut waiting: Vec<PollFd<'_>> =
            fds.iter().zip(flags).filter_map(|(fd, flags)| fd.map(|fd| PollFd::new(fd, flags))).collect();
        let left = end.saturating_duration_since(Instant::now());
        let closed = stdout.is_none() && stderr.is_none();
        if closed || left.is_zero() {
            return Ok(closed);
        }
        match poll(&mut waiting, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(count) => input = &input[count..],
                Err(error) if again(&error) => {}
                // A program may end without reading all of it.
                Err(_) => input = &[],
            }
        }
        let [out, err] = &mut *written;
        read(&mut stdout, out)?;
        read(&mut stderr, err)?;
    }
}

fn as_fd<T: AsFd>(pipe: &Option<T>) -> Option<BorrowedFd<'_>> {
    pipe.as_ref().map(AsFd::as_fd)
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Reads what has arrived; a pipe that is closed at its other end is closed here, too.
fn read(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 65_536];
    while let Some(open) = pipe {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How the process ended, `None` if it did not in time.
fn ended(child: &mut Child, end: Instant) -> io::Result<Option<std::process::ExitStatus>> {
    // Mostly it ends right after it has closed both: a sleep would show in tests that measure time.
    let soon = Instant::now() + Duration::from_millis(2);
    loop {
        match child.try_wait()? {
            None if Instant::now() < soon => std::thread::yield_now(),
            None if Instant::now() < end => std::thread::sleep(INTERVAL),
            ended => return Ok(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn what_is_written_comes_back() {
        let mut command = shell("cat; echo oh >&2; exit 3");
        let input = vec![b'x'; 300_000];
        let output = finish_reading(&mut command, &input).unwrap();
        assert_eq!((output.stdout.len(), &output.stderr[..]), (300_000, &b"oh\n"[..]));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_does_not_read_is_no_mistake() {
        let output = finish_reading(&mut shell("exec <&-; echo done"), &vec![b'x'; 300_000]).unwrap();
        assert_eq!(output.stdout, b"done\n");
    }

    #[test]
    fn a_program_that_hangs_is_named_with_its_words() {
        for script in [
            "echo so far; exec sleep 60",
            "echo so far; sleep 60 & exit",
            "echo so far; exec >&- 2>&-; exec sleep 60",
        ] {
            let error = finish_with(&mut shell(script), &[], Duration::from_millis(300)).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("so far") && error.contains("sh -c") && error.contains("0.3 s"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_a_program_that_hangs_has_started_ends_with_it() {
        let script = "sleep 60 & echo $!; wait";
        let error = finish_with(&mut shell(script), &[], Duration::from_millis(300)).unwrap_err();
        let Error::Hangs { output, .. } = error else { panic!("{error}") };
        let status = format!("/proc/{}/status", output.trim());
        // A process whose parent does not reap it stays, as a zombie.
        let runs = || std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ"));
        crate::eventually(Duration::from_secs(5), || if runs() { Err(status.clone()) } else { Ok(()) })
            .unwrap();
    }
}
