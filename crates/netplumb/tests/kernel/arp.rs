use std::net::IpAddr;
use std::time::{Duration, Instant};

use net_types::{MacAddr, ProbeTiming};
use netplumb::{
    Conf, LinkChange, Netlink, Netns, NewAddress, Sysctl, announce_from_now, announce_own, probe,
};

use crate::{name, netns, veth};

/// The timing of RFC 5227, section 1.1, without its random delays: three probes, 5 s in all.
const RFC5227: ProbeTiming =
    ProbeTiming { count: 3, interval: Duration::from_millis(1500), wait: Duration::from_secs(2) };

/// Two namespaces and a pair between them; index and MAC of the near end, and the far side.
fn two() -> (Netns, u32, MacAddr, Netns, Netlink, u32) {
    let (near_ns, near) = netns();
    let (far_ns, far) = netns();
    let mut pair = veth("near", "far");
    pair.peer.netns = Some(far_ns.clone());
    let indexes = near.create_veth(&pair).expect("a pair");
    for (netlink, index) in [(&near, indexes.main), (&far, indexes.peer)] {
        assert!(netlink.wait_operational(index, Duration::from_secs(3)).expect("read"));
    }
    let mac = near.link_by_index(indexes.main).expect("read").expect("there").mac.expect("has one");
    (near_ns, indexes.main, mac, far_ns, far, indexes.peer)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn a_probe_finds_who_has_an_address() {
    let (near, index, mac, _far_ns, far, far_index) = two();
    for address in ["10.0.1.5/24", "fd00::5/64"] {
        let address = NewAddress { nodad: true, ..NewAddress::new(address.parse().unwrap()) };
        far.add_address(far_index, &address).unwrap();
    }
    let theirs = far.link_by_index(far_index).unwrap().unwrap().mac.unwrap();
    let asked = ips(&["10.0.1.4", "10.0.1.5", "10.0.1.6", "fd00::4", "fd00::5"]);
    let start = Instant::now();
    let found = probe(&near, index, mac, &asked, ProbeTiming::QUICK).unwrap();
    let took = start.elapsed();
    let found: Vec<_> = found.iter().map(|taken| (taken.ip.to_string(), taken.mac)).collect();
    assert_eq!(found, [("10.0.1.5".to_owned(), theirs), ("fd00::5".to_owned(), theirs)]);
    assert!(took >= Duration::from_millis(300), "free ones need the whole wait: {took:?}");

    let start = Instant::now();
    let taken = ips(&["10.0.1.5", "fd00::5"]);
    assert_eq!(probe(&near, index, mac, &taken, RFC5227).unwrap().len(), 2);
    assert!(start.elapsed() < Duration::from_secs(1), "all taken: no need to wait");
    assert_eq!(probe(&near, index, mac, &[], RFC5227).unwrap(), []);
}

#[test]
fn a_probe_finds_who_takes_an_address_at_the_same_time() {
    let (near, index, mac, far_ns, far, far_index) = two();
    let theirs = far.link_by_index(far_index).unwrap().unwrap().mac.unwrap();
    let asked = ips(&["10.0.1.5", "fd00::5"]);
    let other = std::thread::spawn({
        let asked = asked.clone();
        move || probe(&far_ns, far_index, theirs, &asked, ProbeTiming::QUICK).unwrap()
    });
    let found = probe(&near, index, mac, &asked, ProbeTiming::QUICK).unwrap();
    assert!(found.iter().all(|taken| taken.mac == theirs));
    let other = other.join().unwrap();
    assert!(other.iter().all(|taken| taken.mac == mac));
    assert!(
        found.len() + other.len() >= 2,
        "at least the later of the two sees the other: {found:?} {other:?}"
    );
}

#[test]
fn a_link_that_is_down_says_so() {
    let (near_ns, near) = netns();
    let index = near.create_veth(&veth("near", "far")).unwrap().main;
    near.set_link(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    let mac = near.link_by_index(index).unwrap().unwrap().mac.unwrap();
    let asked = ips(&["10.0.1.5"]);
    let error = probe(&near_ns, index, mac, &asked, ProbeTiming::QUICK).unwrap_err();
    assert!(error.to_string().ends_with("(ENETDOWN)"), "{error}");
    assert!(probe(&near_ns, 4711, mac, &asked, ProbeTiming::QUICK).unwrap_err().is_not_found());
}

#[test]
fn an_announcement_moves_an_address() {
    // The far side has learnt the address at another MAC; the announcement makes it learn the new one.
    let (near, index, mac, far_ns, far, far_index) = two();
    let near_link = Netlink::open(&near).unwrap();
    announce_from_now(&near, &name("near")).unwrap();
    let add = |netlink: &Netlink, index, address: &str| {
        let new = NewAddress { nodad: true, ..NewAddress::new(address.parse().unwrap()) };
        netlink.add_address(index, &new).unwrap();
    };
    for address in ["10.0.1.4/24", "fd00::4/64"] {
        add(&near_link, index, address);
    }
    for address in ["10.0.1.5/24", "fd00::5/64"] {
        add(&far, far_index, address);
    }
    let far_name = name("far");
    // Accept unknown ones as well, so that the neighbour need not be talked to first.
    far_ns.sysctl_set(&Sysctl::ipv4(Conf::Link(&far_name), "arp_accept"), "1").unwrap();
    far_ns.sysctl_set(&Sysctl::ipv6(Conf::Link(&far_name), "accept_untracked_na"), "1").unwrap();
    let knows = || {
        let text = crate::ip(&far_ns, "neigh show dev far");
        let of_two =
            text.lines().filter(|line| ["10.0.1.4 ", "fd00::4 "].iter().any(|ip| line.starts_with(ip)));
        let macs = of_two.filter_map(|line| line.split_once("lladdr ")?.1.split(' ').next()?.parse().ok());
        macs.collect::<Vec<MacAddr>>()
    };
    let moved = MacAddr::local([2, 0, 0, 0, 0, 9]);
    for at in [moved, mac] {
        announce_own(&near_link, index, at).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        // The kernel holds an ARP entry for a second before it believes another (locktime), but not
        // against a gratuitous one.
        while !(knows().contains(&at) && knows().iter().all(|known| *known == at)) {
            assert!(Instant::now() < end, "{:?} instead of {at}", knows());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
