use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{END, ROLE, init};
use crate::error::During;
use crate::report::BATCH;
use crate::{Error, bin_dir};

const KERNEL: &str = "/usr/bin/linux.uml";
/// The kernel's memory, which the machine provides as it is used.
const MEMORY: &str = "mem=1G";
/// How long all trials may take together.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// What the machine lacks; `None` if the kernel can be started.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    [(KERNEL, "user-mode-linux"), (init::MODULES, "user-mode-linux"), (init::MODPROBE, "kmod")]
        .iter()
        .find(|(path, _)| !Path::new(path).exists())
        .map(|(path, package)| format!("needs {path} (package {package})"))
}

/// How long switching off may take.
const SWITCH_OFF: Duration = Duration::from_secs(10);

/// How often it is asked whether the kernel has ended.
const INTERVAL: Duration = Duration::from_millis(5);

/// Runs the kernel until it is switched off, and prints its output.
pub(super) fn boot() -> Result<ExitCode, Error> {
    let exe = std::env::current_exe().during(|| "finding this program".to_owned())?;
    let mut command = Command::new(KERNEL);
    command
        .args([MEMORY, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null"])
        .args(["con0=fd:0,fd:1", "panic=1", "uml_dir=/tmp/uml", "umid=vlan"])
        .arg(format!("init={}", exe.display()))
        // The kernel passes unknown arguments on as the first process's environment.
        .arg(format!("{ROLE}={}", init::ROLE))
        .arg(format!("K8SLAN_BIN={}", bin_dir().display()));
    for name in ["CI", "RUST_BACKTRACE", BATCH] {
        if let Some(value) = std::env::var_os(name).and_then(|value| value.into_string().ok()) {
            command.arg(format!("{name}={value}"));
        }
    }
    command.arg("--").args(std::env::args_os().skip(1)).arg(init::END_OF_ARGUMENTS);
    // The memory is a file there; the machine's /tmp may be a disk.
    command.env("TMPDIR", "/dev/shm").env("HOME", "/tmp");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // It signals its whole process group when it ends.
    command.process_group(0);
    let mut kernel = command.spawn().during(|| format!("starting {KERNEL}"))?;
    let code = hand_on(&mut kernel);
    // The kernel is never killed: its processes are traced ones of this machine, and if their tracer died, the system
    // call that one of them is in would be executed by this machine's own kernel. When this process ends, which is
    // the first of its PID namespace, all of them are killed at once.
    let start = Instant::now();
    while start.elapsed() < SWITCH_OFF {
        if kernel.try_wait().during(|| format!("waiting for {KERNEL}"))?.is_some() {
            break;
        }
        std::thread::sleep(INTERVAL);
    }
    code
}

/// Prints the kernel's console but for its own messages, until the trials have ended.
fn hand_on(kernel: &mut Child) -> Result<ExitCode, Error> {
    let Some(console) = kernel.stdout.take() else { return Ok(ExitCode::from(101)) };
    let (lines, received) = mpsc::channel();
    // The thread ends with the kernel's output.
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let (start, mut early, mut up) = (Instant::now(), Vec::new(), false);
    loop {
        let line = match received.recv_timeout(BOOT_TIMEOUT.saturating_sub(start.elapsed())) {
            Ok(line) => line,
            Err(error) => {
                for line in early {
                    eprintln!("{line}");
                }
                eprintln!("testnet: the kernel ended before the trials did: {error}");
                return Ok(ExitCode::from(101));
            }
        };
        if let Some(code) = line.strip_prefix(END) {
            return Ok(ExitCode::from(code.trim().parse().unwrap_or(101)));
        }
        // The kernel's output before its first process runs matters only if that process never runs.
        match (up, line == init::UP) {
            (true, _) => println!("{line}"),
            (false, true) => up = true,
            (false, false) => early.push(line),
        }
    }
}
