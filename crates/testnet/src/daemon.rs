use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::During;
use crate::run::show_on_failure;
use crate::{Error, Namespaces, eventually};

/// A long-lived process on a node. Dropping it kills it; if the trial fails, the end of its log is shown.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    pub(crate) fn start(place: &Namespaces, disk: &Path, argv: &[&str]) -> Result<Self, Error> {
        static LOGS: AtomicU32 = AtomicU32::new(1);
        let [program, arguments @ ..] = argv else {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput))
                .during(|| "an empty command".to_owned());
        };
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = disk.join(format!("{name}-{}.log", LOGS.fetch_add(1, Ordering::Relaxed)));
        let mut command = place.command(program);
        command.args(arguments);
        Self::run(command, &name, &log)
    }

    /// Starts a prepared command whose output goes to the file `log`.
    pub(crate) fn run(mut command: Command, name: &str, log: &Path) -> Result<Self, Error> {
        let out = File::create(log).during(|| format!("creating {}", log.display()))?;
        let err = out.try_clone().during(|| "duplicating a descriptor".to_owned())?;
        let child = command.stdout(out).stderr(err).spawn().during(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    /// The ID of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written on stdout and stderr.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has been waited for already.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).during(|| format!("sending {signal} to {}", self.name))
    }

    /// Sends SIGTERM and waits until it ends.
    ///
    /// # Errors
    /// If it has not ended after ten seconds.
    pub fn terminate(mut self) -> Result<ExitStatus, Error> {
        self.signal(Signal::SIGTERM)?;
        self.wait(Duration::from_secs(10))
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(mut self) -> Result<ExitStatus, Error> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If it has not ended in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        let name = self.name.clone();
        eventually(limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("{name} ends")),
            Err(error) => Err(format!("{name} ends: {error}")),
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        show_on_failure(&format!("\n--- the end of the log of {}:\n{tail}\n", self.name));
    }
}
