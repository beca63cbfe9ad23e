use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};

use crate::error::During;
use crate::{Error, Namespaces, socket as options};

/// A raw socket on one link that sends and sees whole Ethernet frames, 802.1Q tags included (packet(7)).
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// A frame as a [`PacketSocket`] received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// All bytes from the destination address on, with the outer tag where it was on the wire.
    pub bytes: Vec<u8>,
    /// Sent by this host rather than received.
    pub outgoing: bool,
}

impl Frame {
    /// The protocol after the addresses: `0x8100` for a tagged frame.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        self.bytes.get(12..14).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
    }
}

impl PacketSocket {
    /// Opens one on the link `ifname` of `place`; it stays there and can be used from anywhere.
    ///
    /// # Errors
    /// If there is no such link.
    pub fn open(place: &Namespaces, ifname: &str) -> Result<Self, Error> {
        place.run(|| Self::here(ifname)).during(|| format!("opening a packet socket on {ifname}"))
    }

    fn here(ifname: &str) -> io::Result<Self> {
        let index = if_nametoindex(ifname)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        // Bound to no protocol first, so that no frame of another link gets in.
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
        options::set_int(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        let all = (libc::ETH_P_ALL as u16).to_be();
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: all,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        #[expect(unsafe_code, reason = "nix cannot make a link-layer address")]
        // SAFETY: the kernel reads a sockaddr_ll of the size that is given.
        let answer = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        nix::errno::Errno::result(answer)?;
        let promiscuous = libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        options::set_raw(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
        Ok(Self(socket))
    }

    /// Sends a whole frame.
    ///
    /// # Errors
    /// The kernel's: `EMSGSIZE` above the link's MTU, `ENETDOWN` on a link that is down.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).during(|| "sending a frame".to_owned())?;
        Ok(())
    }

    /// The next frame, or `None` if there is none within `timeout`.
    ///
    /// # Errors
    /// If the link is gone.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Frame>, Error> {
        options::set_receive_timeout(&self.0, timeout).during(|| "setting a timeout".to_owned())?;
        match self.receive_now() {
            Ok(frame) => Ok(Some(frame)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e).during(|| "receiving a frame".to_owned()),
        }
    }

    /// The first received frame that `wanted` accepts, or `None` if none comes within `timeout`.
    ///
    /// # Errors
    /// If the link is gone.
    pub fn find(&self, timeout: Duration, wanted: impl Fn(&Frame) -> bool) -> Result<Option<Frame>, Error> {
        let end = Instant::now() + timeout;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.receive(left)? {
                Some(frame) if !frame.outgoing && wanted(&frame) => return Ok(Some(frame)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn receive_now(&self) -> io::Result<Frame> {
        // The kernel removes an outer tag and reports it beside the frame (struct tpacket_auxdata).
        let mut bytes = vec![0_u8; 70_000];
        let mut control = [0_u64; 16];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        #[expect(unsafe_code, reason = "nix does not decode PACKET_AUXDATA")]
        // SAFETY: all pointers in the header lead to buffers that outlive the call and are as long as stated;
        // a zeroed msghdr and sockaddr_ll are valid; control messages are only read where the kernel's
        // macros say that they are, with the size checked against tpacket_auxdata's.
        let (length, outgoing, tag) = unsafe {
            let mut from: libc::sockaddr_ll = std::mem::zeroed();
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = (&raw mut from).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control);
            let length = libc::recvmsg(self.0.as_raw_fd(), &raw mut header, 0);
            if length < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut tag = None;
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while !message.is_null() {
                if (*message).cmsg_level == libc::SOL_PACKET && (*message).cmsg_type == libc::PACKET_AUXDATA {
                    let aux: Auxdata = std::ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                    if aux.status & VLAN_VALID != 0 {
                        tag = Some((if aux.vlan_tpid == 0 { 0x8100 } else { aux.vlan_tpid }, aux.vlan_tci));
                    }
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
            (length.unsigned_abs(), from.sll_pkttype == libc::PACKET_OUTGOING, tag)
        };
        bytes.truncate(length);
        if let (Some((tpid, tci)), true) = (tag, bytes.len() >= 12) {
            let inserted = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
            bytes.splice(12..12, inserted);
        }
        Ok(Frame { bytes, outgoing })
    }
}

/// The layout of `struct tpacket_auxdata` of linux/if_packet.h.
#[repr(C)]
struct Auxdata {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// The flag `TP_STATUS_VLAN_VALID` of linux/if_packet.h.
const VLAN_VALID: u32 = 1 << 4;
