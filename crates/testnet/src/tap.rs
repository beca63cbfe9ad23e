use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::stat::{fstat, major, minor};

use crate::error::During;
use crate::{Error, Namespaces};

/// An open `/dev/tapN`, used as a VM monitor uses it: frames come and go through it, not through the link's
/// own stack.
#[derive(Debug)]
pub struct Tap(File);

/// How often the device is read, which does not block: who waits for a frame that does not come has an end.
const INTERVAL: Duration = Duration::from_millis(2);

/// `struct virtio_net_hdr` before each frame: the default of a macvtap (`IFF_VNET_HDR`).
const HEADER: usize = 10;

impl Tap {
    /// Opens the node at `path` as `place` sees it, for reading and writing.
    ///
    /// # Errors
    /// If there is none, if it leads nowhere, or if another holds it.
    pub fn open(place: &Namespaces, path: &str) -> Result<Self, Error> {
        let open = || {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
        };
        place.run(open).map(Self).during(|| format!("opening {path}"))
    }

    /// Major and minor number of the device.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn device(&self) -> Result<(u64, u64), Error> {
        let stat = fstat(&self.0).during(|| "looking at a tap".to_owned())?;
        Ok((major(stat.st_rdev), minor(stat.st_rdev)))
    }

    /// Sends a frame as the guest would.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let mut packet = vec![0_u8; HEADER];
        packet.extend_from_slice(frame);
        (&self.0).write_all(&packet).during(|| "writing to a tap".to_owned())
    }

    /// The first frame for the guest that `wanted` accepts, or `None` if none comes within `timeout`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find(&self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>, Error> {
        let end = Instant::now() + timeout;
        let mut buffer = vec![0_u8; 70_000];
        while Instant::now() < end {
            match (&self.0).read(&mut buffer) {
                Ok(length) if length > HEADER && wanted(&buffer[HEADER..length]) => {
                    return Ok(Some(buffer[HEADER..length].to_vec()));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(INTERVAL),
                Err(e) => return Err(e).during(|| "reading from a tap".to_owned()),
            }
        }
        Ok(None)
    }

    /// The name of the link behind it (`TUNGETIFF`, linux/if_tun.h).
    ///
    /// # Errors
    /// If the link is gone.
    pub fn link(&self) -> Result<String, Error> {
        /// The request `TUNGETIFF`, `_IOR('T', 210, unsigned int)`, of linux/if_tun.h.
        const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
        #[expect(unsafe_code, reason = "no wrapper for this request")]
        // SAFETY: a zeroed ifreq is valid, and the kernel writes one at that address.
        let request = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            nix::errno::Errno::result(libc::ioctl(self.0.as_raw_fd(), TUNGETIFF, &raw mut request))
                .map(|_| request)
        };
        let request = request.during(|| "asking which link a tap belongs to".to_owned())?;
        let name: Vec<u8> =
            request.ifr_name.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// The open file, for another process.
    ///
    /// # Errors
    /// If it cannot be duplicated.
    pub fn into_fd(self) -> Result<OwnedFd, Error> {
        self.0.as_fd().try_clone_to_owned().during(|| "duplicating a descriptor".to_owned())
    }
}
