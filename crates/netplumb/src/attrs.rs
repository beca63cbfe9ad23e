//! Reading netlink attributes.
//!
//! Requests are written with the types of netlink-packet-route. Answers are read here, attribute by
//! attribute, because those types refuse a whole message for one attribute that they do not
//! understand, and a node has links of kinds and kernels that nobody here has seen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The flag of attributes that consist of attributes (`linux/netlink.h`).
pub(crate) const NLA_F_NESTED: u16 = 1 << 15;
/// All bits but `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// One attribute of a message, undecoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

/// The attributes of a message or of a nest, until the first that is cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let all = self.0;
        let length = usize::from(u16_at(all, 0)?);
        let kind = u16_at(all, 2)? & TYPE_MASK;
        let value = all.get(4..length)?;
        self.0 = all.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attr { kind, value })
    }
}

impl<'a> Attr<'a> {
    pub(crate) fn nested(&self) -> Attrs<'a> {
        Attrs(self.value)
    }

    pub(crate) fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        self.u8().map(|value| value != 0)
    }

    pub(crate) fn u16(&self) -> Option<u16> {
        u16_at(self.value, 0)
    }

    pub(crate) fn u16_be(&self) -> Option<u16> {
        self.u16().map(u16::from_be)
    }

    pub(crate) fn u32(&self) -> Option<u32> {
        u32_at(self.value, 0)
    }

    /// Text up to its NUL; what is not UTF-8 becomes U+FFFD.
    pub(crate) fn text(&self) -> Option<String> {
        let end = self.value.iter().position(|&b| b == 0).unwrap_or(self.value.len());
        Some(String::from_utf8_lossy(&self.value[..end]).into_owned())
    }

    /// Six bytes of an Ethernet address; links of other types have other lengths.
    pub(crate) fn mac(&self) -> Option<[u8; 6]> {
        self.value.try_into().ok()
    }

    /// An address by its length.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.value.len() {
            4 => <[u8; 4]>::try_from(self.value).ok().map(|b| Ipv4Addr::from(b).into()),
            16 => <[u8; 16]>::try_from(self.value).ok().map(|b| Ipv6Addr::from(b).into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_and_stops_at_what_is_cut() {
        // type 3 "ab\0" padded, type 4 nested flag with u32, then a cut one
        let mut bytes = vec![7, 0, 3, 0, b'a', b'b', 0, 0, 8, 0, 4, 0x80, 1, 0, 0, 0, 20, 0, 5, 0, 9];
        let attrs: Vec<_> = Attrs::new(&bytes).collect();
        assert_eq!(attrs.len(), 2);
        assert_eq!(attrs[0].text().as_deref(), Some("ab"));
        assert_eq!((attrs[1].kind, attrs[1].u32()), (4, Some(u32::from_ne_bytes([1, 0, 0, 0]))));
        // a length below its own header must not loop
        bytes[0] = 2;
        assert_eq!(Attrs::new(&bytes).count(), 0);
    }
}
