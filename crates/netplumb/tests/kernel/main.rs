//! The crate against the running kernel, in namespaces of the tests' own. Needs root.

mod addresses;
mod arp;
mod links;
mod netns;
mod nft;
mod tap;

use net_types::IfName;
use netplumb::{Netlink, Netns, Veth, VethEnd};

fn name(text: &str) -> IfName {
    text.parse().expect("a link name")
}

fn netns() -> (Netns, Netlink) {
    let netns = Netns::new().expect("needs root");
    let netlink = Netlink::open(&netns).expect("a socket");
    (netns, netlink)
}

/// A pair with both ends up.
fn veth(main: &str, peer: &str) -> Veth {
    let mut veth = Veth::new(VethEnd::new(name(main)), VethEnd::new(name(peer)));
    veth.main.up = true;
    veth.peer.up = true;
    veth
}
