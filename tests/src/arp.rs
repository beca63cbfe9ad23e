use std::net::Ipv4Addr;

use testnet::{Namespaces, Stop};

/// The MAC address of a link.
///
/// # Errors
/// If there is no such link.
pub fn mac_of(place: &Namespaces, link: &str) -> Result<[u8; 6], Stop> {
    let shown = place.link(link)?.unwrap_or_default();
    let text = shown["address"].as_str().unwrap_or_default();
    let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().map_err(|_| Stop::Failed(format!("{link} has no MAC address: {shown}")))
}

/// A gratuitous ARP reply to all (RFC 5944, section 4.6): this address is that MAC's. A host takes it over what it knew a moment
/// ago only if it names the MAC as its target, too.
#[must_use]
pub fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let address = address.octets();
    // Ethernet and IPv4, addresses of 6 and 4 bytes, a reply (RFC 826).
    let head = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2];
    [&[0xff; 6][..], &mac, &head, &mac, &address, &mac, &address].concat()
}
