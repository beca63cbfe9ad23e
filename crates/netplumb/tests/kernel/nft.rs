use netplumb::{BaseChain, ChainPolicy, Nftables, PortGuard};

use crate::{name, netns};

#[test]
fn base_chains_are_seen_in_every_family() {
    let (netns, _netlink) = netns();
    let nftables = Nftables::open(&netns).unwrap();
    assert_eq!(nftables.base_chains().unwrap(), []);
    let guard = PortGuard {
        port: name("p"),
        own: Vec::new(),
        check_macs: false,
        addresses: Some(Vec::new()),
        asking: false,
    };
    nftables.guard(&guard).unwrap();
    let expected = BaseChain {
        family: "bridge".to_owned(),
        table: "k8slan".to_owned(),
        name: "from-ports".to_owned(),
        hook: 0,
        priority: -290,
        policy: ChainPolicy::Accept,
        rules: 1,
    };
    assert_eq!(nftables.base_chains().unwrap(), [expected]);
    nftables.unguard(&guard.port).unwrap();
    assert_eq!(nftables.base_chains().unwrap(), []);
}
