//! nftables by netlink, as far as k8slan needs it: guards against forged addresses on bridge ports.

mod guard;
mod message;

pub use guard::{GuardState, PortGuard};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::{Netlink, Request};
use crate::{Netns, Object, Result};
use message::Message;

/// A socket to the netfilter of one namespace.
pub struct Nftables {
    netlink: Netlink,
}

impl Nftables {
    /// Opens a socket inside the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel has no netfilter (EPROTONOSUPPORT).
    pub fn open(netns: &Netns) -> Result<Self> {
        Ok(Self { netlink: Netlink::open_protocol(netns, NETLINK_NETFILTER)? })
    }

    /// Opens a socket in the calling thread's own namespace.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_current() -> Result<Self> {
        Ok(Self { netlink: Netlink::open_current_protocol(NETLINK_NETFILTER)? })
    }

    /// Applies all messages or none.
    fn apply(
        &self,
        operation: &'static str,
        object: &dyn Fn() -> Object,
        messages: &[Message],
    ) -> Result<()> {
        let (begin, end) = (Message::batch_begin(), Message::batch_end());
        let requests: Vec<_> = std::iter::once(&begin)
            .chain(messages)
            .chain(std::iter::once(&end))
            .map(|message| Request {
                operation,
                object,
                kind: message.kind,
                flags: message.flags,
                body: &message.body,
            })
            .collect();
        self.netlink.batch(&requests)
    }
}
