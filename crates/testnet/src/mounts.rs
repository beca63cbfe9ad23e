//! What a simulated node mounts over the machine's own folders.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::error::During;
use crate::{Error, bin_dir, cgroups, workspace};

const NONE: Option<&str> = None;

/// Stops mounts from reaching any other mount namespace.
pub(crate) fn make_private() -> Result<(), Error> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .during(|| "making the mounts private".to_owned())
}

/// Mounts an empty tmpfs; the folders that hold the workspace and the binaries under test stay visible.
pub(crate) fn empty(target: &str) -> Result<(), Error> {
    covering(target, || mount(Some("testnet"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=755")))
}

/// Mounts the folder `source` over `target`, with the same exception.
pub(crate) fn bind(source: &Path, target: &str) -> Result<(), Error> {
    covering(target, || mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE))
}

/// Gives `/etc` a private upper layer, kept in `layers` so that a reboot does not lose it.
pub(crate) fn private_etc(layers: &Path) -> Result<(), Error> {
    let (upper, work) = (layers.join("etc-upper"), layers.join("etc-work"));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).during(|| format!("creating {}", folder.display()))?;
    }
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    covering("/etc", || mount(Some("testnet"), "/etc", Some("overlay"), MsFlags::empty(), Some(&*options)))
}

/// Mounts a sysfs that shows the links of the calling thread's network namespace.
pub(crate) fn own_sysfs() -> Result<(), Error> {
    covering("/sys", || mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE))
}

/// Mounts a `/proc` that shows the calling process's PID namespace.
pub(crate) fn own_proc() -> Result<(), Error> {
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE).during(|| "mounting /proc".to_owned())
}

/// A `/dev` of the node's own: devtmpfs is one for the whole machine, and two simulated nodes may both have
/// a `/dev/tapN` of the same N.
pub(crate) fn own_dev() -> Result<(), Error> {
    empty("/dev")?;
    for folder in ["/dev/net", "/dev/pts", "/dev/shm"] {
        fs::create_dir_all(folder).during(|| format!("creating {folder}"))?;
    }
    let devices = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("net/tun", 10, 200),
    ];
    for (name, major, minor) in devices {
        let path = format!("/dev/{name}");
        mknod(path.as_str(), SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))
            .during(|| format!("creating {path}"))?;
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&path, everyone).during(|| format!("setting the mode of {path}"))?;
    }
    own_terminals()?;
    for (target, link) in [("pts/ptmx", "/dev/ptmx"), ("/proc/self/fd", "/dev/fd")] {
        std::os::unix::fs::symlink(target, link).during(|| format!("creating {link}"))?;
    }
    Ok(())
}

/// The kernel's own devtmpfs as `/dev`, also on a machine (a container) whose `/dev` is something else.
pub(crate) fn kernels_dev() -> Result<(), Error> {
    let mounts = fs::read_to_string("/proc/self/mounts").during(|| "reading /proc/self/mounts".to_owned())?;
    let kind = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        (fields.next() == Some("/dev")).then(|| fields.next().map(str::to_owned)).flatten()
    };
    // The last mount is the one on top.
    if mounts.lines().filter_map(kind).next_back().as_deref() == Some("devtmpfs") {
        return Ok(());
    }
    covering("/dev", || mount(Some("devtmpfs"), "/dev", Some("devtmpfs"), MsFlags::empty(), NONE))?;
    for folder in ["/dev/pts", "/dev/shm"] {
        fs::create_dir_all(folder).during(|| format!("creating {folder}"))?;
    }
    mount(Some("testnet"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), NONE)
        .during(|| "mounting /dev/shm".to_owned())?;
    own_terminals()
}

fn own_terminals() -> Result<(), Error> {
    mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::empty(), Some("newinstance,ptmxmode=0666"))
        .during(|| "mounting /dev/pts".to_owned())
}

/// Runs `cover`, which mounts something over `target`, and puts the folders to keep back on top of it.
fn covering(target: &str, cover: impl FnOnce() -> nix::Result<()>) -> Result<(), Error> {
    let mut held = Vec::new();
    for folder in kept() {
        if folder.starts_with(target) && folder.is_dir() {
            held.push((open(&folder).during(|| format!("opening {}", folder.display()))?, folder));
        }
    }
    cover().during(|| format!("mounting over {target}"))?;
    for (file, folder) in held {
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::create_dir_all(&folder).during(|| format!("creating {}", folder.display()))?;
        mount(Some(source.as_str()), &folder, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .during(|| format!("keeping {}", folder.display()))?;
    }
    Ok(())
}

/// A clone of the project may be anywhere, also under `/tmp` or `/var/lib`; and container runtimes need the machine's
/// control groups.
fn kept() -> Vec<PathBuf> {
    let target = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let groups = PathBuf::from(cgroups::ROOT);
    let mut folders: Vec<PathBuf> = [Some(workspace()), Some(bin_dir()), target, Some(groups)]
        .into_iter()
        .flatten()
        .filter_map(|folder| folder.canonicalize().ok())
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).open(path)
}
