//! How a bridge treats an attachment's port.

use netplumb::{BridgePort, Link};

/// A difference between a port and how it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDifference {
    /// The attribute, such as `isolation`.
    pub what: &'static str,
    /// The attribute's current value, for a message.
    pub found: String,
    /// The value with which ADD created it, for a message.
    pub promised: String,
}

/// A port that is up, as the kernel creates it without a spanning tree: it forwards, learns and floods, and exchanges
/// frames with all others.
#[must_use]
pub fn plain_port() -> BridgePort {
    BridgePort {
        learning: true,
        unicast_flood: true,
        multicast_flood: true,
        broadcast_flood: true,
        state: FORWARDING,
        ..BridgePort::default()
    }
}

const FORWARDING: u8 = 3;

/// The first difference between a port and how it was created.
///
/// `spanning_tree`: whether the protocol decides which ports forward. A port whose carrier the bridge has not
/// processed yet does not forward yet; that is not a difference.
#[must_use]
pub fn port_difference(link: &Link, made: &BridgePort, spanning_tree: bool) -> Option<PortDifference> {
    let have = link.port.clone().unwrap_or_default();
    let forwards = have.state == made.state || !link.operational || spanning_tree && have.state != 0;
    if !forwards {
        let found = state(have.state).to_owned();
        return Some(PortDifference {
            what: "spanning tree state",
            found,
            promised: state(made.state).to_owned(),
        });
    }
    [
        ("isolation", have.isolated, made.isolated),
        ("hairpin mode", have.hairpin, made.hairpin),
        ("learning", have.learning, made.learning),
        ("flooding of unknown addresses", have.unicast_flood, made.unicast_flood),
        ("flooding of multicast", have.multicast_flood, made.multicast_flood),
        ("flooding of broadcast", have.broadcast_flood, made.broadcast_flood),
        ("lock", have.locked, made.locked),
        ("suppression of neighbour discovery", have.neigh_suppress, made.neigh_suppress),
    ]
    .into_iter()
    .find(|(_, have, made)| have != made)
    .map(|(what, have, made)| PortDifference {
        what,
        found: have.to_string(),
        promised: made.to_string(),
    })
}

fn state(state: u8) -> &'static str {
    match state {
        0 => "disabled",
        1 => "listening",
        2 => "learning",
        FORWARDING => "forwarding",
        4 => "blocking",
        _ => "unknown",
    }
}
