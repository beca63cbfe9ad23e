//! The pod's side of an attachment, which every main plugin needs: the MAC address, the addresses and
//! routes that the IPAM plugin gave, announcements, and taking everything back when a step fails.

mod mac;
mod undo;

pub use mac::stable_mac;
pub use undo::{Undo, chain};
