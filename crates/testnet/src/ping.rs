use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, io};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvfrom, sendto, setsockopt, socket, sockopt,
};

use crate::error::During;
use crate::{Error, Namespaces, socket as options};

/// An echo request, repeated: what `ping` does, without the program.
#[derive(Clone, Debug)]
pub struct Ping {
    to: IpAddr,
    link: Option<String>,
    count: u16,
    interval: Duration,
    payload: usize,
    timeout: Duration,
}

/// The result of a [`Ping`].
#[derive(Clone, Debug)]
pub struct PingReport {
    /// The number of requests that were sent.
    pub sent: usize,
    /// Requests that the kernel refused to send, with its last words.
    pub refused: Option<io::ErrorKind>,
    /// Answers: sequence number, sender, round-trip time; several per request if several hosts answer.
    pub replies: Vec<(u16, IpAddr, Duration)>,
}

impl Ping {
    /// One request of 56 bytes, waiting a second for the answer.
    #[must_use]
    pub fn new(to: impl Into<IpAddr>) -> Self {
        Self {
            to: to.into(),
            link: None,
            count: 1,
            interval: Duration::from_millis(20),
            payload: 56,
            timeout: Duration::from_secs(1),
        }
    }

    /// Sends on this link only: needed for link-local and multicast addresses.
    #[must_use]
    pub fn on(mut self, link: &str) -> Self {
        self.link = Some(link.to_owned());
        self
    }

    /// Sends `count` requests, one every `interval`.
    #[must_use]
    pub fn repeated(mut self, count: u16, interval: Duration) -> Self {
        (self.count, self.interval) = (count, interval);
        self
    }

