//! The event stream against the running kernel. Needs root.

use std::process::Command;
use std::time::Duration;

use net_types::IfName;
use netplumb::{
    Bridge, Event, Groups, LinkChange, Master, Monitor, Netlink, Netns, NewAddress, NewLink, Route, Veth,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

const ALL: Groups = Groups { links: true, addresses: true, routes: true };
const SOON: Duration = Duration::from_secs(5);

fn name(text: &str) -> IfName {
    text.parse().expect("a link name")
}

fn netns() -> (Netns, Netlink) {
    let netns = Netns::new().expect("needs root");
    let netlink = Netlink::open(&netns).expect("a socket");
    (netns, netlink)
}

fn veth(main: &str, peer: &str) -> Veth {
    let mut veth = Veth::new(NewLink::new(name(main)), NewLink::new(name(peer)));
    veth.main.up = true;
    veth.peer.up = true;
    veth
}

/// Waits for the event that the closure takes something from.
async fn wait<T>(monitor: &mut Monitor, mut want: impl FnMut(&Event) -> Option<T>) -> T {
    let found = timeout(SOON, async {
        loop {
            if let Some(found) = want(&monitor.next().await.expect("an event")) {
                return found;
            }
        }
    });
    found.await.expect("it did not come")
}

#[tokio::test]
async fn links_addresses_and_routes_are_told() {
    let (netns, netlink) = netns();
    let (other, _) = self::netns();
    let mut monitor = Monitor::open(&netns, ALL).unwrap();
    let mut silent = Monitor::open(&other, ALL).unwrap();
    let bridge = netlink.create_bridge(&Bridge::new(name("br"))).unwrap();
    let port = netlink.create_veth(&veth("port", "pod")).unwrap().main;
    let is = |event: &Event, index, check: &dyn Fn(&netplumb::Link) -> bool| match event {
        Event::Link(link) => (link.index == index && check(link)).then_some(()),
        _ => None,
    };
    wait(&mut monitor, |event| is(event, bridge, &|link| link.name == "br")).await;
    wait(&mut monitor, |event| is(event, port, &|link| link.up && link.carrier)).await;

    netlink
        .set_link(port, &LinkChange { master: Some(Master::Index(bridge)), ..LinkChange::default() })
        .unwrap();
    wait(&mut monitor, |event| is(event, port, &|link| link.master == Some(bridge))).await;
    netlink.set_link(port, &LinkChange { master: Some(Master::None), ..LinkChange::default() }).unwrap();
    wait(&mut monitor, |event| match event {
        Event::LinkGone { .. } => panic!("a port that left its bridge is not gone"),
        event => is(event, port, &|link| link.master.is_none()),
    })
    .await;

    let address = NewAddress::new("10.0.1.5/24".parse().unwrap());
    netlink.add_address(port, &address).unwrap();
    wait(&mut monitor, |event| match event {
        Event::Address(now) => (now.index == port && now.address == address.address).then_some(()),
        _ => None,
    })
    .await;
    let route = Route::new("0.0.0.0/0".parse().unwrap(), "10.0.1.1".parse().ok(), Some(port));
    netlink.add_route(&route).unwrap();
    let told = wait(&mut monitor, |event| match event {
        Event::Route(now) if now.destination.prefix() == 0 => Some(now.clone()),
        _ => None,
    })
    .await;
    assert_eq!((told.gateway, told.index), (route.gateway, Some(port)));
    let delete = || Command::new("ip").args(["route", "del", "default"]).status().expect("ip runs");
    assert!(netns.enter(delete).expect("enter the namespace").success());
    wait(&mut monitor, |event| matches!(event, Event::RouteGone(_)).then_some(())).await;
    netlink.delete_address(port, address.address).unwrap();
    wait(&mut monitor, |event| matches!(event, Event::AddressGone(_)).then_some(())).await;

    netlink.delete_link(port).unwrap();
    let gone = wait(&mut monitor, |event| match event {
        Event::LinkGone { index, name } if *index == port => Some(name.clone()),
        _ => None,
    })
    .await;
    assert_eq!(gone, "port");
    assert!(timeout(Duration::from_millis(20), silent.next()).await.is_err(), "another namespace");
}

#[tokio::test]
async fn a_slow_reader_is_told_that_events_are_lost() {
    let (netns, netlink) = netns();
    let mut monitor = Monitor::open(&netns, Groups { links: true, ..Groups::default() }).unwrap();
    let mut bridge = Bridge::new(name("br"));
    bridge.link.up = true;
    let index = netlink.create_bridge(&bridge).unwrap();
    for n in 0..8000 {
        let alias = Some(format!("number {n} {}", "x".repeat(200)));
        netlink.set_link(index, &LinkChange { alias, ..LinkChange::default() }).unwrap();
    }
    wait(&mut monitor, |event| (*event == Event::Lost).then_some(())).await;
    // It goes on after that.
    netlink.delete_link(index).unwrap();
    wait(&mut monitor, |event| matches!(event, Event::LinkGone { .. }).then_some(())).await;
}

#[tokio::test(flavor = "current_thread")]
async fn hundreds_of_namespaces_on_one_thread() {
    const COUNT: usize = 200;
    let mut tasks = JoinSet::new();
    let mut all = Vec::new();
    for n in 0..COUNT {
        let (netns, netlink) = netns();
        let mut monitor = Monitor::open(&netns, ALL).unwrap();
        let wanted = format!("br{n}");
        tasks.spawn(async move {
            wait(&mut monitor, |event| match event {
                Event::Link(link) => (link.name == wanted).then_some(()),
                _ => None,
            })
            .await;
        });
        all.push(netlink);
    }
    for (n, netlink) in all.iter().enumerate() {
        netlink.create_bridge(&Bridge::new(name(&format!("br{n}")))).unwrap();
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
        done += 1;
    }
    assert_eq!(done, COUNT);
}
