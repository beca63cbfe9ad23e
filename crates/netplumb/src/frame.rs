//! The few frames that announcing and probing need: ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::packet::{ETH_P_ARP, ETH_P_IPV6, ETHERNET};

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// 33-33-00-00-00-01, the link-layer address of ff02::1 (RFC 2464).
pub(crate) const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
pub(crate) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const IPV6_HEADER: usize = 40;
const ICMPV6: u8 = 58;
/// The hop limit of neighbour discovery packets; a packet that a router forwarded has a smaller one.
const HOP_LIMIT: u8 = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArpOperation {
    Request = 1,
    Reply = 2,
}

/// An ARP packet for Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) operation: ArpOperation,
    pub(crate) sender_mac: [u8; 6],
    pub(crate) sender_ip: Ipv4Addr,
    pub(crate) target_mac: [u8; 6],
    pub(crate) target_ip: Ipv4Addr,
}

impl Arp {
    /// The broadcast frame that carries it.
    pub(crate) fn broadcast_from(&self, source: [u8; 6]) -> Vec<u8> {
        let mut frame = ethernet(BROADCAST, source, ETH_P_ARP);
        // Hardware type 1 (Ethernet), protocol IPv4, lengths of their addresses.
        frame.extend_from_slice(&[0, 1, 0x08, 0x00, 6, 4, 0, self.operation as u8]);
        frame.extend_from_slice(&self.sender_mac);
        frame.extend_from_slice(&self.sender_ip.octets());
        frame.extend_from_slice(&self.target_mac);
        frame.extend_from_slice(&self.target_ip.octets());
        frame
    }

    /// The ARP packet in a frame; `None` if the frame carries something else.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let body = frame.get(ETHERNET..)?;
        let operation = match body.get(..8)? {
            [0, 1, 0x08, 0x00, 6, 4, 0, 1] => ArpOperation::Request,
            [0, 1, 0x08, 0x00, 6, 4, 0, 2] => ArpOperation::Reply,
            _ => return None,
        };
        Some(Self {
            operation,
            sender_mac: bytes(body, 8)?,
            sender_ip: bytes::<4>(body, 14)?.into(),
            target_mac: bytes(body, 18)?,
            target_ip: bytes::<4>(body, 24)?.into(),
        })
    }
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbor {
    pub(crate) kind: u8,
    pub(crate) source: Ipv6Addr,
    pub(crate) target: Ipv6Addr,
    /// The source or target link-layer address option.
    pub(crate) mac: Option<[u8; 6]>,
}

impl Neighbor {
    /// An unsolicited advertisement that an address is here (RFC 4861, 7.2.6): to all nodes, with the override flag.
    #[cfg(test)]
    pub(crate) fn unsolicited(ip: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
        const OVERRIDE: u8 = 0x20;
        const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
        let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
        message.extend_from_slice(&ip.octets());
        message.extend_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
        message.extend_from_slice(&mac);
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        icmpv6(ALL_NODES, mac, ip, all_nodes, message)
    }

    /// The solicitation of duplicate address detection (RFC 4862, 5.4.2): from the unspecified address to the
    /// solicited-node group of the address.
    pub(crate) fn probe(ip: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
        let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&ip.octets());
        let (group, group_mac) = solicited_node(ip);
        icmpv6(group_mac, mac, Ipv6Addr::UNSPECIFIED, group, message)
    }

    /// The solicitation or advertisement in a frame; `None` if it carries another packet, or one that a router
    /// forwarded.
    ///
    /// The checksum is not verified: between namespaces of one kernel it is never filled in.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET..)?;
        let message = packet.get(IPV6_HEADER..)?;
        if packet[0] >> 4 != 6 || packet[6] != ICMPV6 || packet[7] != HOP_LIMIT {
            return None;
        }
        let kind = *message.first()?;
        // The link-layer address is option 1 of a solicitation and option 2 of an advertisement.
        let wanted = match kind {
            NEIGHBOR_SOLICITATION => 1,
            NEIGHBOR_ADVERTISEMENT => 2,
            _ => return None,
        };
        let mut mac = None;
        let mut options = message.get(24..)?;
        while let &[option, eights, ..] = options {
            let length = usize::from(eights) * 8;
            if option == wanted && eights == 1 {
                mac = bytes(options, 2);
            }
            match options.get(length..) {
                Some(rest) if length != 0 => options = rest,
                _ => break,
            }
        }
        Some(Self {
            kind,
            source: bytes::<16>(packet, 8)?.into(),
            target: bytes::<16>(message, 8)?.into(),
            mac,
        })
    }
}