    /// Sends this many bytes after the ICMP header.
    #[must_use]
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }

    /// Fills the link's MTU with one packet of `mtu` bytes with its IP and ICMP headers; never fragmented.
    #[must_use]
    pub fn filling(self, mtu: usize) -> Self {
        let headers = if self.to.is_ipv4() { 28 } else { 48 };
        self.payload(mtu - headers)
    }

    /// Waits this long for answers after the last request.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends from the network namespace `place` and collects the answers.
    ///
    /// # Errors
    /// If there is no such link or no right to open a raw socket.
    pub fn run(&self, place: &Namespaces) -> Result<PingReport, Error> {
        place.run(|| self.here()).during(|| format!("pinging {}", self.to))
    }

    fn here(&self) -> io::Result<PingReport> {
        let (family, protocol) = match self.to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        match self.to {
            IpAddr::V4(_) => {
                options::set_int(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
            }
            IpAddr::V6(_) => options::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?,
        }
        let mut scope = 0;
        if let Some(link) = &self.link {
            scope = if_nametoindex(link.as_str())?;
            setsockopt(&socket, sockopt::BindToDevice, &OsString::from(link))?;
        }
        Exchange {
            ping: self,
            socket,
            scope,
            id: Self::identity(),
            sent: BTreeMap::new(),
            replies: Vec::new(),
        }
        .run()
    }

    /// A number that distinguishes several pings in one namespace.
    fn identity() -> u16 {
        static NEXT: AtomicU16 = AtomicU16::new(0x1000);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

struct Exchange<'a> {
    ping: &'a Ping,
    socket: OwnedFd,
    scope: u32,
    id: u16,
    sent: BTreeMap<u16, Instant>,
    replies: Vec<(u16, IpAddr, Duration)>,
}

impl Exchange<'_> {
    fn run(mut self) -> io::Result<PingReport> {
        let mut refused = None;
        let start = Instant::now();
        for number in 0..self.ping.count {
            let now = Instant::now();
            self.sent.insert(number, now);
            if let Err(error) = self.send(number) {
                refused = Some(error.kind());
            }
            let last = number + 1 == self.ping.count;
            let until = match last {
                true => now + self.ping.timeout,
                false => start + self.ping.interval * u32::from(number + 1),
            };
            self.collect(until, last && !self.is_multicast())?;
        }
        Ok(PingReport { sent: self.sent.len(), refused, replies: self.replies })
    }

    fn is_multicast(&self) -> bool {
        self.ping.to.is_multicast() || self.ping.to == IpAddr::from([255, 255, 255, 255])
    }

    fn send(&self, number: u16) -> io::Result<()> {
        let mut packet = vec![0_u8; 8 + self.ping.payload];
        packet[0] = if self.ping.to.is_ipv4() { 8 } else { 128 };
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&number.to_be_bytes());
        for (at, byte) in packet[8..].iter_mut().enumerate() {
            *byte = at as u8;
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        match self.ping.to {
            IpAddr::V4(to) => {
                let sum = checksum(&packet);
                packet[2..4].copy_from_slice(&sum.to_be_bytes());
                sendto(fd, &packet, &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty())?;
            }
            // The kernel fills in an ICMPv6 checksum (RFC 3542, section 3.1).
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.scope));
                sendto(fd, &packet, &to, MsgFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Receives answers until `until`, or until none is missing if `eager`.
    fn collect(&mut self, until: Instant, eager: bool) -> io::Result<()> {
        let mut buffer = vec![0_u8; 70_000];
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if eager && self.replies.len() >= self.sent.len() {
                break;
            }
            options::set_receive_timeout(&self.socket, left)?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
            match recvfrom::<SockaddrStorage>(fd, &mut buffer) {
                Ok((length, from)) => self.record(&buffer[..length], from),
                // The socket reports an unreachable host once per request.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn record(&mut self, packet: &[u8], from: Option<SockaddrStorage>) {
        let Some(from) = from.and_then(|f| address(&f)) else { return };
        // A raw IPv4 socket shows the IP header, a raw IPv6 socket does not (raw(7), ipv6(7)).
        let (skip, reply) = match self.ping.to {
            IpAddr::V4(_) => (usize::from(packet.first().unwrap_or(&0) & 0x0f) * 4, 0),
            IpAddr::V6(_) => (0, 129),
        };
        let Some(icmp) = packet.get(skip..).filter(|icmp| icmp.len() >= 8) else { return };
        let number = u16::from_be_bytes([icmp[6], icmp[7]]);
        let mine = icmp[0] == reply && icmp[4..6] == self.id.to_be_bytes();
        let whole = icmp.len() == 8 + self.ping.payload
            && icmp[8..].iter().enumerate().all(|(at, byte)| *byte == at as u8);
        if let (true, Some(sent)) = (mine && whole, self.sent.get(&number)) {
            self.replies.push((number, from, sent.elapsed()));
        }
    }
}

impl PingReport {
    /// How many requests got no answer.
    #[must_use]
    pub fn lost(&self) -> usize {
        let answered: std::collections::BTreeSet<u16> =
            self.replies.iter().map(|(number, ..)| *number).collect();
        self.sent - answered.len()
    }

    /// The median round-trip time; `None` without an answer.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.replies.iter().map(|(.., time)| *time).collect();
        times.sort();
        times.get(times.len() / 2).copied()
    }

    /// Verifies that nothing was lost and nothing came twice.
    ///
    /// # Errors
    /// The report, as text.
    pub fn perfect(&self) -> Result<(), String> {
        if self.lost() == 0 && self.replies.len() == self.sent { Ok(()) } else { Err(self.to_string()) }
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} lost, {} answers", self.sent, self.lost(), self.replies.len())?;
        if let Some(kind) = self.refused {
            write!(f, ", refused by the kernel: {kind}")?;
        }
        match self.median() {
            Some(median) => write!(f, ", median {:.3} ms", median.as_secs_f64() * 1000.0),
            None => Ok(()),
        }
    }
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|a| SocketAddr::from(SocketAddrV4::from(*a)).ip());
    v4.or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
