//! The crate against the running kernel, in namespaces of the tests' own. Needs root.

mod addresses;
mod arp;
mod links;
mod netns;
mod nft;
mod tap;

use std::process::Command;

use net_types::IfName;
use netplumb::{Netlink, Netns, NewLink, Veth};

fn name(text: &str) -> IfName {
    text.parse().expect("a link name")
}

fn netns() -> (Netns, Netlink) {
    let netns = Netns::new().expect("needs root");
    let netlink = Netlink::open(&netns).expect("a socket");
    (netns, netlink)
}

/// Runs `ip` in a namespace.
fn ip(netns: &Netns, arguments: &str) -> String {
    let run = || Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    let output = netns.enter(run).expect("enter the namespace");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pair with both ends up.
fn veth(main: &str, peer: &str) -> Veth {
    let mut veth = Veth::new(NewLink::new(name(main)), NewLink::new(name(peer)));
    veth.main.up = true;
    veth.peer.up = true;
    veth
}