/// The source address of a frame.
pub(crate) fn source(frame: &[u8]) -> Option<[u8; 6]> {
    bytes(frame, 6)
}

/// The solicited-node multicast group of an address (RFC 4291, 2.7.1), and its link-layer address.
pub(crate) fn solicited_node(ip: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = ip.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    (group, [0x33, 0x33, 0xff, a, b, c])
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at + N)?.try_into().ok()
}

fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend_from_slice(&destination);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&ether_type.to_be_bytes());
    frame
}

fn icmpv6(to_mac: [u8; 6], from_mac: [u8; 6], from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len() as u16;
    let mut pseudo = Vec::with_capacity(40 + message.len());
    pseudo.extend_from_slice(&from.octets());
    pseudo.extend_from_slice(&to.octets());
    pseudo.extend_from_slice(&u32::from(length).to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, ICMPV6]);
    pseudo.extend_from_slice(&message);
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    let mut frame = ethernet(to_mac, from_mac, ETH_P_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&message);
    frame
}

/// The Internet checksum (RFC 1071).
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn arp_is_read_as_it_is_written() {
        let arp = Arp {
            operation: ArpOperation::Request,
            sender_mac: MAC,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target_mac: [0; 6],
            target_ip: Ipv4Addr::new(10, 0, 1, 5),
        };
        let frame = arp.broadcast_from(MAC);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(Arp::parse(&frame), Some(arp));
        for cut in 0..frame.len() {
            assert_eq!(Arp::parse(&frame[..cut]), None);
        }
    }

    #[test]
    fn no_frame_off_the_wire_is_too_odd() {
        let ip: Ipv6Addr = "fd00::1:2345".parse().unwrap();
        let arp = Arp {
            operation: ArpOperation::Reply,
            sender_mac: MAC,
            sender_ip: Ipv4Addr::new(10, 0, 1, 5),
            target_mac: MAC,
            target_ip: Ipv4Addr::new(10, 0, 1, 6),
        };
        for good in [arp.broadcast_from(MAC), Neighbor::unsolicited(ip, MAC), Neighbor::probe(ip, MAC)] {
            for at in 0..good.len() {
                for byte in 0..=255 {
                    let mut frame = good.clone();
                    frame[at] = byte;
                    for end in [good.len(), at + 1] {
                        let _ = (
                            Arp::parse(&frame[..end]),
                            Neighbor::parse(&frame[..end]),
                            source(&frame[..end]),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn neighbour_discovery_is_read_as_it_is_written() {
        let ip: Ipv6Addr = "fd00::1:2345".parse().unwrap();
        let frame = Neighbor::unsolicited(ip, MAC);
        let read = Neighbor::parse(&frame).unwrap();
        assert_eq!((read.kind, read.source, read.target), (NEIGHBOR_ADVERTISEMENT, ip, ip));
        assert_eq!(read.mac, Some(MAC));
        let frame = Neighbor::probe(ip, MAC);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 1, 0x23, 0x45]);
        let read = Neighbor::parse(&frame).unwrap();
        assert_eq!((read.kind, read.target), (NEIGHBOR_SOLICITATION, ip));
        assert_eq!((read.source, read.mac), (Ipv6Addr::UNSPECIFIED, None));
        for cut in 0..ETHERNET + IPV6_HEADER + 24 {
            assert_eq!(Neighbor::parse(&frame[..cut]), None);
        }
    }

    #[test]
    fn the_checksum_sums_to_all_ones() {
        let frame = Neighbor::unsolicited("fe80::1".parse().unwrap(), MAC);
        let packet = &frame[ETHERNET..];
        let mut pseudo = packet[8..40].to_vec();
        pseudo.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, 58]);
        pseudo.extend_from_slice(&packet[40..]);
        assert_eq!(checksum(&pseudo), 0);
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn a_routed_or_broken_message_is_none() {
        let mut frame = Neighbor::unsolicited("fe80::1".parse().unwrap(), MAC);
        frame[ETHERNET + 7] = 64;
        assert_eq!(Neighbor::parse(&frame), None);
        frame[ETHERNET + 7] = 255;
        // An option of length 0 must not loop.
        frame[ETHERNET + IPV6_HEADER + 25] = 0;
        assert_eq!(Neighbor::parse(&frame).unwrap().mac, None);
    }
}
