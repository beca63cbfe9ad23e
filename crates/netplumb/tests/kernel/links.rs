use std::time::Duration;

use net_types::{MacAddr, MacvtapMode, Mtu, Vni};
use netplumb::{
    AddrGenMode, Bridge, BridgeChange, LinkChange, LinkKind, Macvtap, Master, PortChange, VethIndexes, Vxlan,
};

use crate::{name, netns, veth};

const GROUP: u32 = 0x6b38_736c;

#[test]
fn a_veth_is_made_whole_in_one_message() {
    let (_netns, netlink) = netns();
    let mut bridge = Bridge::new(name("br2"));
    bridge.link.up = true;
    bridge.link.group = GROUP;
    let bridge = netlink.create_bridge(&bridge).unwrap();
    let mac: MacAddr = "02:00:5e:00:00:01".parse().unwrap();
    let mut pair = veth("+4a3b2c1d", "pod1");
    pair.main.group = GROUP;
    pair.main.mtu = Some(Mtu::try_from(1426).unwrap());
    pair.peer.group = GROUP;
    pair.peer.mtu = pair.main.mtu;
    pair.peer.mac = Some(mac);
    pair.master = Some(bridge);
    let indexes = netlink.create_veth(&pair).unwrap();

    let main = netlink.link_by_name(&name("+4a3b2c1d")).unwrap().unwrap();
    let peer = netlink.link_by_name(&name("pod1")).unwrap().unwrap();
    assert_eq!((indexes.main, indexes.peer), (main.index, peer.index));
    assert_eq!((main.lower, peer.lower), (Some(peer.index), Some(main.index)));
    assert_eq!((main.group, peer.group), (GROUP, GROUP));
    assert_eq!((main.mtu, peer.mtu), (1426, 1426));
    assert!(main.up && peer.up && main.carrier && peer.carrier);
    assert_eq!(main.master, Some(bridge));
    assert_eq!(peer.mac, Some(mac));
    assert_eq!(main.kind, LinkKind::Veth);
    assert_eq!(netlink.ports(bridge).unwrap(), vec![main.clone()]);
    assert_eq!(netlink.links_in_group(GROUP).unwrap().len(), 3);
    assert_eq!(netlink.link_by_index(peer.index).unwrap(), Some(peer));
}

