//! Reads pcap files (draft-ietf-opsawg-pcap), as far as tests look into them.

use std::net::Ipv4Addr;
use std::time::Duration;

/// A file of Ethernet frames.
#[derive(Clone, Debug, Default)]
pub struct Pcap {
    /// The frames of the file, in their order.
    pub frames: Vec<Captured>,
}

/// A frame in the file.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When it was seen, since 1970.
    pub time: Duration,
    /// The length of the whole frame in bytes.
    pub length: usize,
    /// What is kept of it.
    pub bytes: Vec<u8>,
}

/// Reads a file with nanoseconds, in this machine's byte order.
///
/// # Errors
/// It is none, or its last frame is not whole.
pub fn read(file: &[u8]) -> Result<Pcap, String> {
    let word = |at: usize| {
        let bytes = file.get(at..at + 4).ok_or_else(|| format!("it ends before byte {}", at + 4))?;
        bytes.try_into().map(u32::from_ne_bytes).map_err(|_| "four bytes".to_owned())
    };
    if (word(0)?, word(20)?) != (0xa1b2_3c4d, 1) {
        return Err(format!("no pcap file of Ethernet frames: {:x} {}", word(0)?, word(20)?));
    }
    let mut pcap = Pcap::default();
    let mut at = 24;
    while at < file.len() {
        let (kept, length) = (word(at + 8)? as usize, word(at + 12)? as usize);
        let bytes = file.get(at + 16..at + 16 + kept).ok_or_else(|| format!("a frame of {kept} is cut"))?;
        let time = Duration::new(word(at)?.into(), word(at + 4)?);
        pcap.frames.push(Captured { time, length, bytes: bytes.to_vec() });
        at += 16 + kept;
    }
    Ok(pcap)
}

impl Pcap {
    /// From, to and type of each ICMP message in a frame without a tag.
    #[must_use]
    pub fn icmp(&self) -> Vec<(Ipv4Addr, Ipv4Addr, u8)> {
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
        self.frames
            .iter()
            .filter(|frame| frame.bytes.get(12..14) == Some(&[8, 0]) && frame.bytes.get(23) == Some(&1))
            .filter_map(|frame| {
                let bytes = &frame.bytes;
                Some((address(bytes.get(26..30)?)?, address(bytes.get(30..34)?)?, *bytes.get(34)?))
            })
            .collect()
    }
}
