//! Other namespaces that a namespace has a number for, and the links in them.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{DefaultNla, NLM_F_ACK};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::{Link, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, decode, get_message};
use crate::attrs::Attrs;
use crate::netlink::{Bytes, Request, by_index};
use crate::{Netlink, Netns, Object, Result};

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `NETNSA_NSID_NOT_ASSIGNED`: the namespace has no number here.
const NO_NUMBER: i32 = -1;
const IFLA_TARGET_NETNSID: u16 = 46;
/// The size of `struct rtgenmsg` with the padding before its attributes, in bytes.
const RTGENMSG: usize = 4;

impl Netlink {
    /// The numbers that this namespace has for others (`ip netns list-id`). The kernel assigns one when a link is
    /// moved to a namespace, or has its lower link or its peer there (`peernet2id_alloc`).
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn known_namespaces(&self) -> Result<Vec<i32>> {
        let object = || Object::from("of other namespaces");
        let body = Bytes(vec![0; RTGENMSG]);
        let request =
            Request { operation: "read numbers", object: &object, kind: RTM_GETNSID, flags: 0, body: &body };
        self.dump(&request, |kind, body| Ok((kind == RTM_NEWNSID).then(|| nsid(body)).flatten()))
    }

    /// The number of another namespace here; `None` if this one has no number for it.
    ///
    /// # Errors
    /// The kernel refuses the request.
    pub fn number_of(&self, netns: &Netns) -> Result<Option<i32>> {
        let object = || Object::from(netns.id().to_string());
        let mut message = vec![0; RTGENMSG];
        // One attribute of four bytes: the descriptor.
        message.extend(8_u16.to_ne_bytes());
        message.extend(NETNSA_FD.to_ne_bytes());
        message.extend(netns.as_fd().as_raw_fd().to_ne_bytes());
        let body = Bytes(message);
        let request = Request {
            operation: "read the number of namespace",
            object: &object,
            kind: RTM_GETNSID,
            flags: NLM_F_ACK,
            body: &body,
        };
        let mut number = None;
        self.request(&request, |kind, body| {
            if kind == RTM_NEWNSID {
                number = nsid(body);
            }
            Ok(())
        })?;
        Ok(number)
    }

    /// All links of the namespace that has this number here (Linux 4.20).
    ///
    /// # Errors
    /// The kernel refuses the dump.
    pub fn links_beyond(&self, namespace: i32) -> Result<Vec<Link>> {
        let message = get_message(0, vec![beyond(namespace)]);
        let object = || Object::from("of another namespace");
        let request =
            Request { operation: "read links", object: &object, kind: RTM_GETLINK, flags: 0, body: &message };
        self.dump(&request, |kind, body| Ok((kind == RTM_NEWLINK).then(|| decode::link(body)).flatten()))
    }

    /// Deletes a link of the namespace that has this number here; a missing link is success.
    ///
    /// # Errors
    /// The kernel refuses the deletion.
    pub fn delete_link_beyond(&self, namespace: i32, index: u32) -> Result<()> {
        let mut body = LinkMessage::default();
        body.header.index = index;
        body.attributes.push(beyond(namespace));
        let object = by_index(index);
        let request =
            Request { operation: "delete link", object: &object, kind: RTM_DELLINK, flags: 0, body: &body };
        match self.command(&request) {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }
}

fn nsid(body: &[u8]) -> Option<i32> {
    let mut attrs = Attrs::new(body.get(RTGENMSG..)?);
    let number = attrs.find(|attr| attr.kind == NETNSA_NSID)?.u32()?.cast_signed();
    (number != NO_NUMBER).then_some(number)
}

/// The attribute that makes a request apply to another namespace.
fn beyond(namespace: i32) -> LinkAttribute {
    LinkAttribute::Other(DefaultNla::new(IFLA_TARGET_NETNSID, namespace.to_ne_bytes().into()))
}

#[cfg(test)]
mod tests {
    use crate::{LinkChange, NewLink, Veth};

    use super::*;

    #[test]
    fn a_link_that_was_moved_away_is_seen_from_where_it_was() {
        let (here, there) = (Netns::new().unwrap(), Netns::new().unwrap());
        let netlink = Netlink::open(&here).unwrap();
        assert_eq!(netlink.known_namespaces().unwrap(), []);
        assert_eq!(netlink.number_of(&there).unwrap(), None);
        let end = |name: &str| NewLink::new(name.parse().unwrap());
        let pair = netlink.create_veth(&Veth::new(end("a"), end("b"))).unwrap();
        let away = LinkChange { netns: Some(there.clone()), ..LinkChange::default() };
        netlink.set_link(pair.peer, &away).unwrap();
        let [number] = netlink.known_namespaces().unwrap()[..] else { panic!("not one namespace") };
        assert_eq!(netlink.number_of(&there).unwrap(), Some(number));
        let names = || -> Vec<String> {
            netlink.links_beyond(number).unwrap().into_iter().map(|link| link.name).collect()
        };
        assert_eq!(names(), ["lo", "b"]);
        netlink.delete_link_beyond(number, pair.peer).unwrap();
        netlink.delete_link_beyond(number, pair.peer).unwrap();
        assert_eq!(names(), ["lo"]);
    }
}
