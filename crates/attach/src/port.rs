//! What an attachment's port of a bridge does with frames.

use netplumb::{BridgePort, Link};

/// One way in which a port is not as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDifference {
    /// What it is about: `isolation`.
    pub what: &'static str,
    /// How the port is.
    pub found: String,
    /// How it was made.
    pub promised: String,
}

/// A port that is up, as the kernel makes one where no spanning tree runs: it forwards, learns and floods, and talks to all others.
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

/// The first thing that a port does otherwise than it was made to.
///
/// `spanning_tree`: whether the bridge decides who forwards. A port whose carrier the bridge has not noticed yet is not
/// forwarding yet, and no difference.
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
