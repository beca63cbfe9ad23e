//! Changes in a namespace as a stream of events (feature `monitor`, needs a tokio runtime with I/O).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::address::{self, RTM_DELADDR, RTM_NEWADDR};
use crate::link::{self, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::Message;
use crate::route::{self, RTM_DELROUTE, RTM_NEWROUTE};
use crate::{Address, Error, Link, Netns, Result, Route};

/// Which events to subscribe to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Creation, change and deletion of links.
    pub links: bool,
    /// Addresses of both families.
    pub addresses: bool,
    /// Unicast routes of both families.
    pub routes: bool,
}

/// A change in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A link is new, changed or only touched; its current attributes. The kernel sends no event for a new alias or
    /// group of a link that is down (`netdev_state_change`).
    Link(Box<Link>),
    /// A link is gone, or has moved to another namespace.
    LinkGone {
        /// The index that it had.
        index: u32,
        /// The name that it had.
        name: String,
    },
    /// An address is new or changed.
    Address(Address),
    /// An address was removed; its last state.
    AddressGone(Address),
    /// A route is new or changed.
    Route(Box<Route>),
    /// A route was removed; its last state.
    RouteGone(Box<Route>),
    /// Events were lost, since they came faster than they were read: read all tables again.
    Lost,
}

/// A stream of events of one namespace.
///
/// One socket and no task: hundreds of them can be awaited on one current-thread runtime. To read tables as well
/// without missing a change, open the monitor first. A monitor keeps its namespace alive.
pub struct Monitor {
    socket: AsyncFd<Socket>,
    pending: VecDeque<Event>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("fd", &self.socket.as_raw_fd()).finish_non_exhaustive()
    }
}

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// How many bytes the kernel may queue; memory is used only while events wait.
static QUEUE: libc::c_int = 1 << 20;
/// An event is one message of a few kilobytes.
const RECEIVE_BUFFER: usize = 64 * 1024;

thread_local! {
    /// Shared by all monitors of a thread, so that one costs next to no memory.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(RECEIVE_BUFFER));
}

impl Monitor {
    /// Opens the stream. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no socket can be opened.
    pub fn open(netns: &Netns, groups: Groups) -> Result<Self> {
        let failed = |error: io::Error| Error::io("open", "a netlink event socket", &error);
        let mut socket = netns.enter(|| Socket::new(NETLINK_ROUTE))?.map_err(failed)?;
        let mut mask = 0;
        for (wanted, group) in [
            (groups.links, RTNLGRP_LINK),
            (groups.addresses, RTNLGRP_IPV4_IFADDR),
            (groups.addresses, RTNLGRP_IPV6_IFADDR),
            (groups.routes, RTNLGRP_IPV4_ROUTE),
            (groups.routes, RTNLGRP_IPV6_ROUTE),
        ] {
            if wanted {
                mask |= 1 << (group - 1);
            }
        }
        grow_queue(&socket).map_err(|errno| {
            Error::system("set the size of", "the queue of a netlink event socket", errno)
        })?;
        socket.set_non_blocking(true).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, mask)).map_err(failed)?;
        let socket = register(socket).map_err(failed)?;
        Ok(Self { socket, pending: VecDeque::new() })
    }

    /// The next event. Dropping the future loses no event.
    ///
    /// # Errors
    /// The socket cannot be read; the monitor cannot be used any more.
    pub async fn next(&mut self) -> Result<Event> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Like [`Self::next`], for a hand-written `poll`.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(Ok(event));
            }
            let failed = |error: io::Error| Error::io("read", "a netlink event socket", &error);
            let mut guard = ready!(self.socket.poll_read_ready(cx)).map_err(failed)?;
            match guard.try_io(|socket| read(socket.get_ref())) {
                Ok(Ok(events)) => self.pending.extend(events),
                Ok(Err(error)) => return Poll::Ready(Err(failed(error))),
                // A spurious wakeup; the guard has recorded it.
                Err(_would_block) => {}
            }
        }
    }
}

/// Reads one datagram, or after an overflow everything that is queued.
fn read(socket: &Socket) -> io::Result<Vec<Event>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut lost = false;
        loop {
            buffer.clear();
            buffer.reserve(RECEIVE_BUFFER);
            match socket.recv_from(buffer, libc::MSG_TRUNC) {
                Ok(_) if lost => {}
                Ok((_, sender)) if sender.port_number() != 0 => return Ok(Vec::new()),
                Ok((length, _)) if length > buffer.len() => return Ok(vec![Event::Lost]),
                Ok(_) => return Ok(events(buffer)),
                // The queue was full. Until it has been empty, the kernel drops further events without reporting it
                // again (NETLINK_S_CONGESTED), so it is emptied before the caller is told to read everything again.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && lost => {
                    return Ok(vec![Event::Lost]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

fn events(mut datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(message) = Message::first(&mut datagram) {
        events.extend(event(message.kind, message.body));
    }
    events
}

fn event(kind: u16, body: &[u8]) -> Option<Event> {
    match kind {
        // A bridge reports its ports in messages of its own family, in which a port that left the bridge looks like a
        // deleted link; the link's own message follows.
        RTM_NEWLINK | RTM_DELLINK if body.first() != Some(&0) => None,
        RTM_NEWLINK => link::decode_link(body).map(|link| Event::Link(Box::new(link))),
        RTM_DELLINK => {
            link::decode_link(body).map(|link| Event::LinkGone { index: link.index, name: link.name })
        }
        RTM_NEWADDR => address::decode(body).map(Event::Address),
        RTM_DELADDR => address::decode(body).map(Event::AddressGone),
        RTM_NEWROUTE => route::decode(body).map(|route| Event::Route(Box::new(route))),
        RTM_DELROUTE => route::decode(body).map(|route| Event::RouteGone(Box::new(route))),
        _ => None,
    }
}

#[expect(unsafe_code, reason = "tokio offers no safe way for descriptors that are no std types")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a Socket owns its descriptor, always gives the same one, and closes it only when it is
    // dropped; nothing here gives it away.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Raises the queue's limit beyond `net.core.rmem_max`, which CAP_NET_ADMIN allows.
#[expect(unsafe_code, reason = "netlink-sys has only the limited SO_RCVBUF")]
fn grow_queue(socket: &Socket) -> Result<(), Errno> {
    // SAFETY: value and length are those of one int, which this option takes (socket(7)).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const QUEUE).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}
