//! Probing a LAN for addresses that are taken.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use net_types::{MacAddr, ProbeTiming};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::frame::{self, ALL_NODES, Arp, ArpOperation, NEIGHBOR_SOLICITATION, Neighbor};
use crate::packet::{ETH_P_ARP, ETH_P_IPV6, PacketSocket};
use crate::{Error, Netns, Result};

/// An address that another host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taken {
    /// The address that was probed.
    pub ip: IpAddr,
    /// The MAC address of the host that has it, or is about to take it.
    pub mac: MacAddr,
}

/// Probes on the link with this index, which must be up and has this MAC, whether somebody has the addresses, all of
/// them in one wait. Returns every host that answered once; an address may have several. Ends early when every
/// address is known to be taken.
///
/// IPv4: ARP probes from 0.0.0.0 (RFC 5227, section 2.1.1); an address is taken if somebody sends ARP from it, or
/// probes for it at the same time. IPv6: neighbour solicitations from :: (RFC 4862, section 5.4); an address is taken
/// if somebody advertises it, or solicits it from :: at the same time. The addresses need not be on the link, and
/// should not be. Closing the packet sockets takes some 10 ms more for each family (RCU).
///
/// # Errors
/// The link is down (ENETDOWN) or gone, or the caller lacks CAP_NET_RAW.
pub fn probe(
    netns: &Netns,
    index: u32,
    mac: MacAddr,
    addresses: &[IpAddr],
    timing: ProbeTiming,
) -> Result<Vec<Taken>> {
    let mut probe = Probe { own: mac.octets(), addresses, taken: Vec::new() };
    let mut sockets = Vec::new();
    if addresses.iter().any(IpAddr::is_ipv4) {
        sockets.push((PacketSocket::receiver(netns, index, ETH_P_ARP, &ARP_FILTER)?, false));
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        let socket = PacketSocket::receiver(netns, index, ETH_P_IPV6, &NEIGHBOR_FILTER)?;
        // A host that has an address answers to all nodes; one that probes for it sends to its solicited-node group.
        socket.join(ALL_NODES)?;
        for address in addresses {
            if let IpAddr::V6(ip) = address {
                socket.join(frame::solicited_node(*ip).1)?;
            }
        }
        sockets.push((socket, true));
    }
    for time in 1..=timing.count {
        for (socket, six) in &sockets {
            for address in addresses.iter().filter(|address| address.is_ipv6() == *six) {
                socket.send(&probe.question(*address))?;
            }
        }
        let wait = if time == timing.count { timing.wait } else { timing.interval };
        let end = Instant::now() + wait;
        while !probe.all_taken() && !sockets.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wait_for(&sockets, left, index)?;
            for (socket, six) in &sockets {
                let mut buffer = [0; 256];
                while let Some(frame) = socket.receive(&mut buffer)? {
                    if *six { probe.neighbor(frame) } else { probe.arp(frame) }
                }
            }
        }
        if probe.all_taken() {
            break;
        }
    }
    probe.taken.sort_unstable();
    Ok(probe.taken)
}

/// Waits until a socket has a frame or the time has passed.
fn wait_for(sockets: &[(PacketSocket, bool)], left: Duration, index: u32) -> Result<()> {
    let mut fds: Vec<_> =
        sockets.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    // Rounded up: with a timeout of 0 the loop would spin.
    let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::system("wait for answers on", format!("link {index}"), errno)),
    }
}

struct Probe<'a> {
    own: [u8; 6],
    addresses: &'a [IpAddr],
    taken: Vec<Taken>,
}

impl Probe<'_> {
    fn question(&self, address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(target_ip) => Arp {
                operation: ArpOperation::Request,
                sender_mac: self.own,
                sender_ip: std::net::Ipv4Addr::UNSPECIFIED,
                target_mac: [0; 6],
                target_ip,
            }
            .broadcast_from(self.own),
            IpAddr::V6(target) => Neighbor::probe(target, self.own),
        }
    }

    fn all_taken(&self) -> bool {
        self.addresses.iter().all(|ip| self.taken.iter().any(|taken| taken.ip == *ip))
    }

    fn arp(&mut self, frame: &[u8]) {
        let Some(arp) = Arp::parse(frame) else { return };
        let probed = arp.operation == ArpOperation::Request && arp.sender_ip.is_unspecified();
        let ip = if probed { arp.target_ip } else { arp.sender_ip };
        self.found(ip.into(), Some(arp.sender_mac), frame);
    }

    fn neighbor(&mut self, frame: &[u8]) {
        let Some(neighbor) = Neighbor::parse(frame) else { return };
        // A solicitation from an address asks for the target's MAC; it does not claim the target.
        if neighbor.kind == NEIGHBOR_SOLICITATION && !neighbor.source.is_unspecified() {
            return;
        }
        self.found(neighbor.target.into(), neighbor.mac, frame);
    }

    /// Records who has an address, if it is a probed one and the MAC is another's (a bridge may send our frames
    /// back).
    fn found(&mut self, ip: IpAddr, stated: Option<[u8; 6]>, frame: &[u8]) {
        if !self.addresses.contains(&ip) || frame::source(frame) == Some(self.own) || stated == Some(self.own)
        {
            return;
        }
        let valid = |mac: Option<[u8; 6]>| mac.and_then(|mac| MacAddr::try_from(mac).ok());
        let Some(mac) = valid(stated).or_else(|| valid(frame::source(frame))) else { return };
        let taken = Taken { ip, mac };
        if !self.taken.contains(&taken) {
            self.taken.push(taken);
        }
    }
}

