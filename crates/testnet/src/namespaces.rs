use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::{io, thread};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use crate::error::During;
use crate::{Error, finish, leaks};

/// A network namespace, and the mount namespace that processes in it see: a place to run commands and closures.
///
/// It exists as long as this value, a process in it, or a mount of it.
#[derive(Debug)]
pub struct Namespaces {
    net: OwnedFd,
    mnt: OwnedFd,
}

impl Namespaces {
    /// A new network namespace (loopback up) and a new mount namespace, with `mounts` run inside.
    pub(crate) fn with_own_mounts(mounts: impl FnOnce() -> Result<(), Error> + Send) -> Result<Self, Error> {
        in_new_thread(|| {
            enter_new(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
            mounts()?;
            Self::current()
        })
    }

    /// A new network namespace (loopback up) that sees this place's mounts; `pin` runs inside both.
    pub(crate) fn with_new_net(&self, pin: impl FnOnce() -> Result<(), Error> + Send) -> Result<Self, Error> {
        in_new_thread(|| {
            self.enter().during(|| "entering a node".to_owned())?;
            enter_new(CloneFlags::CLONE_NEWNET)?;
            pin()?;
            Self::current()
        })
    }

    /// The network namespace mounted at `path` here, with this place's mounts.
    pub(crate) fn at(&self, path: &str) -> Result<Self, Error> {
        let mnt = self.mnt.try_clone().during(|| "duplicating a descriptor".to_owned())?;
        let net = self.run(|| File::open(path)).during(|| format!("opening {path}"))?;
        Ok(Self { net: net.into(), mnt })
    }

    fn current() -> Result<Self, Error> {
        loopback_up()?;
        let open = |kind: &str| {
            let path = format!("/proc/thread-self/ns/{kind}");
            File::open(&path).map(OwnedFd::from).during(|| format!("opening {path}"))
        };
        let place = Self { net: open("net")?, mnt: open("mnt")? };
        leaks::remember_current()?;
        Ok(place)
    }

    /// Moves the calling thread, which must not share its file system attributes, into this place.
    fn enter(&self) -> io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "this is the place where tests change namespaces")]
        {
            unshare(CloneFlags::CLONE_FS)?;
            setns(self.mnt.as_fd(), CloneFlags::CLONE_NEWNS)?;
            setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        Ok(())
    }

    /// Runs `body` in a thread inside this place; a panic in it goes on in the caller.
    ///
    /// # Panics
    /// If the namespaces cannot be entered: they exist, so the test itself lacks a right.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        in_new_thread(|| {
            self.enter().unwrap_or_else(|e| panic!("entering a namespace: {e}"));
            body()
        })
    }

    /// A command that will run inside, with no stdin and the folder `/` as its own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let (net, mnt) = (self.net.as_raw_fd(), self.mnt.as_raw_fd());
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        let enter = move || {
            // The child has one thread and file system attributes of its own.
            for (fd, kind) in [(mnt, libc::CLONE_NEWNS), (net, libc::CLONE_NEWNET)] {
                #[expect(unsafe_code, reason = "setns with a raw descriptor, which fork copied")]
                // SAFETY: setns touches no memory; a wrong descriptor is an error.
                if unsafe { libc::setns(fd, kind) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // The folder a process had outside is not reachable in its new mounts by any other path.
            std::env::set_current_dir("/")
        };
        #[expect(unsafe_code, reason = "the namespaces must be entered between fork and exec")]
        // SAFETY: `enter` makes system calls only, allocates nothing that a lock of another thread guards
        // (an error of the operating system is held by value), and `/` is short enough for the stack.
        unsafe {
            command.pre_exec(enter);
        }
        command
    }

    /// Runs a program with arguments and returns what it wrote.
    ///
    /// # Errors
    /// If it cannot be started, or does not end.
    pub fn output(&self, argv: &[&str]) -> Result<Output, Error> {
        let [program, arguments @ ..] = argv else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput))
                .during(|| "an empty command".to_owned());
        };
        finish(self.command(program).args(arguments))
    }

    /// Runs a program that must end with code 0, and returns its stdout.
    ///
    /// # Errors
    /// [`Error::Command`] with all that it wrote.
    pub fn exec(&self, argv: &[&str]) -> Result<String, Error> {
        let output = self.output(argv)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = [output.stdout, output.stderr].concat();
        let output_text = String::from_utf8_lossy(&text).trim().to_owned();
        Err(Error::Command { command: argv.join(" "), status: output.status, output: output_text })
    }

    /// `ip` with these arguments, split at white space: for example `link set eth1 mtu 9000`.
    ///
    /// # Errors
    /// As [`Namespaces::exec`].
    pub fn ip(&self, arguments: &str) -> Result<String, Error> {
        self.tool("ip", arguments)
    }

    /// A program with these arguments, split at white space.
    ///
    /// # Errors
    /// As [`Namespaces::exec`].
    pub fn tool(&self, program: &str, arguments: &str) -> Result<String, Error> {
        let argv: Vec<&str> = std::iter::once(program).chain(arguments.split_whitespace()).collect();
        self.exec(&argv)
    }

    /// `ip -json -details` with these arguments: an array of objects.
    ///
    /// # Errors
    /// As [`Namespaces::exec`], or [`Error::Json`].
    pub fn ip_json(&self, arguments: &str) -> Result<Vec<Value>, Error> {
        let output = self.ip(&format!("-json -details {arguments}"))?;
        if output.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&output).map_err(|source| Error::Json {
            command: format!("ip {arguments}"),
            output,
            source,
        })
    }

    /// The link with this name as `ip` shows it, `None` if there is none.
    ///
    /// # Errors
    /// As [`Namespaces::ip_json`].
    pub fn link(&self, name: &str) -> Result<Option<Value>, Error> {
        Ok(self.ip_json("link show")?.into_iter().find(|link| link["ifname"] == name))
    }

    /// The names of all links but `lo`, sorted.
    ///
    /// # Errors
    /// As [`Namespaces::ip_json`].
    pub fn link_names(&self) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = self
            .ip_json("link show")?
            .iter()
            .filter_map(|link| link["ifname"].as_str())
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// The path under which another process of this run can open the network namespace.
    pub(crate) fn net_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// The inode of the mount namespace, as `/proc/<pid>/ns/mnt` shows it.
    pub(crate) fn mount_inode(&self) -> Result<u64, Error> {
        let stat = nix::sys::stat::fstat(&self.mnt).during(|| "looking at a mount namespace".to_owned())?;
        Ok(stat.st_ino)
    }
}

fn enter_new(flags: CloneFlags) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "this is the place where tests make namespaces")]
    unshare(flags).during(|| "making namespaces".to_owned())
}

fn in_new_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Sets the loopback of the calling thread's network namespace up.
pub(crate) fn loopback_up() -> Result<(), Error> {
    let output = finish(Command::new("ip").args(["link", "set", "lo", "up"]).stdin(Stdio::null()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: "ip link set lo up".to_owned(),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
