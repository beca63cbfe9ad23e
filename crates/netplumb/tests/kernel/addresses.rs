use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netplumb::{
    AddrGenMode, Bridge, Conf, Errno, LinkChange, NewAddress, Route, Sysctl, SysctlSet, VethIndexes,
};

use crate::{name, netns, veth};

fn net(text: &str) -> IpNetwork {
    text.parse().expect("an address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn addresses_come_and_go() {
    let (_netns, netlink) = netns();
    let VethIndexes { main: index, peer } = netlink.create_veth(&veth("a", "b")).unwrap();
    let v4 = NewAddress { noprefixroute: true, ..NewAddress::new(net("10.0.1.5/24")) };
    let v6 = NewAddress { nodad: true, ..NewAddress::new(net("fd00::5/64")) };
    netlink.add_address(index, &v4).unwrap();
    netlink.add_address(index, &v6).unwrap();
    assert!(netlink.add_address(index, &v4).unwrap_err().is_exists());
    let found = |wanted: IpNetwork| {
        let all = netlink.addresses(Some(index)).unwrap();
        assert!(all.iter().all(|address| address.index == index));
        all.into_iter().find(|address| address.address == wanted)
    };
    let four = found(v4.address).unwrap();
    assert!(four.noprefixroute && four.permanent && four.scope == 0);
    let six = found(v6.address).unwrap();
    assert!(six.nodad && !six.tentative && !six.noprefixroute);
    netlink.add_address(peer, &NewAddress::new(net("10.0.2.5/24"))).unwrap();
    assert!(netlink.addresses(None).unwrap().iter().any(|address| address.index == peer));
    // noprefixroute: only IPv6 has its network's route.
    let routes = netlink.routes(Some(index)).unwrap();
    assert!(!routes.iter().any(|route| route.destination == net("10.0.1.0/24")));
    assert!(routes.iter().any(|route| route.destination == net("fd00::/64") && route.protocol == 2));
    for _ in 0..2 {
        netlink.delete_address(index, v4.address).unwrap();
        netlink.delete_address(index, v6.address).unwrap();
    }
    assert_eq!(found(v4.address), None);
    netlink.delete_address(4711, v4.address).unwrap();
    assert!(netlink.addresses(Some(4711)).unwrap_err().is_not_found());
    let error = netlink.add_address(4711, &v4).unwrap_err();
    assert!(error.to_string().starts_with("add address 10.0.1.5/24 on link 4711: "), "{error}");
}

#[test]
fn routes_keep_what_they_were_given() {
    let (netns, netlink) = netns();
    let index = netlink.create_veth(&veth("a", "b")).unwrap().main;
    netlink.add_address(index, &NewAddress::new(net("10.0.1.5/24"))).unwrap();
    let nodad = NewAddress { nodad: true, ..NewAddress::new(net("fd00::5/64")) };
    netlink.add_address(index, &nodad).unwrap();
    let wanted = [
        Route {
            metric: Some(77),
            mtu: Some(1300),
            advmss: Some(1260),
            source: Some(ip("10.0.1.5")),
            scope: Some(0),
            ..Route::new(net("0.0.0.0/0"), Some(ip("10.0.1.1")), Some(index))
        },
        Route { scope: Some(253), ..Route::new(net("192.168.7.0/24"), None, Some(index)) },
        Route {
            table: 1000,
            onlink: true,
            scope: Some(0),
            ..Route::new(net("172.16.0.0/12"), Some(ip("203.0.113.1")), Some(index))
        },
        Route { scope: Some(0), ..Route::new(net("192.168.8.0/24"), Some(ip("fd00::1")), Some(index)) },
        Route {
            metric: Some(1024),
            mtu: Some(1280),
            ..Route::new(net("::/0"), Some(ip("fd00::1")), Some(index))
        },
        Route { metric: Some(5), ..Route::new(net("fd01::/64"), None, Some(index)) },
    ];
    for route in &wanted {
        netlink.add_route(route).unwrap();
        assert!(netlink.add_route(route).unwrap_err().is_exists(), "{route:?}");
    }
    let all = netlink.routes(Some(index)).unwrap();
    for route in &wanted {
        assert!(all.contains(route), "{route:?}\nnot in\n{all:#?}");
    }
    crate::ip(&netns, "route del 0.0.0.0/0");
    crate::ip(&netns, "-6 route del ::/0");
    for (destination, first, second) in [
        ("0.0.0.0/0", "10.0.1.1", "10.0.1.2"),
        ("172.16.0.0/12", "10.0.1.1", "10.0.1.2"),
        ("::/0", "fd00::1", "fd00::2"),
        ("fd02::/48", "fd00::1", "fe80::1"),
    ] {
        let [first, second] =
            [first, second].map(|gw| Route::new(net(destination), Some(ip(gw)), Some(index)));
        netlink.add_route(&first).unwrap();
        assert!(netlink.add_route(&second).unwrap_err().is_exists());
        netlink.add_route_beside(&second).unwrap();
        assert!(netlink.add_route_beside(&second).unwrap_err().is_exists());
        let there = netlink.routes(Some(index)).unwrap();
        for route in [&first, &second] {
            let is_it =
                |have: &&Route| have.destination == route.destination && have.gateway == route.gateway;
            assert_eq!(there.iter().filter(is_it).count(), 1, "{route:?} in {there:#?}");
        }
        let family = if first.destination.is_ipv4() { "-4" } else { "-6" };
        crate::ip(&netns, &format!("{family} route flush exact {destination}"));
    }
    let unreachable = Route::new(net("192.0.2.0/24"), Some(ip("203.0.113.1")), Some(index));
    let error = netlink.add_route(&unreachable).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENETUNREACH));
    let text =
        format!("add route to 192.0.2.0/24 via 203.0.113.1 on link {index}: Nexthop has invalid gateway");
    assert!(error.to_string().starts_with(&text), "{error}");
}

