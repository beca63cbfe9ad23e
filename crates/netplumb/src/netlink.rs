//! The blocking transport: one `NETLINK_ROUTE` socket for requests and their answers.

use std::io;
use std::sync::{Mutex, PoisonError};

use net_types::IfName;
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::attrs::{self, Attrs};
use crate::{Error, Netns, Object, Result};

/// The size of `struct nlmsghdr` in bytes.
const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel fills at most 32 KiB per read of a dump (`netlink_recvmsg`, `max_recvmsg_len`).
const RECEIVE_BUFFER: usize = 32 * 1024;
/// How often to read a dump again that the kernel calls inconsistent, before it is an error.
const DUMP_ATTEMPTS: usize = 64;

/// A blocking netlink socket of one namespace, usable from any thread in any namespace. It keeps the
/// namespace alive.
///
/// Every request is answered before the call returns: rtnetlink works in the sender's context, so no call waits for
/// anything but the kernel's own work.
pub struct Netlink {
    inner: Mutex<Inner>,
}

struct Inner {
    socket: Socket,
    sequence: u32,
    send: Vec<u8>,
    receive: Vec<u8>,
}

/// One request: message type, flags beyond `NLM_F_REQUEST`, and its name for errors.
pub(crate) struct Request<'a> {
    pub(crate) operation: &'static str,
    pub(crate) object: &'a dyn Fn() -> Object,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: &'a dyn Emitable,
}

impl Request<'_> {
    fn error(&self, errno: Errno) -> Error {
        Error::system(self.operation, (self.object)(), errno)
    }

    fn reply(&self, problem: impl Into<String>) -> Error {
        Error::reply(self.operation, (self.object)(), problem)
    }
}

/// A message that is already encoded.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Emitable for Bytes {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

/// The object of an error, built only when an error happens.
pub(crate) fn by_name(name: &IfName) -> impl Fn() -> Object {
    move || Object::from(name)
}

/// Like [`by_name`], for a link's index.
pub(crate) fn by_index(index: u32) -> impl Fn() -> Object {
    move || Object::from(index)
}

/// How a round of answers ended.
enum End {
    Done,
    Interrupted,
}

impl Netlink {
    /// Opens a socket inside the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no socket can be opened.
    pub fn open(netns: &Netns) -> Result<Self> {
        Self::from_socket(netns.enter(|| Socket::new(NETLINK_ROUTE))?)
    }

    /// Opens a socket in the calling thread's own namespace, without entering anything.
    ///
    /// # Errors
    /// No socket can be opened.
    pub fn open_current() -> Result<Self> {
        Self::from_socket(Socket::new(NETLINK_ROUTE))
    }

    /// Like [`Self::open`], for another netlink protocol.
    pub(crate) fn open_protocol(netns: &Netns, protocol: isize) -> Result<Self> {
        Self::from_socket(netns.enter(|| Socket::new(protocol))?)
    }

    /// Like [`Self::open_current`], for another netlink protocol.
    pub(crate) fn open_current_protocol(protocol: isize) -> Result<Self> {
        Self::from_socket(Socket::new(protocol))
    }

    fn from_socket(socket: io::Result<Socket>) -> Result<Self> {
        let failed = |error: io::Error| Error::io("open", "a netlink socket", &error);
        let socket = socket.map_err(failed)?;
        // No bind: the first send binds the socket.
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_netlink_get_strict_chk(true).map_err(failed)?;
        Ok(Self { inner: Mutex::new(Inner { socket, sequence: 0, send: Vec::new(), receive: Vec::new() }) })
    }