// Classic BPF (linux/filter.h). A socket of a trunk also gets frames of its VLANs, which must not count: the tag,
// which the kernel keeps outside the frame, must be absent or 0. Before 6.2, a bridge that removes a tag only marks
// it as absent and leaves its number.
const LD_W: u16 = 0x20;
const LD_B: u16 = 0x30;
const AND: u16 = 0x54;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;
/// The offset `SKF_AD_OFF + SKF_AD_VLAN_TAG` for BPF.
const VLAN_TAG: u32 = 0xffff_f000 + 44;
/// The offset `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT` for BPF.
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
const ALL: u32 = 0xffff;

const fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jeq(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: JEQ, jt, jf, k }
}

const ARP_FILTER: [libc::sock_filter; 7] = [
    op(LD_W, VLAN_TAG_PRESENT),
    jeq(0, 3, 0),
    op(LD_W, VLAN_TAG),
    op(AND, 0xfff),
    jeq(0, 0, 1),
    op(RET, ALL),
    op(RET, 0),
];

/// ICMPv6 types 135 and 136, without extension headers (which neighbour discovery does not use).
const NEIGHBOR_FILTER: [libc::sock_filter; 12] = [
    op(LD_W, VLAN_TAG_PRESENT),
    jeq(0, 3, 0),
    op(LD_W, VLAN_TAG),
    op(AND, 0xfff),
    jeq(0, 0, 6),
    op(LD_B, 20),
    jeq(58, 0, 4),
    op(LD_B, 54),
    jeq(135, 1, 0),
    jeq(136, 0, 1),
    op(RET, ALL),
    op(RET, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> MacAddr {
        MacAddr::local([2, 0, 0, 0, 0, last])
    }

    fn taken(addresses: &[IpAddr], frames: &[Vec<u8>]) -> Vec<Taken> {
        let mut probe = Probe { own: mac(1).octets(), addresses, taken: Vec::new() };
        for frame in frames {
            probe.arp(frame);
            probe.neighbor(frame);
        }
        probe.taken
    }

    fn arp(operation: ArpOperation, from: u8, sender: &str, target: &str) -> Vec<u8> {
        Arp {
            operation,
            sender_mac: mac(from).octets(),
            sender_ip: sender.parse().unwrap(),
            target_mac: [0; 6],
            target_ip: target.parse().unwrap(),
        }
        .broadcast_from(mac(from).octets())
    }

    #[test]
    fn ipv4_claims() {
        let ours: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap()];
        let claim = |frame| taken(&ours, &[frame]).first().map(|taken| taken.mac);
        assert_eq!(claim(arp(ArpOperation::Reply, 2, "10.0.0.5", "0.0.0.0")), Some(mac(2)));
        assert_eq!(claim(arp(ArpOperation::Request, 2, "10.0.0.5", "10.0.0.9")), Some(mac(2)));
        assert_eq!(claim(arp(ArpOperation::Request, 2, "0.0.0.0", "10.0.0.5")), Some(mac(2)), "probes too");
        assert_eq!(claim(arp(ArpOperation::Request, 1, "0.0.0.0", "10.0.0.5")), None, "our own, come back");
        assert_eq!(claim(arp(ArpOperation::Request, 2, "10.0.0.9", "10.0.0.5")), None, "only asks");
        assert_eq!(claim(arp(ArpOperation::Reply, 2, "10.0.0.6", "10.0.0.5")), None, "another address");
    }

    #[test]
    fn ipv6_claims() {
        let ours: Vec<IpAddr> = vec!["fd00::5".parse().unwrap()];
        let ip = "fd00::5".parse().unwrap();
        let both = [Neighbor::unsolicited(ip, mac(2).octets()), Neighbor::probe(ip, mac(3).octets())];
        let macs: Vec<_> = taken(&ours, &both).iter().map(|taken| taken.mac).collect();
        assert_eq!(macs, [mac(2), mac(3)]);
        assert_eq!(taken(&ours, &[Neighbor::probe(ip, mac(1).octets())]), []);
        let mut asks = Neighbor::probe(ip, mac(2).octets());
        asks[14 + 8] = 0xfe;
        assert_eq!(taken(&ours, &[asks]), [], "from an address: only asks");
    }

    #[test]
    fn a_sender_with_an_impossible_mac_is_known_by_its_frame() {
        let ours: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap()];
        let mut frame = arp(ArpOperation::Reply, 2, "10.0.0.5", "0.0.0.0");
        frame[22..28].fill(0);
        assert_eq!(taken(&ours, &[frame])[0].mac, mac(2));
    }
}
