use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testnet::{Error, PacketSocket};

/// Answers ARP and echo requests for one address inside one VLAN, frame by frame: a host on a tagged network, on
/// a kernel that may know no tags.
#[derive(Debug)]
pub struct TaggedHost {
    /// A socket on the trunk at which it listens.
    pub socket: PacketSocket,
    /// The MAC address that it answers from.
    pub mac: [u8; 6],
    /// The IPv4 address that it answers for.
    pub address: Ipv4Addr,
    /// The ID of its VLAN.
    pub vlan: u16,
}

impl TaggedHost {
    /// Answers until `stop` is set; returns how many echo requests it answered.
    ///
    /// # Errors
    /// If its link is gone.
    pub fn serve(&self, stop: &AtomicBool) -> Result<usize, Error> {
        let mut echoes = 0;
        while !stop.load(Ordering::Relaxed) {
            let Some(frame) = self.socket.receive(Duration::from_millis(50))? else { continue };
            if frame.outgoing {
                continue;
            }
            if let Some(answer) = self.answer(&frame.bytes) {
                echoes += usize::from(answer[16..18] == [0x08, 0x00]);
                self.socket.send(&answer)?;
            }
        }
        Ok(echoes)
    }

    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut answer = frame.to_vec();
        let tagged = frame.get(12..14)? == [0x81, 0x00];
        let vlan = u16::from_be_bytes([*frame.get(14)?, *frame.get(15)?]) & 0x0fff;
        if !tagged || vlan != self.vlan {
            return None;
        }
        answer[0..6].copy_from_slice(&frame[6..12]);
        answer[6..12].copy_from_slice(&self.mac);
        let mine = self.address.octets();
        match frame.get(16..18)? {
            // ARP: a request (1) for this address becomes a reply (2) from it (RFC 826).
            [0x08, 0x06] if frame.get(24..26)? == [0, 1] && frame.get(42..46)? == mine => {
                answer[25] = 2;
                answer[36..46].copy_from_slice(&frame[26..36]);
                answer[26..32].copy_from_slice(&self.mac);
                answer[32..36].copy_from_slice(&mine);
                Some(answer)
            }
            // IPv4 without options, ICMP, an echo request (8) becomes a reply (0): the ICMP checksum grows by 8
            // in its first byte, that of the IP header does not change with the addresses swapped (RFC 1624).
            [0x08, 0x00] if frame.get(18)? == &0x45 && frame.get(27)? == &1 && frame.get(34..38)? == mine => {
                if *frame.get(38)? != 8 || frame.len() < 46 {
                    return None;
                }
                answer[30..34].copy_from_slice(&mine);
                answer[34..38].copy_from_slice(&frame[30..34]);
                answer[38] = 0;
                let sum = u32::from(u16::from_be_bytes([frame[40], frame[41]])) + 0x0800;
                let folded = (sum & 0xffff) + (sum >> 16);
                answer[40..42].copy_from_slice(&(folded as u16).to_be_bytes());
                Some(answer)
            }
            _ => None,
        }
    }
}