    /// Sends a request and waits for its acknowledgement; what the kernel echoes goes to `each`.
    pub(crate) fn request(
        &self,
        request: &Request<'_>,
        mut each: impl FnMut(u16, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = inner.send(request, NLM_F_ACK)?;
        inner.answers(request, sequence, &mut each).map(drop)
    }

    /// Sends a request that has no answer but its acknowledgement.
    pub(crate) fn command(&self, request: &Request<'_>) -> Result<()> {
        self.request(request, |_, _| Ok(()))
    }

    /// Sends several messages at once, for a protocol that applies all or none of them and reports errors per
    /// message. The last one must be the end of the batch, which is never acknowledged.
    pub(crate) fn batch(&self, requests: &[Request<'_>]) -> Result<()> {
        let [.., last, _end] = requests else { return Ok(()) };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.send.clear();
        let first = inner.sequence.wrapping_add(1);
        let mut acknowledged = first;
        for (at, request) in requests.iter().enumerate() {
            let flags = if at + 2 == requests.len() { NLM_F_ACK } else { 0 };
            let sequence = inner.append(request, flags);
            if flags != 0 {
                acknowledged = sequence;
            }
        }
        inner.flush(last)?;
        inner.first_error(last, first, acknowledged)
    }

    /// Reads a whole table. The kernel marks a dump during which the table changed (`NLM_F_DUMP_INTR`); such a dump
    /// is discarded and read again.
    pub(crate) fn dump<T>(
        &self,
        request: &Request<'_>,
        mut each: impl FnMut(u16, &[u8]) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..DUMP_ATTEMPTS {
            let mut all = Vec::new();
            let sequence = inner.send(request, NLM_F_DUMP)?;
            let end = inner.answers(request, sequence, &mut |kind, body| {
                all.extend(each(kind, body)?);
                Ok(())
            });
            match end {
                Ok(End::Done) => return Ok(all),
                Ok(End::Interrupted) => {
                    #[cfg(test)]
                    tests::INTERRUPTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                // ENOBUFS: part of the dump was dropped for lack of memory.
                Err(error) if matches!(error.errno(), Some(Errno::EINTR | Errno::ENOBUFS)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(request.reply(format!("the table changed during each of {DUMP_ATTEMPTS} attempts to read it")))
    }
}

impl Inner {
    fn send(&mut self, request: &Request<'_>, flags: u16) -> Result<u32> {
        self.send.clear();
        let sequence = self.append(request, flags);
        self.flush(request)?;
        Ok(sequence)
    }

    /// Appends a message to the send buffer.
    fn append(&mut self, request: &Request<'_>, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let start = self.send.len();
        let body = request.body.buffer_len();
        let length = HEADER + body;
        self.send.reserve(length);
        // A netlink message is far below 4 GiB.
        self.send.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        self.send.extend_from_slice(&request.kind.to_ne_bytes());
        self.send.extend_from_slice(&(request.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        self.send.extend_from_slice(&self.sequence.to_ne_bytes());
        self.send.extend_from_slice(&0_u32.to_ne_bytes());
        self.send.resize((start + length).next_multiple_of(4), 0);
        request.body.emit(&mut self.send[start + HEADER..start + length]);
        self.sequence
    }

    fn flush(&mut self, request: &Request<'_>) -> Result<()> {
        // Answers that a failed earlier call did not read must not be taken for this one's; the sequence number tells
        // them apart, see `answers`.
        loop {
            match self.socket.send(&self.send, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io(request.operation, (request.object)(), &error));
                }
            }
        }
    }

    /// Reads one datagram into `receive`; false if the kernel did not send it.
    fn receive(&mut self, request: &Request<'_>) -> Result<bool> {
        loop {
            self.receive.clear();
            self.receive.reserve(RECEIVE_BUFFER);
            // The answer is there when send returns; with MSG_DONTWAIT a missing one is an error instead of a process
            // that hangs.
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            match self.socket.recv_from(&mut self.receive, flags) {
                Ok((length, _)) if length > self.receive.len() => {
                    return Err(request.reply(format!("the answer of {length} bytes is too long")));
                }
                Ok((_, sender)) => return Ok(sender.port_number() == 0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(request.reply("the kernel did not answer"));
                }
                // ENOBUFS: the kernel dropped an answer because this socket's buffer was full, which one request at a
                // time cannot cause; the result of the request is unknown.
                Err(error) => {
                    return Err(Error::io(request.operation, (request.object)(), &error));
                }
            }
        }
    }

    /// Reads answers to the messages from `first` to `last`; the first error counts.
    fn first_error(&mut self, request: &Request<'_>, first: u32, last: u32) -> Result<()> {
        let mut failed = None;
        loop {
            let kernels = match self.receive(request) {
                Ok(kernels) => kernels,
                // The kernel need not acknowledge the last message of a batch that failed.
                Err(missing) => return Err(failed.unwrap_or(missing)),
            };
            let mut rest = if kernels { self.receive.as_slice() } else { &[] };
            while let Some(message) = Message::first(&mut rest) {
                if message.kind != NLMSG_ERROR
                    || message.sequence.wrapping_sub(first) > last.wrapping_sub(first)
                {
                    continue;
                }
                let error = message.error(request)?;
                failed = failed.or(error);
                if message.sequence == last {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Reads answers to `sequence` until its acknowledgement or the end of its dump.
    fn answers(
        &mut self,
        request: &Request<'_>,
        sequence: u32,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
    ) -> Result<End> {
        let mut interrupted = false;
        // A dump must be read to its end, or the socket stays busy.
        let mut taken = Ok(());
        loop {
            if !self.receive(request)? {
                continue;
            }
            let mut rest = self.receive.as_slice();
            while let Some(message) = Message::first(&mut rest) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(request.reply("the kernel lost part of the answer")),
                    NLMSG_DONE | NLMSG_ERROR => {
                        if let Some(error) = message.error(request)? {
                            return Err(error);
                        }
                        return taken.map(|()| if interrupted { End::Interrupted } else { End::Done });
                    }
                    kind => taken = taken.and_then(|()| each(kind, message.body)),
                }
            }
        }
    }
}

/// One message of a datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Splits the first message off `rest`; `None` if no whole one is left.
    pub(crate) fn first(rest: &mut &'a [u8]) -> Option<Self> {
        let all = *rest;
        let length = usize::try_from(attrs::u32_at(all, 0)?).ok()?;
        let body = all.get(HEADER..length)?;
        *rest = all.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self {
            kind: attrs::u16_at(all, 4)?,
            flags: attrs::u16_at(all, 6)?,
            sequence: attrs::u32_at(all, 8)?,
            body,
        })
    }

    /// The error of an `NLMSG_ERROR` or `NLMSG_DONE`, with the extended acknowledgement's text
    /// (`struct nlmsgerr`, `NLMSGERR_ATTR_MSG` in `linux/netlink.h`).
    fn error(&self, request: &Request<'_>) -> Result<Option<Error>> {
        let Some(code) = attrs::u32_at(self.body, 0).map(u32::cast_signed) else {
            // An empty NLMSG_DONE reports success.
            return if self.kind == NLMSG_DONE { Ok(None) } else { Err(request.reply("a short answer")) };
        };
        if code >= 0 {
            return Ok(None);
        }
        let mut error = request.error(Errno::from_raw(-code));
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let skip = if self.kind == NLMSG_DONE {
                4
            } else {
                // The request follows: only its header if the answer is capped, otherwise all of it.
                let echoed = if self.flags & NLM_F_CAPPED == 0 { attrs::u32_at(self.body, 4) } else { None };
                4 + echoed.and_then(|n| usize::try_from(n).ok()).unwrap_or(HEADER).next_multiple_of(4)
            };
            let text = Attrs::new(self.body.get(skip..).unwrap_or_default())
                .find(|attr| attr.kind == NLMSGERR_ATTR_MSG)
                .and_then(|attr| attr.text());
            if let Error::Kernel { kernel, .. } = &mut error {
                *kernel = text;
            }
        }
        Ok(Some(error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan};
    use rtnetlink::{LinkMessageBuilder, LinkUnspec};

    use super::*;
    use crate::link::{NewLink, RTM_NEWLINK, Veth};

    /// How many dumps were discarded.
    pub(super) static INTERRUPTED: AtomicUsize = AtomicUsize::new(0);

    fn name(text: &str) -> IfName {
        text.parse().expect("a link name")
    }

    fn netns() -> (Netns, Netlink) {
        let netns = Netns::new().expect("needs root");
        let netlink = Netlink::open(&netns).expect("a socket");
        (netns, netlink)
    }

    fn veth(netlink: &Netlink, main: &str, peer: &str) -> Result<u32> {
        let veth = Veth::new(NewLink::new(name(main)), NewLink::new(name(peer)));
        netlink.create_veth(&veth).map(|indexes| indexes.main)
    }

    #[test]
    fn a_dump_under_load_is_whole() {
        const KEPT: usize = 60;
        let (netns, netlink) = netns();
        for n in 0..KEPT {
            veth(&netlink, &format!("a{n}"), &format!("b{n}")).unwrap();
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let netlink = Netlink::open(&netns).unwrap();
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let index = veth(&netlink, &format!("x{worker}"), &format!("y{worker}")).unwrap();
                        netlink.delete_link(index).unwrap();
                    }
                });
            }
            for _ in 0..20_000 {
                let links = netlink.links().unwrap();
                let mut kept: Vec<_> =
                    links.iter().filter(|link| link.name.starts_with(['a', 'b'])).map(|l| l.index).collect();
                kept.sort_unstable();
                kept.dedup();
                assert_eq!(kept.len(), 2 * KEPT);
                if INTERRUPTED.load(Ordering::Relaxed) >= 5 {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(INTERRUPTED.load(Ordering::Relaxed) > 0, "no dump was interrupted: the test shows nothing");
    }

    /// Sends a request with values that the types of this crate exclude.
    fn create(netlink: &Netlink, kind: InfoKind, mtu: Option<u32>, data: Option<InfoData>) -> Error {
        let mut builder =
            LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name("vx2").link_group(7);
        if let Some(mtu) = mtu {
            builder = builder.mtu(mtu);
        }
        if let Some(data) = data {
            builder = builder.set_info_data(data);
        }
        let name = name("vx2");
        let request = Request {
            operation: "create VXLAN",
            object: &by_name(&name),
            kind: RTM_NEWLINK,
            flags: netlink_packet_core::NLM_F_CREATE,
            body: &builder.build(),
        };
        netlink.command(&request).unwrap_err()
    }

    #[test]
    fn the_kernels_reason_is_the_errors_text() {
        let (_netns, netlink) = netns();
        let data = InfoData::Vxlan(vec![InfoVxlan::Id(1 << 24)]);
        let error = create(&netlink, InfoKind::Vxlan, None, Some(data));
        assert_eq!(error.to_string(), "create VXLAN \"vx2\": VXLAN ID must be lower than 16777216 (ERANGE)");
        assert_eq!(error.kernel(), Some("VXLAN ID must be lower than 16777216"));
        assert_eq!(error.errno(), Some(Errno::ERANGE));
        let error = create(&netlink, InfoKind::Bridge, Some(70_000), None);
        assert_eq!(error.to_string(), "create VXLAN \"vx2\": mtu greater than device maximum (EINVAL)");
        // An answer of another length: the whole request is echoed behind the error.
        let error = create(&netlink, InfoKind::Other("nothing".into()), None, None);
        assert_eq!(error.to_string(), "create VXLAN \"vx2\": Unknown device type (EOPNOTSUPP)");
    }

    #[test]
    fn messages_are_cut_apart() {
        let mut bytes = Vec::new();
        for (kind, body) in [(16_u16, &b"abcde"[..]), (3, b"")] {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let mut rest = bytes.as_slice();
        let first = Message::first(&mut rest).unwrap();
        assert_eq!((first.kind, first.sequence, first.body), (16, 9, &b"abcde"[..]));
        assert_eq!(Message::first(&mut rest).map(|m| (m.kind, m.body.len())), Some((3, 0)));
        assert!(Message::first(&mut rest).is_none());
        // Cut off, or of an impossible length: it ends instead of looping.
        assert!(Message::first(&mut &bytes[..20]).is_none());
        assert!(Message::first(&mut &[0_u8; 32][..]).is_none());
    }
}
