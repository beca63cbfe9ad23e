//! Finds what a run left on the machine, from outside its namespaces.
//!
//! Other processes come and go on the machine meanwhile, so a run's processes are recognised by a mark in their
//! environment, and its namespaces by their cookies, which the kernel never reuses.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::During;
use crate::{Error, cgroups, eventually};

/// The environment variable that marks every process of a run.
pub(crate) const MARK: &str = "K8SLAN_TESTNET";

/// The cookies of the network namespaces of a run, in memory that the process outside reads.
pub(crate) struct Ledger(File);

static LEDGER: OnceLock<File> = OnceLock::new();

impl Ledger {
    pub(crate) fn create() -> Result<Self, Error> {
        let memory = nix::sys::memfd::memfd_create("testnet", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .during(|| "making the list of namespaces".to_owned())?;
        let file = File::from(memory);
        let shared = file.try_clone().during(|| "duplicating a descriptor".to_owned())?;
        // A second run in one process would only add to the list of the first.
        let _ = LEDGER.set(shared);
        Ok(Self(file))
    }

    fn cookies(&self) -> Result<BTreeSet<u64>, Error> {
        let mut bytes = Vec::new();
        let mut file = &self.0;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .during(|| "reading the list of namespaces".to_owned())?;
        Ok(bytes.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap_or_default())).collect())
    }
}

/// Records the calling thread's network namespace as one of the run's.
pub(crate) fn remember_current() -> Result<(), Error> {
    let Some(mut ledger) = LEDGER.get() else { return Ok(()) };
    let cookie = current_cookie()?;
    // One write of 8 bytes at the shared end of the file: the lock keeps threads apart.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock();
    ledger.write_all(&cookie.to_ne_bytes()).during(|| "writing the list of namespaces".to_owned())
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, socket(7)).
fn current_cookie() -> Result<u64, Error> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .during(|| "opening a socket".to_owned())?;
    let (mut cookie, mut size) = (0_u64, 8 as libc::socklen_t);
    #[expect(unsafe_code, reason = "nix has no wrapper for SO_NETNS_COOKIE")]
    // SAFETY: the kernel writes at most `size` bytes into `cookie`; both outlive the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    nix::errno::Errno::result(answer).during(|| "asking for a namespace's cookie".to_owned())?;
    Ok(cookie)
}

/// The machine as the process outside sees it.
pub(crate) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub(crate) fn read() -> Result<Self, Error> {
        let mut things = BTreeSet::new();
        let links = read("/proc/self/net/dev")?;
        things.extend(
            links.lines().filter_map(|l| l.split_once(':')).map(|(name, _)| format!("link {}", name.trim())),
        );
        // Fields 4 and 5 are the root and the mount point (proc_pid_mountinfo(5)).
        let mounts = read("/proc/self/mountinfo")?;
        things.extend(mounts.lines().map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            format!("mount {} of {}", fields.get(4).unwrap_or(&""), fields.get(3).unwrap_or(&""))
        }));
        // Other programs write to /run and /var/lib all the time; these are the paths that a run could leave.
        for path in [
            "/run/netns",
            "/run/testnet",
            "/run/k8slan",
            "/var/lib/k8slan",
            "/var/lib/cni",
            "/etc/k8slan",
            "/opt/containerd",
        ] {
            things.extend(entries(path).into_iter().map(|path| format!("file {}", path.display())));
            if Path::new(path).exists() {
                things.insert(format!("folder {path}"));
            }
        }
        things.extend(orphaned_taps());
        Ok(Self(things))
    }

    /// What exists now, did not exist before, and belongs to the run `mark`. The kernel takes a moment to delete
    /// namespaces, and another program may have made a temporary folder: this waits up to fifteen seconds for things
    /// to disappear.
    pub(crate) fn what_is_left(&self, mark: &str, ledger: &Ledger) -> Result<Vec<String>, Error> {
        let ours = ledger.cookies()?;
        let mut left = Vec::new();
        let mut failure = None;
        let gone = eventually(Duration::from_secs(15), || match self.differences(mark, &ours) {
            Ok(found) if found.is_empty() => Ok(()),
            Ok(found) => {
                left = found;
                Err("something is left".to_owned())
            }
            Err(error) => {
                failure = Some(error);
                Ok(())
            }
        });
        match (failure, gone) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(Vec::new()),
            (None, Err(_)) => Ok(left),
        }
    }

    fn differences(&self, mark: &str, ours: &BTreeSet<u64>) -> Result<Vec<String>, Error> {
        let mut found: Vec<String> = Self::read()?.0.difference(&self.0).cloned().collect();
        let wanted = format!("{}={mark}", MARK);
        let mut seen = BTreeSet::new();
        for process in entries("/proc") {
            let Some(pid) = process.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok())
            else {
                continue;
            };
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let marked = environment.split(|b| *b == 0).any(|entry| entry == wanted.as_bytes());
            if marked && pid != std::process::id() {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.push(format!("process {pid} {}", name.trim()));
            }
            let net = process.join("ns/net");
            if fs::metadata(&net).is_ok_and(|m| seen.insert(m.ino())) && is_ours(&net, ours) {
                found.push(format!("network namespace of process {pid}"));
            }
        }
        found.extend(
            cgroups::remove(&cgroups::of_run(mark))
                .iter()
                .map(|group| format!("control group {}", group.display())),
        );
        for path in entries("/run/netns") {
            if is_ours(&path, ours) {
                found.push(format!("network namespace mounted on {}", path.display()));
            }
        }
        Ok(found)
    }
}

/// Whether a path leads to one of the run's network namespaces. One that cannot be entered is not.
fn is_ours(path: &Path, ours: &BTreeSet<u64>) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let cookie = std::thread::spawn(move || {
        #[expect(clippy::disallowed_methods, reason = "the cookie is only told to who is inside")]
        setns(&file, CloneFlags::CLONE_NEWNET).ok().and_then(|()| current_cookie().ok())
    });
    cookie.join().ok().flatten().is_some_and(|cookie| ours.contains(&cookie))
}

/// Device nodes of taps that no longer exist: made by hand and not removed. The kernel removes its own.
fn orphaned_taps() -> Vec<String> {
    let taps = entries("/dev")
        .into_iter()
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("tap")));
    taps.filter(|path| {
        fs::symlink_metadata(path).is_ok_and(|node| {
            let (major, minor) = (nix::sys::stat::major(node.rdev()), nix::sys::stat::minor(node.rdev()));
            node.file_type().is_char_device()
                && fs::symlink_metadata(format!("/sys/dev/char/{major}:{minor}")).is_err()
        })
    })
    .map(|path| format!("device node {} of no device", path.display()))
    .collect()
}

fn entries(folder: &str) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).during(|| format!("reading {path}"))
}
