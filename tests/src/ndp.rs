//! Neighbour discovery by hand (RFC 4861): packets that a test sends.

use std::net::Ipv6Addr;

/// `ff02::1`: all nodes of a link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The header of an ICMPv6 message's packet and the message, with its checksum (RFC 4443, section 2.3).
#[must_use]
pub fn icmpv6(source: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    ipv6(source, to, 58, &with_checksum(source, to, message))
}

/// A packet with the hop limit of neighbour discovery.
#[must_use]
pub fn ipv6(source: Ipv6Addr, to: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&head[..], &source.octets(), &to.octets(), rest].concat()
}

/// An ICMPv6 message with its checksum, which also covers the addresses.
#[must_use]
pub fn with_checksum(source: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let covered = [&source.octets()[..], &to.octets(), &length, &[0, 0, 0, 58], message].concat();
    let mut sum: u32 = covered
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = (!(sum & 0xffff) & 0xffff).to_be_bytes();
    [&message[..2], &sum[2..], &message[4..]].concat()
}

/// A solicitation (135) or advertisement (136) of a neighbour, with options (RFC 4861, sections 4.3 and 4.4). An
/// advertisement overrides what is known.
#[must_use]
pub fn neighbor(kind: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let flags = if kind == 136 { 0x20 } else { 0 };
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat()
}

/// The option that names a link-layer address: the source's (1) or the target's (2).
#[must_use]
pub fn link_layer(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// The link-local address that a MAC address leads to.
#[must_use]
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