#[test]
fn settings_are_the_namespaces_own() {
    let (one, netlink) = netns();
    let (other, _) = netns();
    // A dot in the name must not become a folder.
    netlink.create_veth(&veth("eth0.10", "b")).unwrap();
    let link = name("eth0.10");
    let forward = Sysctl::net("ipv4/ip_forward");
    assert_eq!(one.sysctl_set(&forward, "1").unwrap(), SysctlSet::Changed);
    assert_eq!(one.sysctl_set(&forward, "1").unwrap(), SysctlSet::Unchanged);
    assert_eq!(one.sysctl_get(&forward).unwrap().as_deref(), Some("1"));
    assert_eq!(other.sysctl_get(&forward).unwrap().as_deref(), Some("0"));
    let accept = Sysctl::ipv6(Conf::Link(&link), "accept_ra");
    let all = Sysctl::ipv6(Conf::All, "disable_ipv6");
    let set = one.sysctl_set_all(&[(accept.clone(), "0"), (all, "1")]).unwrap();
    assert_eq!(set, [SysctlSet::Changed; 2]);
    assert_eq!(one.sysctl_get(&accept).unwrap().as_deref(), Some("0"));
    assert_eq!(other.sysctl_get(&accept).unwrap(), None, "no such link there");
    let absent = Sysctl::ipv4(Conf::Default, "no_such_setting");
    assert_eq!(one.sysctl_set(&absent, "1").unwrap(), SysctlSet::Absent);
    let error = one.sysctl_set(&Sysctl::ipv4(Conf::Default, "rp_filter"), "many").unwrap_err().to_string();
    assert!(error.starts_with("write setting /proc/sys/net/ipv4/conf/default/rp_filter = many: "), "{error}");
}

#[test]
fn ipv6_makes_no_address_where_it_must_not() {
    let (_netns, netlink) = netns();
    let index = netlink.create_bridge(&Bridge::new(name("br"))).unwrap();
    let change =
        LinkChange { addr_gen_mode: Some(AddrGenMode::None), up: Some(true), ..LinkChange::default() };
    netlink.set_link(index, &change).unwrap();
    assert_eq!(netlink.addresses(Some(index)).unwrap(), []);
}

#[test]
fn forwarding_entries_are_read() {
    let (_netns, netlink) = netns();
    let mut pair = veth("a", "b");
    let bridge = netlink.create_bridge(&Bridge::new(name("br"))).unwrap();
    pair.master = Some(bridge);
    let port = netlink.create_veth(&pair).unwrap().main;
    let mac = netlink.link_by_index(port).unwrap().unwrap().mac;
    let entries = netlink.fdb(bridge).unwrap();
    let own = entries.iter().find(|entry| entry.mac == mac && entry.master == Some(bridge));
    assert!(own.is_some_and(|entry| entry.index == port && !entry.own), "{entries:#?}");
    assert!(netlink.fdb(4711).unwrap_err().is_not_found());
}
