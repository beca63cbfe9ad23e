//! Alternative names of links (`ip link property`), which stay with a link that moves into another namespace.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::{IFINFOMSG, get_message};
use crate::attrs::{Attrs, NLA_F_NESTED};
use crate::netlink::{Request, by_index};
use crate::{Netlink, Result};

const RTM_DELLINKPROP: u16 = 109;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;

impl Netlink {
    /// Removes all alternative names of a link. A link without any, or a missing link, is success.
    ///
    /// # Errors
    /// The kernel refuses the removal.
    pub fn remove_alt_names(&self, index: u32) -> Result<()> {
        for name in self.alt_names(index)? {
            let mut message = LinkMessage::default();
            message.header.index = index;
            // A nest with one attribute: its length, its type, the name, padded to four bytes.
            let length = u16::try_from(4 + name.len()).unwrap_or(u16::MAX);
            let mut nest = [length.to_ne_bytes(), IFLA_ALT_IFNAME.to_ne_bytes()].concat();
            nest.extend(&name);
            nest.resize(nest.len().next_multiple_of(4), 0);
            message.attributes =
                vec![LinkAttribute::Other(DefaultNla::new(IFLA_PROP_LIST | NLA_F_NESTED, nest))];
            let request = Request {
                operation: "take an alternative name from link",
                object: &by_index(index),
                kind: RTM_DELLINKPROP,
                flags: 0,
                body: &message,
            };
            match self.command(&request) {
                Err(error) if error.is_not_found() => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// The alternative names of a link, each with its NUL, as the kernel wrote them.
    fn alt_names(&self, index: u32) -> Result<Vec<Vec<u8>>> {
        let parse = |body: &[u8]| {
            let lists = Attrs::new(body.get(IFINFOMSG..)?).filter(|attr| attr.kind == IFLA_PROP_LIST);
            let all = lists.flat_map(|list| list.nested()).filter(|attr| attr.kind == IFLA_ALT_IFNAME);
            Some(all.map(|attr| attr.value.to_vec()).collect())
        };
        Ok(self.read_link(&get_message(index, Vec::new()), &by_index(index), parse)?.unwrap_or_default())
    }
}
