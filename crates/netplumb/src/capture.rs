//! Copies of all frames that go through a link, in both directions.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::packet::PacketSocket;
use crate::{Error, Netns, Result};

/// The size of the kernel's queue in bytes, large enough for a burst while the reader is late.
const QUEUE: libc::c_int = 4 << 20;
/// The largest frame: one of 64 KiB that a later device or the other end cuts (GSO), with its header.
const LARGEST: usize = 256 << 10;
/// The offset of a VLAN tag in a frame: behind both addresses.
const TAG_AT: usize = 12;
const TAG: usize = 4;

/// Copies of all frames of one link.
pub struct Capture {
    socket: PacketSocket,
    buffer: Vec<u8>,
    index: u32,
}

/// A captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When the kernel saw it, since 1970.
    pub time: Duration,
    /// Its bytes from the destination address on, with its VLAN tag; not more than [`Frame::length`].
    pub bytes: &'a [u8],
    /// The length of the whole frame in bytes.
    pub length: usize,
}

/// What the kernel says about a frame in control messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Beside {
    time: Option<Duration>,
    /// The VLAN tag that the kernel removed from the frame: protocol and control information, as they are on the
    /// wire.
    tag: Option<[u8; TAG]>,
}

impl Capture {
    /// Starts to capture on the link with that index.
    ///
    /// # Errors
    /// The link does not exist, or the caller lacks CAP_NET_RAW.
    pub fn start(netns: &Netns, index: u32) -> Result<Self> {
        let socket = PacketSocket::of_everything(netns, index, QUEUE)?;
        Ok(Self { socket, buffer: vec![0; LARGEST + TAG], index })
    }

    /// The next frame; `None` if none has arrived.
    ///
    /// # Errors
    /// The link went down or was deleted.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        // The buffer has room before the frame for the tag that the kernel removed.
        let (length, beside) = match receive(self.socket.as_fd(), &mut self.buffer[TAG..]) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => {
                return Err(Error::system("receive on", format!("link {}", self.index), errno));
            }
        };
        let kept = length.min(LARGEST);
        let (from, more) = match beside.tag {
            Some(tag) if kept >= TAG_AT => {
                self.buffer.copy_within(TAG..TAG + TAG_AT, 0);
                self.buffer[TAG_AT..TAG_AT + TAG].copy_from_slice(&tag);
                (0, TAG)
            }
            _ => (TAG, 0),
        };
        let time = beside.time.unwrap_or_default();
        Ok(Some(Frame { time, bytes: &self.buffer[from..TAG + kept], length: length + more }))
    }

    /// How many frames were dropped since the last call because they were not read in time.
    ///
    /// # Errors
    /// The kernel refuses the query.
    pub fn lost(&self) -> Result<u32> {
        self.socket.lost()
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives one frame into the buffer; returns its length, which may exceed the buffer's.
#[expect(unsafe_code, reason = "nix knows no PACKET_AUXDATA")]
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Beside), Errno> {
    let mut control = [0_u64; 16];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    loop {
        // SAFETY: all zeros is a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: the header names the buffer and the control buffer with their sizes, and both live over the call.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_TRUNC) };
        match Errno::result(length) {
            // SAFETY: recvmsg filled the header in just now.
            Ok(length) => return Ok((length.cast_unsigned(), unsafe { beside(&header) })),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads the control messages of a header that `recvmsg` filled in.
#[expect(unsafe_code, reason = "control messages are read by pointers")]
unsafe fn beside(header: &libc::msghdr) -> Beside {
    let mut found = Beside::default();
    // SAFETY: the header is the kernel's answer, with a control buffer that lives as long as it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give whole messages within the buffer, or null.
    while let Some(message) = unsafe { at.as_ref() } {
        // SAFETY: the message is whole; its data is read unaligned, and only what its length covers.
        unsafe {
            let data = libc::CMSG_DATA(at);
            let holds = |size: usize| message.cmsg_len >= libc::CMSG_LEN(size as libc::c_uint) as usize;
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if holds(size_of::<libc::timespec>()) => {
                    let time: libc::timespec = data.cast::<libc::timespec>().read_unaligned();
                    found.time = duration(&time);
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) if holds(size_of::<libc::tpacket_auxdata>()) => {
                    found.tag = tag(&data.cast::<libc::tpacket_auxdata>().read_unaligned());
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    found
}

fn duration(time: &libc::timespec) -> Option<Duration> {
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// The tag that the kernel removed from the frame (packet(7)).
fn tag(data: &libc::tpacket_auxdata) -> Option<[u8; TAG]> {
    if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let known = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol = if known { data.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
    let ([p0, p1], [c0, c1]) = (protocol.to_be_bytes(), data.tp_vlan_tci.to_be_bytes());
    Some([p0, p1, c0, c1])
}

impl PacketSocket {
    /// Sets the socket options that [`Capture`] needs.
    pub(crate) fn of_everything(netns: &Netns, index: u32, queue: libc::c_int) -> Result<Self> {
        let socket = Self::unbound(netns, index)?;
        let one: libc::c_int = 1;
        socket.set("ask for VLAN tags of", libc::SOL_PACKET, libc::PACKET_AUXDATA, &one)?;
        socket.set("ask for times of", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &one)?;
        socket.set("set the queue of", libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &queue)?;
        socket.bind(libc::ETH_P_ALL as u16)?;
        Ok(socket)
    }

    #[expect(unsafe_code, reason = "nix has no packet socket options")]
    fn lost(&self) -> Result<u32> {
        // SAFETY: all zeros is a valid tpacket_stats.
        let mut counts: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut size = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: value and length are those of one tpacket_stats, which this option fills in.
        let result = unsafe {
            libc::getsockopt(
                self.as_fd().as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut size,
            )
        };
        Errno::result(result).map_err(|_| {
            Error::io("ask for the losses of", "a packet socket".to_owned(), &io::Error::last_os_error())
        })?;
        Ok(counts.tp_drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "libc's tpacket_auxdata has no constructor")]
    fn auxiliary(status: u32, tpid: u16, tci: u16) -> libc::tpacket_auxdata {
        // SAFETY: all zeros is a valid tpacket_auxdata.
        let mut data: libc::tpacket_auxdata = unsafe { mem::zeroed() };
        (data.tp_status, data.tp_vlan_tpid, data.tp_vlan_tci) = (status, tpid, tci);
        data
    }

    #[test]
    fn a_tag_is_as_it_stands_in_a_frame() {
        let both = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        assert_eq!(tag(&auxiliary(both, 0x88a8, 0x6014)), Some([0x88, 0xa8, 0x60, 0x14]));
        assert_eq!(tag(&auxiliary(libc::TP_STATUS_VLAN_VALID, 0, 20)), Some([0x81, 0, 0, 20]));
        assert_eq!(tag(&auxiliary(0, 0x8100, 20)), None);
    }
}
