use std::time::Duration;

use testnet::{Namespaces, PacketSocket, Stop};

/// Sends a frame to all from a link of a place; whether a socket elsewhere sees it.
///
/// # Errors
/// If one of the links is gone.
pub fn is_seen(from: &Namespaces, link: &str, at: &PacketSocket) -> Result<bool, Stop> {
    // A protocol for experiments (IEEE 802), so that nobody answers.
    let loud = [&[0xff; 6][..], &[2, 9, 9, 9, 9, 9], &[0x88, 0xb5], &[0x55; 50]].concat();
    PacketSocket::open(from, link)?.send(&loud)?;
    Ok(at.find(Duration::from_millis(100), |frame| frame.bytes == loud)?.is_some())
}