#[test]
fn a_port_passes_frames_once_it_is_operational() {
    let (_netns, netlink) = netns();
    let mut bridge = Bridge::new(name("br2"));
    bridge.link.up = true;
    let bridge = netlink.create_bridge(&bridge).unwrap();
    let mut pair = veth("port", "pod1");
    pair.master = Some(bridge);
    pair.peer.up = false;
    let ends = netlink.create_veth(&pair).unwrap();
    assert!(!netlink.wait_operational(ends.main, Duration::ZERO).unwrap(), "its peer is down");
    netlink.set_link(ends.peer, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
    for end in [ends.main, ends.peer] {
        assert!(netlink.wait_operational(end, Duration::from_secs(5)).unwrap());
    }
    let port = netlink.link_by_index(ends.main).unwrap().unwrap();
    assert_eq!(port.port.unwrap().state, 3, "forwarding");
    assert!(netlink.wait_operational(4711, Duration::ZERO).unwrap_err().is_not_found());
}

#[test]
fn a_peer_is_made_in_another_namespace() {
    let (_lan, lan) = netns();
    let (pod_ns, pod) = netns();
    let mut pair = veth("port", "eth0");
    pair.peer.netns = Some(pod_ns.clone());
    (pair.main.index, pair.peer.index) = (Some(77), Some(1 << 30));
    let indexes = lan.create_veth(&pair).unwrap();
    assert_eq!(indexes, VethIndexes { main: 77, peer: 1 << 30 });
    let eth0 = pod.link_by_index(1 << 30).unwrap().unwrap();
    assert_eq!(eth0.name, "eth0");
    assert_eq!(eth0.lower, Some(indexes.main));
    assert!(eth0.lower_netnsid.is_some() && eth0.up);
    assert!(lan.link_by_name(&name("eth0")).unwrap().is_none());
    (pair.main.index, pair.peer.index) = (None, None);
    pair.main.name = name("port2");
    pair.peer.name = name("eth1");
    let indexes = lan.create_veth(&pair).unwrap();
    assert_eq!(pod.link_by_name(&name("eth1")).unwrap().unwrap().index, indexes.peer);
    // The other way round, and the main end's name is one that the socket's namespace has.
    let mut pair = veth("port", "port3");
    pair.main.netns = Some(pod_ns);
    let indexes = lan.create_veth(&pair).unwrap();
    assert_eq!(pod.link_by_name(&name("port")).unwrap().unwrap().index, indexes.main);
    assert_eq!(lan.link_by_name(&name("port3")).unwrap().unwrap().index, indexes.peer);
}

#[test]
fn a_bridge_and_its_ports_are_changed() {
    let (_netns, netlink) = netns();
    let bridge = Bridge { fdb_max_learned: Some(100), ..Bridge::new(name("br2")) };
    let bridge = netlink.create_bridge(&bridge).unwrap();
    let port = netlink.create_veth(&veth("a", "b")).unwrap().main;
    let info = |link: Option<netplumb::Link>| match link.unwrap().kind {
        LinkKind::Bridge(info) => info,
        other => panic!("{other:?}"),
    };
    let before = info(netlink.link_by_index(bridge).unwrap());
    assert!(!before.stp && !before.mcast_snooping && !before.vlan_filtering);
    // Kernels before Linux 6.7 have no limit, and take no notice of one.
    assert!(before.fdb_max_learned.is_none_or(|max| max == 100), "{before:?}");

    let change = LinkChange {
        up: Some(true),
        alias: Some("k8slan:lan default/lan2".into()),
        bridge: Some(BridgeChange {
            stp: Some(true),
            mcast_snooping: Some(true),
            ageing_time: Some(100),
            fdb_max_learned: Some(200),
            ..BridgeChange::default()
        }),
        ..LinkChange::default()
    };
    netlink.set_link(bridge, &change).unwrap();
    let link = netlink.link_by_index(bridge).unwrap();
    assert_eq!(link.as_ref().unwrap().alias.as_deref(), Some("k8slan:lan default/lan2"));
    let after = info(link);
    assert_eq!(after.fdb_max_learned, before.fdb_max_learned.map(|_| 200));
    assert!(after.stp && after.mcast_snooping && after.ageing_time == 100);

    let change = LinkChange {
        master: Some(Master::Index(bridge)),
        alias: Some("x".repeat(255)),
        port: Some(PortChange {
            group_fwd_mask: Some(0xfffd),
            isolated: Some(true),
            hairpin: Some(true),
            learning: Some(false),
            ..PortChange::default()
        }),
        ..LinkChange::default()
    };
    netlink.set_link(port, &change).unwrap();
    let link = netlink.link_by_index(port).unwrap().unwrap();
    let state = link.port.unwrap();
    assert_eq!(state.group_fwd_mask, 0xfffd);
    assert!(state.isolated && state.hairpin && !state.learning && state.unicast_flood);
    assert_eq!(link.alias.unwrap().len(), 255);

    // Kernels before 6.2 rename no link that is up.
    netlink.set_link(port, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    let change = LinkChange {
        up: Some(true),
        master: Some(Master::None),
        alias: Some(String::new()),
        promisc: Some(true),
        allmulti: Some(true),
        noarp: Some(true),
        name: Some(name("renamed")),
        addr_gen_mode: Some(AddrGenMode::None),
        ..LinkChange::default()
    };
    netlink.set_link(port, &change).unwrap();
    let link = netlink.link_by_name(&name("renamed")).unwrap().unwrap();
    assert_eq!((link.index, link.master, link.port, link.alias), (port, None, None, None));
    assert!(link.promisc && link.allmulti && link.noarp && link.up);
    assert_eq!(link.addr_gen_mode, Some(AddrGenMode::None));
}

#[test]
fn a_macvtap_is_made_in_the_pod_with_its_index() {
    let (_lan, lan) = netns();
    let (pod_ns, pod) = netns();
    let VethIndexes { main: port, peer: spoke } = lan.create_veth(&veth("+4a3b2c1d", "pod1")).unwrap();
    // Kernels before 6.14 look for the name in the LAN's namespace as well.
    lan.create_bridge(&Bridge::new(name("net1"))).unwrap();
    let mut macvtap = Macvtap::new(name("net1"), spoke, MacvtapMode::Passthru);
    macvtap.link.index = Some(1_245_789_213);
    macvtap.link.netns = Some(pod_ns);
    macvtap.link.up = true;
    assert_eq!(lan.create_macvtap(&macvtap).unwrap(), 1_245_789_213);
    let link = pod.link_by_name(&name("net1")).unwrap().unwrap();
    assert_eq!(link.index, 1_245_789_213);
    assert_eq!(link.lower, Some(spoke));
    assert!(link.up && link.lower_netnsid.is_some());
    assert_eq!(link.mac, lan.link_by_index(spoke).unwrap().unwrap().mac);
    match link.kind {
        LinkKind::Macvtap(info) => assert_eq!(info.mode, Some(MacvtapMode::Passthru)),
        other => panic!("{other:?}"),
    }
    macvtap.lower = port;
    macvtap.link.index = None;
    let again = lan.create_macvtap(&macvtap).unwrap_err();
    assert!(again.is_exists() && again.to_string().starts_with("create macvtap \"net1\": "), "{again}");
    assert_eq!(pod.links().unwrap().len(), 2, "nothing is left of it");
    macvtap.link.name = name("net2");
    lan.create_bridge(&Bridge::new(name("net2"))).unwrap();
    let second = lan.create_macvtap(&macvtap).unwrap();
    let second = pod.link_by_index(second).unwrap().unwrap();
    assert_eq!((second.name.as_str(), second.up), ("net2", true));
    lan.delete_link(spoke).unwrap();
    assert!(pod.link_by_name(&name("net1")).unwrap().is_none(), "it goes with its lower");
    lan.delete_link(spoke).unwrap();
}

#[test]
fn a_vxlan_keeps_its_underlay_behind() {
    let (_node, node) = netns();
    let (lan_ns, lan) = netns();
    let underlay = node.create_veth(&veth("eth1", "switch")).unwrap().main;
    let bridge = lan.create_bridge(&Bridge::new(name("br2"))).unwrap();
    let mut vxlan =
        Vxlan::new(name("vx2"), Vni::try_from(44).unwrap(), underlay, "ff02::14".parse().unwrap());
    vxlan.link.netns = Some(lan_ns);
    vxlan.link.mtu = Some(Mtu::try_from(1426).unwrap());
    vxlan.link.group = GROUP;
    vxlan.master = Some(bridge);
    vxlan.link.up = true;
    let index = node.create_vxlan(&vxlan).unwrap();
    let link = lan.link_by_index(index).unwrap().unwrap();
    assert_eq!((link.name.as_str(), link.mtu, link.group), ("vx2", 1426, GROUP));
    assert_eq!(link.master, Some(bridge));
    assert!(link.up && link.lower_netnsid.is_some());
    match link.kind {
        LinkKind::Vxlan(info) => {
            assert_eq!((info.vni, info.port, info.underlay), (44, 4789, Some(underlay)));
            assert_eq!(info.remote, Some("ff02::14".parse().unwrap()));
            assert!(info.learning && !info.collect_metadata);
        }
        other => panic!("{other:?}"),
    }
    assert!(node.link_by_name(&name("vx2")).unwrap().is_none());
    // The same VNI again, in the same underlay namespace.
    vxlan.link.name = name("vx3");
    assert!(node.create_vxlan(&vxlan).unwrap_err().is_exists());
    node.delete_link(underlay).unwrap();
    assert!(lan.link_by_index(index).unwrap().is_none(), "it goes with its underlay");
}

#[test]
fn the_kernels_words_reach_the_error() {
    let (_netns, netlink) = netns();
    netlink.create_veth(&veth("a", "b")).unwrap();
    let exists = netlink.create_veth(&veth("a", "c")).unwrap_err();
    assert!(exists.is_exists(), "{exists}");
    assert_eq!(exists.to_string(), "create veth \"a\": File exists (EEXIST)");

    let gone = netlink.set_link(4711, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    assert!(gone.to_string().contains("with index 4711"), "{gone}");
}
