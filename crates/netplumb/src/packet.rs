//! Packet sockets: sending and receiving whole Ethernet frames on one link (packet(7)).

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::{Error, Netns, Result};

pub(crate) const ETH_P_ARP: u16 = 0x0806;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;
/// The length of destination, source and type together.
pub(crate) const ETHERNET: usize = 14;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A non-blocking packet socket of one link.
pub(crate) struct PacketSocket {
    file: File,
    index: u32,
}

impl PacketSocket {
    /// A socket that sends, and receives frames of that type, without a VLAN tag, that pass the filter (a classic BPF
    /// program that sees the frame from its Ethernet header on).
    pub(crate) fn receiver(
        netns: &Netns,
        index: u32,
        ether_type: u16,
        filter: &[libc::sock_filter],
    ) -> Result<Self> {
        let socket = Self::unbound(netns, index)?;
        let one: libc::c_int = 1;
        socket.set("ignore outgoing frames on", libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &one)?;
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or(u16::MAX),
            filter: filter.as_ptr().cast_mut(),
        };
        // Before bind, so that no unfiltered frame ever arrives.
        socket.set("set the filter of", libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        socket.bind(ether_type)?;
        Ok(socket)
    }

    pub(crate) fn unbound(netns: &Netns, index: u32) -> Result<Self> {
        let file = netns.enter(open_socket)?.map_err(|errno| failed("open", index, errno))?;
        Ok(Self { file, index })
    }

    #[expect(unsafe_code, reason = "nix makes no link-layer address from its parts")]
    pub(crate) fn bind(&self, ether_type: u16) -> Result<()> {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ether_type.to_be();
        address.sll_ifindex = self.index.cast_signed();
        // SAFETY: the address and its length are those of one sockaddr_ll that lives over the call.
        let result = unsafe {
            libc::bind(
                self.file.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop).map_err(|errno| failed("bind", self.index, errno))
    }

    #[expect(unsafe_code, reason = "nix has no packet socket options")]
    pub(crate) fn set<T>(
        &self,
        operation: &'static str,
        level: libc::c_int,
        option: libc::c_int,
        value: &T,
    ) -> Result<()> {
        // SAFETY: value and length are those of one T, the type that this option takes (packet(7),
        // socket(7)); the kernel only reads it.
        let result = unsafe {
            libc::setsockopt(
                self.file.as_raw_fd(),
                level,
                option,
                (&raw const *value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop).map_err(|errno| failed(operation, self.index, errno))
    }

    /// Receives frames to a multicast address as long as the socket exists.
    #[expect(unsafe_code, reason = "libc's packet_mreq has no constructor")]
    pub(crate) fn join(&self, group: [u8; 6]) -> Result<()> {
        // SAFETY: all zeros is a valid packet_mreq.
        let mut request: libc::packet_mreq = unsafe { mem::zeroed() };
        request.mr_ifindex = self.index.cast_signed();
        request.mr_type = libc::PACKET_MR_MULTICAST as u16;
        request.mr_alen = 6;
        request.mr_address[..6].copy_from_slice(&group);
        self.set("join a multicast address on", libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Sends one frame, including its Ethernet header.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match (&self.file).write(frame) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("send on", object(self.index), &error)),
            }
        }
    }

    /// The next received frame, cut to the buffer; `None` if none has arrived.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        loop {
            match (&self.file).read(buffer) {
                Ok(length) => return Ok(Some(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(Error::io("receive on", object(self.index), &error)),
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn object(index: u32) -> String {
    format!("link {index}")
}

fn failed(operation: &'static str, index: u32, errno: Errno) -> Error {
    Error::system(operation, format!("a packet socket of link {index}"), errno)
}

#[expect(unsafe_code, reason = "std opens no packet sockets")]
fn open_socket() -> Result<File, Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes numbers only.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor was made just now for us alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}
