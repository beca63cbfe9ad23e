//! The character device of a macvtap.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use net_types::IfName;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::{Error, Netns, Result};

/// The number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevNum {
    /// Its driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The character device of the macvtap with this name and index in this namespace; none if there is no
/// such macvtap.
///
/// The kernel tells it in sysfs only, and a sysfs shows only the namespace that it was mounted from, so
/// this mounts one that nobody else sees. `/dev/tap<index>` does not tell: it may be another
/// namespace's.
///
/// # Errors
/// The caller lacks CAP_SYS_ADMIN, or the kernel is older than 5.2.
pub fn tap_device(netns: &Netns, name: &IfName, index: u32) -> Result<Option<DevNum>> {
    let failed = |errno| Error::system("read the tap device of", name, errno);
    // The namespace is chosen by whoever opens the file system context.
    let context = netns.enter(|| fs_open(c"sysfs"))?.map_err(failed)?;
    let sysfs = fs_create(&context).and_then(|()| fs_mount(&context)).map_err(failed)?;
    let path = format!("class/net/{name}/macvtap/tap{index}/dev");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut file = match openat(sysfs.as_fd(), path.as_str(), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let mut text = [0; 32];
    let length = file.read(&mut text).map_err(|error| Error::io("read the tap device of", name, &error))?;
    parse(&text[..length])
        .map(Some)
        .ok_or_else(|| Error::reply("read the tap device of", name, "sysfs gives no device number"))
}

/// `major:minor` and a line end.
fn parse(text: &[u8]) -> Option<DevNum> {
    let (major, minor) = str::from_utf8(text).ok()?.trim_end().split_once(':')?;
    Some(DevNum { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

// Neither nix nor libc wraps the mount API of Linux 5.2 (fsopen(2), fsconfig(2), fsmount(2)); the
// constants are those of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOUNT_ATTR_RDONLY: libc::c_uint = 1;

/// A descriptor that a system call returned, or its error.
#[expect(unsafe_code, reason = "the one place where a raw descriptor gets an owner")]
fn descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the system call that just returned it made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "nix has no fsopen")]
fn fs_open(kind: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: fsopen reads the text, which ends with NUL, and makes a descriptor.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

#[expect(unsafe_code, reason = "nix has no fsconfig")]
fn fs_create(context: &OwnedFd) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value; the descriptor is open.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) };
    Errno::result(result).map(drop)
}

#[expect(unsafe_code, reason = "nix has no fsmount")]
fn fs_mount(context: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fsmount takes numbers only; the descriptor is open.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_sysfs_writes() {
        assert_eq!(parse(b"244:3\n"), Some(DevNum { major: 244, minor: 3 }));
        for bad in [&b""[..], b"244", b"a:b\n", b"1:2:3\n"] {
            assert_eq!(parse(bad), None);
        }
    }
}
