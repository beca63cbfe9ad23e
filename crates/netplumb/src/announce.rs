//! Telling a LAN where an address is now.

use std::net::IpAddr;

use net_types::MacAddr;

use crate::frame::{Arp, ArpOperation, Neighbor};
use crate::packet::PacketSocket;
use crate::{Netns, Result};

/// Announces that the addresses are at this MAC, on the link with this index, which must be up.
///
/// Caches and switches that knew another place learn the new one at once. For IPv4 two ARP packets are
/// broadcast: the *request* of RFC 5227, section 2.3 (what `arping -U` sends), since hosts that follow
/// it, and switches that snoop ARP, take that form; and the *reply* (`arping -A`), since some stacks
/// update an entry only on a reply. For IPv6 one unsolicited neighbour advertisement with the override
/// flag goes to all nodes (RFC 4861, section 7.2.6).
///
/// # Errors
/// The link is down (ENETDOWN) or gone, or the caller lacks CAP_NET_RAW.
pub fn announce(netns: &Netns, index: u32, mac: MacAddr, addresses: &[IpAddr]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let socket = PacketSocket::sender(netns, index)?;
    let mac = mac.octets();
    for address in addresses {
        match *address {
            IpAddr::V4(ip) => {
                let announcement = |operation, target_mac| Arp {
                    operation,
                    sender_mac: mac,
                    sender_ip: ip,
                    target_mac,
                    target_ip: ip,
                };
                for arp in
                    [announcement(ArpOperation::Request, [0; 6]), announcement(ArpOperation::Reply, mac)]
                {
                    socket.send(&arp.broadcast_from(mac))?;
                }
            }
            IpAddr::V6(ip) => socket.send(&Neighbor::unsolicited(ip, mac))?,
        }
    }
    Ok(())
}
