//! Announcing addresses on a LAN (gratuitous ARP, unsolicited neighbour advertisements), so that other hosts send to the
//! right MAC. The kernel does it.

use net_types::{IfName, MacAddr};

use crate::{Conf, LinkChange, Netlink, Netns, Result, Sysctl};

/// Makes the kernel announce the addresses of a link from now on: all of them whenever the link comes up or changes
/// its MAC, IPv6 ones also when duplicate address detection ends.
///
/// Call it before the addresses are added (then IPv6 needs nothing more). A link that is set up later announces its
/// IPv4 addresses then; for a link that is up already, call [`announce_own`] after they are added.
///
/// Sets `arp_notify` and `ndisc_notify` of the link, as the reference plugins do.
///
/// # Errors
/// `/proc/sys` is not mounted or read-only.
pub fn announce_from_now(netns: &Netns, name: &IfName) -> Result<()> {
    let link = Conf::Link(name);
    let settings = [(Sysctl::ipv4(link, "arp_notify"), "1"), (Sysctl::ipv6(link, "ndisc_notify"), "1")];
    netns.sysctl_set_all(&settings).map(drop)
}

/// Makes the kernel announce at once all addresses of a link that is up and was prepared with [`announce_from_now`]:
/// ARP requests of RFC 5227, section 2.3, and unsolicited neighbour advertisements.
///
/// It sets the link's MAC to the value that it has, which changes nothing but makes the kernel announce. That costs
/// one message; to close a packet socket would wait for an RCU grace period, 11 ms.
///
/// # Errors
/// The kernel refuses: the link does not exist, or does not accept this MAC.
pub fn announce_own(netlink: &Netlink, index: u32, mac: MacAddr) -> Result<()> {
    netlink.set_link(index, &LinkChange { mac: Some(mac), ..LinkChange::default() })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use net_types::MacvtapMode;

    use super::*;
    use crate::frame::{Arp, ArpOperation, NEIGHBOR_ADVERTISEMENT, Neighbor};
    use crate::packet::{ETH_P_ARP, ETH_P_IPV6, PacketSocket};
    use crate::{Macvtap, NewAddress, NewLink, Veth};

    const ACCEPT: [libc::sock_filter; 1] = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0xffff }];

    struct Wire {
        near: Netns,
        near_link: Netlink,
        index: u32,
        mac: MacAddr,
        arp: PacketSocket,
        ipv6: PacketSocket,
    }

    fn name(text: &str) -> IfName {
        text.parse().expect("a link name")
    }

    /// A macvtap in a pod on one end, as attachments are, and packet sockets on the other.
    fn wire(mode: MacvtapMode, up: bool) -> Wire {
        let lan_ns = Netns::new().expect("needs root");
        let lan = Netlink::open(&lan_ns).expect("a socket");
        let near = Netns::new().expect("needs root");
        let near_link = Netlink::open(&near).expect("a socket");
        let mut veth = Veth::new(NewLink::new(name("spoke")), NewLink::new(name("port")));
        veth.main.up = true;
        veth.peer.up = true;
        let ends = lan.create_veth(&veth).expect("a pair");
        for end in [ends.main, ends.peer] {
            assert!(lan.wait_operational(end, Duration::from_secs(3)).expect("read"));
        }
        let mut macvtap = Macvtap::new(name("net1"), ends.main, mode);
        macvtap.link.netns = Some(near.clone());
        macvtap.link.up = up;
        let index = lan.create_macvtap(&macvtap).expect("a macvtap");
        let mac = near_link.link_by_index(index).expect("read").expect("there").mac.expect("has one");
        let socket = |kind| PacketSocket::receiver(&lan_ns, ends.peer, kind, &ACCEPT).expect("a socket");
        let (arp, ipv6) = (socket(ETH_P_ARP), socket(ETH_P_IPV6));
        ipv6.join(crate::frame::ALL_NODES).expect("joined");
        Wire { near, near_link, index, mac, arp, ipv6 }
    }

    impl Wire {
        fn add(&self, address: &str) -> IpAddr {
            let address: ipnetwork::IpNetwork = address.parse().expect("an address");
            let new = NewAddress { nodad: true, ..NewAddress::new(address) };
            self.near_link.add_address(self.index, &new).expect("added");
            address.ip()
        }

        /// The ARP operations seen, and whether the advertisement was seen, once both kinds have arrived.
        fn heard(&self, four: IpAddr, six: IpAddr) -> Vec<ArpOperation> {
            let end = Instant::now() + Duration::from_secs(3);
            let (mut arps, mut advertised) = (Vec::new(), false);
            let mut buffer = [0; 256];
            while arps.is_empty() || !advertised {
                assert!(Instant::now() < end, "heard only {arps:?}, {advertised}");
                std::thread::sleep(Duration::from_millis(2));
                while let Some(frame) = self.arp.receive(&mut buffer).expect("frames") {
                    let arp = Arp::parse(frame).expect("ARP");
                    assert_eq!((IpAddr::from(arp.sender_ip), IpAddr::from(arp.target_ip)), (four, four));
                    assert_eq!(arp.sender_mac, self.mac.octets());
                    arps.push(arp.operation);
                }
                while let Some(frame) = self.ipv6.receive(&mut buffer).expect("frames") {
                    let Some(neighbor) = Neighbor::parse(frame) else { continue };
                    advertised |= neighbor.kind == NEIGHBOR_ADVERTISEMENT
                        && neighbor.target == six
                        && neighbor.mac == Some(self.mac.octets());
                }
            }
            arps
        }
    }

    #[test]
    fn a_link_that_is_up_announces_its_own() {
        for mode in [MacvtapMode::Passthru, MacvtapMode::Bridge] {
            let wire = wire(mode, true);
            announce_from_now(&wire.near, &name("net1")).unwrap();
            let (four, six) = (wire.add("10.0.1.4/24"), wire.add("fd00::4/64"));
            announce_own(&wire.near_link, wire.index, wire.mac).unwrap();
            assert_eq!(wire.heard(four, six), [ArpOperation::Request]);
            assert_eq!(wire.near_link.link_by_index(wire.index).unwrap().unwrap().mac, Some(wire.mac));
        }
    }

    #[test]
    fn a_link_that_comes_up_announces_its_own() {
        let wire = wire(MacvtapMode::Passthru, false);
        announce_from_now(&wire.near, &name("net1")).unwrap();
        let (four, six) = (wire.add("10.0.1.4/24"), wire.add("fd00::4/64"));
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        wire.near_link.set_link(wire.index, &up).unwrap();
        assert_eq!(wire.heard(four, six), [ArpOperation::Request]);
    }
}
