//! The character device of a macvtap.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use net_types::IfName;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::{Error, Netns, Result};

/// The number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevNum {
    /// The number of the driver.
    pub major: u32,
    /// The number of the device within its driver.
    pub minor: u32,
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Waits for the character device of a macvtap that is about to be created. It costs a tenth of [`tap_device`], which
/// it falls back to.
///
/// Before it answers the request that creates the link, the kernel sends a uevent with the device's number to
/// listeners in the link's namespace (`kobject_uevent_env` in `lib/kobject_uevent.c`).
pub struct TapWatch {
    socket: Socket,
    netns: Netns,
}

impl TapWatch {
    /// Starts to listen in the namespace that the macvtap will be in.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no socket can be opened.
    pub fn open(netns: &Netns) -> Result<Self> {
        const KERNEL_EVENTS: u32 = 1;
        let failed = |error: io::Error| Error::io("listen for", "device events", &error);
        let mut socket = netns.enter(|| Socket::new(NETLINK_KOBJECT_UEVENT))?.map_err(failed)?;
        socket.bind(&SocketAddr::new(0, KERNEL_EVENTS)).map_err(failed)?;
        Ok(Self { socket, netns: netns.clone() })
    }

    /// The device of the macvtap that was created with this name and index meanwhile; `None` if there is no such
    /// macvtap.
    ///
    /// # Errors
    /// As [`tap_device`].
    pub fn device(&self, name: &IfName, index: u32) -> Result<Option<DevNum>> {
        let path = format!("/{name}/macvtap/tap{index}");
        let mut found = None;
        let mut buffer = Vec::with_capacity(4096);
        loop {
            buffer.clear();
            match self.socket.recv_from(&mut buffer, libc::MSG_DONTWAIT) {
                // Root in the namespace can send here, too.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                // There are two events for a device that was created, deleted and created again.
                Ok(_) => found = added(&buffer, &path).or(found),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing more, or (ENOBUFS) an event was lost.
                Err(_) => break,
            }
        }
        match found {
            Some(device) => Ok(Some(device)),
            None => tap_device(&self.netns, name, index),
        }
    }
}

/// The device number in an event, if the event says that a device at this path was added.
fn added(event: &[u8], path: &str) -> Option<DevNum> {
    let mut fields = event.split(|&byte| byte == 0).filter_map(|field| str::from_utf8(field).ok());
    let place = fields.next()?.strip_prefix("add@")?;
    if !place.ends_with(path) {
        return None;
    }
    let (mut major, mut minor) = (None, None);
    for field in fields {
        match field.split_once('=') {
            Some(("MAJOR", number)) => major = number.parse().ok(),
            Some(("MINOR", number)) => minor = number.parse().ok(),
            _ => {}
        }
    }
    Some(DevNum { major: major?, minor: minor? })
}

/// The character device of the macvtap with this name and index in this namespace; `None` if there is no such
/// macvtap.
///
/// Only sysfs has the number, and a sysfs shows only the namespace that it was mounted from, so this mounts one that
/// no other process sees. `/dev/tap<index>` cannot be used: it may be of another namespace.
///
/// # Errors
/// The caller lacks CAP_SYS_ADMIN, or the kernel is older than 5.2.
pub fn tap_device(netns: &Netns, name: &IfName, index: u32) -> Result<Option<DevNum>> {
    let failed = |errno| Error::system("read the tap device of", name, errno);
    // The thread that opens the file system context determines the namespace.
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

/// Parses `major:minor` and a line end.
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
    fn reads_what_the_kernel_tells() {
        let event = b"add@/devices/virtual/net/net1/macvtap/tap7\0ACTION=add\0MAJOR=246\0MINOR=1\0SEQNUM=9\0";
        assert_eq!(added(event, "/net1/macvtap/tap7"), Some(DevNum { major: 246, minor: 1 }));
        assert_eq!(added(event, "/net1/macvtap/tap8"), None);
        assert_eq!(added(event, "/net/macvtap/tap7"), None);
        assert_eq!(added(&event[..60], "/net1/macvtap/tap7"), None);
        assert_eq!(added(b"remove@/x/net1/macvtap/tap7\0MAJOR=1\0MINOR=1\0", "/net1/macvtap/tap7"), None);
    }

    #[test]
    fn reads_what_sysfs_writes() {
        assert_eq!(parse(b"244:3\n"), Some(DevNum { major: 244, minor: 3 }));
        for bad in [&b""[..], b"244", b"a:b\n", b"1:2:3\n"] {
            assert_eq!(parse(bad), None);
        }
    }
}
