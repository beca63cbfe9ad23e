//! `capture`: writes the frames of a pod's interface to standard output, as a pcap file.

mod capture_point;
mod pcap;

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use netplumb::{Capture, Netlink, Netns};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::inspect::NodeView;
use crate::output::finish;
use capture_point::{CapturePoint, CaptureTarget, find};

/// What to capture, and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The pod, or one of its interfaces: <namespace>/<pod>[/<interface>].
    #[arg(value_name = "POD")]
    pod: CaptureTarget,
    /// Ends after so many frames.
    #[arg(long, value_name = "FRAMES")]
    count: Option<u64>,
    /// Ends after so many seconds, in any case.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    seconds: u32,
    /// Ends when standard input does: 'kubectl exec' ends that of a program whose caller went away, and not the program.
    #[arg(long)]
    until_input_ends: bool,
}

/// Captures until the reader ends or a limit is reached; the exit code is 1 on failure.
pub fn main(options: &Options) -> ExitCode {
    finish("capture", run(options).map(|()| String::new()))
}

fn run(options: &Options) -> Result<()> {
    if io::stdout().is_terminal() {
        bail!(
            "frames are nothing for a terminal: send them to a file, or to 'wireshark -k -i -' or 'tcpdump -n -r -'"
        );
    }
    let point = find(&NodeView::read_without_pools()?, &options.pod)?;
    let capture = open(&point).with_context(|| format!("capture {point}"))?;
    eprintln!("k8slan-device-plugin capture: {point}");
    let (frames, lost) = copy(options, capture)?;
    let frames = if frames == 1 { "1 frame".to_owned() } else { format!("{frames} frames") };
    eprintln!("k8slan-device-plugin capture: {frames}, {lost} lost");
    Ok(())
}

fn open(point: &CapturePoint) -> Result<Capture> {
    let netns = match &point.netns {
        Some(path) => Netns::open(path)?,
        None => Netns::current()?,
    };
    let link = Netlink::open(&netns)?.links()?.into_iter().find(|link| link.name == point.link);
    let link = link.context("it went away just now")?;
    Ok(Capture::start(&netns, link.index)?)
}

/// Whether the capture goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Frames,
    Enough,
}

/// The size of one write, in bytes.
const CHUNK: usize = 1 << 16;
/// A limit on frames above what the kernel queues.
const ALL: u64 = 1 << 16;

/// Writes the file to standard output.
struct Writer {
    capture: Capture,
    output: File,
    frames: u64,
    most: u64,
}

impl Writer {
    /// Writes bytes; false if the reader has ended.
    fn write(&mut self, bytes: &[u8]) -> Result<bool> {
        match self.output.write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).context("write to standard output"),
        }
    }

    /// Writes the frames that have arrived; false if the reader has ended.
    fn pass_on(&mut self) -> Result<bool> {
        let last = self.most.min(self.frames + ALL);
        let mut chunk = Vec::new();
        while self.frames < last {
            match self.capture.next_frame() {
                Ok(Some(frame)) => pcap::write(&frame, &mut chunk),
                Ok(None) => break,
                // The pod's interface was deleted.
                Err(error) => {
                    self.write(&chunk)?;
                    return Err(error.into());
                }
            }
            self.frames += 1;
            if chunk.len() >= CHUNK {
                if !self.write(&chunk)? {
                    return Ok(false);
                }
                chunk.clear();
            }
        }
        self.write(&chunk)
    }
}

/// Copies frames to standard output; returns how many, and how many were lost.
fn copy(options: &Options, capture: Capture) -> Result<(u64, u32)> {
    let until = Instant::now() + Duration::from_secs(options.seconds.into());
    let most = options.count.unwrap_or(u64::MAX);
    // Not `io::stdout().lock()`, which would write a line at a time.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let input = options.until_input_ends.then(io::stdin);
    let mut writer = Writer { capture, output, frames: 0, most };
    let mut read = writer.write(&pcap::head())?;
    let mut turn = Progress::Frames;
    while read && turn == Progress::Frames && writer.frames < most {
        turn = wait(&writer.capture, writer.output.as_fd(), input.as_ref(), until)?;
        // Frames from before the end are written, too.
        read = writer.pass_on()?;
    }
    Ok((writer.frames, writer.capture.lost()?))
}

/// Waits for frames, the end of the reader or of the input, or the time limit.
fn wait(
    capture: &Capture,
    output: BorrowedFd<'_>,
    input: Option<&io::Stdin>,
    until: Instant,
) -> Result<Progress> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Progress::Enough);
        }
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::ZERO);
        // Without requested events, poll only reports that the reader has ended.
        let mut waits =
            vec![PollFd::new(capture.as_fd(), PollFlags::POLLIN), PollFd::new(output, PollFlags::empty())];
        waits.extend(input.map(|input| PollFd::new(input.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waits, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for frames"),
        }
        let told = |at: usize| waits.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        if told(1).intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return Ok(Progress::Enough);
        }
        if !told(2).is_empty() && ended(input)? {
            return Ok(Progress::Enough);
        }
        if !told(0).is_empty() {
            return Ok(Progress::Frames);
        }
    }
}

/// Reads and ignores standard input; true if it has ended.
fn ended(input: Option<&io::Stdin>) -> Result<bool> {
    let Some(mut input) = input else { return Ok(false) };
    match input.read(&mut [0; 4096]) {
        Ok(length) => Ok(length == 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error).context("read standard input"),
    }
}
