//! One run of a plugin, with a clock.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testnet::CniCall;

use crate::Result;

/// Where Debian's reference plugins are (package containernetworking-plugins).
pub(crate) const PEERS: &str = "/usr/lib/cni";

/// A plugin's file and what it is asked. The calling thread has to be on the node.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    program: PathBuf,
    call: CniCall,
}

impl Run {
    pub(crate) fn new(program: impl Into<PathBuf>, call: CniCall) -> Self {
        Self { program: program.into(), call }
    }

    /// A call of one of our plugins.
    pub(crate) fn ours(name: &str, call: CniCall) -> Self {
        Self::new(testnet::program(name), call)
    }

    /// A call of one of Debian's plugins.
    pub(crate) fn peer(name: &str, call: CniCall) -> Result<Self> {
        let program = Path::new(PEERS).join(name);
        if program.is_file() {
            Ok(Self::new(program, call))
        } else {
            Err(format!("{} is not there: install containernetworking-plugins", program.display()).into())
        }
    }

    /// The plugin's command, for the verb.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.call.container)
            .env("CNI_IFNAME", &self.call.ifname)
            .env("CNI_ARGS", &self.call.args)
            .env("CNI_PATH", format!("{}:{PEERS}", testnet::bin_dir().display()))
            .env("CNI_NETNS", self.call.netns.as_deref().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// From before the start until after the end, as a runtime experiences it.
    pub(crate) fn timed(&self, verb: &str) -> Result<Duration> {
        let start = Instant::now();
        let mut child = self.command(verb).spawn()?;
        self.feed(&mut child)?;
        let mut stdout = String::new();
        child.stdout.take().ok_or("no standard output")?.read_to_string(&mut stdout)?;
        let status = child.wait()?;
        let duration = start.elapsed();
        if status.success() {
            return Ok(duration);
        }
        let mut stderr = String::new();
        child.stderr.take().ok_or("no standard error")?.read_to_string(&mut stderr)?;
        let error: Value = serde_json::from_str(&stdout).unwrap_or_default();
        Err(format!("{} {verb} failed ({status}): {error} {stdout} {stderr}", self.program.display()).into())
    }

    /// Writes the configuration to the plugin's input.
    pub(crate) fn feed(&self, child: &mut Child) -> Result<()> {
        child.stdin.take().ok_or("no standard input")?.write_all(self.call.config.as_bytes())?;
        Ok(())
    }
}

/// The start of a static process that does next to nothing: a plugin of ours without `CNI_COMMAND`.
pub(crate) fn timed_start(program: &Path) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new(program)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?
        .wait()?;
    let duration = start.elapsed();
    if status.success() { Ok(duration) } else { Err(format!("{}: {status}", program.display()).into()) }
}
