use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{END, ROLE as ROLE_VARIABLE};
use crate::bin::unpacked_first;
use crate::error::During;
use crate::{Error, finish, mounts};

/// The value of the environment variable in the kernel's first process.
pub(super) const ROLE: &str = "init";
/// The variable's value in the process that runs the trials.
const TRIALS: &str = "trials";
/// What the first process prints when it runs.
pub(super) const UP: &str = "k8slan-vlan-kernel-up";
pub(super) const MODULES: &str = "/usr/lib/uml/modules";
pub(super) const MODPROBE: &str = "/sbin/modprobe";
/// Ends the arguments for the trials on the kernel's command line.
pub(super) const END_OF_ARGUMENTS: &str = "--k8slan-end-of-arguments";
/// Modules loaded before the first trial; the kernel requests all others itself.
const LOADED: &[&str] = &[
    "8021q",
    "bridge",
    "veth",
    "nf_tables",
    "overlay",
    "dummy",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
];

/// The first process of the kernel: prepares it, runs the trials as its child, switches it off.
pub(super) fn run() -> ExitCode {
    println!("{UP}");
    let code = prepare().and_then(|()| child()).unwrap_or_else(|error| {
        println!("testnet: in the VLAN kernel: {}", crate::isolate::chain(&error));
        101
    });
    println!("{END}{code}");
    // Returns only if refused, and then the kernel panics, since its first process ends.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::from(101)
}

fn prepare() -> Result<(), Error> {
    mounts::own_proc()?;
    mounts::own_sysfs()?;
    match mount(Some("devtmpfs"), "/dev", Some("devtmpfs"), MsFlags::empty(), None::<&str>) {
        // The kernel mounts it by itself.
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(errno) => return Err(errno).during(|| "mounting /dev".to_owned()),
    }
    for folder in ["/run", "/tmp", "/var/lib", "/var/tmp", "/var/log"] {
        mounts::empty(folder)?;
    }
    // The machine has no /lib/modules of this kernel; modprobe takes another root.
    fs::create_dir_all("/run/uml/lib").during(|| "creating /run/uml/lib".to_owned())?;
    symlink(MODULES, "/run/uml/lib/modules").during(|| "linking the modules".to_owned())?;
    let modprobe = "/run/uml/modprobe";
    fs::write(modprobe, format!("#!/bin/sh\nexec {MODPROBE} -d /run/uml \"$@\"\n"))
        .and_then(|()| fs::set_permissions(modprobe, PermissionsExt::from_mode(0o755)))
        .and_then(|()| fs::write("/proc/sys/kernel/modprobe", modprobe))
        .during(|| "naming modprobe to the kernel".to_owned())?;
    let output = finish(Command::new(modprobe).arg("-a").args(LOADED))?;
    if !output.status.success() {
        let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
        let command = format!("modprobe {}", LOADED.join(" "));
        return Err(Error::Command { command, status: output.status, output: output_text });
    }
    Ok(())
}

/// Runs the trials, and reaps orphaned processes meanwhile.
fn child() -> Result<u8, Error> {
    let exe = std::env::current_exe().during(|| "finding this program".to_owned())?;
    let child = Command::new(exe)
        // The kernel appends arguments of its own.
        .args(std::env::args_os().skip(1).take_while(|argument| argument != END_OF_ARGUMENTS))
        .env(ROLE_VARIABLE, TRIALS)
        // The console is a terminal for the trials, but not for the program that reads it outside.
        .env("TERM", "dumb")
        .env("NO_COLOR", "1")
        .env("PATH", unpacked_first("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
        .env("HOME", "/tmp")
        .spawn()
        .during(|| "starting the trials".to_owned())?;
    let child = Pid::from_raw(child.id().cast_signed());
    loop {
        match waitpid(None, None).during(|| "waiting for the trials".to_owned())? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(u8::try_from(code).unwrap_or(101)),
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                println!("testnet: the trials were ended by {signal}");
                return Ok(101);
            }
            _ => {}
        }
    }
}
