//! The few socket options for which nix has no name.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Sets an option that takes an `int`.
pub(crate) fn set_int(socket: &impl AsRawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    set_raw(socket.as_raw_fd(), level, option, &value)
}

/// Sets an option that takes the struct `T`, which must be what the kernel's documentation says.
pub(crate) fn set_raw<T>(socket: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    #[expect(unsafe_code, reason = "nix has no wrapper for these options")]
    // SAFETY: the kernel reads exactly `size_of::<T>()` bytes from `value`.
    let answer = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(answer)?;
    Ok(())
}

/// How long a receive waits; at least a microsecond, since zero means without a limit.
pub(crate) fn set_receive_timeout(socket: &impl std::os::fd::AsFd, timeout: Duration) -> io::Result<()> {
    let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1);
    Ok(setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::microseconds(micros))?)
}
